"""Put the differences between groups into sentences: who beats whom, what happens along depth."""

import statistics
from collections.abc import Sequence

from skiplab.study.compare import more_seeds, reasons
from skiplab.study.compare.factorial import Effect
from skiplab.study.compare.groups import Group, format_value, main_axis
from skiplab.study.compare.reasons import Kind, bare, kind_of
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
# Of more groups that the best is ahead of without proof, one sentence says all.
MOST_WITH_REASON = 3
# One sentence names this many groups.
MOST_NAMED = 8
NO_CLAIM = "one seed each, so no claim"
TWO_SEEDS = (
    "two seeds prove a difference only where theirs agree within 16 % of it; give three or more"
)
# The line that begins so ends with a command to be copied.
COMMAND = "more seeds: "


def sentences(
    groups: Sequence[Group], found: Sequence[Difference], *, metric: str, of_pairs: bool = True
) -> list[str]:
    """Say what the differences come to: the best group against each other one, then cautions.

    With `of_pairs` and few groups, pairs without the best that differ in one key come between.
    """
    if len(groups) < 2:
        return [f"one group alone: {groups[0].label}; nothing to compare"]
    best = rank(groups, metric)[0]
    against, pairs = with_best(groups, found, metric=metric), others(best, found, metric=metric)
    lines = about_best(against, metric)
    if len(groups) > MOST_IN_PAIRS or not of_pairs:
        pairs = []
    lines += about_others(pairs, metric)
    cautioned = cautions(groups, best, metric=metric)
    # A sentence on two seeds that has said it is enough.
    is_said = any("two seeds prove it only if" in line for line in lines)
    return [*lines, *(line for line in cautioned if not (is_said and line == TWO_SEEDS))]


def of_matched(groups: Sequence[Group], found: Sequence[Difference], *, metric: str) -> list[str]:
    """Say what one key does over all settings of the others, in matched pairs."""
    return about_best(with_best(groups, found, metric=metric), metric) if len(groups) > 1 else []


def seeds_line(groups: Sequence[Group], found: Sequence[Difference], *, metric: str) -> list[str]:
    """Return the line with the command for more seeds; nothing where none are worth it."""
    if len(groups) < 2:
        return []
    pairs = with_best(groups, found, metric=metric)
    if len(groups) <= MOST_IN_PAIRS:
        pairs += others(pairs[0].a, found, metric=metric)
    found_wanted = [reasons.seeds_wanted(each, metric) for each in pairs]
    wanted = [number for number in found_wanted if number is not None]
    return [f"{COMMAND}{more_seeds.command(groups, max(wanted))}"] if wanted else []


def with_best(
    groups: Sequence[Group], found: Sequence[Difference], *, metric: str
) -> list[Difference]:
    """Return the best group against each other one, the nearest first."""
    best, *rest = rank(groups, metric)
    of_best = {
        id(each.b if each.a is best else each.a): [each]
        for each in found
        if best is each.a or best is each.b
    }
    return [between(best, other, of_best[id(other)]) for other in rest]


def others(best: Group, found: Sequence[Difference], *, metric: str) -> list[Difference]:
    """Return the pairs without the best group that differ in one key, the better one first."""
    return [
        each if (each.mean > 0) == METRICS[metric][1] else reverse(each)
        for each in found
        if best is not each.a and best is not each.b and differs_in_one(each.a, each.b)
    ]


def about_best(against: Sequence[Difference], metric: str) -> list[str]:
    """Say what the best group is to each other one: level, better, or ahead without proof."""
    best = against[0].a
    of_kind = {kind: [each for each in against if kind_of(each, metric) is kind] for kind in Kind}
    lines: list[str] = []
    if close := of_kind[Kind.CLOSE]:
        ends = listed([f"{value(each.b, metric)} ({gap(each, metric)})" for each in close], "; ")
        lines.append(f"too close to call: {value(best, metric)}, {ends}")
    if alone := of_kind[Kind.ONE_SEED]:
        lines.append(of_one_seed(alone, metric))
    ahead = of_kind[Kind.AHEAD]
    if len(ahead) > MOST_WITH_REASON:
        parts = [
            f"of {each.b.label} by {in_units(abs(each.mean), metric)}"
            + ("" if each.p is None else f" ({reasons.p_of(each)})")
            for each in ahead
        ]
        ends = listed(parts, ", ")
        lines.append(f"{best.label} is ahead, but chance cannot be excluded: {ends}")
        ahead = []
    lines += [
        victory(each, metric) if each.is_real else lead(each, metric)
        for each in against
        if each.is_real or each in ahead
    ]
    return lines


