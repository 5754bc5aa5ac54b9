"""Group runs by what differs between them but for the seed; mean, deviation, interval of each.

Imports no torch.
"""

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from skiplab.config.keys import leaves
from skiplab.errors import UsageError
from skiplab.study.compare.results import RUN_KEYS, Result, is_share

# These keys stand first in a group's label, in this order.
PLAIN_KEYS = (
    "model.name",
    "block.name",
    "depth",
    "width",
    "norm",
    "shortcut",
    "optimizer.name",
    "optimizer.lr",
)
CONFIDENCE = 0.95
# It chooses what a run reports on; the numbers of its training are the same.
SPLIT = "evaluator.split"


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    The values of a share lie within 0 and 1, and so does their interval.
    """

    # These are the values of the keys that the groups differ in.
    key: tuple[Any, ...]
    label: str
    results: tuple[Result, ...]
    # These are the metric's values, one per run.
    values: tuple[float, ...]
    is_share: bool = False
    # Where runs of several settings are pooled, these are the means of each seed's runs.
    seed_means: tuple[float, ...] | None = None

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def replicates(self) -> tuple[float, ...]:
        """The values that only chance tells apart: one per seed."""
        return self.values if self.seed_means is None else self.seed_means

    @functools.cached_property
    def mean(self) -> float:
        return sum(self.values) / self.n

    @functools.cached_property
    def deviation(self) -> float | None:
        """The sample's standard deviation over seeds; None for one seed."""
        values = self.replicates
        if len(values) < 2:
            return None
        return math.sqrt(sum((v - self.mean) ** 2 for v in values) / (len(values) - 1))

    @functools.cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean over seeds, by Student's t; None for one seed."""
        if self.deviation is None:
            return None
        if self.deviation == 0:
            return self.mean, self.mean
        n = len(self.replicates)
        scale = self.deviation / math.sqrt(n)
        low, high = (self.mean + end * scale for end in student(n - 1))
        return (max(0.0, low), min(1.0, high)) if self.is_share else (low, high)

    def cost(self, name: str) -> float:
        """Return the mean of params, macs or seconds."""
        if name not in self._costs:
            self._costs[name] = sum(result.metric(name) for result in self.results) / self.n
        return self._costs[name]

    @functools.cached_property
    def _costs(self) -> dict[str, float]:
        return {}


@functools.cache
def student(freedom: int) -> tuple[float, float]:
    """Return the ends between which 95 % of Student's t lie."""
    low, high = stats.t.interval(CONFIDENCE, freedom)
    return float(low), float(high)


def partition(
    results: Sequence[Result], *, metric: str, by: Sequence[str] | None
) -> tuple[list[str], list[Group]]:
    """Return the keys that tell the groups apart, and the groups, in the order of their keys.

    `by` are keys by their full paths; None: what differs. Raises UsageError where a group would
    hold the same seed twice.
    """
    candidates = varying(results)
    keys = distinguishing(results, candidates) if by is None else list(by)
    held: dict[str, list[Result]] = {}
    for result in results:
        held.setdefault(json.dumps([result.values.get(key) for key in keys]), []).append(result)
    for members in held.values():
        check_seeds(members, keys, candidates)
    groups: list[Group] = []
    for members in held.values():
        members = sorted(members, key=lambda result: result.seed)
        values = tuple(result.metric(metric) for result in members)
        key = tuple(members[0].values.get(key) for key in keys)
        label = make_label(keys, key) + chosen_width(members, keys)
        groups.append(Group(key, label, tuple(members), values, is_share(metric)))
    groups.sort(key=lambda group: [sortable(value) for value in group.key])
    return keys, groups


