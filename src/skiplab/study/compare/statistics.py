"""Is a difference between two groups real? Over seeds by Student's t, over test images by McNemar and the bootstrap; in words.

The statistics are SciPy's. What is measured on few seeds and one test set has two sources of
chance, so a difference counts only if it stands against both.
"""

import itertools
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from skiplab.study.compare.groups import CONFIDENCE, Group, lines_along, main_axis, worded
from skiplab.study.compare.results import METRICS, is_share

# of the bootstrap
RESAMPLES = 10_000
# groups, above which only the best is compared with the others; up to which all pairs are told
MANY, FEW = 20, 8
# metrics that are means over images, whose predictions are stored
SPLITS = {"test.accuracy": "test", "val.accuracy": "val"}


@dataclass(frozen=True)
class Difference:
    """Group a against group b: the difference of their means, with intervals and p-values."""

    a: Group
    b: Group
    mean: float
    # pairs with the same seed, or the smaller group's size
    seeds: int
    is_paired: bool
    # 95 % interval; None of one seed
    over_seeds: tuple[float, float] | None
    # None without stored predictions
    over_images: tuple[float, float] | None
    # p of the test, over matched seeds
    mcnemar: float | None
    # the larger of both sources'
    p: float | None
    # for the number of comparisons
    corrected: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """What covers both."""
        known = [each for each in (self.over_seeds, self.over_images) if each is not None]
        return (min(low for low, _ in known), max(high for _, high in known)) if known else None

    @property
    def is_real(self) -> bool:
        """Whether the groups can be told apart, after correction."""
        interval = self.interval
        return (
            self.corrected is not None
            and self.corrected < 1 - CONFIDENCE
            and interval is not None
            and not interval[0] <= 0 <= interval[1]
        )


def differences(groups: Sequence[Group], keys: Sequence[str], *, metric: str) -> list[Difference]:
    """Every pair of groups (of many: those with the best, and the ends of each line along depth), as one family of comparisons.

    p-values are corrected for their number (Benjamini and Hochberg 1995).
    """
    if len(groups) <= MANY:
        return compared(list(itertools.combinations(groups, 2)), metric=metric)
    at = {id(group): number for number, group in enumerate(groups)}
    best = at[id(ranked(groups, metric)[0])]
    ends = [
        (at[id(members[0])], at[id(members[-1])]) for members in lines_of(groups, keys).values()
    ]
    told = {
        (min(pair), max(pair))
        for pair in [*((best, other) for other in range(len(groups)) if other != best), *ends]
    }
    return compared([(groups[a], groups[b]) for a, b in sorted(told)], metric=metric)


def compared(pairs: Sequence[tuple[Group, Group]], *, metric: str) -> list[Difference]:
    """The difference of each pair, its p-value corrected for their number."""
    found = [difference(a, b, metric=metric) for a, b in pairs]
    known = [each.p for each in found if each.p is not None]
    corrected = iter(stats.false_discovery_control(known) if known else [])
    return [
        Difference(
            **{**each.__dict__, "corrected": None if each.p is None else float(next(corrected))}
        )
        for each in found
    ]  # in the order of `known`


