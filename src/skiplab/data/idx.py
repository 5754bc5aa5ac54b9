"""Read IDX files strictly: MNIST and its kin. A damaged file is an error that names it."""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from skiplab.data import official
from skiplab.data.arrays import Arrays, Bytes
from skiplab.data.download import LARGEST_FILE
from skiplab.errors import UsageError
from skiplab.locations import check_kind

# Bytes that are read at once.
PIECE = 2**24


def read_idx(path: Path, *, num_dimensions: int) -> Bytes:
    """Read an IDX file of unsigned bytes, plain or (by its name) gzip: uint8, shaped as it states.

    Format: bytes 0, 0, 8 (unsigned byte), number of dimensions, then each dimension as a big-endian
    uint32, then the data. Raises UsageError naming the file for a wrong magic number or a size that
    is not the header's.
    """
    check_kind(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            file = cast(BinaryIO, opened)
            shape = read_header(file, path, num_dimensions)
            content = read_content(file, path, shape)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_header(file: BinaryIO, path: Path, num_dimensions: int) -> tuple[int, ...]:
    """Read the shape that an IDX file states. Raises UsageError if the file cannot hold it."""
    header_size = 4 + 4 * num_dimensions
    header = file.read(header_size)
    if len(header) < header_size or header[:4] != bytes((0, 0, 8, num_dimensions)):
        raise UsageError(
            f"{path}: not an IDX file of {num_dimensions} dimensions: "
            f"it begins with {header[:4].hex(' ')}"
        )
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
    size = math.prod(shape)
    if size == 0:
        raise UsageError(f"{path}: its header {shape} states that it holds nothing")
    if path.suffix != ".gz" and path.stat().st_size != header_size + size:
        raise UsageError(
            f"{path}: {path.stat().st_size} bytes, its header {shape} makes {header_size + size}"
        )
    if size > LARGEST_FILE:
        raise UsageError(
            f"{path}: its header {shape} states {size:,} bytes, which no file of a data set has"
        )
    return shape


def read_content(file: BinaryIO, path: Path, shape: tuple[int, ...]) -> bytearray:
    """Read the bytes behind the header. Raises UsageError unless they are as many as it states."""
    size = math.prod(shape)
    # Read piece by piece, so that a header that lies takes no more memory than the file holds.
    parts, missing = [], size
    while missing and (part := file.read(min(missing, PIECE))):
        parts.append(part)
        missing -= len(part)
    if missing or file.read(1):
        found = "fewer" if missing else "more"
        raise UsageError(f"{path}: {found} bytes than its header {shape} states ({size})")
    return bytearray().join(parts)


def read_idx_pair(images_path: Path, labels_path: Path) -> Arrays:
    """Read images (N, H, W) and labels (N,) from two files. Raises UsageError if N differs."""
    images = read_idx(images_path, num_dimensions=3)
    labels = read_idx(labels_path, num_dimensions=1)
    if len(images) != len(labels):
        raise UsageError(
            f"{labels_path}: {len(labels)} labels for the {len(images)} images "
            f"of {images_path.name}"
        )
    return Arrays(images[..., np.newaxis], labels, labels_path)


def read_mnist(root: Path, split: str) -> Arrays:
    """Read MNIST (LeCun et al. 1998), in torchvision's layout: ROOT/MNIST/raw."""
    return read_idx_pair(*official.find_mnist_files(root, split, reread=True))


def read_fashion_mnist(root: Path, split: str) -> Arrays:
    """Read Fashion-MNIST (Xiao et al. 2017), in torchvision's layout: ROOT/FashionMNIST/raw."""
    return read_idx_pair(*official.find_fashion_mnist_files(root, split, reread=True))


def read_kmnist(root: Path, split: str) -> Arrays:
    """Read Kuzushiji-MNIST (Clanuwat et al. 2018), in torchvision's layout: ROOT/KMNIST/raw."""
    return read_idx_pair(*official.find_kmnist_files(root, split, reread=True))
