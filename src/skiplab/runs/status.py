"""Where a run stands, as its folder tells. Imports no torch."""

from dataclasses import dataclass, replace
from pathlib import Path

from skiplab.errors import CheckpointError
from skiplab.runs import contents, facts, lock, result

# The keys of result.json that a `Status` shows.
SHOWN = {"steps", "best_val_accuracy", "test", "train_seconds"}


@dataclass(frozen=True)
class Status:
    """What a run folder says of its run; None where it says nothing yet."""

    # finished | running | stopped
    state: str
    step: int | None = None
    num_steps: int | None = None
    # The best so far, a share of 1.
    val_accuracy: float | None = None
    # A share of 1.
    test_accuracy: float | None = None
    # Of training, over all sessions.
    seconds: float | None = None


def read(folder: Path) -> Status:
    """Return the status of a run: from result.json once it is finished, else from `last`."""
    ended = result.read(folder)
    if ended is not None and not ended.unreadable & SHOWN:
        tested = None if ended.test is None else float(ended.test["accuracy"])
        best = ended.best_val_accuracy
        return Status("finished", ended.steps, ended.steps, best, tested, ended.train_seconds)
    state = "running" if lock.is_locked(folder) else "stopped"
    try:
        return replace(of_last_save(folder), state=state)
    except CheckpointError:
        return Status(state)


def of_last_save(folder: Path) -> Status:
    """Return the status at the newest whole checkpoint of a run.

    Raises CheckpointError if there is none, or if it holds no run's state.
    """
    path = folder / contents.LAST
    found = facts.newest_outline(path)
    best, shown = found.best_accuracy, (found.step, found.num_steps, found.seconds)
    if best is None or None in shown:
        raise CheckpointError(f"{path}: holds no run's state")
    return Status(
        "stopped",
        found.step,
        found.num_steps,
        val_accuracy=best if best >= 0 else None,
        seconds=found.seconds,
    )
