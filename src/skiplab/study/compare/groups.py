"""Runs in groups: by what differs between them but for the seed; mean, deviation and interval of each group. Imports no torch."""

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from skiplab.config.keys import leaves
from skiplab.errors import UsageError
from skiplab.study.compare.results import OF_RUNS, Result, is_share

# in a group's name
FIRST = (
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
# what a run reports on: its numbers until then are the same
SPLIT = "evaluator.split"


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone; `values` of a share lie within 0 and 1, and so does their interval."""

    # the values of what the groups differ in
    key: tuple[Any, ...]
    label: str
    results: tuple[Result, ...]
    # of the metric, one a run
    values: tuple[float, ...]
    is_share: bool = False

    @property
    def n(self) -> int:
        return len(self.values)

    @functools.cached_property
    def mean(self) -> float:
        return sum(self.values) / self.n

    @functools.cached_property
    def deviation(self) -> float | None:
        """Of the sample, over seeds; None of one run."""
        return (
            None
            if self.n < 2
            else math.sqrt(sum((v - self.mean) ** 2 for v in self.values) / (self.n - 1))
        )

    @functools.cached_property
    def interval(self) -> tuple[float, float] | None:
        """Of the mean over seeds, 95 %, by Student's t; None of one run."""
        if self.deviation is None:
            return None
        if self.deviation == 0:
            return self.mean, self.mean
        scale = self.deviation / math.sqrt(self.n)
        low, high = (self.mean + end * scale for end in student(self.n - 1))
        return (max(0.0, low), min(1.0, high)) if self.is_share else (low, high)

    def cost(self, name: str) -> float:
        """The mean of params, macs or seconds."""
        if name not in self._costs:
            self._costs[name] = sum(result.metric(name) for result in self.results) / self.n
        return self._costs[name]

    @functools.cached_property
    def _costs(self) -> dict[str, float]:
        return {}


@functools.cache
def student(freedom: int) -> tuple[float, float]:
    """What 95 % of Student's t lie between."""
    low, high = stats.t.interval(CONFIDENCE, freedom)
    return float(low), float(high)


def partition(
    results: Sequence[Result], *, metric: str, by: Sequence[str] | None
) -> tuple[list[str], list[Group]]:
    """The keys that tell the groups apart, and the groups, in the order of their keys.

    `by` are keys by their full paths; None: what differs. Raises UsageError where a group would
    hold the same seed twice.
    """
    candidates = varying(results)
    keys = telling(results, candidates) if by is None else list(by)
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
        groups.append(
            Group(
                key,
                label(keys, key) + chosen_width(members, keys),
                tuple(members),
                values,
                is_share(metric),
            )
        )
    groups.sort(key=lambda group: [sortable(value) for value in group.key])
    return keys, groups


def sortable(value: Any) -> tuple[int, float, str]:
    """Values of any kind in an order: null, numbers, texts."""
    if value is None:
        return 0, 0.0, ""
    return (
        (1, float(value), "")
        if isinstance(value, (int, float))
        else (2, 0.0, value if isinstance(value, str) else json.dumps(value))
    )


def differing(results: Sequence[Result], candidates: Sequence[str] | None = None) -> list[str]:
    """The keys that tell these runs apart. `candidates`: what differs between some of them and others."""
    return telling(
        results,
        varying(results)
        if candidates is None
        else [key for key in candidates if differs(key, results)],
    )


def telling(results: Sequence[Result], keys: Sequence[str]) -> list[str]:
    """What tells runs apart that differ in more than the seed, the plainest first; what follows from a choice is left out.

    That is a value that is the same wherever an option is (a block's bias follows from block.name,
    a data set's epochs from dataset.name), and a width that was chosen to meet a budget.
    """
    rest = [key for key in keys if key != "width"]
    # chosen, if one budget was met
    if rest and all(result.config.match != "none" for result in results):
        of_rest: dict[str, set[int]] = {}
        for result in results:
            of_rest.setdefault(json.dumps([result.values.get(key) for key in rest]), set()).add(
                result.config.width
            )
        keys = rest if all(len(widths) == 1 for widths in of_rest.values()) else keys
    names = [key for key in keys if key.endswith(".name")]
    return [
        key
        for key in keys
        if key in names or not any(follows(key, name, results) for name in names)
    ]


def varying(results: Sequence[Result]) -> list[str]:
    """The keys that change the numbers and are not the same in all runs, but for the seed, the plainest first."""
    known = leaves()
    paths = {path for result in results for path in result.values} - {"seed", SPLIT}
    paths = {path for path in paths if path in OF_RUNS or known[path].metadata["changes_numbers"]}
    return sorted(
        filter(lambda path: differs(path, results), paths), key=lambda path: (rank(path), path)
    )


def differs(key: str, results: Sequence[Result]) -> bool:
    """Whether a value is not the same in all runs. Most runs share the object, which is quicker told than its text."""
    first = results[0].values.get(key)
    others = [value for result in results if (value := result.values.get(key)) is not first]
    return bool(others) and len({json.dumps(value) for value in [first, *others]}) > 1


# keys at the root that an option's file sets too
OWN = {"dataset": ("epochs", "batch_size"), "model": ("depth", "width", "init")}


def follows(key: str, name: str, results: Sequence[Result]) -> bool:
    """Whether a value comes with an option: a key that the option's file sets, and the same in all runs with that option."""
    group = name.removesuffix(".name")
    if not key.startswith(f"{group}.") and key not in OWN.get(group, ()):
        return False
    found: dict[str, str] = {}
    return all(
        found.setdefault(result.values[name], value := json.dumps(result.values.get(key))) == value
        for result in results
    )


def rank(path: str) -> int:
    """Where a key stands in a group's name."""
    return FIRST.index(path) if path in FIRST else len(FIRST) + (not path.endswith(".name"))


def check_seeds(members: Sequence[Result], keys: Sequence[str], candidates: Sequence[str]) -> None:
    """Raise UsageError if runs of one group differ in more than the seed: --by has left it out. `candidates`: what differs between any."""
    more = [key for key in differing(members, candidates) if key not in keys]
    if not more and len({result.seed for result in members}) == len(members):
        return
    given, missing = (",".join(key.removesuffix(".name") for key in each) for each in (keys, more))
    raise UsageError(
        f"--by {given}: runs of one group differ in {missing}; add it: --by {given},{missing}"
    )


def label(keys: Sequence[str], values: Sequence[Any]) -> str:
    """`block=residual depth=6`; of the whole set, `all runs`."""
    return " ".join(parts_of(keys, values)) or "all runs"


def chosen_width(members: Sequence[Result], keys: Sequence[str]) -> str:
    """` (width 38)`, where a budget has chosen it."""
    widths = {result.config.width for result in members if result.config.match != "none"}
    return f" (width {widths.pop()})" if len(widths) == 1 and "width" not in keys else ""


def parts_of(keys: Sequence[str], values: Sequence[Any]) -> list[str]:
    """The words of a group's name, one for each key."""
    return [
        f"{key.removesuffix('.name')}={worded(value)}"
        for key, value in zip(keys, values, strict=True)
    ]


def worded(value: Any) -> str:
    """A value as a command line has it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return (
        f"{value:.12g}"
        if isinstance(value, float)
        else ",".join(map(worded, value))
        if isinstance(value, (tuple, list))
        else str(value)
    )


def numeric_keys(groups: Sequence[Group], keys: Sequence[str]) -> list[str]:
    """The keys that hold a number in every group."""

    def is_numeric(key: str) -> bool:
        return all(
            isinstance(value := group.key[keys.index(key)], (int, float))
            and not isinstance(value, bool)
            for group in groups
        )

    return [key for key in keys if is_numeric(key)]


def main_axis(groups: Sequence[Group], keys: Sequence[str]) -> str | None:
    """The key to draw along: depth, else width, else the first that holds numbers; None where none does."""

    numeric = numeric_keys(groups, keys)
    return next(
        (key for key in ("depth", "width") if key in numeric), numeric[0] if numeric else None
    )


def lines_along(groups: Sequence[Group], keys: Sequence[str], x: str) -> dict[str, list[Group]]:
    """The groups that differ in `x` alone, in its order, by what they share."""
    at = keys.index(x)
    found: dict[str, list[Group]] = {}
    for group in groups:
        shared = [pair for i, pair in enumerate(zip(keys, group.key, strict=True)) if i != at]
        found.setdefault(
            label([key for key, _ in shared], [value for _, value in shared]), []
        ).append(group)
    return {
        name: sorted(members, key=lambda group: sortable(group.key[at]))
        for name, members in found.items()
    }
