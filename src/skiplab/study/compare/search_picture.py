"""Draw the trials of a search, and what mattered."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from skiplab.runs import canvas, plots
from skiplab.runs.plots import CLOSE, INK, figure
from skiplab.study.compare.drawing import COLOURS, WIDTH

with canvas.plain():
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

# The picture has this size in inches; with importances it is wider.
HEIGHT, WIDE = 4.2, 11.0

# A trial is its number, its validation accuracy and the name of its state.
Trial = tuple[int, float, str]


@canvas.plain()
def draw(path: Path, history: Sequence[Trial], importances: dict[str, float]) -> Path:
    """Draw the trials of a search with the best so far; to their right each key's importance."""
    made = figure(WIDE if importances else WIDTH, HEIGHT)
    if importances:
        panels = made.subplots(1, 2, width_ratios=(3, 2))
        draw_importances(panels[1], importances)
    else:
        panels = [made.subplots()]
    draw_trials(panels[0], sorted(history))
    for each in panels:
        each.spines[["top", "right"]].set_visible(False)
    plots.save(made, path, **CLOSE)
    return path


def draw_trials(axes: Axes, history: Sequence[Trial]) -> None:
    """Draw complete and pruned trials, in order, and the best so far."""
    complete = [(number, 100 * value) for number, value, state in history if state == "COMPLETE"]
    pruned = [(number, 100 * value) for number, value, state in history if state == "PRUNED"]
    axes.plot(*zip(*complete, strict=True), "o", color=COLOURS[0], label="complete")
    if pruned:
        places = zip(*pruned, strict=True)
        axes.plot(*places, "x", color=INK, alpha=0.5, label="pruned, where it stood")
    best = np.maximum.accumulate([value for _, value in complete])
    axes.plot(
        [number for number, _ in complete],
        best,
        drawstyle="steps-post",
        color=COLOURS[1],
        label="best so far",
    )
    axes.set(xlabel="trial", ylabel="validation accuracy (%)")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)


def draw_importances(axes: Axes, importances: dict[str, float]) -> None:
    """Draw a bar for each key."""
    names = list(importances)[::-1]
    axes.barh(names, [importances[name] for name in names], color=COLOURS[2])
    axes.set(xlabel="share of the variance explained", xlim=(0, 1))
