"""Draw what a probe has recorded in the runs of a study: groups over the layers."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from skiplab.runs import canvas, layers
from skiplab.runs.layers import FLOWS
from skiplab.study.compare.drawing import Picture, Styles
from skiplab.study.compare.groups import Group, label_parts

# The keys whose values share a panel, the first that the groups differ in.
TOLD_APART = ("block.name", "shortcut", "norm")


@canvas.plain()
def flow(groups: Sequence[Group], keys: Sequence[str], styles: Styles, kind: str) -> Picture | None:
    """Draw a figure of FLOWS over the layers, on a log axis; None where it was not probed.

    Plain and residual share a panel. Each is drawn at the first step and at the last record, as
    the geometric mean over seeds. What is exactly 0 in one seed is left out.
    """
    probed = [group for group in groups if probed_steps(group, kind)]
    if not probed:
        return None
    told_apart = next((key for key in TOLD_APART if key in keys), None)
    panels: dict[str, list[Group]] = {}
    for group in probed:
        panels.setdefault(without(group, keys, told_apart) or "all runs", []).append(group)
    lines = {
        title: [line_of(group, kind, styles, name_in(group, keys, told_apart)) for group in members]
        for title, members in panels.items()
    }
    columns = num_columns(probed, keys, told_apart, len(panels))
    made, drawn = layers.draw(lines, kind, columns=columns)
    picture = Picture(FLOWS[kind].name, f"{FLOWS[kind].axis} over the layers", made)
    for axes, title in zip(drawn, panels, strict=True):
        for group, line in zip(panels[title], lines[title], strict=True):
            # A run that was given its probe on the way has no record of the first step.
            if 1 in line.records:
                means = line.records[1]
                at = int(np.argmax(means > 0))
                tip = (
                    f"{group.label}, first step: {means[0]:.2g} in the first layer, "
                    f"{means[-1]:.2g} in the last"
                )
                place = (at + 1, float(means[at]) if means[at] > 0 else float("nan"))
                picture.point(axes, place, tip, style=styles.of(group))
    return picture


def line_of(group: Group, kind: str, styles: Styles, name: str) -> layers.Line:
    """Return a group's line: its means at the first step, where they were recorded, and last."""
    steps = probed_steps(group, kind)
    chosen = dict.fromkeys([*(step for step in steps[:1] if step == 1), steps[-1]])
    records = {step: means_of(group, kind, step) for step in chosen}
    return layers.Line(name, records, styles.of(group)["color"])


def means_of(group: Group, kind: str, step: int) -> NDArray[np.float64]:
    """Return the geometric mean over seeds at a step, (layers,); 0 where one seed has 0."""
    rows = [list(result.probed(kind)[step].values()) for result in group.results]
    with np.errstate(divide="ignore"):
        return np.exp(np.log(np.array(rows, dtype=float)).mean(0))


def num_columns(
    groups: Sequence[Group], keys: Sequence[str], told_apart: str | None, num_panels: int
) -> int:
    """Return how many panels stand next to each other: those with and without BatchNorm do."""
    if "norm" in keys and told_apart != "norm":
        at = keys.index("norm")
        norms = len({group.key[at] for group in groups})
        if norms > 1:
            return norms
    return min(2, num_panels)


def probed_steps(group: Group, kind: str) -> list[int]:
    """Return the steps that all runs of a group have recorded."""
    return sorted(set.intersection(*({*result.probed(kind)} for result in group.results)))


def name_in(group: Group, keys: Sequence[str], key: str | None) -> str:
    """Return the part of a group's label for `key`, of a block its name; empty for None."""
    if key is None:
        return ""
    return label_parts(keys, group.key)[keys.index(key)].removeprefix("block=")


def without(group: Group, keys: Sequence[str], key: str | None) -> str:
    """Return a group's label without the part for `key`."""
    parts = zip(keys, label_parts(keys, group.key), strict=True)
    return " ".join(part for name, part in parts if name != key)


def makers(
    groups: Sequence[Group], keys: Sequence[str], styles: Styles
) -> list[Callable[[], Picture | None]]:
    """Return the makers of a picture for each kind; one that was not probed makes None."""
    return [functools.partial(flow, groups, keys, styles, kind) for kind in FLOWS]
