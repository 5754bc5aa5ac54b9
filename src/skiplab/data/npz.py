"""Read images, labels, classes and parts from one npz file, strictly. Imports no torch."""

import math
import os
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from skiplab import regular
from skiplab.data.folder import PART_OF, Found, Item, item_of
from skiplab.errors import UsageError

NAMES = ("images", "labels", "classes", "split")
# Bytes of an array, at most: what its header states is believed up to here.
LARGEST_ARRAY = 2**36


def find(path: Path) -> Found:
    """Return the images of an npz file, in its order.

    It holds `images`, uint8 (N, H, W) or (N, H, W, 1 or 3); `labels`, whole numbers or texts (N,);
    perhaps `classes`, texts (K,) that labels of 0 to K - 1 stand for; and perhaps `split`, texts
    (N,) of train, val or test. Raises UsageError naming the file and the array.
    """
    try:
        with regular.opened(path) as file, zipfile.ZipFile(file) as archive:
            arrays = {name: read(archive, name, path) for name in NAMES if has(archive, name)}
            others = [name.removesuffix(".npy") for name in archive.namelist()]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({regular.why(path, error)})") from None
    # zipfile raises NotImplementedError and RuntimeError for methods and passwords that it lacks.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:100]
        raise UsageError(f"{path}: no npz file, or a damaged one ({said})") from None
    for name in ("images", "labels"):
        if name not in arrays:
            there = ", ".join(sorted(others)[:8])[:200]
            raise UsageError(f"{path}: holds no array {name} (it has: {there or 'none'})")
    images = checked_images(arrays["images"], path)
    labels = labels_of(arrays, len(images), path)
    parts = parts_of(arrays, len(images), path)
    stat = item_of(str(path), "", "")
    items = [
        Item(f"{path}{os.sep}{i}", label, part, stat.size, stat.mtime, stat.ctime)
        for i, (label, part) in enumerate(zip(labels, parts, strict=True))
    ]
    return Found(items, pixels=images)


def read_images(path: Path) -> NDArray[Any]:
    """Return the array of an .npy file, or `images` (else the only array) of an .npz file.

    Its type and shape are unchecked. Raises UsageError naming the file.
    """
    try:
        with regular.opened(path) as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    names = [name.removesuffix(".npy") for name in archive.namelist()]
                    if "images" not in names and len(names) != 1:
                        there = ", ".join(sorted(names)[:8])[:200]
                        raise UsageError(f"{path}: holds no array images (it has: {there})")
                    name = "images" if "images" in names else names[0]
                    size = archive.getinfo(f"{name}.npy").file_size
                    with archive.open(f"{name}.npy") as member:
                        return array_of(member, size, name, path, kinds="uibf")
            file.seek(0)
            size = os.fstat(file.fileno()).st_size
            return array_of(file, size, "images", path, kinds="uibf")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({regular.why(path, error)})") from None
    except UsageError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())[:100]
        raise UsageError(f"{path}: no npy or npz file, or a damaged one ({said})") from None


def has(archive: zipfile.ZipFile, name: str) -> bool:
    """Tell whether an archive has an array of this name."""
    return f"{name}.npy" in archive.namelist()


def read(archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[Any]:
    """Read one array. Raises UsageError if it holds objects, or not the bytes that it states."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        return array_of(file, info.file_size, name, path)


def array_of(
    file: IO[bytes], file_size: int, name: str, path: Path, *, kinds: str = "uiUS"
) -> NDArray[Any]:
    """Read an npy file of `file_size` bytes, whose array is of one of the NumPy `kinds`."""
    version = npy.read_magic(file)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = header(file)
    if dtype.hasobject or dtype.kind not in kinds:
        expected = "whole numbers or texts are" if "U" in kinds else "numbers are"
        raise UsageError(f"{path}: {name}: {dtype}: {expected} expected")
    size = math.prod(shape) * dtype.itemsize
    if size > LARGEST_ARRAY or size > file_size:
        raise UsageError(f"{path}: {name}: states {size:,} bytes and has {file_size:,}")
    content = file.read(size + 1)
    if len(content) != size:
        raise UsageError(f"{path}: {name}: has not the {size:,} bytes that it states")
    array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")


def checked_images(images: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Return images as uint8 (N, H, W, C). Raises UsageError for others."""
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UsageError(
            f"{path}: images: {images.dtype} {images.shape}: "
            "uint8 of (N, height, width) or (N, height, width, 1 or 3) is expected"
        )
    if images.size == 0:
        raise UsageError(f"{path}: images: {images.shape} holds nothing")
    return np.ascontiguousarray(images)


def labels_of(arrays: dict[str, NDArray[Any]], count: int, path: Path) -> list[str]:
    """Return the class of each image. Raises UsageError for labels that name none."""
    labels = arrays["labels"]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    check_length(labels, "labels", count, path)
    if "classes" not in arrays:
        return texts_of(labels, "labels", path)
    classes = arrays["classes"]
    check_length(classes, "classes", len(classes) if classes.ndim else 0, path)
    names = texts_of(classes, "classes", path)
    if labels.dtype.kind not in "ui":
        raise UsageError(f"{path}: labels: texts, though classes name them; give one of the two")
    if int(labels.min()) < 0 or int(labels.max()) >= len(names):
        raise UsageError(
            f"{path}: labels: {labels.min()} to {labels.max()}, "
            f"but the {len(names)} classes are 0 to {len(names) - 1}"
        )
    return [names[int(label)] for label in labels]


def parts_of(arrays: dict[str, NDArray[Any]], count: int, path: Path) -> list[str]:
    """Return the part of each image, empty where none is given. Raises UsageError for others."""
    if "split" not in arrays:
        return [""] * count
    check_length(arrays["split"], "split", count, path)
    given = texts_of(arrays["split"], "split", path)
    for name in sorted({*given}):
        if name.lower() not in PART_OF:
            raise UsageError(f"{path}: split: {name[:40]!r}: take train, val or test")
    parts = [PART_OF[name.lower()] for name in given]
    if "train" not in parts:
        raise UsageError(f"{path}: split: no image is of train")
    return parts


def check_length(array: NDArray[Any], name: str, count: int, path: Path) -> None:
    """Raise UsageError unless an array is a row of `count` values."""
    if array.shape != (count,):
        raise UsageError(f"{path}: {name}: shape {array.shape}, ({count},) is expected")


def texts_of(values: NDArray[Any], name: str, path: Path) -> list[str]:
    """Return values as texts. Raises UsageError for bytes that are no UTF-8."""
    try:
        plain = [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]
    except UnicodeDecodeError:
        raise UsageError(f"{path}: {name}: bytes that are no UTF-8") from None
    return [unicodedata.normalize("NFC", text) for text in plain]