def about_others(pairs: Sequence[Difference], metric: str) -> list[str]:
    """Say what is known of pairs without the best group.

    Of one seed each nothing is said: the table shows it.
    """
    of_kind = {kind: [each for each in pairs if kind_of(each, metric) is kind] for kind in Kind}
    lines = [victory(each, metric) for each in of_kind[Kind.REAL]]
    lines += [lead(each, metric) for each in of_kind[Kind.AHEAD]]
    if close := of_kind[Kind.CLOSE]:
        ends = "; ".join(
            f"{value(each.a, metric)}, {value(each.b, metric)} ({gap(each, metric)})"
            for each in close
        )
        lines.append(f"too close to call: {ends}")
    return lines


# ---------------------------------------------------------------------------------------------
# a pair in words


def victory(each: Difference, metric: str) -> str:
    """Say that group a beats group b, and by how much."""
    return f"{each.a.label} beats {each.b.label}{by(each, metric)}{details(each, metric)}"


def lead(each: Difference, metric: str) -> str:
    """Say that group a is ahead of group b, and why that proves nothing."""
    ahead = f"{each.a.label} is ahead of {each.b.label}{by(each, metric)}"
    return f"{ahead}, {reasons.why(each, metric)}"


def by(each: Difference, metric: str) -> str:
    """Return ` by 9.10 points`, of matched pairs ` in 11 of 12 matched pairs, mean 9.10 points`."""
    size = in_units(abs(each.mean), metric)
    if each.matched is None:
        return f" by {size}"
    wins = each.matched.above if METRICS[metric][1] else each.matched.below
    return f" in {wins} of {each.matched.pairs} matched pairs, mean {size}"


def of_one_seed(against: Sequence[Difference], metric: str) -> str:
    """Say what one seed each shows of the best group and others."""
    parts = [
        (f"of {each.b.label}{by(each, metric)}" if each.mean else f"level with {each.b.label}")
        for each in against
    ]
    ends = listed(parts, ", ")
    where = "on these images" if metric.startswith("test.") else "in these runs"
    is_ahead = " ahead" if against[0].mean else ""
    return f"{against[0].a.label}{is_ahead} {ends} {where}; {NO_CLAIM}"


def listed(parts: Sequence[str], between: str) -> str:
    """Join parts; of many the first ones, and how many more there are."""
    if len(parts) <= MOST_NAMED:
        return between.join(parts)
    return between.join([*parts[:MOST_NAMED], f"and {len(parts) - MOST_NAMED} more"])


def value(group: Group, metric: str) -> str:
    """Return a group with its mean: `block=conv 98.71`."""
    return f"{group.label} {bare(group.mean, metric)}"


def gap(each: Difference, metric: str) -> str:
    """Return `difference 0.09, 95 % interval -0.30 to 0.48`."""
    words = f"difference {bare(abs(each.mean), metric)}"
    if each.interval is not None and each.interval[0] < each.interval[1]:
        low, high = ends_of(each)
        words += f", 95 % interval {bare(low, metric)} to {bare(high, metric)}"
    return words


def ends_of(each: Difference) -> tuple[float, float]:
    """Return the interval of a difference's size."""
    assert each.interval is not None
    low, high = each.interval
    return (low, high) if each.mean >= 0 else (-high, -low)


def details(each: Difference, metric: str) -> str:
    """Return `, 95 % interval 2.4 to 3.8, n = 3, p = 0.002 after correction` of what is real."""
    low, high = ends_of(each)
    words = f", 95 % interval {bare(low, metric)} to {bare(high, metric)}, n = {each.seeds}"
    words += " seeds" if each.matched is not None else ""
    words += "" if each.is_paired else " unpaired"
    return f"{words}, {reasons.p_of(each)}"


