"""Arrange runs for questions about single keys: matched pairs, and the complete part of a grid."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiplab.study.compare import factorial
from skiplab.study.compare.factorial import Effect
from skiplab.study.compare.groups import Group, make_label, partition, sortable
from skiplab.study.compare.results import Result, is_share
from skiplab.study.compare.statistics import (
    SPLIT_OF,
    Answers,
    Difference,
    Matched,
    correct,
    seed_test,
)
from skiplab.words import counted

# A cell's values of some keys, as JSON.
Cell = tuple[str, ...]


@dataclass(frozen=True)
class Pooled:
    """Groups over all settings of the other keys, with their differences and notes."""

    groups: list[Group]
    differences: list[Difference]
    notes: list[str]


@dataclass(frozen=True)
class Grid:
    """The effects of all keys on the complete part of a grid; without rows, why there are none."""

    rows: list[Effect]
    note: str


def values_of(result: Result, keys: Sequence[str]) -> Cell:
    """Return a run's values of some keys, as JSON."""
    return tuple(json.dumps(result.values.get(key)) for key in keys)


def in_order(cells: "set[Cell]") -> list[Cell]:
    """Sort cells as the groups of a comparison are."""
    return sorted(cells, key=lambda cell: [sortable(json.loads(value)) for value in cell])


# ---------------------------------------------------------------------------------------------
# matched pairs


def pool(
    results: Sequence[Result], *, by: Sequence[str], others: Sequence[str], metric: str
) -> Pooled | None:
    """Group runs by the keys `by` over all settings of the other keys, in matched pairs.

    A setting and a seed count where every group has a run of them. None where no two groups have
    one. Raises UsageError where runs with all values alike have the same seed.
    """
    # Two runs of one place are refused here.
    partition(results, metric=metric, by=[*by, *others])
    at = {
        (values_of(result, by), values_of(result, others), result.seed): result
        for result in results
    }
    levels = in_order({level for level, _, _ in at})
    settings = in_order({setting for _, setting, _ in at})
    seeds = sorted({result.seed for result in results})
    # Of equal shares the last axis loses: a setting rather than a seed, which is a replicate.
    present = np.array(
        [[[(a, b, seed) in at for b in settings] for seed in seeds] for a in levels], bool
    )
    kept = factorial.complete_part(present)
    if len(kept[0]) < 2:
        return None
    levels, settings = (
        [all_[i] for i in kept[axis]] for axis, all_ in ((0, levels), (2, settings))
    )
    seeds = [seeds[i] for i in kept[1]]
    groups = [
        group_of([[at[level, setting, seed] for seed in seeds] for setting in settings], by, metric)
        for level in levels
    ]
    notes = [
        f"matched pairs: {counted(len(settings), 'setting')} of {plain(others)}, each with "
        f"{counted(len(seeds), 'seed')}; the seeds are the replicates"
    ]
    used = {id(result) for group in groups for result in group.results}
    if left := [result for result in results if id(result) not in used]:
        notes.append(
            f"not pooled, since a partner with all else equal is missing: "
            f"{counted(len(left), 'run')} of {len(results)}, {left[0].folder} the first"
        )
    pairs = list(itertools.combinations(groups, 2))
    return Pooled(groups, correct([difference(a, b, metric=metric) for a, b in pairs]), notes)


def plain(keys: Sequence[str]) -> str:
    """Return keys as a command line has them: `depth, width`."""
    return ", ".join(key.removesuffix(".name") for key in keys)


def group_of(rows: Sequence[Sequence[Result]], by: Sequence[str], metric: str) -> Group:
    """Make a group of runs: a row of seeds for each setting."""
    runs = [result for row in rows for result in row]
    values = np.array([[result.metric(metric) for result in row] for row in rows])
    key: tuple[Any, ...] = tuple(runs[0].values.get(name) for name in by)
    return Group(
        key,
        make_label(by, key),
        tuple(runs),
        tuple(values.ravel().tolist()),
        is_share(metric),
        tuple(values.mean(0).tolist()),
    )


def difference(a: Group, b: Group, *, metric: str) -> Difference:
    """Compute a - b over matched pairs: by the t-test on each seed's mean difference.

    The test images count by the t-test, and by the bootstrap, of each image's mean difference.
    """
    over_seeds, p_seeds = seed_test(a.replicates, b.replicates, is_paired=True)
    over_images, p_images = None, None
    ps = [] if p_seeds is None else [p_seeds]
    if SPLIT_OF.get(metric) == "test":
        answers = answers_of(a, b)
        if answers is None:
            ps.clear()
        else:
            over_images = answers.interval()
            gap = np.mean(answers.a, axis=0) - np.mean(answers.b, axis=0)
            p_images = factorial.hotelling(gap[None])
            ps.append(p_images)
    above = sum(x > y for x, y in zip(a.values, b.values, strict=True))
    below = sum(x < y for x, y in zip(a.values, b.values, strict=True))
    return Difference(
        a=a,
        b=b,
        mean=a.mean - b.mean,
        seeds=len(a.replicates),
        is_paired=True,
        over_seeds=over_seeds,
        over_images=over_images,
        mcnemar=None,
        p_seeds=p_seeds,
        p_images=p_images,
        p=None if over_seeds is None or not ps else max(ps),
        matched=Matched(len(a.values), above=above, below=below),
    )


