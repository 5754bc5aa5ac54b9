"""Draw a comparison: the metric against x, learning curves, accuracy against cost.

The figures are for a file or for the page.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiplab.runs import canvas
from skiplab.runs.plots import INK, figure
from skiplab.study.compare import layer_plots
from skiplab.study.compare.drawing import (
    HEIGHT,
    LEGEND_LETTERS,
    MOST_DOTS,
    WIDTH,
    LineStyle,
    Mark,
    Picture,
    Styles,
    add_title,
    fill,
    finish,
    set_log_scale,
    shifted,
    write_values,
)
from skiplab.study.compare.groups import Group, label_parts, lines_along, main_axis
from skiplab.study.compare.results import METRICS, is_share

with canvas.plain():
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import Transform

# A picture shows this many groups at most.
MAX_GROUPS = 200
# Each cost has an axis label and, in `against_cost`, a unit and the factor to it.
COSTS = {
    "macs": "multiply-accumulates an image, forward",
    "params": "parameters",
    "seconds": "seconds of training",
}
COST_UNITS = {
    "macs": ("M MACs an image, forward", 1e-6),
    "params": ("thousand parameters", 1e-3),
    "seconds": ("seconds of training", 1.0),
}


# The dot of a seed.
DOT: dict[str, Any] = {"markersize": 4.2, "markeredgecolor": "white", "markeredgewidth": 0.6}
# A place on the x axis with the group that is drawn there.
Point = tuple[float, Group]


def scale(value: float, metric: str) -> float:
    """Return a value as the axis has it: a share in percent."""
    return 100 * value if is_share(metric) else value


def axis_name(metric: str) -> str:
    """Return the label of a metric's axis."""
    nats = " (nats)" if metric.endswith("loss") else ""
    unit = " (%)" if is_share(metric) else nats
    return METRICS[metric][0] + unit


def tip_of(group: Group, metric: str) -> str:
    """Return the tip at a group's mark: its mean, interval and costs."""
    words = f"{group.label}: {scale(group.mean, metric):.4g}"
    if group.interval is not None:
        low, high = (scale(end, metric) for end in group.interval)
        words += f" ({low:.4g} to {high:.4g}), n = {group.n}"
    return (
        f"{words}; {group.cost('params'):,.0f} parameters, "
        f"{group.cost('macs') / 1e6:,.2f} M MACs, {group.cost('seconds'):,.1f} s"
    )


def number_of(groups: Sequence[Group]) -> str:
    """Return how many seeds the groups have: `n = 3`, `n = 2 to 3`."""
    least, most = min(group.n for group in groups), max(group.n for group in groups)
    return f"n = {least}" if least == most else f"n = {least} to {most}"


def remark_of(groups: Sequence[Group]) -> str:
    """Return what bars and dots are."""
    if not any(group.interval for group in groups):
        return "one seed each"
    dots = "; dots: seeds" if max(group.n for group in groups) <= MOST_DOTS else ""
    return f"means, bars: 95 % over seeds, {number_of(groups)}{dots}"


def value_text(value: float, values: Sequence[float], metric: str) -> str:
    """Return a value as it is written beside its mark, with the digits that tell `values` apart."""
    if not is_share(metric):
        return f"{value:.3g}"
    return f"{value:.{1 if max(values) - min(values) > 10 else 2}f}"


@canvas.plain()
def against_x(
    groups: Sequence[Group], keys: Sequence[str], styles: Styles, *, metric: str, x: str
) -> Picture:
    """Draw the metric over x: a line for each combination of the other keys, with intervals."""
    title = f"{METRICS[metric][0]} against {COSTS.get(x, x)}"
    picture = Picture("compare", title, figure(WIDTH, HEIGHT))
    axes = picture.figure.subplots()
    lines = points_over_key(groups, keys, x) if x in keys else points_over_cost(groups, keys, x)
    set_log_scale(axes, [place for points in lines.values() for place, _ in points])
    limit(axes, visible_values(groups, metric), metric)
    means = [scale(group.mean, metric) for group in groups]
    marks: list[Mark] = []
    for name, points in lines.items():
        style = styles.of_line(styles.places[points[0][1].label][0])
        shift = styles.shift(points[0][1])
        at = shifted(picture, axes, shift)
        ys = [scale(group.mean, metric) for _, group in points]
        axes.plot([place for place, _ in points], ys, label=name, transform=at, **style)
        for (place, group), y in zip(points, ys, strict=True):
            draw_seeds(axes, place, group, metric=metric, color=style["color"], at=at)
            picture.point(axes, (place, y), tip_of(group, metric), style=style, at=at)
            text = value_text(y, means, metric)
            marks.append(Mark(place, y, text, style["color"], shift))
    add_title(axes, title, remark_of(groups))
    finish(picture, axes, COSTS.get(x, x), axis_name(metric))
    write_values(picture, axes, marks)
    return picture


