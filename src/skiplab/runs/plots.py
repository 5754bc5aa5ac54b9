"""The pictures of a run: curves.png, confusion.png, mistakes.png, samples.png."""

import io
import json
import math
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skiplab.runs import atomic, canvas

with canvas.plain():
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

# A row of metrics.jsonl.
Row = dict[str, Any]
BLUE = "#2f6db3"
ORANGE = "#d9822b"
INK = "#2b2f36"
DPI = 144


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


@canvas.plain()
def curves(metrics_path: Path, target: Path, *, title: str, tested: int, kind: str = "") -> None:
    """Draw loss, accuracy and learning rate from metrics.jsonl.

    The loss is drawn per step and per evaluation, accuracy per evaluation. `tested` is the step of
    the best weights. `kind` tells that a batch's loss is label-smoothed, say; the means over a
    pass are then drawn of the plain loss, where they were recorded.
    """
    rows = read_rows(metrics_path)
    steps = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "train_loss" in row]
    made = figure(13, 4.1)
    made.suptitle(wrapped(title, inches=12.5, points=10), fontsize=10)
    loss, accuracy, rate = made.subplots(1, 3)
    draw_losses(loss, steps, kind=kind)
    accuracies = draw_evaluations(loss, accuracy, evaluations, kind=kind)
    rate_name, highest_rate = draw_rates(rate, steps)
    last = max([*(row["step"] for row in steps), *(row["step"] for row in evaluations), 1])
    loss_name = "loss (nats)" + (f", {kind} where named so" if kind else "")
    for axes, name in ((loss, loss_name), (accuracy, "accuracy (%)"), (rate, rate_name)):
        tidy(axes, name, last)
        if tested:
            mark(axes, tested)
    loss.set_ylim(0, 1.1 * highest_loss(steps, evaluations) or 1)
    if accuracies:
        low, high = np.min(accuracies), np.max(accuracies)
        margin = max(1.0, 0.05 * (high - low))
        accuracy.set_ylim(max(low - margin, 0), min(high + margin, 100))
    rate.set_ylim(0, 1.05 * highest_rate or 1)
    handles, names = loss.get_legend_handles_labels()
    made.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(len(names), 5),
        frameon=False,
        fontsize=9,
    )
    save(made, target, **CLOSE)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of metrics.jsonl. A damaged row spoils no picture: it is left out."""
    rows: list[Row] = []
    for line in path.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def dot_for(steps: Sequence[Row]) -> str:
    """Return the marker of a line over steps: a line of one point is invisible without."""
    return "." if len(steps) == 1 else ""


def draw_losses(axes: Axes, steps: Sequence[Row], *, kind: str) -> None:
    """Draw the loss of each training batch."""
    axes.plot(
        [row["step"] for row in steps],
        [row["loss"] for row in steps],
        color=BLUE,
        alpha=0.35,
        linewidth=0.8,
        marker=dot_for(steps),
        label="each training batch" + (f", {kind}" if kind else ""),
    )


def draw_rates(axes: Axes, steps: Sequence[Row]) -> tuple[str, float]:
    """Draw the learning rate; return the panel's name, with a unit, and the highest rate in it."""
    rates = np.array([row["lr"] for row in steps])
    peak = rates.max(initial=0)
    # Small rates get a unit, so that the ticks are not 8e-05 and 0.0001.
    power = math.floor(math.log10(peak)) if 0 < peak < 1e-3 else 0
    at = [row["step"] for row in steps]
    axes.plot(at, rates / 10.0**power, color=INK, marker=dot_for(steps))
    name = f"learning rate (units of 1e{power})" if power else "learning rate"
    return name, peak / 10.0**power


def mark(axes: Axes, step: int) -> None:
    """Mark the step of the weights that are tested."""
    axes.axvline(
        step,
        color=INK,
        alpha=0.5,
        linestyle=":",
        linewidth=1.2,
        label="the weights that are tested",
    )


def highest_loss(steps: Sequence[Row], evaluations: Sequence[Row]) -> float:
    """Return the highest loss to be shown: single spikes of steps may leave the picture."""
    losses = [row["loss"] for row in steps]
    return max(
        [
            *np.quantile(losses or [0.0], [0.995]),
            *(row[key] for row in evaluations for key in row if key.endswith("_loss")),
        ]
    )


