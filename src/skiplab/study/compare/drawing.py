"""Figures of a comparison: sizes, the look of each group, marks with tips, axes, texts."""

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from skiplab.runs import canvas, plots
from skiplab.runs.plots import CLOSE, INK, spread, wrapped
from skiplab.study.compare.colours import COLOURS, variable
from skiplab.study.compare.groups import Group, lines_along

with canvas.plain():
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Transform, offset_copy

DASHES, MARKERS = ("-", "--", "-.", ":"), "osD^vP*"
# An axis is logarithmic if its largest value is at least this many times its least.
LOG_FROM = 8
# A picture has this size in inches. The legend takes a third of the width at most.
WIDTH, HEIGHT = 7.6, 4.4
LEGEND_LETTERS = 28
# A legend has this many entries at most; a picture writes this many values, and seeds of a group.
MOST_NAMED, MOST_VALUES, MOST_DOTS = 40, 24, 10
# Points between marks at one place, in all of them at most; and from a mark to its value.
DODGE, WIDEST, BESIDE = 7.0, 28.0, 6.0


# The ground of a text, so that no line strikes it through.
BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 0.3}


class LineStyle(TypedDict):
    """Colour, line and mark of a line."""

    color: str
    linestyle: str
    marker: str


@dataclass(frozen=True)
class Mark:
    """A place that is marked, the text written beside it, and its shift in points."""

    x: float
    y: float
    text: str
    colour: str
    shift: float = 0.0


@dataclass
class Picture:
    """A figure, and the tips at its marks: a text for the id that each mark has in the SVG."""

    name: str
    title: str
    figure: Figure
    tips: dict[str, str] = field(default_factory=dict)

    def point(
        self,
        axes: Axes,
        place: tuple[float, float],
        tip: str,
        *,
        style: LineStyle,
        size: float | None = None,
        at: Transform | None = None,
        label: str | None = None,
    ) -> None:
        """Draw a mark with its tip. `size` is in points; None: matplotlib's own.

        `at` is the transform of the place; None: that of the axes' data.
        """
        x, y = place
        (mark,) = axes.plot(
            [x],
            [y],
            linestyle="none",
            clip_on=False,
            color=style["color"],
            marker=style["marker"],
            markersize=size,
            label=label,
            transform=at or axes.transData,
        )
        name = f"{self.name}-{len(self.tips)}"
        mark.set_gid(name)
        self.tips[name] = tip

    @canvas.plain()
    def save(self, folder: Path) -> Path:
        """Write FOLDER/NAME.png and return its path."""
        path = folder / f"{self.name}.png"
        plots.save(self.figure, path, **CLOSE)
        return path

    @canvas.plain()
    def svg(self) -> str:
        """Return the figure as an <svg> element for the page, with text as text.

        Its colours are variables of the page, its ground is the page's, and its width is that of
        the element around it.
        """
        buffer = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(
                buffer, format="svg", metadata={"Date": None}, transparent=True, **CLOSE
            )
        text = buffer.getvalue()
        text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
        text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
        for colour, name in PAGE_COLOURS.items():
            text = text.replace(colour, f"var({name})")
        return text


# The page's variable for each colour of a figure: text and axes, the grid, and the groups.
PAGE_COLOURS = {"#000000": "--ink", INK: "--ink", "#b0b0b0": "--grid", "#ffffff": "--ground"} | {
    colour: variable(number) for number, colour in enumerate(COLOURS)
}


# --------------------------------------------------------------------------------------------------
# The look of groups


class Styles:
    """The look of each group, the same in all pictures of a comparison.

    Groups along the axis are a line and share its colour. Dashes and marks tell the lines apart
    too, and in pictures without that axis its groups.
    """

    def __init__(self, groups: Sequence[Group], keys: Sequence[str], axis: str | None):
        lines = {group.label: [group] for group in groups}
        if axis is not None:
            lines = lines_along(groups, keys, axis)
        self.lines = {name: number for number, name in enumerate(lines)}
        # The number of each group's line, and its place there.
        self.places: dict[str, tuple[int, int]] = {}
        self.is_along = any(len(members) > 1 for members in lines.values())
        for number, members in enumerate(lines.values()):
            for place, group in enumerate(members):
                self.places[group.label] = number, place

    def of_line(self, number: int) -> LineStyle:
        """Return the look of a line, by its number from 0."""
        return style_of(number, number, number)

    def of(self, group: Group) -> LineStyle:
        """Return the look of a group."""
        number, place = self.places[group.label]
        return style_of(number, place if self.is_along else number, number + place)

    def shift(self, group: Group) -> float:
        """Return how far a group's marks are shifted, in points, so that lines do not overlap."""
        number, _ = self.places[group.label]
        between = min(DODGE, WIDEST / max(1, len(self.lines) - 1))
        return between * (number - (len(self.lines) - 1) / 2)