def draw_seeds(
    axes: Axes, place: float, group: Group, *, metric: str, color: str, at: Transform
) -> None:
    """Draw a group's interval as a bar, and few seeds as dots."""
    if group.interval is not None:
        ends = [scale(end, metric) for end in group.interval]
        axes.plot([place] * 2, ends, "_-", color=color, lw=1.2, alpha=0.6, transform=at)
    if 1 < group.n <= MOST_DOTS:
        values = [scale(value, metric) for value in group.values]
        axes.plot([place] * group.n, values, "o", color=color, **DOT, transform=at)


def points_over_key(groups: Sequence[Group], keys: Sequence[str], x: str) -> dict[str, list[Point]]:
    """Return the points of each line over a key, sorted."""
    at = keys.index(x)
    lines = {
        name: [(float(group.key[at]), group) for group in members]
        for name, members in lines_along(groups, keys, x).items()
    }
    return sort_points(lines)


def points_over_cost(
    groups: Sequence[Group], keys: Sequence[str], cost: str
) -> dict[str, list[Point]]:
    """Return the points of each line over a cost, sorted; a line joins depths and widths."""
    lines: dict[str, list[Point]] = {}
    for group in groups:
        parts = zip(keys, label_parts(keys, group.key), strict=True)
        name = " ".join(part for key, part in parts if key not in ("depth", "width"))
        lines.setdefault(name or "all runs", []).append((group.cost(cost), group))
    return sort_points(lines)


def sort_points(lines: dict[str, list[Point]]) -> dict[str, list[Point]]:
    """Sort the points of each line by their place."""
    return {name: sorted(points, key=lambda point: point[0]) for name, points in lines.items()}


@canvas.plain()
def side_by_side(groups: Sequence[Group], styles: Styles, *, metric: str) -> Picture:
    """Draw a point and its interval for each group, where no key holds numbers for an axis."""
    height = max(2.0, 1.1 + 0.4 * len(groups))
    title = f"{METRICS[metric][0]} of each group"
    picture = Picture("compare", title, figure(WIDTH, height))
    axes = picture.figure.subplots()
    means = [scale(group.mean, metric) for group in groups]
    for place, group in enumerate(reversed(groups)):
        style = styles.of(group)
        color = style["color"]
        if group.interval is not None:
            ends = [scale(end, metric) for end in group.interval]
            axes.plot(ends, [place, place], "|-", color=color, lw=1.2, alpha=0.6)
        if 1 < group.n <= MOST_DOTS:
            values = [scale(value, metric) for value in group.values]
            axes.plot(values, [place] * group.n, "o", color=color, **DOT)
        mean = scale(group.mean, metric)
        picture.point(axes, (mean, place), tip_of(group, metric), style=style)
        axes.annotate(
            value_text(mean, means, metric),
            (mean, place),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color=color,
        )
    labels = [textwrap.fill(group.label, LEGEND_LETTERS) for group in reversed(groups)]
    axes.set_yticks(range(len(groups)), labels)
    axes.set_ylim(-0.5, len(groups) - 0.4)
    axes.set_xlim(*sensible_limits(visible_values(groups, metric), metric))
    add_title(axes, title, remark_of(groups))
    finish(picture, axes, axis_name(metric), "")
    axes.grid(axis="y", visible=False)
    return picture


@canvas.plain()
def learning_curves(
    groups: Sequence[Group], styles: Styles, *, split: str = "val"
) -> Picture | None:
    """Draw accuracy over epochs: a line per group, a band from the least to the best seed.

    It is that on validation, or on the training batches where a run has no validation; None where
    a run has neither, or no run has more than one evaluation.
    """
    key = f"{split}_accuracy"
    runs = [run for group in groups for run in group.results]
    if any(key not in row for run in runs for row in run.evaluations):
        return None if split == "train" else learning_curves(groups, styles, split="train")
    if all(len(run.evaluations) < 2 for run in runs):
        return None
    what = "validation accuracy" if split == "val" else "training accuracy (running mean)"
    title = f"{what} over training"
    picture = Picture("compare_curves", title, figure(WIDTH, HEIGHT))
    axes = picture.figure.subplots()
    drawn = [draw_curve(picture, axes, group, key=key, style=styles.of(group)) for group in groups]
    values = [value for curves in drawn for value in curves.ravel().tolist()]
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    has_bands = any(group.n > 1 for group in groups)
    bands = f"means, bands: from the least to the best seed, {number_of(groups)}"
    add_title(axes, title, bands if has_bands else "")
    finish(picture, axes, "epoch", f"{what} (%)")
    limit(axes, values, "test.accuracy")
    ends = [float(curves.mean(0)[-1]) for curves in drawn if curves.size]
    marks = [
        Mark(
            group.results[0].evaluations[curves.shape[1] - 1]["epoch"],
            float(curves.mean(0)[-1]),
            value_text(float(curves.mean(0)[-1]), ends, "val.accuracy"),
            styles.of(group)["color"],
        )
        for group, curves in zip(groups, drawn, strict=True)
        if curves.size
    ]
    write_values(picture, axes, marks)
    return picture


