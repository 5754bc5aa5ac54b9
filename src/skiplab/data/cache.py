"""The cache of decoded data sets: decoded once, mapped into memory by every later start.

An entry is valid for the files that it was made of, by path, size and mtime, and for this FORMAT.
What is mapped is hashed each time; an entry that was overwritten is decoded again. If the cache
cannot be written or an entry does not fit, each start decodes, and nothing else changes.
"""

import hashlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from skiplab.data.arrays import Arrays
from skiplab.data.download import read_memory, remember
from skiplab.locations import cache_folder

# Raise this number when a reader comes to return other arrays for the same files.
FORMAT = 1
# The folders in which entries are written have names that begin like this.
PRIVATE_PREFIX = ".decoded-"
# Seconds after which such a folder was left by a killed run.
ABANDONED_AFTER = 3600


def read(name: str, sources: Sequence[Path], decode: Callable[[], Arrays]) -> tuple[Arrays, str]:
    """Return what `decode` makes of these verified files, and its SHA-256.

    It is mapped from entry `name` of the cache, or decoded and written there.
    """
    path = cache_folder() / f"{name}.decoded"
    facts: list[object] = [FORMAT]
    for source in sources:
        stat = source.stat()
        facts.append([str(source.resolve()), stat.st_size, stat.st_mtime_ns])
    if (found := map_entry(path, facts)) is not None:
        return found
    arrays = decode()
    digest = digest_of(arrays)
    write_entry(path, arrays, [facts, list(arrays.images.shape), str(arrays.path), digest])
    return arrays, digest


def digest_of(arrays: Arrays) -> str:
    """Return the SHA-256 of pixels and labels, in hexadecimal."""
    digest = hashlib.sha256(arrays.images.data)
    digest.update(arrays.labels.data)
    return digest.hexdigest()


def map_entry(path: Path, facts: list[object]) -> tuple[Arrays, str] | None:
    """Map the entry at `path` and return it with its SHA-256.

    Returns None if there is none, or if it was made of other files, in another format, or changed.
    """
    try:
        stat = path.stat()
        size, mtime, inode, made_of, shape, source, digest = read_memory()[str(path)]
        if [size, mtime, inode, made_of] != [stat.st_size, stat.st_mtime_ns, stat.st_ino, facts]:
            return None
        # Copy on write: what this process writes into the arrays never reaches the file.
        content = np.asarray(np.memmap(path, np.uint8, mode="c"))
        end = math.prod(shape)
        arrays = Arrays(content[:end].reshape(shape), content[end:], Path(source))
        is_whole = len(arrays.images) == len(arrays.labels) and digest_of(arrays) == digest
        return (arrays, digest) if is_whole else None
    # Nothing is remembered, or nothing that this version wrote.
    except (OSError, KeyError, ValueError, TypeError):
        return None


def write_entry(path: Path, arrays: Arrays, facts: list[object]) -> None:
    """Write an entry atomically, and remember its size, mtime and inode once the disk has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in path.parent.glob(f"{PRIVATE_PREFIX}*"):
            if time.time() - folder.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=PRIVATE_PREFIX) as private:
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