def difference(a: Group, b: Group, *, metric: str) -> Difference:
    """a - b: paired where both have the same seeds, else of the groups as they are, whose runs then share no seed's luck."""
    by_seed = {
        result.seed: (value, result) for value, result in zip(b.values, b.results, strict=True)
    }
    is_paired = {result.seed for result in a.results} == by_seed.keys()
    pairs = (
        [(v, r, *by_seed[r.seed]) for v, r in zip(a.values, a.results, strict=True)]
        if is_paired
        else []
    )
    first = [value for value, *_ in pairs] if is_paired else list(a.values)
    second = [value for _, _, value, _ in pairs] if is_paired else list(b.values)
    mean = statistics.fmean(first) - statistics.fmean(second)
    over_seeds, p_seeds = seed_test(first, second, is_paired=is_paired)
    # of two shares no difference is larger
    if over_seeds is not None and is_share(metric):
        over_seeds = max(-1.0, over_seeds[0]), min(1.0, over_seeds[1])
    over_images, mcnemar = None, None
    ps = [] if p_seeds is None else [p_seeds]
    if metric in SPLITS:
        if (answers := answers_of(a, b, split=SPLITS[metric])) is not None:
            mcnemar = mcnemar_test(answers.pairs)
            # each seed validates on images of its own
            over_images = answers.interval() if SPLITS[metric] == "test" else None
            ps.append(mcnemar)
        # one source of chance is unknown
        elif SPLITS[metric] == "test":
            ps.clear()
    return Difference(
        a,
        b,
        mean,
        min(len(first), len(second)),
        is_paired,
        over_seeds,
        over_images,
        mcnemar,
        max(ps) if ps else None,
    )


def seed_test(
    a: Sequence[float], b: Sequence[float], *, is_paired: bool
) -> tuple[tuple[float, float] | None, float | None]:
    """95 % interval of the mean difference and p, by the paired or Welch's t-test; none of one seed each.

    A single seed against several is held against their spread (Student's test, which supposes that
    both groups spread alike).
    """
    if max(len(a), len(b)) < 2:
        return None, None
    mean = statistics.fmean(a) - statistics.fmean(b)
    if is_paired and len({round(x - y, 12) for x, y in zip(a, b, strict=True)}) == 1:
        # no spread at all, from which t can say nothing
        return (mean, mean), None
    if not is_paired and len(set(a)) == len(set(b)) == 1:
        return (mean, mean), None
    with warnings.catch_warnings():
        # two runs of a group may be equal
        warnings.filterwarnings("ignore", message="Precision loss", category=RuntimeWarning)
        found: Any = (
            stats.ttest_rel(a, b)
            if is_paired
            else stats.ttest_ind(a, b, equal_var=min(len(a), len(b)) == 1)
        )
    interval = found.confidence_interval(CONFIDENCE)
    return (float(interval.low), float(interval.high)), float(found.pvalue)


# (N,) of a run: which images it got right
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """What the runs of two groups got right, and which run of one stands against which of the other."""

    a: list[Right]
    b: list[Right]
    pairs: list[tuple[Right, Right]]

    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean difference over test images, each image's answers of all seeds kept together."""
        # (N,)
        per_image = np.mean(self.a, axis=0) - np.mean(self.b, axis=0)
        if (per_image == per_image[0]).all():
            return float(per_image[0]), float(per_image[0])
        # few distinct values: how often each is drawn with replacement is multinomial, in a
        # hundredth of the time of drawing the images
        values, counts = np.unique(per_image, return_counts=True)
        shares = counts / len(per_image)
        drawn = (
            np.random.default_rng(0).multinomial(len(per_image), shares, size=RESAMPLES)
            @ values
            / len(per_image)
        )
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return float(low), float(high)


def answers_of(a: Group, b: Group, *, split: str) -> Answers | None:
    """The answers of two groups: of runs with the same seeds in pairs, else one after the other, the shorter group's again and again.

    All runs are tested on the same images, but validate on the same only with the same seed. None
    without stored predictions.
    """
    has_same_seeds = [result.seed for result in a.results] == [result.seed for result in b.results]
    first, second = (
        [right for result in group.results if (right := result.correct(split)) is not None]
        for group in (a, b)
    )
    is_whole = (
        len(first) == a.n
        and len(second) == b.n
        and len({len(right) for right in [*first, *second]}) == 1
    )
    if not is_whole or (split == "val" and not has_same_seeds):
        return None
    longer = max(len(first), len(second))
    return Answers(
        first, second, [(first[i % len(first)], second[i % len(second)]) for i in range(longer)]
    )


