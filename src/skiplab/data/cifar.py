"""Read CIFAR-10 and CIFAR-100 strictly, in the binary and in the pickled (Python) version.

Nothing is unpickled whose MD5 is not the published one. A damaged file is an error that names it.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from skiplab.data.arrays import Arrays, Bytes, join
from skiplab.data.download import check_size
from skiplab.data.official import CIFAR10, CIFAR100, Cifar
from skiplab.errors import UsageError
from skiplab.locations import check_kind


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
    return join(parts)


def read_cifar10(root: Path, split: str) -> Arrays:
    """CIFAR-10 (Krizhevsky 2009): ROOT/cifar-10-batches-bin, or torchvision's ROOT/cifar-10-batches-py."""
    return read_cifar(CIFAR10, root, split, num_classes=10, num_label_bytes=1, label_key=b"labels")


def read_cifar100(root: Path, split: str) -> Arrays:
    """CIFAR-100 with its fine labels: ROOT/cifar-100-binary, or torchvision's ROOT/cifar-100-python."""
    return read_cifar(
        CIFAR100, root, split, num_classes=100, num_label_bytes=2, label_key=b"fine_labels"
    )
