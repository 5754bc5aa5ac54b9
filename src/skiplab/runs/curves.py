"""Draw curves.png: loss, accuracy and learning rate of a run over its epochs."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiplab.runs import canvas
from skiplab.runs.plots import BLUE, CLOSE, INK, ORANGE, figure, save, wrapped

with canvas.plain():
    from matplotlib.axes import Axes
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import MaxNLocator

# A row of metrics.jsonl.
Row = dict[str, Any]
# A place: the epoch, and what is drawn there.
Place = tuple[float, float]
# The picture's height and that of a panel's width, in inches.
HEIGHT, PANEL = 4.3, 4.4
# The loss of a batch is smoothed by the median of this many, to see what is no spike.
WINDOW = 9
# A value that is larger than its surroundings by this factor is a spike.
SPIKE = 1.5
# A validation loss above its median by this factor is one, if it is above the batches' losses too.
RARE = 4.0


@dataclass(frozen=True)
class Line:
    """A line over evaluations: (epoch, loss) and (epoch, percent), its name and its look."""

    losses: list[Place]
    shares: list[Place]
    name: str
    colour: str
    dash: str
    # Whether its best values are written at it.
    is_labelled: bool


@canvas.plain()
def draw(
    metrics_path: Path,
    target: Path,
    *,
    title: str,
    tested: int,
    steps_per_epoch: int,
    kind: str = "",
) -> None:
    """Draw loss, accuracy and learning rate from metrics.jsonl.

    The loss is drawn per step and per evaluation, accuracy per evaluation. `tested` is the step of
    the best weights; 0 marks none. `kind` tells that a batch's loss is label-smoothed, say; the
    means over a pass are then drawn of the plain loss, where they were recorded. A constant
    learning rate is told in the title.
    """
    rows = read_rows(metrics_path)
    steps = [row for row in rows if "loss" in row]
    lines = lines_of([row for row in rows if "train_loss" in row], steps_per_epoch, kind=kind)
    batches = [(row["step"] / steps_per_epoch, row["loss"]) for row in steps]
    rates = [(row["step"] / steps_per_epoch, row["lr"]) for row in steps]
    is_constant = len({rate for _, rate in rates}) == 1
    if is_constant:
        title += f"; learning rate {rates[0][1]:g}"
    panels = ["loss"] + ["accuracy"] * bool(lines) + ["rate"] * (not is_constant)
    made = figure(PANEL * len(panels), HEIGHT)
    made.suptitle(wrapped(title, inches=PANEL * len(panels) - 0.5, points=10), fontsize=10)
    axes = dict(zip(panels, made.subplots(1, len(panels), squeeze=False)[0], strict=True))
    last = max([place for place, _ in batches] + [line.losses[-1][0] for line in lines], default=1)
    names = {"loss": "loss (nats)" + (f", {kind} where named so" if kind else "")}
    names |= {"accuracy": "accuracy (%)", "rate": draw_rates(axes.get("rate"), rates)}
    for panel, each in axes.items():
        tidy(each, names[panel], last, steps_per_epoch)
        if tested:
            mark(each, tested / steps_per_epoch, is_chosen=any(is_val(line) for line in lines))
    chosen = tested / steps_per_epoch
    draw_losses(axes["loss"], batches, lines, kind=kind, chosen=chosen)
    if "accuracy" in axes:
        draw_accuracies(axes["accuracy"], lines, chosen=chosen)
    handles, labels = axes["loss"].get_legend_handles_labels()
    options: dict[str, Any] = {"loc": "outside lower center", "ncols": min(len(labels), 5)}
    made.legend(handles, labels, frameon=False, fontsize=9, **options)
    save(made, target, **CLOSE)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of metrics.jsonl. A damaged row spoils no picture: it is left out."""
    rows: list[Row] = []
    for line in path.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def lines_of(evaluations: Sequence[Row], steps_per_epoch: int, *, kind: str) -> list[Line]:
    """Return the lines over evaluations, of those that the rows have."""
    is_plain = any("train_plain_loss" in row for row in evaluations)
    mean = "training (running mean)"
    if kind and not is_plain:
        mean += f", {kind}"
    mean_loss = "train_plain_loss" if is_plain else "train_loss"
    found: list[Line] = []
    for loss, share, name, colour, dash in (
        (mean_loss, "train_accuracy", mean, BLUE, "-"),
        ("train_eval_loss", "train_eval_accuracy", "training, after the epoch", BLUE, "--"),
        ("val_loss", "val_accuracy", VALIDATION, ORANGE, "-"),
    ):
        rows = [row for row in evaluations if loss in row]
        if rows:
            at = [row["step"] / steps_per_epoch for row in rows]
            losses = list(zip(at, [row[loss] for row in rows], strict=True))
            shares = list(zip(at, [100 * row[share] for row in rows], strict=True))
            found.append(Line(losses, shares, name, colour, dash, dash == "-"))
    return found


