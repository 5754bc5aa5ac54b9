"""Run folders: made exclusively, locked while a run is in them, found again by identity. Imports no torch."""

import errno
import io
import math
import os
import re
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from skiplab import regular
from skiplab.errors import CheckpointError, FolderError, UsageError
from skiplab.runs import checkpoint, contents, facts, result

AS_EFFECTIVE = {"effective_ids": True} if os.access in os.supports_effective_ids else {}

try:
    import fcntl
# Windows: two runs in one folder are not noticed
except ImportError:
    fcntl = None

CONFIG, LAST, BEST, RESULT, LOG = (
    contents.CONFIG,
    contents.LAST,
    contents.BEST,
    contents.RESULT,
    contents.LOG,
)
# of a run, if a file of TOLD_BY shows that it is one of ours
TRACES = {RESULT, LOG, contents.METRICS, *contents.CHECKPOINTS}
TOLD_BY = {".lock", contents.TIMING, contents.READS}
IDENTITY_LINE = re.compile(rb"# skiplab \S+ identity ([0-9a-f]{64})\r?\n")
# bytes
LONGEST_LINE = 400


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
        raise FolderError(
            f"{parent}: no run folder can be made there ({regular.why(parent, error)})"
        ) from None


@contextmanager
def locked(folder: Path, *, instead: str = "out=") -> Iterator[None]:
    """Hold the folder's lock; FolderError with the holder's pid and host if another run has it. A dead run holds nothing.

    `instead`: the key by which another folder can be taken.

    What a killed run left half written in the folder is removed. FolderError too if something else
    is in the place of one of our files.
    """
    contents.check(folder)
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
    # who only asks holds it for an instant
    deadline = time.monotonic() + patience
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
        raise FolderError(
            f"{root}: no run folder can be made there ({regular.why(root, error)})"
        ) from None
    with _lock_file(root) as file:
        take(file, patience=math.inf)
        yield


def _lock_file(folder: Path) -> TextIO:
    try:
        return io.TextIOWrapper(regular.appended(folder / ".lock"))
    except OSError as error:
        raise FolderError(
            f"{folder}: not writable ({regular.why(folder / '.lock', error)})"
        ) from None


def is_locked(folder: Path) -> bool:
    """Whether a living run holds the folder."""
    if fcntl is None:
        return False
    try:
        with regular.opened(folder / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return False


def in_use(folder: Path, *, instead: str = "out=") -> FolderError:
    """The error that names who holds the folder."""
    holder = ""
    with suppress(OSError, UnicodeDecodeError):
        holder = regular.head(folder / ".lock", LONGEST_LINE).decode().strip()
    return FolderError(
        f"{folder}: in use by {holder or 'another run'}; take another {instead} or wait for it"
    )


def has_state(folder: Path) -> bool:
    """Whether a checkpoint to go on from is in the folder, of whatever generation."""
    return bool(checkpoint.generations(folder / LAST))


def identity_of(folder: Path | str) -> str | None:
    """The identity that the first line of the folder's config states, or None where there is none."""
    try:
        match = IDENTITY_LINE.match(regular.head(f"{folder}/{CONFIG}", LONGEST_LINE))
    except (OSError, ValueError):
        return None
    return match and match[1].decode()


def is_finished(folder: Path) -> bool:
    """Whether the run came to its end."""
    return result.tree_of(folder) is not None


# -------------------------------------------------------------------------------------------------------------
# many of them


def walk(root: Path) -> Iterator[tuple[str, set[str]]]:
    """Every folder under `root`, itself included, with the names in it; of one that cannot be read none. Links are not followed."""
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        names: set[str] = set()
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                names.add(entry.name)
                if entry.name != ".hydra" and entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
        yield folder, names


def is_run(folder: Path | str, names: set[str]) -> bool:
    """Whether a folder with these names in it is a run's: a whole one, or one whose config is not to be read any more."""
    if CONFIG in names and identity_of(folder) is not None:
        return True
    if not names:
        # nobody knows what is in it
        return os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK, **AS_EFFECTIVE)
    if names & TRACES and names & TOLD_BY:
        return True
    return CONFIG in names and contents.unreadable(f"{folder}/{CONFIG}") is not None


def runs_under(root: Path) -> list[Path]:
    """All run folders under `root`, oldest first, and folders that cannot be read: what is wrong with one, `problem_of` tells."""
    return in_order(folder for folder, names in walk(root) if is_run(folder, names))