def draw_evaluations(
    loss: Axes, accuracy: Axes, evaluations: Sequence[Row], *, kind: str
) -> list[float]:
    """Draw the curves over evaluations, where rows have them; return accuracies in percent."""
    accuracies: list[float] = []
    is_plain = any("train_plain_loss" in row for row in evaluations)
    mean = "training, mean over the pass"
    if kind and not is_plain:
        mean += f", {kind}"
    mean_loss = "train_plain_loss" if is_plain else "train_loss"
    after = "training, evaluated after the pass"
    for key, of, name, colour, line in (
        (mean_loss, "train_accuracy", mean, BLUE, "-"),
        ("train_eval_loss", "train_eval_accuracy", after, BLUE, "--"),
        ("val_loss", "val_accuracy", "validation", ORANGE, "-"),
    ):
        found = [row for row in evaluations if key in row]
        if found:
            places = [row["step"] for row in found]
            loss.plot(
                places, [row[key] for row in found], line, color=colour, marker=".", label=name
            )
            shares = [100 * row[of] for row in found]
            accuracies += shares
            accuracy.plot(places, shares, line, color=colour, marker=".", clip_on=False)
    return accuracies


def tidy(axes: Axes, name: str, last: int) -> None:
    """Give a panel its title and grid, and the same steps as the others."""
    axes.set_title(name, fontsize=10, loc="left")
    axes.set_xlabel("optimizer step", fontsize=9)
    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


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
                colour = "white" if shade(share[i, j]) > 0.6 else INK
                axes.text(
                    j, i, str(matrix[i, j]), ha="center", va="center", fontsize=size, color=colour
                )
    # The bar is as high as the matrix.
    bar_axes = axes.inset_axes((1 + 0.2 / side, 0, 0.18 / side, 1))
    bar = made.colorbar(image, cax=bar_axes, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("share of the true class (%)")
    bar.ax.tick_params(labelsize=8)
    axes.set_title(wrapped(title, inches=side, points=10), fontsize=10)
    save(made, target, **CLOSE)


# Pixels of the picture per image, about.
CELL = 200
# Pixels between images, around all of them, and of a line of a caption.
GAP = 16
MARGIN = 20
LINE = 20


@canvas.plain()
def images(
    pictures: NDArray[np.uint8],
    captions: Sequence[str],
    target: Path,
    *,
    title: str,
    columns: int = 8,
) -> None:
    """Draw a captioned grid of images, uint8 (N, H, W, C), each enlarged by a whole factor.

    The title of an empty grid says that it is empty.
    """
    number, height, width, _ = pictures.shape
    columns = max(1, min(columns, number))
    rows = -(-number // columns)
    # The factor is whole, so that all pixels are squares of one size.
    scale = max(1, round(CELL / max(height, width)))
    cell = max(width * scale, CELL)
    captions = [wrapped(caption, inches=cell / DPI, points=8) for caption in captions]
    above = LINE * max((caption.count("\n") + 1 for caption in captions), default=0) + 6
    across = max(columns * (cell + GAP) - GAP, 3 * (CELL + GAP)) + 2 * MARGIN
    text = title if number else f"{title}: none"
    heading = wrapped(text, inches=(across - 2 * MARGIN) / DPI, points=10)
    top = MARGIN + 28 * (heading.count("\n") + 1)
    down = top + MARGIN
    if number:
        down += rows * (above + height * scale + GAP) - GAP
    sheet = np.full((down, across, 3), 255, np.uint8)
    # The half makes up for rounding: the canvas is cut down to whole pixels.
    made = figure((across + 0.5) / DPI, (down + 0.5) / DPI, layout=None)
    made.text(MARGIN / across, 1 - MARGIN / down, heading, ha="left", va="top", fontsize=10)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = MARGIN + (i % columns) * (cell + GAP) + (cell - width * scale) // 2
        y = top + (i // columns) * (above + height * scale + GAP) + above
        # A frame shows where an image with a white border ends.
        sheet[y - 1 : y + height * scale + 1, x - 1 : x + width * scale + 1] = 208
        # A grey image is broadcast to all three channels.
        enlarged = picture.repeat(scale, 0).repeat(scale, 1)
        sheet[y : y + height * scale, x : x + width * scale] = enlarged
        made.text(
            (x + width * scale / 2) / across,
            1 - (y - 6) / down,
            caption,
            ha="center",
            va="bottom",
            fontsize=8,
            color=INK,
        )
    made.figimage(sheet)
    save(made, target)