def mcnemar_test(pairs: Sequence[tuple[Right, Right]]) -> float:
    """p of McNemar's exact test on the images that just one of both got right; of several seeds twice the median.

    The seeds share their images, so their tests are dependent; twice the median of p-values is one
    whatever the dependence (Rueger 1978).
    """
    only_a, only_b = (
        np.array([int(np.count_nonzero(x & ~y)) for x, y in each])
        for each in (pairs, [(b, a) for a, b in pairs])
    )
    ps = sign_test(only_a, only_b)
    return ps[0] if len(ps) == 1 else min(1.0, 2 * statistics.median(ps))


def sign_test(ones: NDArray[np.int64], others: NDArray[np.int64]) -> list[float]:
    """p of the exact binomial test of a share of one half, for each pair of counts; all at once, for the many pairs of many seeds."""
    trials, fewer = ones + others, np.minimum(ones, others)
    ps = stats.binom.cdf(fewer, trials, 0.5) + stats.binom.sf(trials - fewer - 1, trials, 0.5)
    return np.where(ones == others, 1.0, np.minimum(ps, 1.0)).tolist()


# ------------------------------------------------------------------------------------------------------------------
# in words


def sentences(groups: Sequence[Group], found: Sequence[Difference], *, metric: str) -> list[str]:
    """What the differences come to: the best group against each other one, what cannot be told apart, and what to beware of."""
    name, _ = METRICS[metric]
    if len(groups) < 2:
        return [f"one group alone: {groups[0].label}; nothing to compare"]
    best, *others = ranked(groups, metric)
    lines: list[str] = []
    level: list[str] = []
    with_best = {
        id(each.b if each.a is best else each.a): [each]
        for each in found
        if best is each.a or best is each.b
    }
    for other in others:
        each = between(best, other, with_best[id(other)])
        if each.is_real:
            lines.append(
                f"{best.label} beats {other.label} by {in_units(abs(each.mean), metric)}{details(each, metric)}"
            )
        else:
            level.append(other.label)
    if level:
        reason = "" if best.n > 1 else ", from one seed"
        lines.insert(
            0, f"not distinguishable from the best, {best.label}{reason}: {'; '.join(level)}"
        )
    # all else equal
    rest = [
        each
        for each in found
        if best is not each.a and best is not each.b and differs_in_one(each.a, each.b)
    ]
    if len(groups) <= FEW:
        real = [
            each if (each.mean > 0) == METRICS[metric][1] else reverse(each)
            for each in rest
            if each.is_real
        ]
        lines += [
            f"{e.a.label} beats {e.b.label} by {in_units(abs(e.mean), metric)}{details(e, metric)}"
            for e in real
        ]
        level = [f"{each.a.label} and {each.b.label}" for each in rest if not each.is_real]
        lines += ["not distinguishable from each other: " + "; ".join(level)] if level else []
    if SPLITS.get(metric) == "test" and (
        lost := [r.folder for g in groups for r in g.results if r.correct("test") is None]
    ):
        told = f"{lost[0]}" + (f" and {len(lost) - 1} more" if len(lost) > 1 else "")
        lines.append(
            f"no predictions are stored in {told}: over the test images nothing can be told of it; skiplab evaluate shows its figures"
        )
    if any(group.n < 2 for group in groups):
        lines.append(
            "one seed in a group: no interval over seeds, so another seed may turn this round; give seed=0,1,2 or more"
        )
    elif any(group.n == 2 for group in groups):
        lines.append(
            "two seeds in a group: they say little of the spread, so that even a large difference may not show; give three or more"
        )
    if metric.startswith("test.") and len(groups) > 2:
        lines.append(
            f"beware: picking the best of {len(groups)} by its {name} makes that figure optimistic{validated(groups, best)}"
        )
    return lines


def lines_of(groups: Sequence[Group], keys: Sequence[str]) -> dict[str, list[Group]]:
    """The lines of at least two groups along the main axis; none without one."""
    x = main_axis(groups, keys) if groups else None
    along = {} if x is None else lines_along(groups, keys, x)
    return {name: members for name, members in along.items() if len(members) > 1}


