"""What travels through a run together: where it writes, what it computes on, what it says, and who computes with it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from skiplab.machine.ranks import ALONE, Ranks
from skiplab.runs.log import Log


@dataclass(frozen=True, kw_only=True)
class Context:
    """The surroundings of a run, or of one rank of it."""

    folder: Path
    device: torch.device
    log: Log
    # The signal that asks the run to stop, as an exit code: -1 to save and go on, 0 for none.
    stop_signal: Callable[[], int] = lambda: 0
    ranks: Ranks = ALONE
