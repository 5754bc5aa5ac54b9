"""The pictures of a run: curves.png, confusion.png, mistakes.png, samples.png."""

import io
import json
import math
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiplab.runs import atomic, canvas

with canvas.plain():
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, INK = "#2f6db3", "#d9822b", "#2b2f36"
DPI = 144


def figure(width: float, height: float, *, layout: Any = "constrained") -> Figure:
    """An empty figure without pyplot, whose import costs a second and whose state is global; inches."""
    made = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(made)
    return made


def save(made: Figure, target: Path, **options: Any) -> None:
    """Write a figure as a PNG file, whole or not at all. Raises FolderError where it cannot be written."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", **options)
    atomic.write(target, buffer.getvalue())


# with little around what is drawn
CLOSE: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.12}


def wrapped(text: str, *, inches: float, points: float) -> str:
    """`text` in lines that fit a width at a font size."""
    # 0.57: a letter's mean width over its size
    characters = max(1, int(72 * inches / (0.57 * points)))
    return "\n".join(textwrap.fill(line, characters) for line in text.splitlines())


@canvas.plain()
def curves(
    metrics_path: Path, target: Path, *, title: str, tested: int, smoothed: bool = False
) -> None:
    """Loss per step and per evaluation, accuracy per evaluation, learning rate, from metrics.jsonl; `tested`: the best weights' step.

    `smoothed`: the loss of a batch is label-smoothed. What is drawn beside validation then is the
    loss without, where it was recorded.
    """
    rows: list[dict[str, Any]] = []
    for line in metrics_path.read_text(errors="replace").splitlines():
        # a row that was damaged spoils no picture
        with suppress(ValueError):
            rows.append(json.loads(line))
    steps = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "train_loss" in row]
    at_steps, at = [row["step"] for row in steps], [row["step"] for row in evaluations]
    made = figure(13, 4.1)
    made.suptitle(wrapped(title, inches=12.5, points=10), fontsize=10)
    loss, accuracy, rate = made.subplots(1, 3)
    losses = [row["loss"] for row in steps]
    # a line of one point cannot be seen
    dot = "." if len(steps) == 1 else ""
    loss.plot(
        at_steps,
        losses,
        color=BLUE,
        alpha=0.35,
        linewidth=0.8,
        marker=dot,
        label="each training batch" + (", label-smoothed" if smoothed else ""),
    )
    accuracies = draw_evaluations(loss, accuracy, evaluations, smoothed=smoothed)
    rates = np.array([row["lr"] for row in steps])
    peak = rates.max(initial=0)
    # so that the ticks are not 8e-05 and 0.0001
    power = math.floor(math.log10(peak)) if 0 < peak < 1e-3 else 0
    rate.plot(at_steps, rates / 10.0**power, color=INK, marker=dot)
    last = max([*at_steps, *at, 1])
    rate_name = f"learning rate (units of 1e{power})" if power else "learning rate"
    loss_name = "loss (nats)" + (", label-smoothed where named so" if smoothed else "")
    for axes, name in ((loss, loss_name), (accuracy, "accuracy (%)"), (rate, rate_name)):
        tidy(axes, name, last)
        if tested:
            axes.axvline(
                tested,
                color=INK,
                alpha=0.5,
                linestyle=":",
                linewidth=1.2,
                label="the weights that are tested",
            )
    # single spikes may leave the picture, the curves may not
    highest = max(
        [
            *np.quantile(losses or [0.0], [0.995]),
            *(row[key] for row in evaluations for key in row if key.endswith("_loss")),
        ]
    )
    loss.set_ylim(0, 1.1 * highest or 1)
    if accuracies:
        low, high = np.min(accuracies), np.max(accuracies)
        margin = max(1.0, 0.05 * (high - low))
        accuracy.set_ylim(max(low - margin, 0), min(high + margin, 100))
    rate.set_ylim(0, 1.05 * peak / 10.0**power or 1)
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


def draw_evaluations(
    loss: Axes, accuracy: Axes, evaluations: Sequence[dict[str, Any]], *, smoothed: bool
) -> list[float]:
    """The curves over evaluations, each of those that have it; returns the accuracies, in percent."""
    accuracies: list[float] = []
    is_plain = any("train_plain_loss" in row for row in evaluations)
    mean = "training, mean over the pass" + (
        ", label-smoothed" if smoothed and not is_plain else ""
    )
    for key, of, name, colour, line in (
        ("train_plain_loss" if is_plain else "train_loss", "train_accuracy", mean, BLUE, "-"),
        (
            "train_eval_loss",
            "train_eval_accuracy",
            "training, evaluated after the pass",
            BLUE,
            "--",
        ),
        ("val_loss", "val_accuracy", "validation", ORANGE, "-"),
    ):
        found = [row for row in evaluations if key in row]
        if found:
            places = [row["step"] for row in found]
            loss.plot(
                places, [row[key] for row in found], line, color=colour, marker=".", label=name
            )
            accuracies += (shares := [100 * row[of] for row in found])
            accuracy.plot(places, shares, line, color=colour, marker=".", clip_on=False)
    return accuracies


def tidy(axes: Axes, name: str, last: int) -> None:
    """Title, grid and the same steps in every panel."""
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
    """Rows true, columns predicted, shaded by the share of the row; counts where there is room for them."""
    count = len(classes)
    with_counts = count <= 20
    points = 9 if with_counts else 6
    # inches, as are side and longest
    cell = max(0.45, 4.8 / count) if with_counts else 0.125
    side, longest = cell * count, 0.6 * points * max(map(len, classes)) / 72
    rotation = 90 if not with_counts else 45 if longest > 0.9 * cell else 0
    made = figure(side, side, layout=None)
    # the matrix alone: savefig adds the room that the names take
    axes = made.add_axes((0, 0, 1, 1))
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    # a linear one leaves a mistake in a hundred as white as none
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
    # as high as the matrix
    beside = axes.inset_axes((1 + 0.2 / side, 0, 0.18 / side, 1))
    bar = made.colorbar(image, cax=beside, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("share of the true class (%)")
    bar.ax.tick_params(labelsize=8)
    axes.set_title(wrapped(title, inches=side, points=10), fontsize=10)
    save(made, target, **CLOSE)


# pixels of the picture for an image, about
CELL = 200
# pixels between images, around them, and of a line of a caption
GAP, MARGIN, LINE = 16, 20, 20


@canvas.plain()
def images(
    pictures: NDArray[np.uint8],
    captions: Sequence[str],
    target: Path,
    *,
    title: str,
    columns: int = 8,
) -> None:
    """A grid of images uint8 (N, H, W, C), each enlarged by a whole factor and captioned; an empty grid says so."""
    number, height, width, _ = pictures.shape
    columns = max(1, min(columns, number))
    rows = -(-number // columns)
    # whole, so that every pixel is a square of the same size
    scale = max(1, round(CELL / max(height, width)))
    cell = max(width * scale, CELL)
    captions = [wrapped(caption, inches=cell / DPI, points=8) for caption in captions]
    above = LINE * max((caption.count("\n") + 1 for caption in captions), default=0) + 6
    across = max(columns * (cell + GAP) - GAP, 3 * (CELL + GAP)) + 2 * MARGIN
    heading = wrapped(
        title if number else f"{title}: none", inches=(across - 2 * MARGIN) / DPI, points=10
    )
    top = MARGIN + 28 * (heading.count("\n") + 1)
    down = top + rows * (above + height * scale + GAP) - GAP + MARGIN if number else top + MARGIN
    canvas = np.full((down, across, 3), 255, np.uint8)
    # a half: the canvas is cut down to whole pixels
    made = figure((across + 0.5) / DPI, (down + 0.5) / DPI, layout=None)
    made.text(MARGIN / across, 1 - MARGIN / down, heading, ha="left", va="top", fontsize=10)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = MARGIN + (i % columns) * (cell + GAP) + (cell - width * scale) // 2
        y = top + (i // columns) * (above + height * scale + GAP) + above
        # a frame, for images with a white border
        canvas[y - 1 : y + height * scale + 1, x - 1 : x + width * scale + 1] = 208
        # grey: to all three
        canvas[y : y + height * scale, x : x + width * scale] = picture.repeat(scale, 0).repeat(
            scale, 1
        )
        made.text(
            (x + width * scale / 2) / across,
            1 - (y - 6) / down,
            caption,
            ha="center",
            va="bottom",
            fontsize=8,
            color=INK,
        )
    made.figimage(canvas)
    save(made, target)