def sortable(value: object) -> tuple[int, float, str]:
    """Return a sort key for values of any kind: null, then numbers, then texts."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, (int, float)):
        return 1, float(value), ""
    return 2, 0.0, value if isinstance(value, str) else json.dumps(value)


def distinguishing(results: Sequence[Result], keys: Sequence[str]) -> list[str]:
    """Return which of the keys that differ tell the runs apart, the plainest first.

    What follows from a choice is left out: a value that is the same wherever an option is (a
    block's bias follows from block.name, a data set's epochs from dataset.name), a width that was
    chosen to meet a budget, and the mean of one's own images, which follows from their size.
    """
    decoding = [key for key in keys if key in DECODING]
    keys = [key for key in keys if key not in MEASURED or not is_set_by(decoding, key, results)]
    if follows_from_budget(results, keys):
        keys = [key for key in keys if key != "width"]
    names = [key for key in keys if key.endswith(".name")]
    return [
        key
        for key in keys
        if key in names or not any(follows(key, name, results) for name in names)
    ]


# How images of one's own are decoded, and what is read from them then.
DECODING = ("dataset.size", "dataset.channels")
MEASURED = ("dataset.mean", "dataset.std")


def is_set_by(causes: Sequence[str], key: str, results: Sequence[Result]) -> bool:
    """Return whether a value is the same wherever the causes are, of which there are some."""
    found: dict[str, str] = {}
    for result in results:
        cause = json.dumps([result.values.get(name) for name in causes])
        value = json.dumps(result.values.get(key))
        if found.setdefault(cause, value) != value:
            return False
    return bool(causes)


def follows_from_budget(results: Sequence[Result], keys: Sequence[str]) -> bool:
    """Return whether each width was chosen to meet one budget, and so follows from other keys."""
    rest = [key for key in keys if key != "width"]
    if not rest or any(result.config.match == "none" for result in results):
        return False
    widths: dict[str, set[int]] = {}
    for result in results:
        others = json.dumps([result.values.get(key) for key in rest])
        widths.setdefault(others, set()).add(result.config.width)
    return all(len(each) == 1 for each in widths.values())


def varying(results: Sequence[Result]) -> list[str]:
    """Return the keys that change the numbers and differ between runs, the plainest first.

    The seed is none of them.
    """
    known = leaves()
    paths = {path for result in results for path in result.values} - {"seed", SPLIT}
    differing = [
        path
        for path in paths
        if (path in RUN_KEYS or known[path].metadata["changes_numbers"]) and differs(path, results)
    ]
    return sorted(differing, key=lambda path: (rank(path), path))


def differs(key: str, results: Sequence[Result]) -> bool:
    """Return whether a value is not the same in all runs.

    Most runs share the object, which is quicker to compare than its text.
    """
    first = results[0].values.get(key)
    others = [value for result in results if (value := result.values.get(key)) is not first]
    return bool(others) and len({json.dumps(value) for value in [first, *others]}) > 1


# An option's file also sets these keys at the root.
ROOT_KEYS = {"dataset": ("epochs", "batch_size"), "model": ("depth", "width", "init")}


def follows(key: str, name: str, results: Sequence[Result]) -> bool:
    """Return whether a value follows from an option.

    The option's file sets such a key, and it is the same in all runs with that option.
    """
    group = name.removesuffix(".name")
    if not key.startswith(f"{group}.") and key not in ROOT_KEYS.get(group, ()):
        return False
    found: dict[str | None, str] = {}
    return all(
        found.setdefault(result.values.get(name), value := json.dumps(result.values.get(key)))
        == value
        for result in results
    )


def rank(path: str) -> int:
    """Return where a key stands in a group's label."""
    if path in PLAIN_KEYS:
        return PLAIN_KEYS.index(path)
    return len(PLAIN_KEYS) + (not path.endswith(".name"))


def check_seeds(members: Sequence[Result], keys: Sequence[str], candidates: Sequence[str]) -> None:
    """Check that runs of one group differ in the seed alone; `candidates` differ between any runs.

    Raises UsageError if they do not, since --by has left a key out.
    """
    differing = [key for key in candidates if differs(key, members)]
    more = [key for key in distinguishing(members, differing) if key not in keys]
    if not more and len({result.seed for result in members}) == len(members):
        return
    given = ",".join(key.removesuffix(".name") for key in keys)
    missing = ",".join(key.removesuffix(".name") for key in more)
    raise UsageError(
        f"--by {given}: runs of one group differ in {missing}; add it: --by {given},{missing}"
    )


def make_label(keys: Sequence[str], values: Sequence[object]) -> str:
    """Return `block=residual depth=6`, or `all runs` where there are no keys."""
    return " ".join(label_parts(keys, values)) or "all runs"


def chosen_width(members: Sequence[Result], keys: Sequence[str]) -> str:
    """Return ` (width 38)` where a budget has chosen it, else nothing."""
    widths = {result.config.width for result in members if result.config.match != "none"}
    return f" (width {widths.pop()})" if len(widths) == 1 and "width" not in keys else ""


def label_parts(keys: Sequence[str], values: Sequence[object]) -> list[str]:
    """Return the parts of a group's label, one for each key."""
    return [
        f"{key.removesuffix('.name')}={format_value(value)}"
        for key, value in zip(keys, values, strict=True)
    ]


def format_value(value: object) -> str:
    """Return a value as a command line has it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, (tuple, list)):
        return ",".join(map(format_value, value))
    return str(value)


def numeric_keys(groups: Sequence[Group], keys: Sequence[str]) -> list[str]:
    """Return the keys that hold a number in every group."""

    def is_numeric(at: int) -> bool:
        values = [group.key[at] for group in groups]
        return all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
        )

    return [key for at, key in enumerate(keys) if is_numeric(at)]


def main_axis(groups: Sequence[Group], keys: Sequence[str]) -> str | None:
    """Return the key to draw along: depth, else width, else the first that holds numbers.

    None where no key does.
    """
    numeric = numeric_keys(groups, keys)
    for key in ("depth", "width"):
        if key in numeric:
            return key
    return numeric[0] if numeric else None


def lines_along(groups: Sequence[Group], keys: Sequence[str], x: str) -> dict[str, list[Group]]:
    """Return the groups that differ in `x` alone, in its order, by the label that they share."""
    at = keys.index(x)
    others = [key for key in keys if key != x]
    found: dict[str, list[Group]] = {}
    for group in groups:
        shared = [value for i, value in enumerate(group.key) if i != at]
        found.setdefault(make_label(others, shared), []).append(group)
    return {
        name: sorted(members, key=lambda group: sortable(group.key[at]))
        for name, members in found.items()
    }
