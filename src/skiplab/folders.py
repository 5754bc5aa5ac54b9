"""Run folders: made exclusively, locked while a run is in them, found again by identity. Imports no torch."""

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from skiplab import checkpoint
from skiplab.errors import CheckpointError, FolderError, UsageError

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed
    fcntl = None

CONFIG, LAST, BEST, RESULT = "config.yaml", "last.ckpt", "best.ckpt", "result.json"
IDENTITY_LINE = re.compile(r"# skiplab \S+ identity ([0-9a-f]{64})\n")


def slug(text: str) -> str:
    """`text` with what a shell would stumble over replaced: [A-Za-z0-9._-] only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_") or "run"


def make(parent: Path, name: str) -> Path:
    """A fresh folder `name` in `parent`, or name-2, name-3 ... where runs that start together want the same."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = parent / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                return folder
    except OSError as error:
        raise FolderError(f"{parent}: no run folder can be made there ({error.strerror})") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; FolderError with the holder's pid and host if another run has it. A dead run holds nothing."""
    path = folder / ".lock"
    try:
        file = path.open("a+")
    except OSError as error:
        raise FolderError(f"{folder}: not writable ({error.strerror})") from None
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise FolderError(f"{folder}: in use by {file.read().strip() or 'another run'}; take another out= or wait for it") from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def is_locked(folder: Path) -> bool:
    """Whether a living run holds the folder."""
    if fcntl is None:
        return False
    try:
        with (folder / ".lock").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return (folder / ".lock").exists()
    return False


def identity_of(folder: Path) -> str | None:
    """The identity that the first line of the folder's config states, or None where there is none."""
    try:
        with (folder / CONFIG).open() as file:
            match = IDENTITY_LINE.fullmatch(file.readline())
    except (OSError, UnicodeDecodeError):
        return None
    return match and match[1]


def is_finished(folder: Path) -> bool:
    """Whether the run came to its end: result.json is written last."""
    return (folder / RESULT).is_file()


def runs_under(root: Path) -> list[Path]:
    """All run folders under `root`, oldest first."""
    return sorted((path.parent for path in root.glob(f"**/{CONFIG}") if identity_of(path.parent)), key=started)


def started(folder: Path) -> tuple[float, str]:
    """When the run began, by its config's time of writing."""
    return (folder / CONFIG).stat().st_mtime, folder.name


def unfinished(root: Path, identity: str) -> Path | None:
    """The newest folder under `root` whose run has this identity, is not finished and not alive."""
    for folder in reversed(runs_under(root)):
        if identity_of(folder) == identity and not is_finished(folder) and (folder / LAST).is_file() and not is_locked(folder):
            return folder
    return None


def of_path(path: Path) -> Path:
    """The run folder that `path`, a run folder or a checkpoint in it, means; UsageError if it means none."""
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise UsageError(f"{path}: no such run folder or checkpoint; `skiplab list` shows the runs")
    if identity_of(folder) is None:
        raise UsageError(f"{path}: not a run folder: it holds no {CONFIG} of ours; `skiplab list` shows the runs")
    return folder


@dataclass(frozen=True)
class State:
    """What a run folder says of its run; None where it says nothing yet."""

    state: str  # finished | running | stopped
    step: int | None = None
    num_steps: int | None = None
    val_accuracy: float | None = None  # the best so far
    test_accuracy: float | None = None
    seconds: float | None = None  # of training, over all sittings


def state_of(folder: Path) -> State:
    """Where the folder's run stands: from result.json once it is finished, before that from its last checkpoint."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        result: dict[str, Any] = json.loads((folder / RESULT).read_text())
        steps, tested = result["steps"], result["test"]["accuracy"]
        return State("finished", steps, steps, result["best_val_accuracy"], tested, result["train_seconds"])
    state = "running" if is_locked(folder) else "stopped"
    try:
        facts = checkpoint.peek(folder / LAST)
    except CheckpointError:
        return State(state)
    progress = facts["progress"]
    best = progress["best_accuracy"] if progress["best_accuracy"] >= 0 else None
    return State(state, progress["step"], facts["num_steps"], best, None, facts["history"]["seconds"])


def duration(seconds: float) -> str:
    """Seconds as `12.3 s`, from a minute on as `1:02:03`."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def now() -> str:
    """Local time, to the second, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
