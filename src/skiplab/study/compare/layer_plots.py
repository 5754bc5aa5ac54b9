"""Pictures of what a probe has recorded: gradients, activations and updates over the layers."""

import functools
import math
from collections.abc import Sequence

import numpy as np

from skiplab.runs import canvas
from skiplab.runs.plots import figure
from skiplab.study.compare.groups import Group, parts_of
from skiplab.study.compare.pictures import Maker, Picture, style_of

with canvas.plain():
    from matplotlib.ticker import LogFormatter, MaxNLocator

# of metrics.jsonl -> the picture's name, what is drawn
FLOWS = {
    "gradient_norm": ("gradient_flow", "gradient norm"),
    "activation_deviation": ("activation_flow", "standard deviation of the activations"),
    "update_ratio": ("update_flow", "update over weight, norms"),
}


class Powers(LogFormatter):
    """The ticks of a logarithmic axis as 0.001, not as the power that the default one writes in mathtext."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Of a tick at x, empty where ticks are too many for all to have a label."""
        return f"{x:g}" if super().__call__(x, pos) else ""


@canvas.plain()
def flow(groups: Sequence[Group], keys: Sequence[str], kind: str) -> Picture | None:
    """A figure of FLOWS over the layers, at the first step and at the last record: plain and residual beside each other, on a log axis.

    None where it was not probed. Over seeds the geometric mean; what is exactly 0 in one of them is
    left out.
    """
    base, what = FLOWS[kind]
    probed = [
        group
        for group in groups
        if set.intersection(*({*result.probed(kind)} for result in group.results))
    ]
    if not probed:
        return None
    told_apart = next((key for key in ("block.name", "shortcut", "norm") if key in keys), None)
    panels: dict[str, list[Group]] = {}
    for group in probed:
        panels.setdefault(without(group, keys, told_apart), []).append(group)
    norms = (
        len({group.key[keys.index("norm")] for group in probed})
        if "norm" in keys and told_apart != "norm"
        else 1
    )
    # with and without BatchNorm beside each other
    columns = norms if norms > 1 else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    picture = Picture(base, f"{what} over the layers", figure(4.2 * columns, 0.6 + 3.1 * rows))
    grid = picture.figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    names = {
        name: number
        for number, name in enumerate(
            dict.fromkeys(name_in(group, keys, told_apart) for group in probed)
        )
    }
    has_zeros = False
    for axes, (title, members) in zip(grid, panels.items(), strict=False):
        for group in members:
            style, name = (
                style_of(names[name_in(group, keys, told_apart)]),
                name_in(group, keys, told_apart),
            )
            steps = sorted(set.intersection(*({*result.probed(kind)} for result in group.results)))
            # a run that was given its probe on the way has none
            drawn = [(1, "-", "first step")] if steps[0] == 1 else []
            drawn += [(steps[-1], ":", "last record")] if steps[-1] > 1 else []
            for step, line, when in drawn:
                layers = np.array(
                    [list(result.probed(kind)[step].values()) for result in group.results],
                    dtype=float,
                )
                with np.errstate(divide="ignore"):
                    # (layers,), 0 where one of the seeds is
                    means = np.exp(np.log(layers).mean(0))
                values = np.where(means > 0, means, math.nan)
                has_zeros = has_zeros or not (means > 0).all()
                axes.plot(
                    range(1, len(values) + 1),
                    values,
                    line,
                    color=style["color"],
                    label=f"{name}, {when}",
                )
                if step == 1:
                    at = int(np.argmax(means > 0))
                    tip = f"{group.label}, first step: {means[0]:.2g} in the first layer, {means[-1]:.2g} in the last"
                    picture.point(
                        axes, at + 1, values[at], tip, color=style["color"], marker=style["marker"]
                    )
        axes.set(yscale="log", xlabel="layer, from the input", title=title or "all runs")
        axes.yaxis.set_major_formatter(Powers())
        axes.yaxis.set_minor_formatter(Powers(labelOnlyBase=False))
        axes.title.set_fontsize(9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel(what)
    handles, labels = grid[0].get_legend_handles_labels()
    remark = "a line begins where its values are no longer exactly 0" if has_zeros else None
    style = {"frameon": False, "fontsize": 8, "title_fontsize": 8}
    picture.figure.legend(
        handles, labels, loc="outside lower center", ncols=2, title=remark, **style
    )
    return picture


def name_in(group: Group, keys: Sequence[str], key: str | None) -> str:
    """The part of a group's name that tells of `key`."""
    return parts_of(keys, group.key)[keys.index(key)] if key is not None else "all"


def without(group: Group, keys: Sequence[str], key: str | None) -> str:
    """A group's name without that part."""
    return " ".join(
        part for name, part in zip(keys, parts_of(keys, group.key), strict=True) if name != key
    )


def makers(groups: Sequence[Group], keys: Sequence[str]) -> list[Maker]:
    """What makes a picture of each kind, where it was probed."""
    return [functools.partial(flow, groups, keys, kind) for kind in FLOWS]
