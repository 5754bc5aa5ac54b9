"""Images to predict: found in files and folders, or given as arrays, as uint8 (N, H, W, C)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skiplab.data import images
from skiplab.data.arrays import Bytes
from skiplab.data.folder import Walk, find_images
from skiplab.data.images import Decoded, to_array, to_eight_bits
from skiplab.data.npz import read_images
from skiplab.errors import UsageError

ARRAYS = (".npy", ".npz")


def find_files(paths: Iterable[str]) -> Iterator[str]:
    """Yield files as they are given, and of a folder all images below it, sorted.

    Raises UsageError for a path that is not there, and for a folder without images.
    """
    for text in paths:
        path = Path(text)
        if not path.is_dir():
            yield text
            continue
        found = sorted(find_images(text, (), Walk(path)))
        if not found:
            raise UsageError(f"{text}: holds no images")
        yield from found


def decode_file(path: str, *, size: tuple[int, int], channels: int) -> list[tuple[str, Bytes]]:
    """Decode a file's images, each with a name: one, or those of an .npy or .npz.

    Each is uint8 (H, W, C) of `size` (H, W). Raises UsageError naming the file.
    """
    if not path.lower().endswith(ARRAYS):
        return [(path, images.decode(Path(path), size=size, channels=channels))]
    pixels = from_array(read_images(Path(path)), size=size, channels=channels, name=path)
    return [(f"{path}[{i}]", image) for i, image in enumerate(pixels)]


def from_array(
    array: NDArray[Any], *, size: tuple[int, int], channels: int, name: str = "images"
) -> Bytes:
    """Return images as uint8 (N, H, W, C) of `size` (H, W).

    `array` is (H, W), (N, H, W), or either with 1 to 4 colour planes as its last dimension: whole
    numbers from 0 to 255, or floating point in [0, 1], which is rounded to 256 values. Of three
    dimensions the last one is colour planes if it is 1, 3 or 4. Raises UsageError for anything
    else.
    """
    pixels = _as_bytes(array, name)
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (1, 3, 4)):
        pixels = pixels[np.newaxis]
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 2, 3, 4) or 0 in pixels.shape[1:]:
        raise UsageError(
            f"{name}: shape {array.shape}; (height, width), (images, height, width), "
            "or these with 1, 3 or 4 colour planes at the end are expected"
        )
    if pixels.shape[1:] == (*size, channels):
        return np.ascontiguousarray(pixels)
    made = [_resized(each, size=size, channels=channels) for each in pixels]
    return np.stack(made) if made else np.empty((0, *size, channels), np.uint8)


def _as_bytes(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind in "iu" and (not array.size or (array.min() >= 0 and array.max() <= 255)):
        return array.astype(np.uint8)
    if array.dtype.kind != "f":
        raise UsageError(
            f"{name}: {array.dtype}: whole numbers from 0 to 255, or floating point in [0, 1], "
            "are expected"
        )
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise UsageError(
            f"{name}: values from {array.min():g} to {array.max():g}; "
            "floating point is expected in [0, 1], and not normalised"
        )
    return (array * 255).round().astype(np.uint8)


def _resized(pixels: Bytes, *, size: tuple[int, int], channels: int) -> Bytes:
    """Resize and convert one image, uint8 (H, W, C), as a file of it would be."""
    planes = pixels.shape[-1]
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if planes == 1 else pixels))
    return to_array(to_eight_bits(image), size=size, channels=channels)


def from_image(image: Image.Image, *, size: tuple[int, int], channels: int) -> Bytes:
    """Return an image that Pillow has opened as uint8 (H, W, C) of `size` (H, W)."""
    decoded: Decoded = to_eight_bits(images.upright(image))
    return to_array(decoded, size=size, channels=channels)
