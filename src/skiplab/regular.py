"""Open regular files only: never a pipe, which would not end, and never too large a file. No torch.

Anything else raises OSError, as what the system itself refuses does.
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
    """Return what a file of this mode is, in words."""
    return next((words for is_one, words in KINDS if is_one(mode)), "a file")


def read(path: Path | str, *, most: int) -> bytes:
    """Return a file's content. Raises OSError if it is no file or has more than `most` bytes."""
    descriptor = _opened(path, os.O_RDONLY)
    try:
        if (size := os.fstat(descriptor).st_size) > most:
            raise OSError(
                errno.EINVAL, f"{size:,} bytes, and such a file has at most {most:,}", str(path)
            )
        pieces = [os.read(descriptor, size + 1)]
        # The size is another if the file was changed meanwhile.
        while len(pieces[0]) != size and pieces[-1] and sum(map(len, pieces)) <= most:
            pieces.append(os.read(descriptor, MB))
    finally:
        os.close(descriptor)
    return b"".join(pieces)


def read_text(path: Path | str, *, most: int, errors: str = "strict") -> str:
    """Return the content of a UTF-8 file, with line ends as in Python.

    Raises OSError as `read` does, and UnicodeDecodeError.
    """
    return read(path, most=most).decode(errors=errors).replace("\r\n", "\n").replace("\r", "\n")


def head(path: Path | str, most: int) -> bytes:
    """Return at most `most` bytes from the start. Raises OSError if it is no file."""
    descriptor = _opened(path, os.O_RDONLY)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def size(path: Path | str) -> int:
    """Return the size in bytes. Raises OSError if it is no file, or cannot be read."""
    descriptor = _opened(path, os.O_RDONLY)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def tail(path: Path | str, most: int) -> bytes:
    """Return at most `most` bytes from the end. Raises OSError if it is no file."""
    with opened(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - most))
        return file.read(most)


def opened(path: Path | str) -> BinaryIO:
    """Open a file to read. Raises OSError if it is no file."""
    return os.fdopen(_opened(path, os.O_RDONLY), "rb")


def appended(path: Path | str) -> BinaryIO:
    """Open a file to append, and make it if it is missing. Raises OSError if it is no file."""
    # A link that leads nowhere must not make a file somewhere else.
    creating = 0 if os.path.islink(path) else os.O_CREAT
    return os.fdopen(_opened(path, os.O_RDWR | os.O_APPEND | creating), "ab")


def _opened(path: Path | str, flags: int) -> int:
    # A pipe opens at once, without waiting for its other end, and is refused below.
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
    """Return why `error` was raised for a path.

    The reason is a link that leads nowhere, or a file on the way to it, else the system's words.
    """
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
    """Return why a path is no folder that can be listed; None if it is one."""
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
    """Return an absolute path; relative to the working folder if `path` is relative."""
    return absolute if os.path.isabs(path) else os.path.relpath(absolute)
