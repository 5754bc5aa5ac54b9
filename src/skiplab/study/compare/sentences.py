"""Put the differences between groups into sentences: who beats whom, what happens along depth."""

import statistics
from collections.abc import Sequence

from skiplab.study.compare.groups import Group, format_value, main_axis
from skiplab.study.compare.results import METRICS, is_share
from skiplab.study.compare.statistics import (
    SPLIT_OF,
    Difference,
    between,
    lines_of,
    rank,
    reverse,
)

# Up to this many groups, every pair that differs in one key gets its words.
MOST_IN_PAIRS = 8


def sentences(groups: Sequence[Group], found: Sequence[Difference], *, metric: str) -> list[str]:
    """Say what the differences come to: the best group against each other one, then cautions."""
    if len(groups) < 2:
        return [f"one group alone: {groups[0].label}; nothing to compare"]
    best = rank(groups, metric)[0]
    lines = about_best(groups, found, metric=metric)
    if len(groups) <= MOST_IN_PAIRS:
        lines += about_others(best, found, metric=metric)
    return [*lines, *cautions(groups, best, metric=metric)]


def about_best(groups: Sequence[Group], found: Sequence[Difference], *, metric: str) -> list[str]:
    """Say which groups the best one beats, after those that it is not told apart from."""
    best, *others = rank(groups, metric)
    with_best = {
        id(each.b if each.a is best else each.a): [each]
        for each in found
        if best is each.a or best is each.b
    }
    against = [between(best, other, with_best[id(other)]) for other in others]
    lines = [victory(each, metric) for each in against if each.is_real]
    if level := [each.b.label for each in against if not each.is_real]:
        reason = "" if best.n > 1 else ", from one seed"
        first = f"not distinguishable from the best, {best.label}{reason}: {'; '.join(level)}"
        lines.insert(0, first)
    return lines


def about_others(best: Group, found: Sequence[Difference], *, metric: str) -> list[str]:
    """Say what is known of pairs without the best group that differ in one key."""
    pairs = [
        each
        for each in found
        if best is not each.a and best is not each.b and differs_in_one(each.a, each.b)
    ]
    lines = [
        victory(each if (each.mean > 0) == METRICS[metric][1] else reverse(each), metric)
        for each in pairs
        if each.is_real
    ]
    if level := [f"{each.a.label} and {each.b.label}" for each in pairs if not each.is_real]:
        lines.append("not distinguishable from each other: " + "; ".join(level))
    return lines


def victory(each: Difference, metric: str) -> str:
    """Say that group a beats group b, and by how much."""
    size = in_units(abs(each.mean), metric)
    return f"{each.a.label} beats {each.b.label} by {size}{details(each, metric)}"


def cautions(groups: Sequence[Group], best: Group, *, metric: str) -> list[str]:
    """Say what to beware of: missing predictions, few seeds, a choice by the test set."""
    lines: list[str] = []
    runs = [result for group in groups for result in group.results]
    is_tested = SPLIT_OF.get(metric) == "test"
    if is_tested and (lost := [run.folder for run in runs if run.correct("test") is None]):
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        lines.append(
            f"no predictions are stored in {lost[0]}{more}: over the test images nothing can be "
            "told of it; skiplab evaluate shows its figures"
        )
    if any(group.n < 2 for group in groups):
        lines.append(
            "one seed in a group: no interval over seeds, so another seed may turn this round; "
            "give seed=0,1,2 or more"
        )
    elif any(group.n == 2 for group in groups):
        lines.append(
            "two seeds in a group: they say little of the spread, so that even a large difference "
            "may not show; give three or more"
        )
    if metric.startswith("test.") and len(groups) > 2:
        name, _ = METRICS[metric]
        lines.append(
            f"beware: picking the best of {len(groups)} by its {name} makes that figure "
            f"optimistic{validation_choice(groups, best)}"
        )
    return lines


def validation_choice(groups: Sequence[Group], best: Group) -> str:
    """Say which group validation would have picked; nothing where a run has not validated."""
    results = [result for group in groups for result in group.results]
    if any(result.result.best_val_accuracy is None for result in results):
        return ""

    def validation(group: Group) -> float:
        return statistics.fmean(result.metric("val.accuracy") for result in group.results)

    picked = max(groups, key=validation)
    return "; validation picks it too" if picked is best else f"; validation picks {picked.label}"


def trends(
    groups: Sequence[Group], keys: Sequence[str], found: Sequence[Difference], *, metric: str
) -> list[str]:
    """Say what happens along depth (or width, or another number), with all else equal.

    Each line goes from the least to the most, and says where its best lies.
    """
    x = main_axis(groups, keys) if groups else None
    if x is None:
        return []
    return [
        trend(members, keys.index(x), found, metric=metric, line=line, x=x)
        for line, members in lines_of(groups, keys).items()
    ]


def trend(
    members: Sequence[Group],
    at: int,
    found: Sequence[Difference],
    *,
    metric: str,
    line: str,
    x: str,
) -> str:
    """Say what happens along one line, whose groups differ in the key `x`, number `at`, alone."""
    name, more_is_better = METRICS[metric]
    each = between(members[-1], members[0], found)
    direction = "rises" if each.mean > 0 else "falls"
    how = direction if each.is_real else "is not shown to change"
    percent = " %" if is_share(metric) else ""
    size = f", by {in_units(abs(each.mean), metric)}" if each.is_real else ""
    ends = f"{bare(each.b.mean, metric)} to {bare(each.a.mean, metric)}{percent}{size}"
    reason = "; one seed cannot tell" if each.p is None and each.seeds < 2 else ""
    low, high = (format_value(group.key[at]) for group in (each.b, each.a))
    sentence = (
        f"{line}: from {x}={low} to {high} {name} {how} ({ends}{details(each, metric)}{reason})"
    )
    best = (max if more_is_better else min)(members, key=lambda group: group.mean)
    if best not in (each.a, each.b):
        place = format_value(best.key[at])
        sentence += f"; its best is {bare(best.mean, metric)} at {x}={place}"
    return sentence


def differs_in_one(a: Group, b: Group) -> bool:
    """Return whether just one of the keys tells the groups apart."""
    return sum(x != y for x, y in zip(a.key, b.key, strict=True)) == 1


def details(each: Difference, metric: str) -> str:
    """Return `, 95 % interval 2.4 to 3.8, n = 3, p = 0.002 after correction`.

    The interval is that of the difference's size, and is left out where the difference is not
    real.
    """
    interval = each.interval
    words = ""
    if interval is not None and each.is_real:
        low, high = interval if each.mean >= 0 else (-interval[1], -interval[0])
        words += f", 95 % interval {bare(low, metric)} to {bare(high, metric)}"
        words += " over the test images alone" if each.over_seeds is None else ""
    words += f", n = {each.seeds}"
    words += "" if each.is_paired or each.seeds < 2 else " unpaired"
    words += "" if each.corrected is None else f", p = {each.corrected:.2g} after correction"
    return words


def bare(value: float, metric: str) -> str:
    """Format a value without its unit: a share in percent."""
    return f"{100 * value:.2f}" if is_share(metric) else f"{value:.4g}"


def in_units(value: float, metric: str) -> str:
    """Format a difference with its unit."""
    if is_share(metric):
        return f"{bare(value, metric)} points"
    return bare(value, metric) + (" s" if metric.endswith("seconds") else "")
