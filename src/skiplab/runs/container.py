"""The file of a checkpoint: tensors and facts, its SHA-256 checked before anything is parsed.

Format 2, which is written, is a safetensors file that `safetensors.torch.load_file` opens:

    8 bytes   length of the header, little-endian
    header    {"__metadata__":{"format":"pt","skiplab":"2","sha256":"<64 hex digits>",
              "facts":"<JSON>"},"<name>":{"dtype": ..., "shape": ..., "data_offsets": ...}, ...}
    ...       the tensors

The digest stands at byte DIGEST_AT. It is of the whole file with spaces in its place.

Format 1, which is still read, is a container of its own:

    8 bytes   b"SKIPLAB1"
    32 bytes  SHA-256 of all that follows
    8 bytes   length of the facts, little-endian
    ...       facts: canonical JSON
    ...       tensors: the safetensors format
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from skiplab.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

# What every header of format 2 begins with.
LEAD = b'{"__metadata__":{"format":"pt","skiplab":"2","sha256":"'
DIGEST_AT = 8 + len(LEAD)
DIGEST_SIZE = 64
BLANK = b" " * DIGEST_SIZE
MAGIC_1 = b"SKIPLAB1"
HEADER_SIZE_1 = len(MAGIC_1) + 32 + 8
# Bytes that are read at once.
PIECE = 2**20


def pack(
    tensors: "Mapping[str, Tensor]", facts: Mapping[str, Any]
) -> tuple[bytes, bytes, memoryview]:
    """Return a file of format 2 in three pieces: length, header, tensors.

    Raises ValueError for a fact that is not finite.
    """
    # This imports torch, which `peek` and the command line do without.
    import safetensors.torch

    packed = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )
    end = 8 + int.from_bytes(packed[:8], "little")
    # {"a":{...},"b":{...}}, or {} without tensors
    entries = packed[8:end].rstrip()[1:]
    text = json.dumps(json.dumps(facts, sort_keys=True, allow_nan=False)).encode()
    separator = b"" if entries == b"}" else b","
    rest = b'","facts":' + text + b"}" + separator + entries
    # The tensors begin at a multiple of 8 bytes.
    rest += b" " * (-(DIGEST_AT + DIGEST_SIZE + len(rest)) % 8)
    length = (len(LEAD) + DIGEST_SIZE + len(rest)).to_bytes(8, "little")
    body = memoryview(packed)[end:]
    digest = hashlib.sha256(length + LEAD + BLANK + rest)
    digest.update(body)
    return length, LEAD + digest.hexdigest().encode() + rest, body


def load(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Return the tensors, on the CPU, and the facts of a checkpoint.

    Raises CheckpointError naming the file if it is not whole.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    with _opened(path) as file:
        facts = _read_facts(path, file)
        try:
            return safetensors.torch.load(file.read()), facts
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:100]
            raise CheckpointError(f"{path}: its tensors cannot be read ({reason})") from None


def peek(path: Path) -> dict[str, Any]:
    """Return only the facts of a checkpoint, checked as `load` does. Needs no torch."""
    with _opened(path) as file:
        return _read_facts(path, file)


def stated_digest(path: Path) -> str:
    """Return the SHA-256 that a checkpoint states of itself, in hexadecimal.

    Raises CheckpointError if it is none.
    """
    with _opened(path) as file:
        head = file.read(DIGEST_AT + DIGEST_SIZE)
    if head.startswith(MAGIC_1) and len(head) >= HEADER_SIZE_1:
        return head[len(MAGIC_1) : HEADER_SIZE_1 - 8].hex()
    if head[8:DIGEST_AT] == LEAD:
        return head[DIGEST_AT:].decode("ascii", "replace")
    raise _foreign(path)


def _opened(path: Path) -> BinaryIO:
    try:
        # Reading a pipe would never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path}: not a file")
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def _foreign(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: not a Skiplab checkpoint of format 1 or 2")


def _read_facts(path: Path, file: BinaryIO) -> dict[str, Any]:
    """Check the whole file, a piece at a time, and leave `file` where a safetensors file begins."""
    try:
        size = os.fstat(file.fileno()).st_size
        head = file.read(DIGEST_AT)
        file.seek(0)
        if head.startswith(MAGIC_1) and size >= HEADER_SIZE_1:
            text = _checked_facts_1(path, file, size)
        elif head[8:] == LEAD:
            text = _checked_facts_2(path, file, size)
        else:
            raise _foreign(path)
        facts = json.loads(text)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: its facts are not JSON") from None
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path}: its facts are not a mapping")
    return facts


def _checked_facts_2(path: Path, file: BinaryIO, size: int) -> str:
    """Return the facts of format 2 as text."""
    first = file.read(DIGEST_AT)
    stated = file.read(DIGEST_SIZE)
    _compare_digest(path, file, first + BLANK, stated.decode("ascii", "replace"))
    length = int.from_bytes(first[:8], "little")
    # Checked before memory is taken for it.
    if length > size - 8:
        raise CheckpointError(
            f"{path}: damaged: a header of {length:,} bytes in a file of {size:,}"
        )
    file.seek(8)
    header = json.loads(file.read(length))
    file.seek(0)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    facts = metadata.get("facts") if isinstance(metadata, dict) else None
    if not isinstance(facts, str):
        raise CheckpointError(f"{path}: states no facts")
    return facts


def _checked_facts_1(path: Path, file: BinaryIO, size: int) -> bytes:
    """Return the facts of format 1 as text."""
    head = file.read(HEADER_SIZE_1)
    _compare_digest(path, file, head[-8:], head[len(MAGIC_1) : -8].hex())
    length = int.from_bytes(head[-8:], "little")
    if length > size - HEADER_SIZE_1:
        raise CheckpointError(f"{path}: damaged: {length:,} bytes of facts in a file of {size:,}")
    file.seek(HEADER_SIZE_1)
    return file.read(length)


def _compare_digest(path: Path, file: BinaryIO, first: bytes, stated: str) -> None:
    """Raise CheckpointError unless `first` and the rest of the file have the stated SHA-256."""
    found = hashlib.sha256(first)
    while piece := file.read(PIECE):
        found.update(piece)
    if found.hexdigest() != stated:
        raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one it was written with")
