"""Strict readers of the official files, in NumPy: IDX for MNIST and its kin, binary (or pickled) CIFAR, scikit-learn's digits.

Each data set is a function (root, split) -> Arrays. A file that is missing is fetched; one that is
damaged is an error that names it. Nothing is unpickled whose MD5 is not the published one.
"""

import gzip
import importlib.util
import io
import math
import pickle
import pickletools
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiplab.data.download import LARGEST_FILE, check_size
from skiplab.data.official import (
    CIFAR10,
    CIFAR100,
    IDX_NAMES as IDX_NAMES,
    Cifar,
    fashion_mnist_files,
    mnist_files,
)
from skiplab.errors import UsageError
from skiplab.locations import check_kind

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Arrays:
    """One split as the files hold it: images uint8 (N, H, W, C), labels uint8 (N,), and the file to name in errors."""

    images: Bytes
    labels: Bytes
    path: Path


# ----------------------------------------------------------------------------------------------------------------
# digits


# bytes of scikit-learn's file, unpacked; it holds 267,000
LARGEST_DIGITS = 2**20


def digits(root: Path, split: str) -> Arrays:
    """scikit-learn's bundled digits (UCI, 1998): 1,797 images of 8x8, values 0..16; every fifth image is the test split."""
    # finds the package without paying a second for importing it
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UsageError("dataset=digits: scikit-learn, which brings the images, is not installed")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        check_kind(path)
        check_size(path, path.stat().st_size, LARGEST_DIGITS)
        with gzip.open(path) as file:
            content = file.read(LARGEST_DIGITS)
        table = np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UsageError(f"{path}: not scikit-learn's digits ({error})") from None
    if table.shape != (1797, 65) or int(table[:, :64].max()) > 16:
        raise UsageError(
            f"{path}: not scikit-learn's digits: a table of shape {table.shape} where (1797, 65) is expected"
        )
    is_test = np.arange(len(table)) % 5 == 0
    rows = table[is_test if split == "test" else ~is_test]
    scaled = np.round(rows[:, :64] * (255 / 16)).astype(np.uint8)
    return Arrays(scaled.reshape(-1, 8, 8, 1), np.ascontiguousarray(rows[:, 64]), path)


# -------------------------------------------------------------------------------------------------------------------
# IDX


def read_idx(path: Path, *, num_dimensions: int) -> Bytes:
    """An IDX file of unsigned bytes, plain or (by its name) gzip: uint8 of the shape that its header states.

    Format: bytes 0, 0, 8 (unsigned byte), number of dimensions, then each dimension as a big-endian
    uint32, then the data. Raises UsageError naming the file for a wrong magic number or a size that
    is not the header's.
    """
    check_kind(path)
    header_size = 4 + 4 * num_dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(header_size)
            if len(header) < header_size or header[:4] != bytes((0, 0, 8, num_dimensions)):
                raise UsageError(
                    f"{path}: not an IDX file of {num_dimensions} dimensions: it begins with {header[:4].hex(' ')}"
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
            # piece by piece: a header that lies costs no more memory than the file holds
            parts, missing = [], size
            while missing and (part := file.read(min(missing, 1 << 24))):
                parts.append(part)
                missing -= len(part)
            if missing or file.read(1):
                raise UsageError(
                    f"{path}: {'fewer' if missing else 'more'} bytes than its header {shape} states ({size})"
                )
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    return np.frombuffer(bytearray().join(parts), np.uint8).reshape(shape)


def read_idx_pair(images_path: Path, labels_path: Path) -> Arrays:
    """Images (N, H, W) and labels (N,) of two IDX files; UsageError if the counts differ."""
    images, labels = (
        read_idx(images_path, num_dimensions=3),
        read_idx(labels_path, num_dimensions=1),
    )
    if len(images) != len(labels):
        raise UsageError(
            f"{labels_path}: {len(labels)} labels for the {len(images)} images of {images_path.name}"
        )
    return Arrays(images[..., np.newaxis], labels, labels_path)


def mnist(root: Path, split: str) -> Arrays:
    """MNIST (LeCun et al. 1998), in torchvision's layout: ROOT/MNIST/raw."""
    return read_idx_pair(*mnist_files(root, split, afresh=True))


def fashion_mnist(root: Path, split: str) -> Arrays:
    """Fashion-MNIST (Xiao et al. 2017), in torchvision's layout: ROOT/FashionMNIST/raw."""
    return read_idx_pair(*fashion_mnist_files(root, split, afresh=True))


# -----------------------------------------------------------------------------------------------------------------
# CIFAR


def read_cifar_binary(path: Path, *, num_label_bytes: int, num_classes: int) -> Arrays:
    """The binary version: records of label bytes (CIFAR-100: coarse, fine), then a red, a green and a blue 32x32 plane.

    Raises UsageError naming the file for a size that is no whole number of records or a label that
    is out of range.
    """
    record_size = num_label_bytes + 3 * 32 * 32
    try:
        check_kind(path)
        check_size(path, path.stat().st_size, None)
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) == 0 or len(content) % record_size:
        raise UsageError(
            f"{path}: {len(content)} bytes are no whole number of {record_size}-byte CIFAR records"
        )
    records = content.reshape(-1, record_size)
    return cifar_arrays(
        records[:, num_label_bytes:], records[:, num_label_bytes - 1], path, num_classes=num_classes
    )


