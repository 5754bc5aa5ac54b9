"""What travels through a run together: its folder, device, log, stop signal and ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from skiplab.machine.decisions import GO_ON, Decision
from skiplab.machine.ranks import ALONE, Ranks
from skiplab.runs.log import Log


@dataclass(frozen=True, kw_only=True)
class Context:
    """The surroundings of a run, or of one rank of it."""

    folder: Path
    device: torch.device
    log: Log
    # Tells what a signal has asked for since the last call.
    stop_signal: Callable[[], Decision] = lambda: GO_ON
    ranks: Ranks = ALONE
