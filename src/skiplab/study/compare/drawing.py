"""Figures of a comparison: sizes, colours, marks with tips, axes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from skiplab.runs import canvas, plots
from skiplab.runs.plots import CLOSE, INK

with canvas.plain():
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours stay apart for colour-blind eyes. After the last, line styles change.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLES, MARKERS = ("-", "--", ":", "-."), "osD^vP*"
# An axis is logarithmic if its largest value is at least this many times its least.
LOG_FROM = 8
# A picture has this size in inches.
WIDTH, HEIGHT = 8.0, 4.6


class LineStyle(TypedDict):
    """Colour, line and mark of a line."""

    color: str
    linestyle: str
    marker: str


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
        color: str,
        marker: str,
        size: float | None = None,
        label: str | None = None,
    ) -> None:
        """Draw a mark with its tip. `size` is in points; None: matplotlib's own."""
        x, y = place
        (mark,) = axes.plot(
            [x],
            [y],
            linestyle="none",
            clip_on=False,
            color=color,
            marker=marker,
            markersize=size,
            label=label,
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
        """Return the figure as an <svg> element, its text as text."""
        buffer = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None}, **CLOSE)
        text = buffer.getvalue()
        return text[text.index("<svg") :]


def style_of(number: int) -> LineStyle:
    """Return colour, line and mark of line `number`, from 0; the first 49 differ in their mark."""
    rounds = number // len(COLOURS)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[rounds % len(STYLES)],
        "marker": MARKERS[(number + rounds) % len(MARKERS)],
    }


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


def set_log_scale(axes: Axes, values: Sequence[float]) -> None:
    """Make the x axis logarithmic for values over several doublings; few values become ticks."""
    distinct = sorted(set(values))
    if distinct and distinct[0] > 0 and distinct[-1] / distinct[0] >= LOG_FROM:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    if len(distinct) <= 8 and all(float(value).is_integer() and value < 1e4 for value in distinct):
        axes.set_xticks(distinct, [f"{value:g}" for value in distinct])
        axes.minorticks_off()


def add_remark(axes: Axes, text: str) -> None:
    """Write a few words above a picture."""
    axes.set_title(text, fontsize=8, loc="left", color=INK)


def finish(picture: Picture, axes: Axes, x_name: str, y_name: str) -> None:
    """Add axis labels, the grid and the legend."""
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        columns = 1 if len(names) <= 16 else 2
        picture.figure.legend(
            handles, names, loc="outside right upper", frameon=False, fontsize=8, ncols=columns
        )