VALIDATION = "validation"


def is_val(line: Line) -> bool:
    """Return whether a line is of validation."""
    return line.name == VALIDATION


def draw_losses(
    axes: Axes, batches: Sequence[Place], lines: Sequence[Line], *, kind: str, chosen: float
) -> None:
    """Draw the loss of each training batch and the lines; mark spikes at the upper edge."""
    axes.plot(
        [place for place, _ in batches],
        [loss for _, loss in batches],
        color=BLUE,
        alpha=0.35,
        linewidth=0.8,
        marker=dot_for(batches),
        label="each training batch" + (f", {kind}" if kind else ""),
    )
    for line in lines:
        axes.plot(*zip(*line.losses, strict=True), line.dash, **look(line), label=line.name)
    top = 1.08 * highest_loss(batches, lines) or 1
    axes.set_ylim(0, top)
    mark_spikes(axes, [(batches, BLUE), *((line.losses, line.colour) for line in lines)], top)
    labelled = [line for line in lines if line.is_labelled]
    best = [best_of(line.losses, line, ".3g", sign=-1, chosen=chosen) for line in labelled]
    write_best(axes, [each for each in best if each.place[1] <= top])


def draw_accuracies(axes: Axes, lines: Sequence[Line], *, chosen: float) -> None:
    """Draw the accuracy of each evaluation, the best of each line written at it."""
    for line in lines:
        axes.plot(*zip(*line.shares, strict=True), line.dash, **look(line), clip_on=False)
    values = [share for line in lines for _, share in line.shares]
    low, high = min(values), max(values)
    # One evaluation gives no range of its own.
    margin = max(1.0, 0.12 * (high - low)) if len(lines[0].shares) > 1 else 10.0
    axes.set_ylim(max(low - margin, 0), high + margin)
    # There is room for the best value above 100 %, which has no tick.
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:g}" if share <= 100 else "")
    labelled = [line for line in lines if line.is_labelled]
    write_best(
        axes, [best_of(line.shares, line, ".2f", sign=1, chosen=chosen) for line in labelled]
    )


def look(line: Line) -> dict[str, Any]:
    """Return the options of a line over evaluations."""
    return {"color": line.colour, "marker": "."}


def dot_for(places: Sequence[Place]) -> str:
    """Return the marker of a line over steps: a line of one point is invisible without."""
    return "." if len(places) == 1 else ""


@dataclass(frozen=True)
class Best:
    """The place of a line's best value, and what is written at it, in the line's colour."""

    place: Place
    text: str
    colour: str


def best_of(places: Sequence[Place], line: Line, unit: str, *, sign: int, chosen: float) -> Best:
    """Return the best of a line's places; of equal ones that of the chosen epoch.

    `sign` is 1 if more is better, else -1. A line of one place has its name written too.
    """
    place = max(places, key=lambda each: (sign * each[1], math.isclose(each[0], chosen)))
    text = f"{place[1]:{unit}}" + " %" * (sign > 0)
    return Best(place, f"{line.name} {text}" if len(places) == 1 else text, line.colour)


def write_best(axes: Axes, found: Sequence[Best]) -> None:
    """Write each best value at its place: above the highest and near the axis, else below."""
    right, top = axes.get_xlim()[1], axes.get_ylim()[1]
    low = top - 0.85 * (top - axes.get_ylim()[0])
    # Texts above and below so far, which the next one must not meet.
    above = below = 0
    for number, each in enumerate(sorted(found, key=lambda each: -each.place[1])):
        x, y = each.place
        axes.plot([x], [y], "o", color=each.colour, mfc="white", clip_on=False, zorder=3)
        is_above = number == 0 or y < low
        height = 6 + 12 * above if is_above else -6 - 12 * below
        above, below = above + is_above, below + (not is_above)
        shift = (-5 if x > 0.6 * right else 5, height)
        write(axes, each.text, each.place, colour=each.colour, shift=shift)