def trends(
    groups: Sequence[Group], keys: Sequence[str], found: Sequence[Difference], *, metric: str
) -> list[str]:
    """What happens along depth (or width, or another number), with all else equal: from the least to the most, and where the best lies."""
    name, more_is_better = METRICS[metric]
    x = main_axis(groups, keys) if groups else None
    lines: list[str] = []
    for line, members in lines_of(groups, keys).items():
        assert x is not None
        each = between(members[-1], members[0], found)
        best = (max if more_is_better else min)(members, key=lambda group: group.mean)
        low, high = (group.key[keys.index(x)] for group in (each.b, each.a))
        ends = f"{bare(each.b.mean, metric)} to {bare(each.a.mean, metric)}{' %' if is_share(metric) else ''}"
        ends += f", by {in_units(abs(each.mean), metric)}" if each.is_real else ""
        how = ("rises" if each.mean > 0 else "falls") if each.is_real else "is not shown to change"
        reason = "; one seed cannot tell" if each.p is None and each.seeds < 2 else ""
        told = f"{line}: from {x}={worded(low)} to {worded(high)} {name} {how} ({ends}{details(each, metric)}{reason})"
        if best not in (each.a, each.b):
            told += (
                f"; its best is {bare(best.mean, metric)} at {x}={worded(best.key[keys.index(x)])}"
            )
        lines.append(told)
    return lines


def ranked(groups: Sequence[Group], metric: str) -> list[Group]:
    """The groups from the best to the worst by their means."""
    return sorted(groups, key=lambda group: group.mean, reverse=METRICS[metric][1])


def validated(groups: Sequence[Group], best: Group) -> str:
    """Which group validation would have picked."""
    if any(result.result.best_val_accuracy is None for group in groups for result in group.results):
        return ""
    picked = max(
        groups,
        key=lambda group: statistics.fmean(
            result.metric("val.accuracy") for result in group.results
        ),
    )
    return "; validation picks it too" if picked is best else f"; validation picks {picked.label}"


def differs_in_one(a: Group, b: Group) -> bool:
    """Whether just one of the keys tells the groups apart."""
    return sum(x != y for x, y in zip(a.key, b.key, strict=True)) == 1


def between(a: Group, b: Group, found: Sequence[Difference]) -> Difference:
    """a against b among the differences found."""
    each = next(each for each in found if {id(each.a), id(each.b)} == {id(a), id(b)})
    return each if each.a is a else reverse(each)


def reverse(each: Difference) -> Difference:
    """b against a."""

    def turned(interval: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if interval is None else (-interval[1], -interval[0])

    swapped = {"a": each.b, "b": each.a, "mean": -each.mean}
    return Difference(
        **{
            **each.__dict__,
            **swapped,
            "over_seeds": turned(each.over_seeds),
            "over_images": turned(each.over_images),
        }
    )


def details(each: Difference, metric: str) -> str:
    """`, 95 % interval 2.4 to 3.8, n = 3, p = 0.002 after correction`; the interval of a difference's size, where there is one."""
    words, interval = "", each.interval
    if interval is not None and each.is_real:
        low, high = interval if each.mean >= 0 else (-interval[1], -interval[0])
        words += f", 95 % interval {bare(low, metric)} to {bare(high, metric)}"
        words += " over the test images alone" if each.over_seeds is None else ""
    words += f", n = {each.seeds}" + ("" if each.is_paired or each.seeds < 2 else " unpaired")
    return words + (
        "" if each.corrected is None else f", p = {each.corrected:.2g} after correction"
    )


def bare(value: float, metric: str) -> str:
    """A value without its unit."""
    return f"{100 * value:.2f}" if is_share(metric) else f"{value:.4g}"


def in_units(value: float, metric: str) -> str:
    """A difference with its unit."""
    return (
        f"{bare(value, metric)} points"
        if is_share(metric)
        else bare(value, metric) + (" s" if metric.endswith("seconds") else "")
    )
