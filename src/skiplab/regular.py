"""Files that are opened as files alone: never a pipe that would not end, nor more of one than it can hold. No torch.

What a file must not be is told as OSError, as what the system itself refuses is.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MB = 2**20
WITHOUT_WAITING = (
    getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
)
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind(mode: int) -> str:
    """Return what a mode is of, in words."""
    return next((words for is_one, words in KINDS if is_one(mode)), "a file")


def read(path: Path | str, *, most: int) -> bytes:
    """Return the content of a file. Raises OSError if it is none, or holds more than `most` bytes."""
    descriptor = _opened(path, os.O_RDONLY)
    try:
        if (size := os.fstat(descriptor).st_size) > most:
            raise OSError(
                errno.EINVAL, f"{size:,} bytes, and such a file has at most {most:,}", str(path)
            )
        pieces = [os.read(descriptor, size + 1)]
        # it was changed meanwhile
        while len(pieces[0]) != size and pieces[-1] and sum(map(len, pieces)) <= most:
            pieces.append(os.read(descriptor, MB))
    finally:
        os.close(descriptor)
    return b"".join(pieces)


def read_text(path: Path | str, *, most: int, errors: str = "strict") -> str:
    """Return the content of a file of UTF-8, line ends as they are in Python. Raises OSError as `read` does, and UnicodeDecodeError."""
    return read(path, most=most).decode(errors=errors).replace("\r\n", "\n").replace("\r", "\n")


def head(path: Path | str, most: int) -> bytes:
    """Return the first bytes of a file. Raises OSError if it is none."""
    descriptor = _opened(path, os.O_RDONLY)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def size(path: Path | str) -> int:
    """Return how many bytes a file that can be read has. Raises OSError if it is none."""
    descriptor = _opened(path, os.O_RDONLY)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def tail(path: Path | str, most: int) -> bytes:
    """Return the last bytes of a file. Raises OSError if it is none."""
    with opened(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - most))
        return file.read(most)


def opened(path: Path | str) -> BinaryIO:
    """Open a file to read. Raises OSError if it is none."""
    return os.fdopen(_opened(path, os.O_RDONLY), "rb")


def appended(path: Path | str) -> BinaryIO:
    """Open a file to write to its end; it is made if it is not there. Raises OSError if something else is."""
    # a link that leads nowhere makes no file somewhere else
    creating = 0 if os.path.islink(path) else os.O_CREAT
    return os.fdopen(_opened(path, os.O_RDWR | os.O_APPEND | creating), "ab")


def _opened(path: Path | str, flags: int) -> int:
    # a pipe is opened at once, and refused below
    descriptor = os.open(path, flags | WITHOUT_WAITING, 0o666)
    if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(
            errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL,
            f"{kind(mode)}, not a file",
            str(path),
        )
    return descriptor


def why(path: Path | str, error: OSError) -> str:
    """Return what `error`, raised of a path, comes from: a link that leads nowhere or a file on the way to it, else the system's words."""
    at = os.path.abspath(path)
    for each in reversed([at, *map(str, Path(at).parents)]):
        is_link = os.path.islink(each)
        try:
            mode = os.stat(each).st_mode
        except FileNotFoundError:
            if is_link:
                return f"{shown(each, path)} is a link to {os.readlink(each)}, which is not there"
            break
        except OSError:
            break
        if each != at and not stat.S_ISDIR(mode):
            return f"{shown(each, path)} is {kind(mode)}, not a folder"
    return error.strerror or str(error)


def no_folder(path: Path | str) -> str | None:
    """Return why a path is no folder that one can look into, in words; None if it is one."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()
            return None
    except FileNotFoundError as error:
        rule = why(path, error)
        return "no such folder" if rule == error.strerror else rule
    except OSError as error:
        return why(path, error)
    return f"{kind(mode)}, not a folder"


def shown(absolute: str, path: Path | str) -> str:
    """Return an absolute path as it stands in `path`, if it does."""
    return absolute if os.path.isabs(path) else os.path.relpath(absolute)
