"""Draw a search: its trials in order, and the accuracy over each key that was searched."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skiplab.runs import canvas, plots
from skiplab.runs.plots import CLOSE, INK, figure
from skiplab.study.compare.colours import COLOURS
from skiplab.study.compare.drawing import LOG_FROM

with canvas.plain():
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

# A panel's size in inches, and how many stand next to each other.
WIDTH, HEIGHT, COLUMNS = 3.6, 2.9, 3
# A panel names this many values of a key that holds no numbers.
MOST_NAMED = 12
POINT, BEST = COLOURS[:2]


@dataclass(frozen=True)
class Trial:
    """A trial that has a validation accuracy: the last one, if it was pruned."""

    number: int
    value: float
    is_complete: bool
    params: Mapping[str, object]


@canvas.plain()
def draw(path: Path, trials: Sequence[Trial], importances: Mapping[str, float]) -> Path:
    """Draw the trials with the best so far, and a panel for each key, the most important first.

    `importances` are shares of the variance that a key explains; it may be empty.
    """
    trials = sorted(trials, key=lambda trial: trial.number)
    best = max((trial for trial in trials if trial.is_complete), key=lambda trial: trial.value)
    keys = dict.fromkeys([*importances, *(key for trial in trials for key in trial.params)])
    # Four panels are two by two.
    columns = 2 if len(keys) == 3 else min(COLUMNS, 1 + len(keys))
    rows = math.ceil((1 + len(keys)) / columns)
    made = figure(WIDTH * columns, 0.5 + HEIGHT * rows)
    grid = made.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    draw_order(grid[0], trials)
    for axes, key in zip(grid[1:], keys, strict=False):
        name = f"{key}, importance {importances[key]:.2f}" if key in importances else key
        draw_key(axes, [trial for trial in trials if key in trial.params], key, best)
        dress(axes, name)
    for axes in grid[1 + len(keys) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel("validation accuracy (%)", fontsize=9)
    chosen = ", ".join(f"{key}={short(value)}" for key, value in best.params.items())
    heading = f"best: trial {best.number}, {100 * best.value:.2f} %, {chosen}"
    made.suptitle(plots.wrapped(heading, inches=0.9 * WIDTH * columns, points=10), fontsize=10)
    handles, labels = grid[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    plots.save(made, path, **CLOSE)
    return path


def draw_order(axes: Axes, trials: Sequence[Trial]) -> None:
    """Draw complete and pruned trials, in order, and the best so far."""
    draw_points(axes, trials, [trial.number for trial in trials])
    complete = [trial for trial in trials if trial.is_complete]
    so_far = np.maximum.accumulate([100 * trial.value for trial in complete])
    places = [trial.number for trial in complete]
    axes.plot(places, so_far, drawstyle="steps-post", color=BEST, label="best so far")
    best = max(complete, key=lambda trial: trial.value)
    mark_best(axes, best.number, best)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    dress(axes, "trials, in order")


def draw_key(axes: Axes, trials: Sequence[Trial], key: str, best: Trial) -> None:
    """Draw the accuracy over a key: numbers on an axis, anything else side by side."""
    values = [trial.params[key] for trial in trials]
    numbers = [value for value in values if is_number(value)]
    if len(numbers) == len(values):
        places = [float(str(value)) for value in numbers]
        low, high = min(places), max(places)
        if low > 0 and high / low >= LOG_FROM:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda _value, _position: "")
        at = dict(zip((trial.number for trial in trials), places, strict=True))
    else:
        names = sorted(dict.fromkeys(map(short, values)))
        at = {trial.number: names.index(short(trial.params[key])) for trial in trials}
        step = math.ceil(len(names) / MOST_NAMED)
        ticks = range(0, len(names), step)
        slant = 30 if sum(map(len, names)) > 30 else 0
        texts = [names[i] for i in ticks]
        axes.set_xticks(list(ticks), texts, rotation=slant, ha="right" if slant else "center")
        axes.set_xlim(-0.5, len(names) - 0.5)
    draw_points(axes, trials, [at[trial.number] for trial in trials])
    if best.number in at:
        mark_best(axes, at[best.number], best)


def draw_points(axes: Axes, trials: Sequence[Trial], places: Sequence[float]) -> None:
    """Draw each trial at its place: a dot if it is complete, else a cross."""
    for is_complete, marker, color, label in (
        (True, "o", POINT, "complete"),
        (False, "x", INK, "pruned, where it stood"),
    ):
        at = [i for i, trial in enumerate(trials) if trial.is_complete is is_complete]
        if at:
            values = [100 * trials[i].value for i in at]
            axes.plot([places[i] for i in at], values, marker, color=color, ms=5, label=label)


def mark_best(axes: Axes, place: float, best: Trial) -> None:
    """Mark the best trial."""
    value = 100 * best.value
    axes.plot([place], [value], "*", color=BEST, ms=13, label="best", zorder=3, clip_on=False)


def dress(axes: Axes, title: str) -> None:
    """Add the title, ticks and grid of a panel."""
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def is_number(value: object) -> bool:
    """Return whether a value is a number, which true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def short(value: object) -> str:
    """Return a value as a label, a number with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
