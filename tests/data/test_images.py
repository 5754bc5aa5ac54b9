"""One image file, decoded: against NumPy's formulas, torchvision's resize, and all damage."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tvf

from datafiles import Bytes, made_up, refusal
from skiplab.data import images
from skiplab.data.images import Unreadable, decode, open_image

COLOUR = made_up(6, 9, 3)
GREY = made_up(6, 9)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(content: bytes, channels: int = 3, size: tuple[int, int] = (6, 9)) -> Bytes:
    return images.to_array(open_image(content), size=size, channels=channels)


def luma(colour: Bytes) -> Bytes:
    """ITU-R 601-2, as Pillow documents it for RGB to L, in its fixed-point arithmetic."""
    red, green, blue = (colour[..., i].astype(np.int64) for i in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)


# --------------------------------------------------------------------------------------------------
# formats and modes


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("PPM", {}),
    ],
)
def test_lossless_formats_keep_every_pixel(kind: str, options: dict[str, Any]) -> None:
    content = encoded(Image.fromarray(COLOUR), kind, **options)
    assert not open_image(content).is_grey
    assert np.array_equal(pixels_of(content), COLOUR)
    assert np.array_equal(pixels_of(content, channels=1), luma(COLOUR)[..., np.newaxis])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM", "JPEG"])
def test_a_grey_image_has_one_plane_or_that_plane_three_times(kind: str) -> None:
    content = encoded(Image.fromarray(GREY), kind)
    assert open_image(content).is_grey
    one, three = pixels_of(content, channels=1), pixels_of(content)
    assert np.array_equal(three, np.repeat(one, 3, axis=2))
    if kind != "JPEG":
        assert np.array_equal(one[..., 0], GREY)


def test_jpeg_is_near_its_pixels() -> None:
    flat = np.full((16, 16, 3), (200, 120, 40), np.uint8)
    content = encoded(Image.fromarray(flat), "JPEG", quality=95)
    assert np.abs(pixels_of(content, size=(16, 16)).astype(int) - flat).max() <= 2


def test_cmyk_becomes_rgb() -> None:
    """The paper's white is 255, and each ink takes its share of it."""
    cmyk = np.full((16, 16, 4), (0, 128, 255, 0), np.uint8)
    content = encoded(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=100)
    found = pixels_of(content, size=(1, 1))[0, 0].astype(int)
    assert np.abs(found - (255, 127, 0)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    wide = np.linspace(0, 65535, 54).astype(np.uint16).reshape(6, 9)
    content = encoded(Image.fromarray(wide), kind)
    assert open_image(content).is_grey
    assert np.array_equal(pixels_of(content, 1)[..., 0], np.round(wide / 257).astype(np.uint8))


def png_of_sixteen_bit_colour(values: np.ndarray) -> bytes:
    """A PNG as the specification writes it; Pillow saves no such file."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_sixteen_bit_colour_keeps_its_high_bytes() -> None:
    content = png_of_sixteen_bit_colour(COLOUR.astype(np.uint16) * 257)
    assert np.array_equal(pixels_of(content), COLOUR)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_what_is_transparent_becomes_white(mode: str, kind: str) -> None:
    alpha = made_up(6, 9)[::-1]
    base = COLOUR if mode == "RGBA" else GREY[..., np.newaxis]
    content = encoded(Image.fromarray(np.dstack((base, alpha)), mode), kind)
    share = alpha[..., np.newaxis] / 255
    expected = base * share + 255 * (1 - share)
    assert np.abs(pixels_of(content) - expected).max() <= 1
    assert open_image(content).is_grey == (mode == "LA")


def test_a_palette_and_its_transparent_colour() -> None:
    image = Image.fromarray(np.arange(54, dtype=np.uint8).reshape(6, 9) % 3, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    colours = np.eye(3, dtype=np.uint8) * 255
    expected = colours[np.arange(54).reshape(6, 9) % 3]
    assert np.array_equal(pixels_of(encoded(image, "PNG")), expected)
    colours[1] = 255
    see_through = encoded(image, "PNG", transparency=1)
    assert np.array_equal(pixels_of(see_through), colours[np.arange(54).reshape(6, 9) % 3])


def test_a_palette_of_greys_is_grey() -> None:
    image = Image.fromarray(GREY // 64, "P")
    image.putpalette([0, 0, 0, 85, 85, 85, 170, 170, 170, 255, 255, 255])
    content = encoded(image, "PNG")
    assert open_image(content).is_grey
    assert np.array_equal(pixels_of(content, 1)[..., 0], GREY // 64 * 85)


def test_one_bit_is_black_and_white() -> None:
    content = encoded(Image.fromarray(GREY > 127), "PNG")
    assert np.array_equal(pixels_of(content, 1)[..., 0], np.where(GREY > 127, 255, 0))


def test_of_several_frames_the_first_counts() -> None:
    frames = [Image.fromarray(np.full((6, 9), value, np.uint8)) for value in (10, 200)]
    for kind in ("GIF", "TIFF"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert set(pixels_of(content, 1).flat) == {10}, kind


# What EXIF's orientation asks for, as operations on rows and columns (Exif 2.32, tag 0x0112).
ORIENTATIONS: dict[int, Callable[[Bytes], Bytes]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_says_which_side_is_up(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = ORIENTATIONS[orientation](COLOUR)
    content = encoded(Image.fromarray(COLOUR), kind, exif=exif)
    size = expected.shape[0], expected.shape[1]
    assert np.array_equal(pixels_of(content, size=size), expected)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_changes_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(COLOUR), "PNG", exif=exif)
    assert np.array_equal(pixels_of(content), COLOUR)


@pytest.mark.parametrize("size", [(3, 3), (12, 5), (5, 12), (40, 33)])
def test_resizing_is_torchvisions(size: tuple[int, int]) -> None:
    """Of tensors, torchvision computes in float32, so a value may be rounded the other way."""
    content = encoded(Image.fromarray(COLOUR), "PNG")
    tensor = torch.from_numpy(COLOUR).permute(2, 0, 1)
    expected = tvf.resize(tensor, list(size), antialias=True).permute(1, 2, 0).numpy()
    found = pixels_of(content, size=size)
    assert found.shape == (*size, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1


# --------------------------------------------------------------------------------------------------
# what cannot be decoded


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a hundred bytes."""
    content = bytearray(png_of_sixteen_bit_colour(np.zeros((1, 1, 3), np.uint16)))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


FLOATS = encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF")
LARGE = encoded(Image.fromarray(GREY.astype(np.int32) * 1_000), "TIFF")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"no image at all", "is no image that can be decoded"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "is no image that can be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image that can be decoded"),
        (bomb(), "pixels; at most 134,217,728"),
        (FLOATS, "has 32 bits per pixel"),
        (LARGE, "has 32 bits per pixel"),
        (encoded(Image.fromarray(made_up(64, 64, 3)), "PNG")[:-4000], "is damaged ("),
        (encoded(Image.fromarray(made_up(64, 64, 3)), "JPEG")[:-500], "is damaged ("),
    ],
    ids=["empty", "text", "heic", "eps", "bomb", "float", "32-bit", "cut-png", "cut-jpeg"],
)
def test_what_cannot_be_decoded_is_said_in_one_line(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    assert reason in refusal(lambda: decode(path, size=(6, 9), channels=3), path)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", images.LARGEST_FILE + 1)
    for name, reason in (
        ("pipe.png", "a pipe, not a file"),
        ("folder.png", "a folder, not a file"),
        ("link.png", "is a link to nowhere, which is not there"),
        ("huge.png", "such a file has at most"),
        ("missing.png", "there is no such file"),
    ):
        path = tmp_path / name
        assert reason in refusal(lambda path=path: decode(path, size=(6, 9), channels=3), path)


SEEDS = {
    "png": encoded(Image.fromarray(COLOUR), "PNG"),
    "palette": encoded(Image.fromarray(COLOUR).convert("P"), "PNG", transparency=3),
    "jpeg": encoded(Image.fromarray(made_up(16, 16, 3)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0"),
    "gif": encoded(Image.fromarray(GREY), "GIF"),
    "webp": encoded(Image.fromarray(COLOUR), "WEBP"),
    "tiff": encoded(Image.fromarray(COLOUR), "TIFF", compression="tiff_lzw"),
    "bmp": encoded(Image.fromarray(COLOUR), "BMP"),
    "ppm": encoded(Image.fromarray(COLOUR), "PPM"),
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_damaged_file_gives_an_image_or_one_line(name: str, capfd: pytest.CaptureFixture[str]):
    """A whole file and 149 mutants of each format, 1,192 in all."""
    chance = random.Random(name)
    decoded = 0
    problems: list[str] = []
    for number in range(150):
        content = bytearray(SEEDS[name])
        for _ in range(chance.choice((1, 1, 2, 5)) if number else 0):
            place = chance.randrange(len(content))
            action = chance.choice(("change", "cut", "remove", "repeat"))
            if action == "change":
                content[place] = chance.randrange(256)
            elif action == "cut":
                del content[max(1, place) :]
            elif action == "remove":
                del content[place : place + chance.randrange(1, 9)]
                content = content or bytearray(b"\0")
            else:
                content[place:place] = content[place : place + chance.randrange(1, 9)]
        try:
            pixels = pixels_of(bytes(content))
        except Unreadable as error:
            problems.append(str(error))
        else:
            assert pixels.shape == (6, 9, 3)
            assert pixels.dtype == np.uint8
            decoded += 1
    assert decoded > 0
    assert problems
    assert all("\n" not in problem and 0 < len(problem) < 200 for problem in problems)
    capfd.readouterr()