def answers_of(a: Group, b: Group) -> Answers | None:
    """Return what both groups predicted rightly of the test images; None where runs lack it."""
    first, second = (
        [right for result in group.results if (right := result.correct("test")) is not None]
        for group in (a, b)
    )
    is_whole = len(first) == a.n and len(second) == b.n
    if not is_whole or len({len(right) for right in [*first, *second]}) != 1:
        return None
    return Answers(first, second, [])


# ---------------------------------------------------------------------------------------------
# effects of all keys


def effects(results: Sequence[Result], keys: Sequence[str], *, metric: str) -> Grid | None:
    """Test the effects of all keys on the complete part of their grid; None for less than two keys.

    Values of keys, and seeds, that are not there with all others are left out, and named.
    """
    if len(keys) < 2:
        return None
    levels = [in_order({values_of(result, [key]) for result in results}) for key in keys]
    seeds = sorted({result.seed for result in results})
    at = {(*values_of(result, keys), result.seed): result for result in results}
    shape = [*map(len, levels), len(seeds)]
    if math.prod(shape) > factorial.MOST_CELLS:
        return Grid([], no_grid(keys))
    names = [[level[0] for level in of_key] for of_key in levels]
    places = np.array(list(itertools.product(*map(range, shape))))
    wanted = [
        (*(names[axis][i] for axis, i in enumerate(place[:-1])), seeds[place[-1]])
        for place in places
    ]
    present = np.array([place in at for place in wanted], bool).reshape(shape)
    kept = factorial.complete_part(present)
    varied = [axis for axis in range(len(keys)) if len(kept[axis]) > 1]
    if len(varied) < 2:
        return Grid([], no_grid(keys))
    index = np.arange(len(wanted)).reshape(shape)[np.ix_(*kept)]
    runs = [at[wanted[i]] for i in index.ravel()]
    inner = [len(kept[axis]) for axis in varied]
    values = np.array([run.metric(metric) for run in runs]).reshape(*inner, -1)
    is_tested = SPLIT_OF.get(metric) == "test"
    right = shares_right(runs, inner, len(kept[-1])) if is_tested else None
    rows = factorial.effects(
        values, [keys[axis] for axis in varied], right=right, is_tested=is_tested
    )
    if is_share(metric):
        rows = [within_shares(row) for row in rows]
    sizes = " x ".join(f"{len(kept[axis])} {plain([keys[axis]])}" for axis in varied)
    note = f"a grid of {sizes}, each cell with {counted(len(kept[-1]), 'seed')}"
    note += ", so nothing is tested" if len(kept[-1]) == 1 else ""
    if len(runs) < len(results):
        note += f"; {counted(len(results) - len(runs), 'run')} of {len(results)} left out, "
        note += f"since others are missing: {left_out(keys, names, seeds, kept)}"
    return Grid(rows, note)


def within_shares(row: Effect) -> Effect:
    """Cut an effect's interval where shares end: two differ by 1, two differences by 2 at most."""
    if row.interval is None:
        return row
    most = 2.0 ** (len(row.keys) - 1)
    low, high = row.interval
    return replace(row, interval=(max(-most, low), min(most, high)))


def no_grid(keys: Sequence[str]) -> str:
    """Say why there is no table."""
    return (
        f"no effects of single keys: the runs hold no complete grid of two values each "
        f"of {plain(keys)}"
    )


def left_out(
    keys: Sequence[str],
    names: Sequence[Sequence[str]],
    seeds: Sequence[int],
    kept: Sequence[Sequence[int]],
) -> str:
    """Return which values were left out of a grid: `depth=18, seed=3,4`."""
    axes = [
        (plain([key]), [json.loads(name) for name in of_key])
        for key, of_key in zip(keys, names, strict=True)
    ]
    parts: list[str] = []
    for (name, values), stay in zip([*axes, ("seed", list(seeds))], kept, strict=True):
        gone = [values[i] for i in range(len(values)) if i not in stay]
        if gone:
            parts.append(make_label([name], [gone if len(gone) > 1 else gone[0]]))
    return ", ".join(parts)


def shares_right(
    runs: Sequence[Result], inner: Sequence[int], seeds: int
) -> NDArray[np.float64] | None:
    """Return for each cell the share of seeds that predicted each test image rightly.

    The shape is that of the keys and then the images. None where a run lacks its predictions.
    """
    cells: list[NDArray[np.float64]] = []
    for start in range(0, len(runs), seeds):
        answers = [run.correct("test") for run in runs[start : start + seeds]]
        known = [right for right in answers if right is not None]
        if len(known) < seeds:
            return None
        cells.append(np.mean(known, axis=0))
    if len({len(cell) for cell in cells}) != 1:
        return None
    return np.array(cells).reshape(*inner, -1)
