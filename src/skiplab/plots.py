"""The pictures of a run: curves.png, confusion.png, mistakes.png, samples.png. The only module that imports matplotlib."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

BLUE, ORANGE, GREY, INK = "#2f6db3", "#d9822b", "#9aa3ad", "#2b2f36"


def figure(width: float, height: float) -> Figure:
    """An empty figure without pyplot, whose import costs a second and whose state is global; inches."""
    made = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(made)
    return made


def curves(metrics_path: Path, target: Path, *, title: str) -> None:
    """Loss per step and per evaluation, accuracy per evaluation, learning rate, from metrics.jsonl."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in metrics_path.read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "train_loss" in row]
    at = [row["step"] for row in evaluations]
    made = figure(13, 3.8)
    loss, accuracy, rate = made.subplots(1, 3)
    loss.plot([r["step"] for r in steps], [r["loss"] for r in steps], color=BLUE, alpha=0.3, linewidth=0.8, label="each step")
    loss.plot(at, [r["train_loss"] for r in evaluations], color=BLUE, marker=".", label="training")
    accuracy.plot(at, [100 * r["train_accuracy"] for r in evaluations], color=BLUE, marker=".", label="training, during the pass")
    if evaluations and "train_eval_accuracy" in evaluations[0]:
        values = [100 * r["train_eval_accuracy"] for r in evaluations]
        accuracy.plot(at, values, color=BLUE, linestyle="--", label="training, second pass")
    if evaluations and "val_loss" in evaluations[0]:
        loss.plot(at, [r["val_loss"] for r in evaluations], color=ORANGE, marker=".", label="validation")
        accuracy.plot(at, [100 * r["val_accuracy"] for r in evaluations], color=ORANGE, marker=".", label="validation")
    rate.plot([r["step"] for r in steps], [r["lr"] for r in steps], color=INK)
    highest = max((r["train_loss"] for r in evaluations), default=1.0)
    loss.set_ylim(0, 1.3 * max([highest, *(r["val_loss"] for r in evaluations if "val_loss" in r)]))
    for axes, name in ((loss, "loss (nats)"), (accuracy, "accuracy (%)"), (rate, "learning rate")):
        tidy(axes, name)
    loss.legend(frameon=False, fontsize=8)
    accuracy.legend(frameon=False, fontsize=8, loc="lower right")
    made.suptitle(title, fontsize=10)
    made.savefig(target)


def tidy(axes: Axes, name: str) -> None:
    axes.set_title(name, fontsize=10, loc="left")
    axes.set_xlabel("optimizer step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def confusion(matrix: NDArray[np.int64], classes: Sequence[str], target: Path, *, title: str) -> None:
    """Rows true, columns predicted, shaded by the share of the row; counts where there is room for them."""
    count = len(classes)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = 6.2 if count <= 20 else 13
    made = figure(side + 0.8, side)
    axes = made.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(count), classes, rotation=90 if count > 20 else 45, ha="center" if count > 20 else "right")
    axes.set_yticks(range(count), classes)
    axes.tick_params(labelsize=9 if count <= 20 else 6)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= 20:
        for i, j in np.ndindex(count, count):
            if matrix[i, j]:
                axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=8, color="white" if share[i, j] > 0.5 else INK)
    made.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    axes.set_title(title, fontsize=10)
    made.savefig(target)


def images(pictures: NDArray[np.uint8], captions: Sequence[str], target: Path, *, title: str, columns: int = 8) -> None:
    """A grid of images uint8 (N, H, W, C) with a caption each; an empty grid says so."""
    rows = max(1, -(-len(pictures) // columns))
    made = figure(1.5 * columns, 1.85 * rows + 0.5)
    made.suptitle(title if len(pictures) else f"{title}: none", fontsize=11)
    for i, axes in enumerate(np.atleast_1d(made.subplots(rows, columns)).flat):
        axes.axis("off")
        if i < len(pictures):
            picture = pictures[i]
            axes.imshow(picture[..., 0] if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
            axes.set_title(captions[i], fontsize=8)
    made.savefig(target)