def draw_curve(
    picture: Picture, axes: Axes, group: Group, *, key: str, style: LineStyle
) -> NDArray[np.float64]:
    """Draw a group's learning curve, as far as all its runs go; return the values drawn.

    Their shape is (seeds, evaluations).
    """
    rows = [[(row["epoch"], 100 * row[key]) for row in run.evaluations] for run in group.results]
    length = min(map(len, rows))
    curves = np.array([[value for _, value in each[:length]] for each in rows])
    if length == 0:
        return curves
    epochs = [epoch for epoch, _ in rows[0][:length]]
    color = style["color"]
    means = curves.mean(0)
    axes.plot(epochs, means, label=group.label, **style, markevery=[length - 1])
    fill(axes, epochs, curves.min(0), curves.max(0), color=color, alpha=0.12)
    tip = f"{group.label}: {means[-1]:.4g} % at epoch {epochs[-1]:g}, n = {group.n}"
    picture.point(axes, (epochs[-1], means[-1]), tip, style=style)
    return curves


@canvas.plain()
def against_cost(
    groups: Sequence[Group], styles: Styles, *, metric: str, cost: str = "macs"
) -> Picture:
    """Draw the metric against a cost, and the front of groups that no other beats at less cost."""
    title = f"{METRICS[metric][0]} against cost"
    picture = Picture("compare_cost", title, figure(WIDTH, HEIGHT))
    axes = picture.figure.subplots()
    unit, factor = COST_UNITS[cost]
    places = [(group.cost(cost) * factor, scale(group.mean, metric)) for group in groups]
    front = pareto(places, more_is_better=METRICS[metric][1])
    set_log_scale(axes, [x for x, _ in places])
    limit(axes, visible_values(groups, metric), metric)
    axes.plot(
        [x for x, _ in front],
        [y for _, y in front],
        color=INK,
        alpha=0.35,
        drawstyle="steps-post",
        label="Pareto front, its marks larger",
    )
    marks: list[Mark] = []
    for place, group in zip(places, groups, strict=True):
        style = styles.of(group)
        shift = styles.shift(group)
        at = shifted(picture, axes, shift)
        draw_seeds(axes, place[0], group, metric=metric, color=style["color"], at=at)
        is_on_front = place in front
        picture.point(
            axes,
            place,
            tip_of(group, metric) + ("; on the Pareto front" if is_on_front else ""),
            size=9 if is_on_front else 6,
            label=group.label,
            style=style,
            at=at,
        )
        text = value_text(place[1], [y for _, y in places], metric)
        marks.append(Mark(*place, text, style["color"], shift))
    add_title(axes, title, remark_of(groups))
    finish(picture, axes, unit, axis_name(metric))
    write_values(picture, axes, marks)
    return picture


def pareto(
    points: Sequence[tuple[float, float]], *, more_is_better: bool
) -> list[tuple[float, float]]:
    """Return the (cost, value) points that no other one beats in one and equals in the other.

    They are sorted by cost.
    """
    sign = 1 if more_is_better else -1
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * y > sign * front[-1][1]:
            front.append((x, y))
    return front


def visible_values(groups: Sequence[Group], metric: str) -> list[float]:
    """Return what an axis has room for: every run's value, and the ends of intervals.

    An end counts up to half the range of the values beyond them.
    """
    values = [scale(value, metric) for group in groups for value in group.values]
    low, high = min(values), max(values)
    beyond = max(high - low, 1e-9) / 2
    ends = [scale(end, metric) for group in groups for end in group.interval or ()]
    return [*values, *(min(max(end, low - beyond), high + beyond) for end in ends)]


def sensible_limits(values: Sequence[float], metric: str) -> tuple[float, float]:
    """Return limits around all values; a share stays within 0 and 100."""
    low, high = min(values), max(values)
    if is_share(metric):
        margin = max(0.08 * (high - low), 0.5)
        return max(0.0, low - margin), min(100.0, high + margin)
    margin = max(0.08 * (high - low), 0.02 * max(abs(high), 1e-9))
    return low - margin, high + margin


def limit(axes: Axes, values: Sequence[float], metric: str) -> None:
    """Limit the y axis to what the finite values need."""
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        axes.set_ylim(*sensible_limits(finite, metric))


# A maker draws a picture, or returns None where there is nothing to draw.
Maker = Callable[[], Picture | None]


def makers(
    groups: Sequence[Group], keys: Sequence[str], *, metric: str, x: str | None
) -> list[Maker]:
    """Return the makers of a comparison's pictures; `x` None: the first key that holds numbers."""
    main = main_axis(groups, keys)
    axis = x or main
    styles = Styles(groups, keys, x if x in keys else main)
    if axis:
        found: list[Maker] = [lambda: against_x(groups, keys, styles, metric=metric, x=axis)]
    else:
        found = [lambda: side_by_side(groups, styles, metric=metric)]
    # Learning curves show accuracies only.
    if metric.endswith("accuracy"):
        found.append(lambda: learning_curves(groups, styles))
    if len(groups) > 1:
        found.append(lambda: against_cost(groups, styles, metric=metric))
    return found + layer_plots.makers(groups, keys, styles)
