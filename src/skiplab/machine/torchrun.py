"""What torchrun tells its processes in their environment. Imports no torch."""

import os
from dataclasses import dataclass

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# Other launchers set RANK too, but no address to meet at.
MARKS = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


@dataclass(frozen=True)
class Place:
    """The number of this process and how many there are, in all and on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def place() -> Place | None:
    """Return this process's place among those that torchrun started; None if it started none."""
    if not all(os.environ.get(name) for name in (*NAMES, *MARKS)):
        return None
    return Place(*(int(os.environ[name]) for name in NAMES))
