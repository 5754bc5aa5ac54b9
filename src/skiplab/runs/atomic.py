"""Write files whole or not at all. Imports no torch."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from skiplab.errors import FolderError

# The names of unfinished files end so, and begin with a dot.
TEMPORARY = ".tmp"
# The disk, or a quota on it, is full.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write(
    path: Path,
    content: bytes | Iterable[bytes | memoryview],
    *,
    before_replacing: Callable[[Path], None] | None = None,
) -> None:
    """Replace `path` by `content`, whole or not at all.

    Writes a temporary file in the same folder, then calls fsync, renames, and calls fsync on the
    folder. `before_replacing` is called with `path` once the content is on the disk.

    Raises FolderError naming the folder if it is full (with the bytes needed) or not writable;
    `path` is then as it was.
    """
    parts = [content] if isinstance(content, bytes) else list(content)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}-", suffix=TEMPORARY, delete=False
        ) as file:
            temporary = Path(file.name)
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        # Some file systems have no modes.
        with suppress(OSError):
            os.chmod(temporary, 0o644)
        if before_replacing is not None:
            before_replacing(path)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        needed = ""
        if error.errno in NO_ROOM:
            needed = f", {sum(map(len, parts)):,} bytes are needed"
        raise FolderError(
            f"{path.parent}: cannot write {path.name}{needed} ({error.strerror})"
        ) from None


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder, and does not need to.
    if not hasattr(os, "O_DIRECTORY"):
        return
    opened = os.open(folder, os.O_DIRECTORY)
    try:
        # Some file systems cannot sync a folder. The file has its name by then.
        with suppress(OSError):
            os.fsync(opened)
    finally:
        os.close(opened)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left in `folder`. The caller holds the folder's lock."""
    for path in folder.glob(f".*-*{TEMPORARY}"):
        if path.is_file():
            path.unlink(missing_ok=True)