def write(axes: Axes, text: str, place: Place, *, colour: str, shift: tuple[float, float]) -> None:
    """Write a text next to a place, with a white edge; `shift` is in points."""
    written = axes.annotate(
        text,
        place,
        xytext=shift,
        textcoords="offset points",
        ha="right" if shift[0] < 0 else "left",
        va="bottom" if shift[1] > 0 else "top",
        fontsize=8,
        color=colour,
        zorder=4,
    )
    written.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def highest_loss(batches: Sequence[Place], lines: Sequence[Line]) -> float:
    """Return the highest loss that is no spike.

    The first batches count, and then what stays high for more than some batches; of evaluations
    what is not rare, or not above the batches.
    """
    losses = np.array([loss for _, loss in batches if math.isfinite(loss)])
    base = SPIKE * base_of(losses)
    found = [float(losses[losses <= base].max(initial=0.0))]
    for line in lines:
        values = [loss for _, loss in line.losses if math.isfinite(loss)]
        limit = max(base, RARE * float(np.median(values))) if values else 0.0
        found += [value for value in values if value <= limit]
    return max(found)


def base_of(losses: NDArray[np.float64]) -> float:
    """Return the highest of the losses (N,) without their spikes."""
    if len(losses) == 0:
        return 0.0
    first = float(np.median(losses[:WINDOW]))
    if len(losses) <= WINDOW:
        return first
    windows = np.lib.stride_tricks.sliding_window_view(losses, WINDOW)
    lasting = float(np.median(windows, axis=1).max())
    return max(first, min(lasting, RARE * float(np.quantile(losses, 0.9))))


def mark_spikes(axes: Axes, lines: Sequence[tuple[Sequence[Place], str]], top: float) -> None:
    """Mark what lies above a panel at its edge, and write the highest value of each line there."""
    number = 0
    for places, colour in lines:
        spikes = [place for place in places if place[1] > top]
        if spikes:
            at = [place for place, _ in spikes]
            axes.plot(at, [top] * len(at), "^", color=colour, ms=5, clip_on=False, zorder=3)
            place, highest = max(spikes, key=lambda spike: spike[1])
            shift = 6 if place < 0.6 * axes.get_xlim()[1] else -6
            text = f"up to {highest:,.4g}"
            write(axes, text, (place, top), colour=colour, shift=(shift, -3 - 12 * number))
            number += 1


def draw_rates(axes: Axes | None, rates: Sequence[Place]) -> str:
    """Draw the learning rate, if it has a panel; return the panel's name, with a unit."""
    peak = max((rate for _, rate in rates), default=0.0)
    # Small rates get a unit, so that the ticks are not 8e-05 and 0.0001.
    power = math.floor(math.log10(peak)) if 0 < peak < 1e-3 else 0
    if axes is not None:
        values = [rate / 10.0**power for _, rate in rates]
        axes.plot([place for place, _ in rates], values, color=INK, marker=dot_for(rates))
        axes.set_ylim(0, 1.05 * peak / 10.0**power or 1)
    return f"learning rate (units of 1e{power})" if power else "learning rate"


def mark(axes: Axes, epoch: float, *, is_chosen: bool) -> None:
    """Mark the epoch of the weights that are tested: chosen on validation, else the last."""
    name = f"chosen epoch: {epoch:.4g}" if is_chosen else "last epoch, which is tested"
    axes.axvline(epoch, color=INK, alpha=0.7, linestyle=":", linewidth=1.4, label=name)


def tidy(axes: Axes, name: str, last: float, steps_per_epoch: int) -> None:
    """Give a panel its title, its grid, its epochs below and the same in steps above."""
    axes.set_title(name, fontsize=10, loc="left")
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    above = axes.secondary_xaxis(
        "top",
        functions=(
            lambda epoch: np.multiply(epoch, steps_per_epoch),
            lambda step: np.divide(step, steps_per_epoch),
        ),
    )
    above.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    above.xaxis.set_major_formatter("{x:,.0f}")
    above.set_xlabel("optimizer step", fontsize=8, color=INK)
    above.tick_params(labelsize=7, colors=INK)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
