"""Decode one image file, or refuse it in one line: Pillow reads it, in 8 bits, upright and resized.

Training and prediction see the same pixels, because both call `decode`. Imports no torch.
"""

import errno
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from skiplab import regular
from skiplab.data.arrays import Bytes
from skiplab.errors import UsageError

# What Pillow may take a file for, by its content. Its other readers run programs, or are rare.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
NO_IMAGE = "is no image that can be decoded (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM)"
# Bytes of an image file, at most.
LARGEST_FILE = 2**29
# Pixels of an image, at most: a small file can claim billions of them (a decompression bomb).
LARGEST_IMAGE = 2**27
# What the system says of a file that is there: rights and connections come and go.
NOT_NOW = (errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ESTALE)
# What shines through transparent pixels.
BACKGROUND = (255, 255, 255, 255)
# Pillow's modes of grey images with and without transparency.
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")


class Unreadable(UsageError):
    """An image that cannot be decoded. The message is the reason, without the path."""


class OutOfReach(Unreadable):
    """An image that the system does not give now, and may give later."""


@dataclass(frozen=True)
class Decoded:
    """An image as its file has it: 8 bits per plane, upright, grey or RGB, not resized.

    `is_grey` says whether the file can hold no colour, whatever its pixels are.
    """

    image: Image.Image
    is_grey: bool


def decode(path: Path, *, size: tuple[int, int], channels: int) -> Bytes:
    """Decode an image file as every part of Skiplab sees it: uint8 (H, W, C), `size` is (H, W).

    Raises UsageError, one line that names the path, if that is not possible.
    """
    try:
        return to_array(open_image(read(path)), size=size, channels=channels)
    except Unreadable as error:
        raise UsageError(f"{path}: {error}") from None


def read(path: Path) -> bytes:
    """Read a file. Raises Unreadable if it is none, is missing, or is too large."""
    try:
        content = regular.read(path, most=LARGEST_FILE)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.islink(path):
            raise Unreadable("there is no such file") from None
        kind = OutOfReach if error.errno in NOT_NOW else Unreadable
        raise kind(f"cannot be read ({regular.why(path, error)})") from None
    if not content:
        raise Unreadable("is empty")
    return content


def open_image(content: bytes) -> Decoded:
    """Decode the bytes of an image file. Raises Unreadable if they are none, or too large a one.

    Of several frames it takes the first. EXIF says which side is up. 16 bits become 8, and what is
    transparent becomes white.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of much that it can read all the same.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            check_pixels(image)
            image.load()
            return to_eight_bits(upright(image))
    except Unreadable:
        raise
    except Image.UnidentifiedImageError:
        raise Unreadable(NO_IMAGE) from None
    except Image.DecompressionBombError:
        raise Unreadable(too_many_pixels("more than 178 million")) from None
    except MemoryError:
        raise OutOfReach("takes more memory than there is") from None
    # A damaged file makes Pillow raise errors of every kind: struct.error, KeyError and others.
    except Exception as error:
        said = " ".join(str(error).split())[:120]
        raise Unreadable(f"is damaged ({said or type(error).__name__})") from None


def check_pixels(image: Image.Image) -> None:
    """Raise Unreadable, before memory is taken, if an image has too many pixels or none."""
    width, height = image.size
    if width * height > LARGEST_IMAGE:
        raise Unreadable(too_many_pixels(f"{width:,} x {height:,}"))
    if width * height == 0:
        raise Unreadable("has no pixels")


def too_many_pixels(said: str) -> str:
    """Return why an image is refused that claims so many pixels."""
    return f"claims {said} pixels; at most {LARGEST_IMAGE:,} are decoded"


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say. Where they cannot be read, it stays as it is."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def to_eight_bits(image: Image.Image) -> Decoded:
    """Convert an image of any mode to L or RGB. Raises Unreadable for 32 bits per plane."""
    is_grey = image.mode in GREY or has_grey_palette(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = from_sixteen_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    wanted = "L" if is_grey else "RGB"
    return Decoded(image if image.mode == wanted else image.convert(wanted), is_grey)


def has_grey_palette(image: Image.Image) -> bool:
    """Tell whether an image has a palette, and nothing but greys in it."""
    if image.mode not in ("P", "PA"):
        return False
    colours = np.frombuffer(bytes(image.getpalette() or b""), np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Scale grey values of 0..65535 to 0..255, to the nearest. Raises Unreadable for others."""
    values = np.asarray(image)
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise Unreadable("has 32 bits per pixel; save it with 8 or 16")
    scaled = (values.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(scaled.astype(np.uint8))


def to_array(decoded: Decoded, *, size: tuple[int, int], channels: int) -> Bytes:
    """Convert to `channels` planes and resize to `size` (H, W): uint8 (H, W, C).

    The filter is bilinear with antialiasing. An image of that size already keeps its pixels.
    """
    image, (height, width) = decoded.image, size
    # A grey image is resized as one plane. The three planes of its colour are that plane.
    if channels == 1 and image.mode != "L":
        image = image.convert("L")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(height, width, -1)
    return np.ascontiguousarray(np.broadcast_to(pixels, (height, width, channels)))
