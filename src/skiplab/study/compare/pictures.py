"""Draw a comparison: the metric against x, learning curves, accuracy against cost.

The figures are for a file or for the page.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from skiplab.runs import canvas
from skiplab.runs.plots import INK, figure
from skiplab.study.compare.drawing import (
    COLOURS,
    HEIGHT,
    WIDTH,
    LineStyle,
    Picture,
    add_remark,
    fill,
    finish,
    set_log_scale,
    style_of,
)
from skiplab.study.compare.groups import Group, label_parts, lines_along, main_axis
from skiplab.study.compare.results import METRICS, is_share

with canvas.plain():
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

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


@canvas.plain()
def against_x(groups: Sequence[Group], keys: Sequence[str], *, metric: str, x: str) -> Picture:
    """Draw the metric over x: a line for each combination of the other keys, and 95 % bands."""
    picture = Picture("compare", f"{METRICS[metric][0]} against {x}", figure(WIDTH, HEIGHT))
    axes = picture.figure.subplots()
    lines = points_over_key(groups, keys, x) if x in keys else points_over_cost(groups, keys, x)
    for number, (name, points) in enumerate(lines.items()):
        draw_line(picture, axes, points, name=name, style=style_of(number), metric=metric)
    set_log_scale(axes, [place for points in lines.values() for place, _ in points])
    add_remark(axes, "bands: 95 % over seeds" if any(group.interval for group in groups) else "")
    finish(picture, axes, COSTS.get(x, x), axis_name(metric))
    limit(axes, visible_values(groups, metric), metric)
    return picture


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


def draw_line(
    picture: Picture,
    axes: Axes,
    points: Sequence[Point],
    *,
    name: str,
    style: LineStyle,
    metric: str,
) -> None:
    """Draw a line of groups with its band, if all have an interval, and its marks."""
    xs = [place for place, _ in points]
    ys = [scale(group.mean, metric) for _, group in points]
    axes.plot(xs, ys, label=name, **style)
    if all(group.interval is not None for _, group in points):
        ends = np.array([group.interval for _, group in points]) * scale(1.0, metric)
        fill(axes, xs, ends[:, 0], ends[:, 1], color=style["color"], alpha=0.15)
    for x, y, (_, group) in zip(xs, ys, points, strict=True):
        tip = tip_of(group, metric)
        picture.point(axes, (x, y), tip, color=style["color"], marker=style["marker"])


@canvas.plain()
def side_by_side(groups: Sequence[Group], *, metric: str) -> Picture:
    """Draw a point and its interval for each group, where no key holds numbers for an axis."""
    height = max(2.0, 0.7 + 0.38 * len(groups))
    picture = Picture("compare", METRICS[metric][0], figure(WIDTH, height))
    axes = picture.figure.subplots()
    color = COLOURS[0]
    for place, group in enumerate(reversed(groups)):
        for value in group.values:
            x = scale(value, metric)
            axes.plot([x], [place], marker="|", linestyle="none", color=color, alpha=0.5)
        if group.interval is not None:
            ends = [scale(end, metric) for end in group.interval]
            axes.plot(ends, [place, place], color=color, linewidth=3, alpha=0.3)
        mean = scale(group.mean, metric)
        picture.point(axes, (mean, place), tip_of(group, metric), marker="o", color=color)
    axes.set_yticks(range(len(groups)), [group.label for group in reversed(groups)])
    axes.set_xlabel(axis_name(metric))
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(*sensible_limits(visible_values(groups, metric), metric))
    return picture


@canvas.plain()
def learning_curves(groups: Sequence[Group], *, split: str = "val") -> Picture | None:
    """Draw accuracy over epochs: a line per group, a band from the least to the best seed.

    It is that on validation, or on the training batches where a run has no validation; None where
    a run has neither.
    """
    key = f"{split}_accuracy"
    rows = [row for group in groups for run in group.results for row in run.evaluations]
    if any(key not in row for row in rows):
        return None if split == "train" else learning_curves(groups, split="train")
    what = "validation accuracy" if split == "val" else "training accuracy"
    picture = Picture("compare_curves", f"{what} over training", figure(WIDTH, HEIGHT))
    axes = picture.figure.subplots()
    values: list[float] = []
    for number, group in enumerate(groups):
        values += draw_curve(picture, axes, group, key=key, style=style_of(number))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    has_bands = any(group.n > 1 for group in groups)
    add_remark(axes, "bands: from the least to the best seed" if has_bands else "")
    finish(picture, axes, "epoch", f"{what} (%)")
    limit(axes, values, "test.accuracy")
    return picture


def draw_curve(
    picture: Picture, axes: Axes, group: Group, *, key: str, style: LineStyle
) -> list[float]:
    """Draw a group's learning curve, as far as all its runs go; return the values drawn."""
    rows = [[(row["epoch"], 100 * row[key]) for row in run.evaluations] for run in group.results]
    length = min(map(len, rows))
    if length == 0:
        return []
    # The shape is (seeds, evaluations).
    curves = np.array([[value for _, value in each[:length]] for each in rows])
    epochs = [epoch for epoch, _ in rows[0][:length]]
    color = style["color"]
    means = curves.mean(0)
    axes.plot(epochs, means, label=group.label, color=color, linestyle=style["linestyle"])
    fill(axes, epochs, curves.min(0), curves.max(0), color=color, alpha=0.12)
    tip = f"{group.label}: {means[-1]:.4g} % at epoch {epochs[-1]:g}, n = {group.n}"
    picture.point(axes, (epochs[-1], means[-1]), tip, color=color, marker=style["marker"])
    return curves.ravel().tolist()


@canvas.plain()
def against_cost(groups: Sequence[Group], *, metric: str, cost: str = "macs") -> Picture:
    """Draw the metric against a cost, and the front of groups that no other beats at less cost."""
    picture = Picture("compare_cost", f"{METRICS[metric][0]} against cost", figure(WIDTH, HEIGHT))
    axes = picture.figure.subplots()
    unit, factor = COST_UNITS[cost]
    places = [(group.cost(cost) * factor, scale(group.mean, metric)) for group in groups]
    front = pareto(places, more_is_better=METRICS[metric][1])
    axes.plot(
        [x for x, _ in front],
        [y for _, y in front],
        color=INK,
        alpha=0.35,
        drawstyle="steps-post",
        label="Pareto front, its marks larger",
    )
    for number, (place, group) in enumerate(zip(places, groups, strict=True)):
        style = style_of(number)
        is_on_front = place in front
        picture.point(
            axes,
            place,
            tip_of(group, metric) + ("; on the Pareto front" if is_on_front else ""),
            color=style["color"],
            marker=style["marker"],
            size=9 if is_on_front else 6,
            label=group.label,
        )
    set_log_scale(axes, [x for x, _ in places])
    finish(picture, axes, unit, axis_name(metric))
    limit(axes, [y for _, y in places], metric)
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
    axis = x or main_axis(groups, keys)
    if axis:
        found: list[Maker] = [lambda: against_x(groups, keys, metric=metric, x=axis)]
    else:
        found = [lambda: side_by_side(groups, metric=metric)]
    # Learning curves show accuracies only.
    if metric.endswith("accuracy"):
        found.append(lambda: learning_curves(groups))
    if len(groups) > 1:
        found.append(lambda: against_cost(groups, metric=metric))
    return found
