"""The lock of a folder: one run at a time works in it. Imports no torch."""

import errno
import io
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from skiplab import regular
from skiplab.errors import FolderError
from skiplab.runs import atomic, contents

try:
    import fcntl
# Windows has no fcntl: two runs in one folder are not noticed there.
except ImportError:
    fcntl = None

# Bytes of the line that names the holder.
LONGEST_LINE = 400
# Seconds. `is_locked` takes the lock for an instant, so the first failure proves nothing.
PATIENCE = 0.2


@contextmanager
def hold(folder: Path, *, instead: str = "out=") -> Iterator[None]:
    """Hold the folder's lock inside the `with`. The lock of a dead run is free.

    Removes what a killed run left half written in the folder. `instead` is the key that chooses
    another folder.

    Raises FolderError with the holder's pid and host if another run has the lock, and if something
    else is in the place of one of our files.
    """
    contents.check(folder)
    with _opened(folder) as file:
        if not try_lock(file):
            raise in_use(folder, instead=instead)
        try:
            for leftover in (folder, folder / ".hydra"):
                atomic.remove_temporaries(leftover)
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        except OSError as error:
            raise FolderError(f"{folder}: not writable ({error.strerror})") from None
        yield


def try_lock(file: TextIO, *, patience: float = PATIENCE) -> bool:
    """Lock a file for this process; return False if another run holds it for `patience` seconds.

    Returns True where the file system has no locks.
    """
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
    """Wait for the other runs that choose their folders under `root`, then keep them waiting."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(
            f"{root}: no run folder can be made there ({regular.why(root, error)})"
        ) from None
    with _opened(root) as file:
        try_lock(file, patience=math.inf)
        yield


def _opened(folder: Path) -> TextIO:
    try:
        return io.TextIOWrapper(regular.appended(folder / ".lock"))
    except OSError as error:
        raise FolderError(
            f"{folder}: not writable ({regular.why(folder / '.lock', error)})"
        ) from None


def is_locked(folder: Path) -> bool:
    """Tell whether a living run holds the folder."""
    if fcntl is None:
        return False
    try:
        with regular.opened(folder / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    return False


def in_use(folder: Path, *, instead: str = "out=") -> FolderError:
    """Return the error that names who holds the folder."""
    holder = ""
    with suppress(OSError, UnicodeDecodeError):
        holder = regular.head(folder / ".lock", LONGEST_LINE).decode().strip()
    return FolderError(
        f"{folder}: in use by {holder or 'another run'}; take another {instead} or wait for it"
    )
