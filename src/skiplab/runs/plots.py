"""Figures for files: their size, colours and saving; and confusion.png."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skiplab.runs import atomic, canvas

with canvas.plain():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm, to_rgb
    from matplotlib.figure import Figure

BLUE = "#2f6db3"
ORANGE = "#b55d00"
INK = "#2b2f36"
DPI = 144
# A colour by its name, or its channels from 0 to 1.
Colour = str | tuple[float, float, float] | tuple[float, float, float, float]


def figure(
    width: float, height: float, *, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return an empty figure of `width` x `height` inches.

    It does without pyplot, whose import takes a second and whose state is global.
    """
    made = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(made)
    return made


def save(
    made: Figure,
    target: Path,
    *,
    bbox_inches: str | None = None,
    pad_inches: float | None = None,
) -> None:
    """Write a figure as a PNG file, whole or not at all.

    The options are savefig's. Raises FolderError where the file cannot be written.
    """
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", bbox_inches=bbox_inches, pad_inches=pad_inches)
    atomic.write(target, buffer.getvalue())


# Options of `save` that leave little room around the drawing.
CLOSE: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.12}
# A letter's mean width over its font size.
LETTER = 0.57


def wrapped(text: str, *, inches: float, points: float) -> str:
    """Break `text` into lines that fit a width at a font size."""
    characters = max(1, int(72 * inches / (LETTER * points)))
    return "\n".join(textwrap.fill(line, characters) for line in text.splitlines())


def luminance(colour: Colour) -> float:
    """Return the relative luminance of a colour, 0 to 1 (WCAG 2.2)."""
    channels = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in to_rgb(colour)
    ]
    return float(np.dot(channels, (0.2126, 0.7152, 0.0722)))


def contrast(one: Colour, other: Colour) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def readable_on(ground: Colour) -> str:
    """Return white or black, whichever contrasts more: with any ground 4.58 at least."""
    return max(("white", "black"), key=lambda colour: contrast(colour, ground))


def spread(places: Sequence[float], *, least: float) -> list[float]:
    """Move places apart until neighbours are `least` apart, and no further than that needs.

    The order stays. Returns them in the order given.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    # Each block is its mean place, and how many lie there, `least` apart.
    blocks: list[tuple[float, int]] = []
    for i in order:
        mean, count = places[i], 1
        while blocks and mean - blocks[-1][0] < least * (count + blocks[-1][1]) / 2:
            before, number = blocks.pop()
            mean = (mean * count + before * number) / (count + number)
            count += number
        blocks.append((mean, count))
    moved = [mean + least * (k - (count - 1) / 2) for mean, count in blocks for k in range(count)]
    found = dict(zip(order, moved, strict=True))
    return [found[i] for i in range(len(places))]


@canvas.plain()
def confusion(
    matrix: NDArray[np.int64], classes: Sequence[str], target: Path, *, title: str
) -> None:
    """Draw the confusion matrix, int (K, K): rows true classes, columns predicted ones.

    A cell is shaded by its share of the row. Up to 20 classes it has its count too.
    """
    count = len(classes)
    with_counts = count <= 20
    points = 9 if with_counts else 6
    # `cell`, `side` and `longest` are inches.
    cell = max(0.45, 4.8 / count) if with_counts else 0.125
    side, longest = cell * count, 0.6 * points * max(map(len, classes)) / 72
    rotation = 90
    if with_counts:
        rotation = 45 if longest > 0.9 * cell else 0
    made = figure(side, side, layout=None)
    # The axes hold only the matrix: savefig adds the room that the names take.
    axes = made.add_axes((0, 0, 1, 1))
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    # A linear scale would leave one mistake in a hundred as white as none.
    shade = PowerNorm(0.5, 0, 100)
    image = axes.imshow(share, cmap="Blues", norm=shade)
    anchor: dict[str, Any] = {"ha": "right", "rotation_mode": "anchor"} if rotation == 45 else {}
    axes.set_xticks(range(count), classes, rotation=rotation, **anchor)
    axes.set_yticks(range(count), classes)
    axes.tick_params(labelsize=points, length=2)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if with_counts:
        digits = len(str(matrix.max()))
        size = min(9, 72 * 0.9 * cell / (0.65 * max(digits, 3)))
        for i, j in np.ndindex(count, count):
            if matrix[i, j]:
                text = axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=size)
                text.set_color(readable_on(image.cmap(shade(share[i, j]))))
    # The bar is as high as the matrix.
    bar_axes = axes.inset_axes((1 + 0.2 / side, 0, 0.18 / side, 1))
    bar = made.colorbar(image, cax=bar_axes, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("share of the true class (%), square root scale")
    bar.ax.tick_params(labelsize=8)
    axes.set_title(wrapped(title, inches=side, points=10), fontsize=10)
    save(made, target, **CLOSE)
