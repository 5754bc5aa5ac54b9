"""Pictures of a comparison: the metric against x, learning curves, accuracy against cost; figures, for a file or for the page."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skiplab.runs import canvas, plots
from skiplab.runs.plots import CLOSE, INK, figure
from skiplab.study.compare.groups import Group, lines_along, main_axis, parts_of
from skiplab.study.compare.results import METRICS, is_share

with canvas.plain():
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

# Okabe & Ito's colours, which stay apart for colour-blind eyes; after them the line styles change
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLES, MARKERS = ("-", "--", ":", "-."), "osD^vP*"
# from the least to the largest x, above which the axis is logarithmic
RANGE = 8
# inches
WIDTH, HEIGHT = 8.0, 4.6
# groups in a picture
MOST = 200


@dataclass
class Picture:
    """A figure, and what a reader who points at one of its marks is told: by the mark's id in the SVG."""

    name: str
    title: str
    figure: Figure
    tips: dict[str, str] = field(default_factory=dict)

    def point(self, axes: Axes, x: float, y: float, tip: str, **style: Any) -> None:
        """A mark with its words."""
        (mark,) = axes.plot([x], [y], linestyle="none", clip_on=False, **style)
        name = f"{self.name}-{len(self.tips)}"
        mark.set_gid(name)
        self.tips[name] = tip

    @canvas.plain()
    def save(self, folder: Path) -> Path:
        """As FOLDER/NAME.png."""
        path = folder / f"{self.name}.png"
        plots.save(self.figure, path, **CLOSE)
        return path

    @canvas.plain()
    def svg(self) -> str:
        """As an <svg> element, its text as text."""
        buffer = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None}, **CLOSE)
        text = buffer.getvalue()
        return text[text.index("<svg") :]


def scaled(value: float, metric: str) -> float:
    """A value as the axis has it: shares in percent."""
    return 100 * value if is_share(metric) else value


def axis_name(metric: str) -> str:
    """What stands at the axis."""
    return METRICS[metric][0] + (
        " (%)" if is_share(metric) else " (nats)" if metric.endswith("loss") else ""
    )