def in_order(found: Iterable[str]) -> list[Path]:
    """Run folders, oldest first."""
    return sorted(map(Path, found), key=started)


def started(folder: Path) -> tuple[float, str]:
    """When the run began, by its config's time of writing."""
    try:
        return os.stat(f"{folder}/{CONFIG}").st_mtime, folder.name
    # removed meanwhile
    except (OSError, ValueError):
        return 0.0, folder.name


def unfinished(root: Path, identity: str) -> Path | None:
    """The newest folder under `root` whose run has this identity, is not finished and not alive; it may not have saved yet."""
    found = in_order(
        folder
        for folder, names in walk(root)
        if CONFIG in names and identity_of(folder) == identity
    )
    return next(
        (folder for folder in reversed(found) if not is_finished(folder) and not is_locked(folder)),
        None,
    )


# ---------------------------------------------------------------------------------------------------
# what is wrong with one


def problem_of(folder: Path, names: Iterable[str] | None = None) -> str | None:
    """Why a run folder cannot be read as one, naming its file; None if nothing is wrong.

    `names`: the files that must be files (None: all of ours).
    """
    try:
        with os.scandir(folder) as entries:
            there = {entry.name: entry for entry in entries}
    except OSError as error:
        return f"cannot be read: {regular.why(folder, error)}"
    if CONFIG not in there:
        return f"holds no {CONFIG}"
    for name, entry in there.items():
        if (names is None or name in names) and (reason := contents.odd(entry)) is not None:
            return f"{name}: {reason}"
    is_ours = identity_of(folder) is not None
    for name in (RESULT,) if is_ours else (CONFIG, RESULT):
        if name in there and (reason := contents.unreadable(f"{folder}/{name}")) is not None:
            return f"{name}: {reason}"
    if not is_ours:
        return f"the first line of its {CONFIG} states no identity, so Skiplab has not written it"
    return None


def of_path(path: Path) -> Path:
    """The run folder that `path`, a run folder or a checkpoint in it, means; UsageError if it means none."""
    try:
        folder = path if stat.S_ISDIR(os.stat(path).st_mode) else path.parent
    except FileNotFoundError as error:
        reason = regular.why(path, error)
        told = f" ({reason})" if reason != error.strerror else ""
        raise UsageError(
            f"{path}: no such run folder or checkpoint{told}; `skiplab list` shows the runs"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({regular.why(path, error)}); `skiplab list` shows the runs"
        ) from None
    if identity_of(folder) is None:
        problem = problem_of(folder, [CONFIG]) or f"{CONFIG} cannot be read"
        is_foreign = (
            not os.path.lexists(folder / CONFIG)
            or contents.unreadable(f"{folder}/{CONFIG}") is None
        )
        if is_foreign and os.access(folder, os.R_OK | os.X_OK, **AS_EFFECTIVE):
            problem = f"not a run folder: {problem}"
        raise UsageError(f"{path}: {problem}; `skiplab list` shows the runs")
    return folder


@dataclass(frozen=True)
class State:
    """What a run folder says of its run; None where it says nothing yet."""

    # finished | running | stopped
    state: str
    step: int | None = None
    num_steps: int | None = None
    # the best so far
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    # of training, over all sittings
    seconds: float | None = None


# The keys of result.json that a `State` shows.
SHOWN = {"steps", "best_val_accuracy", "test", "train_seconds"}


def state_of(folder: Path) -> State:
    """Where the folder's run stands: from result.json once it is finished, before that from its last checkpoint."""
    ended = result.read(folder)
    if ended is not None and not ended.unreadable & SHOWN:
        tested = None if ended.test is None else float(ended.test["accuracy"])
        best = ended.best_val_accuracy
        return State("finished", ended.steps, ended.steps, best, tested, ended.train_seconds)
    state = "running" if is_locked(folder) else "stopped"
    try:
        return replace(standing(folder), state=state)
    except CheckpointError:
        return State(state)


def standing(folder: Path) -> State:
    """Where the newest whole checkpoint of a run stands. Raises CheckpointError if there is none."""
    found = facts.newest_outline(folder / LAST)
    best, shown = found.best_accuracy, (found.step, found.num_steps, found.seconds)
    if best is None or None in shown:
        raise CheckpointError(f"{folder / LAST}: holds no run's state")
    return State(
        "stopped",
        found.step,
        found.num_steps,
        val_accuracy=best if best >= 0 else None,
        seconds=found.seconds,
    )