def in_units(value: float, metric: str) -> str:
    """Format a difference with its unit."""
    if is_share(metric):
        return f"{bare(value, metric)} points"
    return bare(value, metric) + (" s" if metric.endswith("seconds") else "")


# ---------------------------------------------------------------------------------------------
# cautions


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
    lines += few_seeds(groups)
    if metric.startswith("test.") and len(groups) > 2:
        name, _ = METRICS[metric]
        lines.append(
            f"beware: picking the best of {len(groups)} by its {name} makes that figure "
            f"optimistic{validation_choice(groups, best)}"
        )
    return lines


def few_seeds(groups: Sequence[Group]) -> list[str]:
    """Say what groups of one or two seeds cannot show. That all have one is said elsewhere."""
    counts = [len(group.replicates) for group in groups]
    if max(counts) == 1:
        return []
    if alone := [group.label for group, n in zip(groups, counts, strict=True) if n == 1]:
        more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
        return [f"one seed only in {alone[0]}{more}: the other groups' spread is taken for its own"]
    if 2 in counts:
        return [TWO_SEEDS]
    return []


def validation_choice(groups: Sequence[Group], best: Group) -> str:
    """Say which group validation would have picked; nothing where a run has not validated."""
    results = [result for group in groups for result in group.results]
    if any(result.result.best_val_accuracy is None for result in results):
        return ""

    def validation(group: Group) -> float:
        return statistics.fmean(result.metric("val.accuracy") for result in group.results)

    picked = max(groups, key=validation)
    return "; validation picks it too" if picked is best else f"; validation picks {picked.label}"


# ---------------------------------------------------------------------------------------------
# trends


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
        # Of two groups with pooled runs the first sentence has said it.
        if members[0].seed_means is None or len(members) > 2
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
    low, high = (format_value(group.key[at]) for group in (each.b, each.a))
    sentence = f"{line}: from {x}={low} to {high} {name} {course(each, metric)}"
    best = (max if more_is_better else min)(members, key=lambda group: group.mean)
    if best not in (each.a, each.b):
        place = format_value(best.key[at])
        sentence += f"; its best is {bare(best.mean, metric)} at {x}={place}"
    return sentence


def course(each: Difference, metric: str) -> str:
    """Return `falls (98.40 to 55.20 %, by 43.20 points, 95 % interval ...)`."""
    percent = " %" if is_share(metric) else ""
    ends = f"{bare(each.b.mean, metric)} to {bare(each.a.mean, metric)}{percent}"
    if each.mean == 0:
        return f"stays the same ({ends})"
    direction = "rises" if each.mean > 0 else "falls"
    size = f"by {in_units(abs(each.mean), metric)}"
    kind = kind_of(each, metric)
    if kind is Kind.REAL:
        return f"{direction} ({ends}, {size}{details(each, metric)})"
    if kind is Kind.ONE_SEED:
        return f"{direction} ({ends}, {size}; {NO_CLAIM})"
    if kind is Kind.CLOSE:
        return f"hardly changes ({ends}, {gap(each, metric)}): too close to call"
    return f"{direction} ({ends}, {size}), {reasons.why(each, metric)}"


def differs_in_one(a: Group, b: Group) -> bool:
    """Return whether just one of the keys tells the groups apart."""
    return sum(x != y for x, y in zip(a.key, b.key, strict=True)) == 1


# ---------------------------------------------------------------------------------------------
# effects


def about_effects(rows: Sequence[Effect], metric: str) -> list[str]:
    """Say which keys change what others do: the interactions that stand."""
    lines: list[str] = []
    for row in rows:
        if len(row.keys) == 1 or not row.is_real:
            continue
        first, *rest = [key.removesuffix(".name") for key in row.keys]
        how = "difference of differences" if len(rest) == 1 else "difference between such ones"
        lines.append(
            f"{first} x {' x '.join(rest)}: what {first} does depends on {' and '.join(rest)} "
            f"({how} up to {in_units(row.size, metric)}, p = {row.corrected:.2g} after correction)"
        )
    return lines