def style_of(number: int) -> dict[str, Any]:
    """Colour, line and mark of the n-th line."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number // len(COLOURS) % len(STYLES)],
        # no two alike of the first 49
        "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
    }


def tip_of(group: Group, metric: str) -> str:
    """What is told of a group."""
    words = f"{group.label}: {scaled(group.mean, metric):.4g}"
    if group.interval is not None:
        low, high = (scaled(end, metric) for end in group.interval)
        words += f" ({low:.4g} to {high:.4g}), n = {group.n}"
    return (
        words
        + f"; {group.cost('params'):,.0f} parameters, {group.cost('macs') / 1e6:,.2f} M MACs, {group.cost('seconds'):,.1f} s"
    )


@canvas.plain()
def against_x(groups: Sequence[Group], keys: Sequence[str], *, metric: str, x: str) -> Picture:
    """The metric over x with a line for each combination of the other keys, and a band of 95 % over seeds."""
    picture = Picture("compare", f"{METRICS[metric][0]} against {x}", figure(WIDTH, HEIGHT))
    axes = picture.figure.subplots()
    if x in keys:
        along = lines_along(groups, keys, x)
        lines = {
            name: [(float(group.key[keys.index(x)]), group) for group in members]
            for name, members in along.items()
        }
    # a cost: the points are joined along depth and width
    else:
        lines = {}
        for group in groups:
            told = [
                part
                for key, part in zip(keys, parts_of(keys, group.key), strict=True)
                if key not in ("depth", "width")
            ]
            lines.setdefault(" ".join(told) or "all runs", []).append((group.cost(x), group))
    for number, (name, points) in enumerate(lines.items()):
        points.sort(key=lambda point: point[0])
        style = style_of(number)
        xs, ys = [p for p, _ in points], [scaled(g.mean, metric) for _, g in points]
        axes.plot(xs, ys, label=name, **style)
        if all(group.interval is not None for _, group in points):
            ends = np.array([group.interval for _, group in points]) * scaled(1.0, metric)
            axes.fill_between(
                xs, ends[:, 0], ends[:, 1], color=style["color"], alpha=0.15, linewidth=0
            )
        for place, group in points:
            picture.point(
                axes,
                place,
                scaled(group.mean, metric),
                tip_of(group, metric),
                color=style["color"],
                marker=style["marker"],
            )
    values = [place for points in lines.values() for place, _ in points]
    log_where_it_helps(axes, values)
    remark(axes, "bands: 95 % over seeds" if any(group.interval for group in groups) else "")
    finish(picture, axes, COSTS.get(x, x), axis_name(metric), shown(groups, metric), metric)
    return picture


@canvas.plain()
def side_by_side(groups: Sequence[Group], *, metric: str) -> Picture:
    """A point and its interval for each group, where there is no number to put on an axis."""
    picture = Picture(
        "compare", METRICS[metric][0], figure(WIDTH, max(2.0, 0.7 + 0.38 * len(groups)))
    )
    axes = picture.figure.subplots()
    for place, group in enumerate(reversed(groups)):
        for value in group.values:
            axes.plot(
                [scaled(value, metric)],
                [place],
                marker="|",
                linestyle="none",
                color=COLOURS[0],
                alpha=0.5,
            )
        if group.interval is not None:
            axes.plot(
                [scaled(end, metric) for end in group.interval],
                [place, place],
                color=COLOURS[0],
                linewidth=3,
                alpha=0.3,
            )
        picture.point(
            axes,
            scaled(group.mean, metric),
            place,
            tip_of(group, metric),
            marker="o",
            color=COLOURS[0],
        )
    axes.set_yticks(range(len(groups)), [group.label for group in reversed(groups)])
    axes.set_xlabel(axis_name(metric))
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(*sensible_limits(shown(groups, metric), metric))
    return picture


@canvas.plain()
def learning_curves(groups: Sequence[Group], *, split: str = "val") -> Picture | None:
    """Accuracy on validation (without one, on the training batches) over epochs: a line a group, a band from the least to the best seed."""
    key = f"{split}_accuracy"
    if any(
        key not in row for group in groups for result in group.results for row in result.evaluations
    ):
        if split == "train":
            return None
        return learning_curves(groups, split="train")
    name = "validation accuracy (%)" if split == "val" else "training accuracy (%)"
    picture = Picture(
        "compare_curves", name.removesuffix(" (%)") + " over training", figure(WIDTH, HEIGHT)
    )
    axes, values = picture.figure.subplots(), []
    for number, group in enumerate(groups):
        rows = [
            [(row["epoch"], 100 * row[key]) for row in result.evaluations]
            for result in group.results
        ]
        length = min(map(len, rows))
        if length == 0:
            continue
        curves = np.array([[value for _, value in each[:length]] for each in rows])
        epochs = [epoch for epoch, _ in rows[0][:length]]
        style = style_of(number)
        axes.plot(
            epochs,
            curves.mean(0),
            label=group.label,
            color=style["color"],
            linestyle=style["linestyle"],
        )
        axes.fill_between(
            epochs, curves.min(0), curves.max(0), color=style["color"], alpha=0.12, linewidth=0
        )
        tip = f"{group.label}: {curves.mean(0)[-1]:.4g} % at epoch {epochs[-1]:g}, n = {group.n}"
        picture.point(
            axes, epochs[-1], curves.mean(0)[-1], tip, color=style["color"], marker=style["marker"]
        )
        values += curves.ravel().tolist()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    remark(
        axes,
        "bands: from the least to the best seed" if any(group.n > 1 for group in groups) else "",
    )
    finish(picture, axes, "epoch", name, values, "test.accuracy")
    return picture


@canvas.plain()
def against_cost(groups: Sequence[Group], *, metric: str, cost: str = "macs") -> Picture:
    """The metric against what a group costs, and the front of those that no other one beats at less cost."""
    picture = Picture("compare_cost", f"{METRICS[metric][0]} against cost", figure(WIDTH, HEIGHT))
    axes = picture.figure.subplots()
    unit, factor = {
        "macs": ("M MACs an image, forward", 1e-6),
        "params": ("thousand parameters", 1e-3),
        "seconds": ("seconds of training", 1),
    }[cost]
    places = [(group.cost(cost) * factor, scaled(group.mean, metric), group) for group in groups]
    front = pareto([(x, y) for x, y, _ in places], more_is_better=METRICS[metric][1])
    axes.plot(
        [x for x, _ in front],
        [y for _, y in front],
        color=INK,
        alpha=0.35,
        drawstyle="steps-post",
        label="Pareto front, its marks larger",
    )
    for number, (x, y, group) in enumerate(places):
        style = style_of(number)
        on_front = (x, y) in front
        tip = tip_of(group, metric) + ("; on the Pareto front" if on_front else "")
        picture.point(
            axes,
            x,
            y,
            tip,
            color=style["color"],
            marker=style["marker"],
            label=group.label,
            markersize=9 if on_front else 6,
        )
    log_where_it_helps(axes, [x for x, _, _ in places])
    finish(picture, axes, unit, axis_name(metric), [y for _, y, _ in places], metric)
    return picture


def pareto(
    points: Sequence[tuple[float, float]], *, more_is_better: bool
) -> list[tuple[float, float]]:
    """The (cost, value) points that no other one beats in one and equals in the other, by growing cost."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(
        points, key=lambda point: (point[0], -point[1] if more_is_better else point[1])
    ):
        if not front or (y > front[-1][1] if more_is_better else y < front[-1][1]):
            front.append((x, y))
    return front


