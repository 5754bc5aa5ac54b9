"""Draw what a probe has recorded: gradients, activations and updates over the layers.

One run has a panel; a comparison has several, with a line per group.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skiplab.runs import canvas
from skiplab.runs.plots import BLUE, CLOSE, INK, figure, save, spread, wrapped

with canvas.plain():
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, MaxNLocator


class Flow(NamedTuple):
    """A picture of a probe: its name, the label of its axis, and what the title says of it."""

    name: str
    axis: str
    subject: str
    # Gradients and updates are followed from the last layer to the first.
    is_backward: bool


# The picture of each key of metrics.jsonl.
FLOWS = {
    "gradient_norm": Flow("gradient_flow", "gradient norm", "gradients", True),
    "activation_deviation": Flow(
        "activation_flow", "standard deviation of the activations", "activations", False
    ),
    "update_ratio": Flow("update_flow", "update over weight, norms", "updates", True),
}
# Panels have an axis each if all of them together span more decades than this.
SHARED_DECADES = 6
# A panel's size in inches, the height of the title above all, and that of a panel's axis in points.
WIDTH, HEIGHT, TITLE, AXIS = 4.6, 3.1, 0.8, 165.0
# A factor that is nearer to 1 than this is no change.
SAME = 1.1
# The title says it of this many lines at most.
MOST_IN_TITLE = 3


class Powers(LogFormatter):
    """Formats the ticks of a logarithmic axis as 0.001.

    matplotlib's own formatter writes powers, which needs mathtext.
    """

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of a tick at x, empty where ticks are too many for all to have one."""
        return f"{x:g}" if super().__call__(x, pos) else ""


@dataclass(frozen=True)
class Line:
    """The values of a network's layers, (layers,), at some steps, in order; 0 is not drawn."""

    name: str
    records: Mapping[int, NDArray[np.float64]]
    colour: str
    marker: str = "o"

    def label(self, step: int, *, has_others: bool) -> str:
        """Return what is written at the end of the line of a step, among others or alone."""
        when = "first step" if step == 1 else f"step {step:,}"
        if self.name and not has_others:
            return self.name
        return f"{self.name}, {when}" if self.name else when


def probed(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Line]]:
    """Return the line of each of a run's pictures, by the key of metrics.jsonl that was probed.

    `rows` are those of metrics.jsonl. The first and the last record are drawn.
    """
    found: dict[str, list[Line]] = {}
    for kind in FLOWS:
        records = {
            row["step"]: np.array(
                [math.nan if value is None else value for value in row[kind].values()], float
            )
            for row in rows
            if kind in row
        }
        if records:
            ends = {step: records[step] for step in (min(records), max(records))}
            found[kind] = [Line("", ends, BLUE)]
    return found


@canvas.plain()
def draw_run(lines: Sequence[Line], kind: str, target: Path, *, title: str) -> None:
    """Draw one run's picture of FLOWS."""
    made, _ = draw({title: lines}, kind, columns=1, width=2 * WIDTH)
    save(made, target, **CLOSE)


def draw(
    panels: Mapping[str, Sequence[Line]], kind: str, *, columns: int, width: float | None = None
) -> tuple[Figure, list[Axes]]:
    """Draw a panel for each title, on log axes; return the figure and the panels.

    Each line is named at its end. The figure's title says the finding. `width` is in inches.
    """
    flow = FLOWS[kind]
    rows = math.ceil(len(panels) / columns)
    across = width or WIDTH * columns
    made = figure(across, TITLE + HEIGHT * rows)
    is_shared = decades([line for lines in panels.values() for line in lines]) <= SHARED_DECADES
    grid = made.subplots(rows, columns, squeeze=False, sharey=is_shared).ravel()
    for axes, (title, lines) in zip(grid, panels.items(), strict=False):
        dress(axes, title)
        draw_lines(axes, lines)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel(flow.axis)
    heading = wrapped(finding(panels, flow), inches=0.95 * across, points=10)
    if any((values == 0).any() for line in every(panels) for values in line.records.values()):
        heading += "\na line begins where its values are no longer exactly 0"
    made.suptitle(heading, fontsize=10)
    return made, list(grid[: len(panels)])


def every(panels: Mapping[str, Sequence[Line]]) -> list[Line]:
    """Return the lines of all panels."""
    return [line for lines in panels.values() for line in lines]


def decades(lines: Sequence[Line]) -> float:
    """Return how many powers of ten all values span."""
    low, high = ends_of(lines)
    return math.log10(high / low)