def cifar_arrays(planes: Bytes, labels: Bytes, path: Path, *, num_classes: int) -> Arrays:
    """Planes (N, 3072) and labels (N,) as Arrays: images (N, 32, 32, 3)."""
    if int(labels.max()) >= num_classes:
        raise UsageError(
            f"{path}: label {int(labels.max())} is out of range: {num_classes} classes, so 0 to {num_classes - 1}"
        )
    # (N, 3 * 1024) -> (N, 1024, 3)
    images = np.empty((len(planes), 32 * 32, 3), np.uint8)
    # plane by plane, so many images as fit the processor's cache: a third of transpose's time
    for start in range(0, len(planes), 500):
        for channel, plane in enumerate(np.split(planes[start : start + 500], 3, axis=1)):
            images[start : start + 500, :, channel] = plane
    return Arrays(images.reshape(-1, 32, 32, 3), np.ascontiguousarray(labels), path)


class Inert:
    """Stands in for NumPy's classes while a pickle is read: it keeps what it was given and does nothing."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


# numbered objects in a pickled file; CIFAR-100 names 50,000 images
LARGEST_MEMO = 2**20


class CifarUnpickler(pickle.Unpickler):
    """Allows what the pickled CIFAR files hold, dicts, lists, bytes and uint8 arrays, and nothing else."""

    ALLOWED = frozenset(
        {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
    )

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        # NumPy's own would trust the state that it finds, and crash on a bad one
        return Inert


def read_cifar_pickle(path: Path, *, label_key: bytes, num_classes: int) -> Arrays:
    """One file of the Python version, which the caller has verified: images (N, 32, 32, 3) and its labels under `label_key`."""
    try:
        check_kind(path)
        check_size(path, path.stat().st_size, None)
        for opcode, argument, _ in pickletools.genops(pickled := path.read_bytes()):
            # the unpickler makes room for all below it
            if opcode.name in ("LONG_BINPUT", "PUT") and (argument or 0) > LARGEST_MEMO:
                raise ValueError(f"an object numbered {argument}")
        content = CifarUnpickler(io.BytesIO(pickled), encoding="bytes").load()
        _version, shape, dtype, is_fortran, pixels = content[b"data"].state
        if dtype.arguments[0] != b"u1":
            raise TypeError(f"its images are of type {dtype.arguments[0]!r}, not b'u1'")
        planes = np.frombuffer(bytearray(pixels), np.uint8).reshape(
            shape, order="F" if is_fortran else "C"
        )
        labels = np.array(content[label_key], np.int64)
    except UsageError:
        raise
    # a pickle can fail in any way; each is a file that is not what it should be
    except Exception as error:
        # some of pickle's messages have two lines
        said = " ".join(str(error).split())
        raise UsageError(
            f"{path}: not a pickled CIFAR file ({type(error).__name__}: {said})"
        ) from None
    if labels.ndim != 1 or planes.shape != (len(labels), 3072) or len(labels) == 0:
        raise UsageError(
            f"{path}: not a pickled CIFAR file: no uint8 array of shape (N, 3072) with N labels"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UsageError(
            f"{path}: a label is out of range: {num_classes} classes, so 0 to {num_classes - 1}"
        )
    return cifar_arrays(planes, labels.astype(np.uint8), path, num_classes=num_classes)


def joined(parts: list[Arrays]) -> Arrays:
    """Several files as one split."""
    if len(parts) == 1:
        return parts[0]
    return Arrays(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.labels for p in parts]),
        parts[0].path.parent,
    )


def read_cifar(
    files: Cifar,
    root: Path,
    split: str,
    *,
    num_classes: int,
    num_label_bytes: int,
    label_key: bytes,
) -> Arrays:
    """The split, from files of either version that are verified before a byte is unpickled."""
    parts: list[Arrays] = []
    for path in files.locate(root, split, afresh=True):
        if path.suffix == ".bin":
            parts.append(
                read_cifar_binary(path, num_label_bytes=num_label_bytes, num_classes=num_classes)
            )
        else:
            parts.append(read_cifar_pickle(path, label_key=label_key, num_classes=num_classes))
    return joined(parts)


def cifar10(root: Path, split: str) -> Arrays:
    """CIFAR-10 (Krizhevsky 2009): ROOT/cifar-10-batches-bin, or torchvision's ROOT/cifar-10-batches-py."""
    return read_cifar(CIFAR10, root, split, num_classes=10, num_label_bytes=1, label_key=b"labels")


def cifar100(root: Path, split: str) -> Arrays:
    """CIFAR-100 with its fine labels: ROOT/cifar-100-binary, or torchvision's ROOT/cifar-100-python."""
    return read_cifar(
        CIFAR100, root, split, num_classes=100, num_label_bytes=2, label_key=b"fine_labels"
    )