def log_where_it_helps(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis for values over several doublings, with the values themselves as ticks if they are few."""
    distinct = sorted(set(values))
    if distinct and distinct[0] > 0 and distinct[-1] / distinct[0] >= RANGE:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    if len(distinct) <= 8 and all(float(value).is_integer() and value < 1e4 for value in distinct):
        axes.set_xticks(distinct, [f"{value:g}" for value in distinct])
        axes.minorticks_off()


COSTS = {
    "macs": "multiply-accumulates an image, forward",
    "params": "parameters",
    "seconds": "seconds of training",
}


def remark(axes: Axes, text: str) -> None:
    """A few words above a picture."""
    axes.set_title(text, fontsize=8, loc="left", color=INK)


def shown(groups: Sequence[Group], metric: str) -> list[float]:
    """The values that an axis has room for: every run's, and the ends of intervals, of very wide ones a part."""
    values = [scaled(value, metric) for group in groups for value in group.values]
    low, high = min(values), max(values)
    # beyond the values
    most = max(high - low, 1e-9) / 2
    ends = [scaled(end, metric) for group in groups for end in group.interval or ()]
    return [*values, *(min(max(end, low - most), high + most) for end in ends)]


def sensible_limits(values: Sequence[float], metric: str) -> tuple[float, float]:
    """Limits around all values; a share stays within 0 and 100."""
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), 0.5 if is_share(metric) else 0.02 * max(abs(high), 1e-9))
    return (
        (max(0.0, low - margin), min(100.0, high + margin))
        if is_share(metric)
        else (low - margin, high + margin)
    )


def finish(
    picture: Picture, axes: Axes, x_name: str, y_name: str, values: Sequence[float], metric: str
) -> None:
    """Names, limits, grid, legend."""
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        axes.set_ylim(*sensible_limits(finite, metric))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        columns = 1 if len(names) <= 16 else 2
        picture.figure.legend(
            handles, names, loc="outside right upper", frameon=False, fontsize=8, ncols=columns
        )


# of a picture; None where there is nothing to draw
Maker = Callable[[], Picture | None]


def makers(
    groups: Sequence[Group], keys: Sequence[str], *, metric: str, x: str | None
) -> list[Maker]:
    """What makes the pictures that these groups can be drawn in; `x` None: the first key that holds numbers."""
    x = x or main_axis(groups, keys)
    found: list[Maker] = [
        lambda: (
            against_x(groups, keys, metric=metric, x=x)
            if x
            else side_by_side(groups, metric=metric)
        )
    ]
    # which learning curves show
    if metric.endswith("accuracy"):
        found.append(lambda: learning_curves(groups))
    if len(groups) > 1:
        found.append(lambda: against_cost(groups, metric=metric))
    return found
