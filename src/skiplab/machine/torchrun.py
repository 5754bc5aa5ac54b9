"""What torchrun says in the environment of the processes that it starts. Imports no torch."""

import os
from dataclasses import dataclass

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# other launchers set RANK too, without a place to meet
MARKS = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


@dataclass(frozen=True)
class Place:
    """Which process this is of how many, in all and on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def place() -> Place | None:
    """This process's place among those that torchrun started; None if it did not start it."""
    if not all(os.environ.get(name) for name in (*NAMES, *MARKS)):
        return None
    return Place(*(int(os.environ[name]) for name in NAMES))
