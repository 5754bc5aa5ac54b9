"""Made-up data files and images, and ways to damage them: shared by the tests in tests/data."""

import hashlib
import io
import os
import struct
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings, strategies as st
from numpy.typing import NDArray
from torch import Tensor

from skiplab.data.splits import Split
from skiplab.errors import UsageError

Bytes = NDArray[np.uint8]
# Nobody listens there: what a test does not put in its folder cannot be fetched.
NOWHERE = ("http://127.0.0.1:9",)


def made_up(*shape: int, below: int = 256) -> Bytes:
    """The same pseudo-random bytes every time."""
    return np.random.default_rng(0).integers(0, below, shape, dtype=np.uint8)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def refusal(call: Callable[[], object], path: Path | None = None) -> str:
    """Return the message of the UsageError that `call` must raise: one line, first the path."""
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert path is None or message.startswith(f"{path}: ")
    return message


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder, which is made, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def tar_of(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"folder/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def idx_bytes(
    data: Bytes, *, magic: bytes | None = None, dimensions: tuple[int, ...] | None = None
) -> bytes:
    """An IDX file as the format's definition says, or one whose header lies."""
    shape = data.shape if dimensions is None else dimensions
    return (
        (bytes((0, 0, 8, data.ndim)) if magic is None else magic)
        + struct.pack(f">{len(shape)}I", *shape)
        + data.tobytes()
    )


IMAGES = made_up(5, 4, 3)


def assert_refuses_a_fifo_and_gigabytes(
    read: Callable[[Path], object], path: Path, content: bytes, size: int | None = None
) -> None:
    """A FIFO is not opened; a file with this beginning, extended to `size`, is not read whole."""
    os.mkfifo(path)
    assert "is a FIFO" in refusal(lambda: read(path), path)
    path.unlink()
    path.write_bytes(content)
    if size is not None:
        os.truncate(path, size)
    tracemalloc.start()
    try:
        assert "which no file of a data set has" in refusal(lambda: read(path), path)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def pixels(*shape: int) -> Tensor:
    """The same pseudo-random bytes every time."""
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def numbered(num: int, labels: Tensor | None = None) -> Split:
    """`num` images of 4x4x3 with their number in the first two bytes and, by default, as label."""
    images = pixels(num, 4, 4, 3)
    images[:, 0, 0, 0] = torch.arange(num) % 256
    images[:, 0, 0, 1] = torch.arange(num) // 256
    return Split(images, torch.arange(num) if labels is None else labels)


# --------------------------------------------------------------------------------------------------
# Mutations

EDITS = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.binary(max_size=6), st.integers(0, 6)),
    min_size=1,
    max_size=4,
)
FUZZ = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def edited(content: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    """`content` with some bytes put in, left out or replaced at some places."""
    for place, put_in, left_out in edits:
        cut = place % (len(content) + 1)
        content = content[:cut] + put_in + content[cut + left_out :]
    return content


def survive(read: Callable[[Path], object], path: Path, content: bytes) -> None:
    """`read` may succeed or raise a UsageError of one line that names the file, nothing else."""
    path.write_bytes(content)
    try:
        read(path)
    except UsageError as error:
        message = str(error)
    else:
        return
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


@contextmanager
def little_memory(extra: int) -> Iterator[None]:
    """Allow `extra` bytes beyond what is in use, because a mutated length may state gigabytes."""
    resource = pytest.importorskip("resource")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the memory in use is not known here")
    limit, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS,
        (int(statm.read_text().split()[0]) * resource.getpagesize() + extra, hard),
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
