"""The checkpoint container: no pickle, written atomically, its SHA-256 checked before anything in it is parsed.

8 bytes   b"SKIPLAB1"                  format 1
32 bytes  SHA-256 of all that follows
8 bytes   length of the facts, little-endian
...       facts: canonical JSON
...       tensors: the safetensors format
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiplab.errors import CheckpointError, FolderError

if TYPE_CHECKING:
    from torch import Tensor

MAGIC = b"SKIPLAB1"
HEADER_SIZE = len(MAGIC) + 32 + 8


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, whole or not at all: same-folder temporary, fsync, rename, fsync of the folder.

    Raises FolderError naming the folder and the bytes needed where it is full or not writable; `path` is then as it was.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder, and has no need to
            folder = os.open(path.parent, os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise FolderError(f"{path.parent}: cannot write {path.name}, {len(content):,} bytes ({error.strerror})") from None


def save(path: Path, tensors: "Mapping[str, Tensor]", facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts as one container. NaN among the facts is a ValueError."""
    import safetensors.torch  # imports torch, which `peek` and the command line do without

    body = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    text = json.dumps(facts, sort_keys=True, allow_nan=False).encode()
    content = len(text).to_bytes(8, "little") + text + body
    write_atomically(path, MAGIC + hashlib.sha256(content).digest() + content)


def load(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Tensors (on the CPU) and facts of a container. Raises CheckpointError naming the file if it is not whole."""
    import safetensors.torch

    facts, body = _open(path)
    return safetensors.torch.load(bytes(body)), facts


def peek(path: Path) -> dict[str, Any]:
    """The facts of a container alone, checked as `load` does; needs no torch."""
    return _open(path)[0]


def _open(path: Path) -> tuple[dict[str, Any], memoryview]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) < HEADER_SIZE or not content.startswith(MAGIC):
        raise CheckpointError(f"{path}: not a Skiplab checkpoint of format 1")
    digest, checked = content[len(MAGIC) : len(MAGIC) + 32], memoryview(content)[len(MAGIC) + 32 :]
    if hashlib.sha256(checked).digest() != digest:
        raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one it was written with")
    size = int.from_bytes(checked[:8], "little")
    return json.loads(bytes(checked[8 : 8 + size])), checked[8 + size :]
