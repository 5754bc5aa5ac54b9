"""Draw what a probe has recorded: gradients, activations and updates over the layers."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skiplab.runs import canvas
from skiplab.runs.plots import figure
from skiplab.study.compare.drawing import LineStyle, Picture, style_of
from skiplab.study.compare.groups import Group, label_parts
from skiplab.study.compare.pictures import Maker

with canvas.plain():
    from matplotlib.axes import Axes
    from matplotlib.ticker import LogFormatter, MaxNLocator

# Each key of metrics.jsonl has a picture's name and an axis label.
FLOWS = {
    "gradient_norm": ("gradient_flow", "gradient norm"),
    "activation_deviation": ("activation_flow", "standard deviation of the activations"),
    "update_ratio": ("update_flow", "update over weight, norms"),
}


class Powers(LogFormatter):
    """Formats the ticks of a logarithmic axis as 0.001.

    matplotlib's own formatter writes powers, which needs mathtext.
    """

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return the label of a tick at x, empty where ticks are too many for all to have one."""
        return f"{x:g}" if super().__call__(x, pos) else ""


@dataclass
class Flow:
    """The groups that were probed for `kind`, in panels.

    `told_apart` is the key whose values are drawn as lines of one panel; None: there is none.
    """

    kind: str
    keys: Sequence[str]
    groups: Sequence[Group]
    told_apart: str | None
    has_zeros: bool = field(default=False, init=False)

    @functools.cached_property
    def panels(self) -> dict[str, list[Group]]:
        """The groups of each panel, by its title."""
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            found.setdefault(without(group, self.keys, self.told_apart), []).append(group)
        return found

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each line's style, by the line's name."""
        names = dict.fromkeys(self.name(group) for group in self.groups)
        return {name: number for number, name in enumerate(names)}

    @property
    def num_columns(self) -> int:
        """How many panels stand next to each other: those with and without BatchNorm do."""
        if "norm" in self.keys and self.told_apart != "norm":
            at = self.keys.index("norm")
            norms = len({group.key[at] for group in self.groups})
            if norms > 1:
                return norms
        return min(3, len(self.panels))

    def name(self, group: Group) -> str:
        """Return the name of a group's line in its panel."""
        return name_in(group, self.keys, self.told_apart)

    def draw_group(self, picture: Picture, axes: Axes, group: Group) -> None:
        """Draw a group's lines, at the first step and at the last record."""
        name = self.name(group)
        style = style_of(self.numbers[name])
        steps = probed_steps(group, self.kind)
        # A run that was given its probe on the way has no record of the first step.
        if steps[0] == 1:
            means = self.means(group, 1)
            values = self.draw_means(axes, means, "-", style, f"{name}, first step")
            at = int(np.argmax(means > 0))
            tip = (
                f"{group.label}, first step: {means[0]:.2g} in the first layer, "
                f"{means[-1]:.2g} in the last"
            )
            place = (at + 1, values[at])
            picture.point(axes, place, tip, color=style["color"], marker=style["marker"])
        if steps[-1] > 1:
            means = self.means(group, steps[-1])
            self.draw_means(axes, means, ":", style, f"{name}, last record")

    def means(self, group: Group, step: int) -> NDArray[np.float64]:
        """Return the geometric mean over seeds at a step, (layers,); 0 where one seed has 0."""
        rows = [list(result.probed(self.kind)[step].values()) for result in group.results]
        with np.errstate(divide="ignore"):
            return np.exp(np.log(np.array(rows, dtype=float)).mean(0))

    def draw_means(
        self, axes: Axes, means: NDArray[np.float64], line: str, style: LineStyle, label: str
    ) -> NDArray[np.float64]:
        """Draw a line over the layers, without its zeros; return what is drawn."""
        values = np.where(means > 0, means, math.nan)
        self.has_zeros = self.has_zeros or not (means > 0).all()
        axes.plot(range(1, len(values) + 1), values, line, color=style["color"], label=label)
        return values


@canvas.plain()
def flow(groups: Sequence[Group], keys: Sequence[str], kind: str) -> Picture | None:
    """Draw a figure of FLOWS over the layers, on a log axis; None where it was not probed.

    Plain and residual share a panel. Each is drawn at the first step and at the last record, as
    the geometric mean over seeds. What is exactly 0 in one seed is left out.
    """
    base, what = FLOWS[kind]
    probed = [group for group in groups if probed_steps(group, kind)]
    if not probed:
        return None
    told_apart = next((key for key in ("block.name", "shortcut", "norm") if key in keys), None)
    made = Flow(kind, keys, probed, told_apart)
    columns = made.num_columns
    rows = math.ceil(len(made.panels) / columns)
    picture = Picture(base, f"{what} over the layers", figure(4.2 * columns, 0.6 + 3.1 * rows))
    grid = picture.figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, (title, members) in zip(grid, made.panels.items(), strict=False):
        for group in members:
            made.draw_group(picture, axes, group)
        dress(axes, title or "all runs")
    for axes in grid[len(made.panels) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel(what)
    handles, labels = grid[0].get_legend_handles_labels()
    zeros = "a line begins where its values are no longer exactly 0"
    picture.figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2,
        title=zeros if made.has_zeros else None,
        frameon=False,
        fontsize=8,
        title_fontsize=8,
    )
    return picture


def dress(axes: Axes, title: str) -> None:
    """Add the title, scales, ticks and grid of a panel."""
    axes.set(yscale="log", xlabel="layer, from the input", title=title)
    axes.yaxis.set_major_formatter(Powers())
    axes.yaxis.set_minor_formatter(Powers(labelOnlyBase=False))
    axes.title.set_fontsize(9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def probed_steps(group: Group, kind: str) -> list[int]:
    """Return the steps that all runs of a group have recorded."""
    return sorted(set.intersection(*({*result.probed(kind)} for result in group.results)))


def name_in(group: Group, keys: Sequence[str], key: str | None) -> str:
    """Return the part of a group's label for `key`; `all` for None."""
    return label_parts(keys, group.key)[keys.index(key)] if key is not None else "all"


def without(group: Group, keys: Sequence[str], key: str | None) -> str:
    """Return a group's label without the part for `key`."""
    parts = zip(keys, label_parts(keys, group.key), strict=True)
    return " ".join(part for name, part in parts if name != key)


def makers(groups: Sequence[Group], keys: Sequence[str]) -> list[Maker]:
    """Return the makers of a picture for each kind; one that was not probed makes None."""
    return [functools.partial(flow, groups, keys, kind) for kind in FLOWS]
