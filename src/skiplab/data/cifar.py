"""Read CIFAR-10 and CIFAR-100 strictly, in the binary and in the pickled (Python) version.

Nothing is unpickled whose MD5 is not the published one. A damaged file is an error that names it.
"""

import io
import pickle
import pickletools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skiplab.data.arrays import Arrays, Bytes, join
from skiplab.data.download import check_size
from skiplab.data.official import CIFAR10, CIFAR100, Cifar
from skiplab.errors import UsageError
from skiplab.locations import check_kind

# Images that are sorted into pixels at once: they fit the processor's cache.
CHUNK = 500
# Numbered objects in a pickled file, at most. CIFAR-100 names 50,000 images.
LARGEST_MEMO = 2**20


def read_cifar_binary(path: Path, *, num_label_bytes: int, num_classes: int) -> Arrays:
    """Read a file of the binary version, whose images become (N, 32, 32, 3).

    A record has its label bytes (CIFAR-100: coarse, fine; the last one counts), then a red, a green
    and a blue plane of 32x32. Raises UsageError naming the file for a size that is no whole number
    of records or a label that is out of range.
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
    planes, labels = records[:, num_label_bytes:], records[:, num_label_bytes - 1]
    return arrange(planes, labels, path, num_classes=num_classes)


def arrange(planes: Bytes, labels: Bytes, path: Path, *, num_classes: int) -> Arrays:
    """Arrange planes (N, 3072) as images (N, 32, 32, 3). Raises UsageError for an unknown label."""
    if int(labels.max()) >= num_classes:
        raise UsageError(
            f"{path}: label {int(labels.max())} is out of range: "
            f"{num_classes} classes, so 0 to {num_classes - 1}"
        )
    # (N, 3 * 1024) -> (N, 1024, 3), plane by plane: this takes a third of a transpose's time.
    images = np.empty((len(planes), 32 * 32, 3), np.uint8)
    for start in range(0, len(planes), CHUNK):
        for channel, plane in enumerate(np.split(planes[start : start + CHUNK], 3, axis=1)):
            images[start : start + CHUNK, :, channel] = plane
    return Arrays(images.reshape(-1, 32, 32, 3), np.ascontiguousarray(labels), path)


class Inert:
    """Stand in for NumPy's classes while a pickle is read: keep what is given, do nothing."""

    def __init__(self, *arguments: object):
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class CifarUnpickler(pickle.Unpickler):
    """Allow what the pickled files hold (dicts, lists, bytes, uint8 arrays) and nothing else."""

    ALLOWED = frozenset(
        {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
    )

    def find_class(self, module_name: str, global_name: str) -> type[Inert]:
        if (module_name, global_name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        # NumPy's own classes would trust the state that they find, and crash on a bad one.
        return Inert


def read_cifar_pickle(path: Path, *, label_key: bytes, num_classes: int) -> Arrays:
    """Read one verified file of the Python version: images (N, 32, 32, 3), labels at `label_key`.

    Raises UsageError naming the file, whatever is wrong with it.
    """
    try:
        check_kind(path)
        check_size(path, path.stat().st_size, None)
        planes, labels = unpickle(path.read_bytes(), label_key)
    except UsageError:
        raise
    # Unpickling can fail in any way. Each means that the file is not what it should be.
    except Exception as error:
        # Some messages of pickle have two lines.
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
    return arrange(planes, labels.astype(np.uint8), path, num_classes=num_classes)


def unpickle(pickled: bytes, label_key: bytes) -> tuple[Bytes, NDArray[np.int64]]:
    """Return the array and the labels in a pickle, of whatever shape they are there.

    Raises exceptions of many kinds for anything but a pickled CIFAR file.
    """
    for opcode, argument, _ in pickletools.genops(pickled):
        # The unpickler makes room for an object's number and all numbers below it.
        if opcode.name in ("LONG_BINPUT", "PUT") and (argument or 0) > LARGEST_MEMO:
            raise ValueError(f"an object numbered {argument}")
    content = CifarUnpickler(io.BytesIO(pickled), encoding="bytes").load()
    _version, shape, dtype, is_fortran, pixels = content[b"data"].state
    if dtype.arguments[0] != b"u1":
        raise TypeError(f"its images are of type {dtype.arguments[0]!r}, not b'u1'")
    order = "F" if is_fortran else "C"
    planes = np.frombuffer(bytearray(pixels), np.uint8).reshape(shape, order=order)
    return planes, np.array(content[label_key], np.int64)


def read_cifar(
    files: Cifar,
    root: Path,
    split: str,
    *,
    num_classes: int,
    num_label_bytes: int,
    label_key: bytes,
) -> Arrays:
    """Read a split from files of either version, each verified before a byte is unpickled."""
    parts: list[Arrays] = []
    for path in files.find_files(root, split, reread=True):
        if path.suffix == ".bin":
            part = read_cifar_binary(path, num_label_bytes=num_label_bytes, num_classes=num_classes)
        else:
            part = read_cifar_pickle(path, label_key=label_key, num_classes=num_classes)
        parts.append(part)
    return join(parts)


def read_cifar10(root: Path, split: str) -> Arrays:
    """Read CIFAR-10 (Krizhevsky 2009).

    It lies in ROOT/cifar-10-batches-bin, or as torchvision has it in ROOT/cifar-10-batches-py.
    """
    return read_cifar(CIFAR10, root, split, num_classes=10, num_label_bytes=1, label_key=b"labels")


def read_cifar100(root: Path, split: str) -> Arrays:
    """Read CIFAR-100 (Krizhevsky 2009) with its fine labels.

    It lies in ROOT/cifar-100-binary, or as torchvision has it in ROOT/cifar-100-python.
    """
    return read_cifar(
        CIFAR100, root, split, num_classes=100, num_label_bytes=2, label_key=b"fine_labels"
    )
