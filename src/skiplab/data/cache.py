"""Data sets as arrays, kept in the cache folder: decoded once, mapped into memory by every later start.

An entry counts for the files that it was made of, by path, size and mtime, and for this FORMAT.
What is mapped is hashed each time: one that was overwritten is decoded afresh. A cache that cannot
be written or does not fit costs the decoding, no more.
"""

import hashlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skiplab.data.arrays import Arrays
from skiplab.data.download import remember, remembered
from skiplab.locations import cache_folder

# to be raised when a reader comes to give other arrays for the same files
FORMAT = 1
# how the names of folders begin in which an entry is written
PRIVATE = ".decoded-"
# seconds after which such a folder is one that a killed run has left
ABANDONED = 3600


def read(name: str, sources: Sequence[Path], decode: Callable[[], Arrays]) -> tuple[Arrays, str]:
    """What `decode` makes of these verified files, and its SHA-256: mapped from entry `name`, or decoded and entered."""
    path = cache_folder() / f"{name}.decoded"
    facts = [
        FORMAT,
        *(
            [str(source.resolve()), stat.st_size, stat.st_mtime_ns]
            for source in sources
            for stat in [source.stat()]
        ),
    ]
    if (found := mapped(path, facts)) is not None:
        return found
    arrays = decode()
    digest = digest_of(arrays)
    enter(path, arrays, [facts, list(arrays.images.shape), str(arrays.path), digest])
    return arrays, digest


def digest_of(arrays: Arrays) -> str:
    """The SHA-256 of pixels and labels, in hexadecimal."""
    digest = hashlib.sha256(arrays.images.data)
    digest.update(arrays.labels.data)
    return digest.hexdigest()


def mapped(path: Path, facts: list[Any]) -> tuple[Arrays, str] | None:
    """The entry at `path` and its SHA-256; None if there is none, or if it is of other files, another format, or was changed."""
    try:
        stat = path.stat()
        size, mtime, inode, made_of, shape, source, digest = remembered()[str(path)]
        if [size, mtime, inode, made_of] != [stat.st_size, stat.st_mtime_ns, stat.st_ino, facts]:
            return None
        # what is written into it stays this process's own
        content = np.asarray(np.memmap(path, np.uint8, mode="c"))
        end = math.prod(shape)
        arrays = Arrays(content[:end].reshape(shape), content[end:], Path(source))
        is_whole = len(arrays.images) == len(arrays.labels) and digest_of(arrays) == digest
        return (arrays, digest) if is_whole else None
    # nothing remembered, or nothing that this version wrote
    except (OSError, KeyError, ValueError, TypeError):
        return None


def enter(path: Path, arrays: Arrays, facts: list[Any]) -> None:
    """Write the entry whole or not at all, and remember which file it is; the disk has it before it is trusted."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in path.parent.glob(f"{PRIVATE}*"):
            if time.time() - folder.stat().st_mtime > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=PRIVATE) as private:
            fresh = Path(private) / path.name
            with fresh.open("wb") as file:
                file.write(arrays.images.data)
                file.write(arrays.labels.data)
                file.flush()
                os.fsync(file.fileno())
            stat = fresh.stat()
            os.replace(fresh, path)
    except OSError:
        return
    remember(str(path), [stat.st_size, stat.st_mtime_ns, stat.st_ino, *facts])