def ends_of(lines: Sequence[Line]) -> tuple[float, float]:
    """Return the least and the largest value that is drawn; 1 and 1 without any."""
    values = np.concatenate([each for line in lines for each in line.records.values()])
    values = values[np.isfinite(values) & (values > 0)]
    return (float(values.min()), float(values.max())) if len(values) else (1.0, 1.0)


def draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw the lines of a panel: the first record solid, later ones dashed; name their ends."""
    has_others = len({step for line in lines for step in line.records}) > 1
    ends: list[tuple[float, float, str, str]] = []
    for line in lines:
        for number, (step, values) in enumerate(line.records.items()):
            drawn = np.where(values > 0, values, math.nan)
            label = line.label(step, has_others=has_others)
            dash = "--" if number else "-"
            places = range(1, len(drawn) + 1)
            axes.plot(places, drawn, dash, color=line.colour, label=label)
            if np.isfinite(drawn).any():
                last = int(np.flatnonzero(np.isfinite(drawn))[-1])
                ends.append((last + 1, float(drawn[last]), label, line.colour))
    low, high = ends_of(lines)
    # On an axis of powers of ten, with a little room at both ends.
    points = [AXIS * math.log10(y / low) / max(math.log10(high / low), 1.0) for _, y, _, _ in ends]
    places = spread(points, least=10.0)
    for (x, y, label, colour), point, place in zip(ends, points, places, strict=True):
        axes.annotate(
            label,
            (x, y),
            xytext=(6, place - point),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
            annotation_clip=False,
        )


def dress(axes: Axes, title: str) -> None:
    """Add the title, scales, ticks and grid of a panel."""
    axes.set(yscale="log", xlabel="layer, from the input")
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    axes.yaxis.set_major_formatter(Powers())
    axes.yaxis.set_minor_formatter(Powers(labelOnlyBase=False))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


# --------------------------------------------------------------------------------------------------
# What a picture says


def finding(panels: Mapping[str, Sequence[Line]], flow: Flow) -> str:
    """Return a title: how much the lines change over the layers where one changes most."""
    title, lines = max(
        panels.items(), key=lambda panel: max(map(extent, map(first_of, panel[1])), default=0.0)
    )
    lines = sorted(lines, key=lambda line: -extent(first_of(line)))[:MOST_IN_TITLE]
    first, last = ("last", "first") if flow.is_backward else ("first", "last")
    said: list[str] = []
    verb = ""
    for line in lines:
        before = verb
        verb, _, more = change(first_of(line), is_backward=flow.is_backward).partition(" ")
        words = more if verb == before else f"{verb} {more}".strip()
        said.append(f"{words} with {line.name}" if line.name else words)
    said[0] = f"{flow.subject} {said[0]}"
    at = next(iter(lines[0].records)) if lines else 1
    when = "at the first step" if at == 1 else f"at step {at:,}"
    where = f" ({title})" if len(panels) > 1 else ""
    return f"{', '.join(said)}, from the {first} layer to the {last}, {when}{where}"


def first_of(line: Line) -> NDArray[np.float64]:
    """Return a line's first record."""
    return next(iter(line.records.values()))


def extent(values: NDArray[np.float64]) -> float:
    """Return how many powers of ten lie between the first and the last layer; inf for a 0."""
    if not (np.isfinite(values[[0, -1]]).all() and (values[[0, -1]] > 0).all()):
        return math.inf
    return abs(math.log10(values[-1] / values[0]))


def change(values: NDArray[np.float64], *, is_backward: bool) -> str:
    """Return how values (layers,) change from one end to the other: `shrink 3.2-fold`."""
    begin, end = (values[-1], values[0]) if is_backward else (values[0], values[-1])
    if not (math.isfinite(begin) and math.isfinite(end)):
        return "are not finite"
    if begin <= 0 or end <= 0:
        return "are exactly 0" if begin == end else "vanish" if end <= 0 else "begin at 0"
    factor = max(begin / end, end / begin)
    if factor < SAME:
        return "stay the same"
    return f"{'shrink' if end < begin else 'grow'} {fold(factor)}-fold"


def fold(factor: float) -> str:
    """Return a factor from 1 on with two digits, or as a power of ten."""
    if factor < 1000:
        return f"{factor:.1f}" if factor < 10 else f"{factor:.0f}"
    return f"10^{round(math.log10(factor))}"
