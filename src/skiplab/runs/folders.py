"""Run folders: made exclusively, and found again by the identity of their run. Imports no torch."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from skiplab import regular
from skiplab.errors import FolderError, UsageError
from skiplab.runs import checkpoint, contents, lock, result

AS_EFFECTIVE = {"effective_ids": True} if os.access in os.supports_effective_ids else {}

CONFIG = contents.CONFIG
LAST = contents.LAST
BEST = contents.BEST
RESULT = contents.RESULT
LOG = contents.LOG
# Files that show a folder to be a run's, if one of OURS shows that Skiplab wrote it.
TRACES = {RESULT, LOG, contents.METRICS, *contents.CHECKPOINTS}
OURS = {".lock", contents.TIMING, contents.READS}
IDENTITY_LINE = re.compile(rb"# skiplab \S+ identity ([0-9a-f]{64})\r?\n")
# Bytes of that line.
LONGEST_LINE = 400


def slug(text: str) -> str:
    """Return `text` with only [A-Za-z0-9._-]: each run of other characters becomes `_`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_") or "run"


def make(parent: Path, name: str) -> Path:
    """Make a fresh folder `name` in `parent`, or name-2, name-3 ... if the name is taken."""
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


def has_state(folder: Path) -> bool:
    """Tell whether the folder has a checkpoint to go on from, of whatever generation."""
    return bool(checkpoint.generations(folder / LAST))


def identity_of(folder: Path | str) -> str | None:
    """Return the identity in the first line of the folder's config; None if it has none."""
    try:
        match = IDENTITY_LINE.match(regular.head(f"{folder}/{CONFIG}", LONGEST_LINE))
    except (OSError, ValueError):
        return None
    return match and match[1].decode()


def is_finished(folder: Path) -> bool:
    """Tell whether the run came to its end."""
    return result.tree_of(folder) is not None


# --------------------------------------------------------------------------------------------------
# Many runs


def walk(root: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield every folder under `root`, itself included, with the names in it.

    A folder that cannot be read has no names. Links are not followed.
    """
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
    """Tell whether a folder with these names in it is a run's: whole, or with a damaged config."""
    if CONFIG in names and identity_of(folder) is not None:
        return True
    if not names:
        # A folder that cannot be read may hold a run.
        return os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK, **AS_EFFECTIVE)
    if names & TRACES and names & OURS:
        return True
    return CONFIG in names and contents.unreadable(f"{folder}/{CONFIG}") is not None


def runs_under(root: Path) -> list[Path]:
    """Return all run folders under `root`, oldest first, and folders that cannot be read.

    `problem_of` says what is wrong with one.
    """
    return in_order(folder for folder, names in walk(root) if is_run(folder, names))


def in_order(found: Iterable[str]) -> list[Path]:
    """Return run folders, oldest first."""
    return sorted(map(Path, found), key=started)


def started(folder: Path) -> tuple[float, str]:
    """Return when the run began, by its config's time of writing, and the folder's name."""
    return modified(folder / CONFIG), folder.name


def modified(path: Path) -> float:
    """Return a file's time of writing, in seconds since 1970; 0 if it is not there."""
    try:
        return os.stat(path).st_mtime
    # A folder may be removed while others are looked at.
    except (OSError, ValueError):
        return 0.0


def unfinished(root: Path, identity: str) -> Path | None:
    """Return the newest folder under `root` whose run has this identity, unfinished and not alive.

    It may hold no checkpoint yet.
    """
    found = in_order(
        folder
        for folder, names in walk(root)
        if CONFIG in names and identity_of(folder) == identity
    )
    for folder in reversed(found):
        if not is_finished(folder) and not lock.is_locked(folder):
            return folder
    return None


# --------------------------------------------------------------------------------------------------
# What is wrong with one


def problem_of(folder: Path, names: Iterable[str] | None = None) -> str | None:
    """Return why a run folder cannot be read as one, naming its file; None if nothing is wrong.

    `names` are the files that must be files; None stands for all of ours.
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
    """Return the run folder that `path` means: a run folder, or a checkpoint in it.

    Raises UsageError if it means none.
    """
    try:
        folder = path if stat.S_ISDIR(os.stat(path).st_mode) else path.parent
    except FileNotFoundError as error:
        reason = regular.why(path, error)
        detail = f" ({reason})" if reason != error.strerror else ""
        raise UsageError(
            f"{path}: no such run folder or checkpoint{detail}; `skiplab list` shows the runs"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({regular.why(path, error)}); `skiplab list` shows the runs"
        ) from None
    if identity_of(folder) is None:
        problem = problem_of(folder, [CONFIG]) or f"{CONFIG} cannot be read"
        if _is_foreign(folder):
            problem = f"not a run folder: {problem}"
        raise UsageError(f"{path}: {problem}; `skiplab list` shows the runs")
    return folder


def _is_foreign(folder: Path) -> bool:
    """Tell whether a folder without an identity can be read, and so is not one of ours."""
    config = folder / CONFIG
    if os.path.lexists(config) and contents.unreadable(str(config)) is not None:
        return False
    return os.access(folder, os.R_OK | os.X_OK, **AS_EFFECTIVE)
