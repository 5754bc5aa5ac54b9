"""Run folders: made exclusively, locked while a run is in them, found again by identity. Imports no torch."""

import errno
import json
import math
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from skiplab import checkpoint
from skiplab.errors import CheckpointError, FolderError, UsageError

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed
    fcntl = None

CONFIG, LAST, BEST, RESULT, LOG = "config.yaml", "last.ckpt", "best.ckpt", "result.json", "run.log"
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
def locked(folder: Path, *, instead: str = "out=") -> Iterator[None]:
    """Hold the folder's lock; FolderError with the holder's pid and host if another run has it. A dead run holds nothing.

    `instead`: the key by which another folder can be taken.

    What a killed run left half written in the folder is removed.
    """
    with _lock_file(folder) as file:
        if not take(file):
            raise in_use(folder, instead=instead)
        try:
            for leftover in (folder, folder / ".hydra"):
                checkpoint.remove_temporaries(leftover)
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        except OSError as error:
            raise FolderError(f"{folder}: not writable ({error.strerror})") from None
        yield


def take(file: TextIO, *, patience: float = 0.2) -> bool:
    """Lock a file for this process; False if another run holds it. Where the file system knows no locks, nobody holds anything."""
    deadline = time.monotonic() + patience  # who only asks holds it for an instant
    while fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True
    return True


@contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Runs that start under `root` choose their folders one after the other; waits for the others."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{root}: no run folder can be made there ({error.strerror})") from None
    with _lock_file(root) as file:
        take(file, patience=math.inf)
        yield


def _lock_file(folder: Path) -> TextIO:
    try:
        return (folder / ".lock").open("a+")
    except OSError as error:
        raise FolderError(f"{folder}: not writable ({error.strerror})") from None


def is_locked(folder: Path) -> bool:
    """Whether a living run holds the folder."""
    if fcntl is None:
        return False
    try:
        with (folder / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return False


def in_use(folder: Path, *, instead: str = "out=") -> FolderError:
    """The error that names who holds the folder."""
    holder = ""
    with suppress(OSError, UnicodeDecodeError):
        holder = (folder / ".lock").read_text().strip()
    return FolderError(f"{folder}: in use by {holder or 'another run'}; take another {instead} or wait for it")


def has_state(folder: Path) -> bool:
    """Whether a checkpoint to go on from is in the folder, of whatever generation."""
    return bool(checkpoint.generations(folder / LAST))


def identity_of(folder: Path) -> str | None:
    """The identity that the first line of the folder's config states, or None where there is none."""
    try:
        with (folder / CONFIG).open() as file:
            match = IDENTITY_LINE.fullmatch(file.readline())
    except (OSError, ValueError):
        return None
    return match and match[1]


def is_finished(folder: Path) -> bool:
    """Whether the run came to its end: of all that counts result.json is written last, before the pictures.

    One that is no JSON is none: the run's end is then done again.
    """
    try:
        return isinstance(json.loads((folder / RESULT).read_bytes()), dict)
    except (OSError, ValueError, RecursionError):
        return False


def runs_under(root: Path) -> list[Path]:
    """All run folders under `root`, oldest first."""
    return sorted((path.parent for path in root.glob(f"**/{CONFIG}") if identity_of(path.parent)), key=started)


def started(folder: Path) -> tuple[float, str]:
    """When the run began, by its config's time of writing."""
    try:
        return (folder / CONFIG).stat().st_mtime, folder.name
    except OSError:  # removed meanwhile
        return 0.0, folder.name


def unfinished(root: Path, identity: str) -> Path | None:
    """The newest folder under `root` whose run has this identity, is not finished and not alive; it may not have saved yet."""
    for folder in reversed(runs_under(root)):
        if identity_of(folder) == identity and not is_finished(folder) and not is_locked(folder):
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
        steps, best = int(result["steps"]), result["best_val_accuracy"]
        test, seconds = result["test"], float(result["train_seconds"])  # test: null with evaluator.split=val
        tested = None if test is None else float(test["accuracy"])
        return State("finished", steps, steps, None if best is None else float(best), tested, seconds)
    state = "running" if is_locked(folder) else "stopped"
    try:
        return replace(standing(folder), state=state)
    except CheckpointError:
        return State(state)


def standing(folder: Path) -> State:
    """Where the newest whole checkpoint of a run stands. Raises CheckpointError if there is none."""
    facts = checkpoint.peek_newest(folder / LAST)
    try:
        step, num_steps = int(facts["progress"]["step"]), int(facts["num_steps"])
        best, seconds = float(facts["progress"]["best_accuracy"]), float(facts["history"]["seconds"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise CheckpointError(f"{folder / LAST}: holds no run's state") from None
    return State("stopped", step, num_steps, best if best >= 0 else None, None, seconds)


def duration(seconds: float) -> str:
    """Seconds as `12.3 s`, from a minute on as `1:02:03`."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def now() -> str:
    """Local time, to the second, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
