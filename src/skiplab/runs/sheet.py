"""Sheets of images with captions: samples.png, mistakes.png, and what `predict` says of images.

They are drawn with Pillow, which is imported in 0.05 s: samples.png is drawn before training.
"""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from skiplab.runs import atomic
from skiplab.words import printable

# Pixels of the sheet per image, about.
CELL = 200
# Pixels between images, around all of them, and of a line of a caption and of the title.
GAP = 16
MARGIN = 20
LINE = 20
TITLE_LINE = 26
# Pixels of the letters in a caption and in the title.
SMALL, LARGE = 16, 20
# Of captions and titles, and of the frame around an image.
INK = "#2b2f36"
FRAME = 208


def draw(
    images: NDArray[np.uint8],
    captions: Sequence[str],
    target: Path,
    *,
    title: str,
    columns: int = 8,
) -> None:
    """Draw a captioned grid of images, uint8 (N, H, W, C), each enlarged by a whole factor.

    The title of an empty grid says that it is empty. Raises FolderError where the file cannot be
    written.
    """
    number, height, width, _ = images.shape
    columns = max(1, min(columns, number))
    rows = -(-number // columns)
    # The factor is whole, so that all pixels are squares of one size.
    scale = max(1, round(CELL / max(height, width)))
    cell = max(width * scale, CELL)
    small, large = font(SMALL), font(LARGE)
    texts = [break_lines(caption, small, cell) for caption in captions]
    above = LINE * max(map(len, texts), default=0) + 6
    across = max(columns * (cell + GAP) - GAP, 3 * (CELL + GAP)) + 2 * MARGIN
    heading = break_lines(title if number else f"{title}: none", large, across - 2 * MARGIN)
    top = MARGIN + TITLE_LINE * len(heading) + 6
    down = top + MARGIN
    if number:
        down += rows * (above + height * scale + GAP) - GAP
    pixels = np.full((down, across, 3), 255, np.uint8)
    corners = [
        (
            MARGIN + (i % columns) * (cell + GAP) + (cell - width * scale) // 2,
            top + (i // columns) * (above + height * scale + GAP) + above,
        )
        for i in range(number)
    ]
    for image, (x, y) in zip(images, corners, strict=True):
        # A frame shows where an image with a white border ends.
        pixels[y - 1 : y + height * scale + 1, x - 1 : x + width * scale + 1] = FRAME
        # A grey image is broadcast to all three channels.
        enlarged = image.repeat(scale, 0).repeat(scale, 1)
        pixels[y : y + height * scale, x : x + width * scale] = enlarged
    sheet = Image.fromarray(pixels)
    pen = ImageDraw.Draw(sheet)
    for i, line in enumerate(heading):
        pen.text((MARGIN, MARGIN + TITLE_LINE * i), line, font=large, fill=INK)
    for lines, (x, y) in zip(texts, corners, strict=True):
        for i, line in enumerate(reversed(lines)):
            at = (x + width * scale / 2, y - 8 - LINE * i)
            pen.text(at, line, font=small, fill=INK, anchor="ms")
    buffer = io.BytesIO()
    # The usual level 6 takes longer, and training waits for samples.png.
    sheet.save(buffer, format="png", compress_level=1)
    atomic.write(target, buffer.getvalue())


def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of Matplotlib, which has most alphabets, without importing Matplotlib."""
    spec = find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
    # Another layout engine, where there is one, would draw other pixels.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def break_lines(text: str, letters: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break `text` into lines that are no wider than `width` pixels, at blanks if possible."""
    lines: list[str] = []
    for given in printable(text).splitlines():
        lines.append("")
        for word in given.split():
            joined = f"{lines[-1]} {word}".strip()
            if letters.getlength(joined) <= width:
                lines[-1] = joined
                continue
            if lines[-1]:
                lines.append("")
            for letter in word:
                if lines[-1] and letters.getlength(lines[-1] + letter) > width:
                    lines.append("")
                lines[-1] += letter
    return lines