def style_of(colour: int, dash: int, mark: int) -> LineStyle:
    """Return a look by the numbers of its colour, dash and mark, from 0, which begin again."""
    rounds = colour // len(COLOURS)
    return {
        "color": COLOURS[colour % len(COLOURS)],
        "linestyle": DASHES[(dash + rounds) % len(DASHES)],
        "marker": MARKERS[(mark + rounds) % len(MARKERS)],
    }


def shifted(picture: Picture, axes: Axes, points: float) -> Transform:
    """Return the transform of the data, shifted to the right by some points."""
    return offset_copy(axes.transData, picture.figure, x=points, units="points")


# --------------------------------------------------------------------------------------------------
# Marks and texts


def fill(
    axes: Axes,
    xs: Sequence[float],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    *,
    color: str,
    alpha: float,
) -> None:
    """Fill a band between two curves (N,)."""
    axes.fill_between(xs, low, high, color=color, alpha=alpha, linewidth=0)


def write_values(picture: Picture, axes: Axes, marks: Sequence[Mark]) -> None:
    """Write the text of each mark to its right; texts of marks at one place are moved apart.

    The limits of the axes must stand. Many marks get no text.
    """
    if len(marks) > MOST_VALUES:
        return
    to_points = 72 / picture.figure.dpi
    places = [axes.transData.transform((mark.x, mark.y)) * to_points for mark in marks]
    columns = [place[0] + mark.shift for place, mark in zip(places, marks, strict=True)]
    order = sorted(range(len(marks)), key=lambda i: columns[i])
    # Marks that are nearer to each other than a text is wide share a column of texts.
    clusters: list[list[int]] = []
    for i in order:
        if clusters and columns[i] - columns[clusters[-1][-1]] < WIDEST:
            clusters[-1].append(i)
        else:
            clusters.append([i])
    for cluster in clusters:
        right = max(columns[i] for i in cluster)
        heights = spread([places[i][1] for i in cluster], least=8.5)
        for i, height in zip(cluster, heights, strict=True):
            axes.annotate(
                marks[i].text,
                (marks[i].x, marks[i].y),
                xytext=(right - places[i][0] + BESIDE, height - places[i][1]),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=marks[i].colour,
                annotation_clip=False,
                bbox=BEHIND,
            )


def set_log_scale(axes: Axes, values: Sequence[float]) -> None:
    """Make the x axis logarithmic for values over several doublings; few values become ticks.

    It has room for marks that are shifted, and for texts to their right.
    """
    distinct = sorted(set(values))
    if not distinct:
        return
    low, high = distinct[0], distinct[-1]
    if low > 0 and high / low >= LOG_FROM:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        room = high / low
        axes.set_xlim(low / room**0.07, high * room**0.12)
    else:
        room = (high - low) or max(abs(high), 1.0)
        axes.set_xlim(low - 0.07 * room, high + 0.12 * room)
    if len(distinct) <= 8 and all(float(value).is_integer() and value < 1e4 for value in distinct):
        axes.set_xticks(distinct, [f"{value:g}" for value in distinct])
        axes.minorticks_off()


def add_title(axes: Axes, *lines: str) -> None:
    """Write the title and remarks above a picture, a line each; empty ones are left out."""
    texts = [wrapped(line, inches=0.62 * WIDTH, points=9) for line in lines if line]
    axes.set_title("\n".join(texts), fontsize=9, loc="left", color=INK)


def finish(picture: Picture, axes: Axes, x_name: str, y_name: str) -> None:
    """Add axis labels, the grid and the legend, which stands to the right of the axes."""
    axes.set_xlabel(x_name, fontsize=9)
    axes.set_ylabel(y_name, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    if len(names) <= 1:
        return
    left_out = len(names) - MOST_NAMED
    if left_out > 0:
        handles, names = handles[:MOST_NAMED], names[:MOST_NAMED]
        handles = [*handles, Line2D([], [], linestyle="none")]
        names = [*names, f"... and {left_out} more"]
    names = [textwrap.fill(name, LEGEND_LETTERS) for name in names]
    rows = sum(name.count("\n") + 1 for name in names)
    picture.figure.set_figheight(max(HEIGHT, 0.5 + 0.15 * rows))
    picture.figure.legend(
        handles, names, loc="outside right upper", frameon=False, fontsize=7.5, handlelength=2.6
    )
