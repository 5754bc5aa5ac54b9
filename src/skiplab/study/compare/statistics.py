"""Test whether groups of runs differ: over seeds by Student's t, over test images by McNemar.

The statistics are SciPy's. A figure from few seeds and one test set has two sources of chance, so
a difference counts only if it stands against both.
"""

import itertools
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from skiplab.study.compare.groups import CONFIDENCE, Group, lines_along, main_axis
from skiplab.study.compare.results import METRICS, is_share

# The bootstrap draws the test images this many times.
RESAMPLES = 10_000
# Up to this many groups, all pairs are compared.
MOST_IN_ALL_PAIRS = 20
# These metrics are means over images of a split, and runs store their predictions of it.
SPLIT_OF = {"test.accuracy": "test", "val.accuracy": "val"}

# A 95 % interval is its low and its high end.
Interval = tuple[float, float]
# A run's row (N,) is true where it predicted an image rightly.
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Matched:
    """Pairs of runs with all else equal: how many there are, and in how many a is above b."""

    pairs: int
    above: int
    below: int


@dataclass(frozen=True)
class Difference:
    """Group a against group b: the difference of their means, with intervals and p-values."""

    a: Group
    b: Group
    mean: float
    # This counts pairs with the same seed, or else the runs of the smaller group.
    seeds: int
    is_paired: bool
    # It is None where both groups have one seed.
    over_seeds: Interval | None
    # It is None without stored predictions.
    over_images: Interval | None
    # McNemar's test over matched seeds gives this p.
    mcnemar: float | None
    # This is p over seeds: of the t-test on the seeds alone.
    p_seeds: float | None
    # This is p over images: McNemar's, or Student's where pairs are pooled.
    p_images: float | None
    # This is the larger p of both sources of chance; None where one of them is unknown.
    p: float | None
    # This is p, corrected for the number of comparisons.
    corrected: float | None = None
    # In how many matched pairs a is ahead; None where no pairs are pooled.
    matched: "Matched | None" = None

    @property
    def interval(self) -> Interval | None:
        """The smallest interval that covers both; None if neither is known."""
        known = [each for each in (self.over_seeds, self.over_images) if each is not None]
        if not known:
            return None
        return min(low for low, _ in known), max(high for _, high in known)

    @property
    def is_of_one_seed(self) -> bool:
        """Whether both groups have one seed, so that nothing is known of the spread over seeds."""
        return self.over_seeds is None

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
    """Compare every pair of groups, as one family of comparisons.

    Of more than MOST_IN_ALL_PAIRS groups, compare the best with each other one, and both ends of
    each line along the main axis. p-values are corrected for their number (Benjamini and Hochberg
    1995).
    """
    if len(groups) <= MOST_IN_ALL_PAIRS:
        return compare_pairs(list(itertools.combinations(groups, 2)), metric=metric)
    at = {id(group): number for number, group in enumerate(groups)}
    best = at[id(rank(groups, metric)[0])]
    lines = lines_of(groups, keys).values()
    ends = [(at[id(members[0])], at[id(members[-1])]) for members in lines]
    with_best = [(best, other) for other in range(len(groups)) if other != best]
    pairs = {(min(pair), max(pair)) for pair in [*with_best, *ends]}
    return compare_pairs([(groups[a], groups[b]) for a, b in sorted(pairs)], metric=metric)


def compare_pairs(pairs: Sequence[tuple[Group, Group]], *, metric: str) -> list[Difference]:
    """Compute the difference of each pair, with its p-value corrected for the number of pairs."""
    return correct([difference(a, b, metric=metric) for a, b in pairs])


def correct(found: Sequence[Difference]) -> list[Difference]:
    """Correct the p-values of differences for their number (Benjamini and Hochberg 1995)."""
    known = [each.p for each in found if each.p is not None]
    # In the order of `known`, which is that of `found`.
    corrected = iter(stats.false_discovery_control(known) if known else [])
    return [
        each if each.p is None else replace(each, corrected=float(next(corrected)))
        for each in found
    ]


def difference(a: Group, b: Group, *, metric: str) -> Difference:
    """Compute a - b: paired by seed where both groups have the same seeds, else unpaired."""
    value_of = {result.seed: value for value, result in zip(b.values, b.results, strict=True)}
    is_paired = {result.seed for result in a.results} == value_of.keys()
    first = list(a.values)
    second = [value_of[result.seed] for result in a.results] if is_paired else list(b.values)
    over_seeds, p_seeds = seed_test(first, second, is_paired=is_paired)
    if over_seeds is not None and is_share(metric):
        # Two shares differ by 1 at most.
        over_seeds = max(-1.0, over_seeds[0]), min(1.0, over_seeds[1])
    over_images, mcnemar = None, None
    ps = [] if p_seeds is None else [p_seeds]
    if metric in SPLIT_OF:
        split = SPLIT_OF[metric]
        answers = answers_of(a, b, split=split)
        if answers is not None:
            mcnemar = mcnemar_test(answers.pairs)
            # Each seed validates on images of its own, so only the test images give an interval.
            over_images = answers.interval() if split == "test" else None
            ps.append(mcnemar)
        elif split == "test":
            # One source of chance is unknown, so no p covers both.
            ps.clear()
    if over_seeds is None:
        # The other source is unknown: of one seed each, nothing is claimed.
        ps.clear()
    return Difference(
        a=a,
        b=b,
        mean=statistics.fmean(first) - statistics.fmean(second),
        seeds=min(len(first), len(second)),
        is_paired=is_paired,
        over_seeds=over_seeds,
        over_images=over_images,
        mcnemar=mcnemar,
        p_seeds=p_seeds,
        p_images=mcnemar,
        p=max(ps) if ps else None,
    )


def seed_test(
    a: Sequence[float], b: Sequence[float], *, is_paired: bool
) -> tuple[Interval | None, float | None]:
    """Return the 95 % interval of the mean difference, and p, by the paired or Welch's t-test.

    Both are None for one seed each. A single seed against several is held against their spread
    (Student's test, which assumes that both groups spread alike). Without any spread the interval
    is a point and p is None.
    """
    if max(len(a), len(b)) < 2:
        return None, None
    if is_paired:
        has_spread = len({round(x - y, 12) for x, y in zip(a, b, strict=True)}) > 1
    else:
        has_spread = len(set(a)) > 1 or len(set(b)) > 1
    if not has_spread:
        # t is undefined here.
        mean = statistics.fmean(a) - statistics.fmean(b)
        return (mean, mean), None
    with warnings.catch_warnings():
        # SciPy warns where two runs of a group are equal.
        warnings.filterwarnings("ignore", message="Precision loss", category=RuntimeWarning)
        # SciPy's result has attributes that its classes do not declare.
        found: Any
        if is_paired:
            found = stats.ttest_rel(a, b)
        else:
            found = stats.ttest_ind(a, b, equal_var=min(len(a), len(b)) == 1)
    interval = found.confidence_interval(CONFIDENCE)
    return (float(interval.low), float(interval.high)), float(found.pvalue)


@dataclass(frozen=True)
class Answers:
    """What the runs of two groups predicted rightly, and the pairs of runs to compare."""

    a: list[Right]
    b: list[Right]
    pairs: list[tuple[Right, Right]]

    def interval(self) -> Interval:
        """Return the 95 % bootstrap interval of the mean difference over test images.

        An image is drawn with the answers of all seeds.
        """
        # The shape is (N,).
        per_image = np.mean(self.a, axis=0) - np.mean(self.b, axis=0)
        if (per_image == per_image[0]).all():
            return float(per_image[0]), float(per_image[0])
        # There are few distinct values. How often each is drawn with replacement is multinomial,
        # which takes a hundredth of the time that drawing the images takes.
        values, counts = np.unique(per_image, return_counts=True)
        shares = counts / len(per_image)
        generator = np.random.default_rng(0)
        drawn = generator.multinomial(len(per_image), shares, size=RESAMPLES)
        means = drawn @ values / len(per_image)
        low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return float(low), float(high)


def answers_of(a: Group, b: Group, *, split: str) -> Answers | None:
    """Return the answers of two groups; None without stored predictions.

    Runs are paired by seed. If seeds differ, they are paired in order, and the shorter group is
    repeated. All runs are tested on the same images, but validate on the same images only with the
    same seed: None for `val` where the seeds differ.
    """
    has_same_seeds = [result.seed for result in a.results] == [result.seed for result in b.results]
    first, second = (
        [right for result in group.results if (right := result.correct(split)) is not None]
        for group in (a, b)
    )
    has_all = len(first) == a.n and len(second) == b.n
    if not has_all or len({len(right) for right in [*first, *second]}) != 1:
        return None
    if split == "val" and not has_same_seeds:
        return None
    longer = max(len(first), len(second))
    pairs = [(first[i % len(first)], second[i % len(second)]) for i in range(longer)]
    return Answers(first, second, pairs)


def mcnemar_test(pairs: Sequence[tuple[Right, Right]]) -> float:
    """Return p of McNemar's exact test on the images that just one of both predicted rightly.

    Seeds share their images, so their tests are dependent. For several seeds the result is twice
    the median of the p-values, itself a valid p-value under any dependence (Rueger 1978).
    """
    only_a = np.array([int(np.count_nonzero(x & ~y)) for x, y in pairs])
    only_b = np.array([int(np.count_nonzero(y & ~x)) for x, y in pairs])
    ps = sign_test(only_a, only_b)
    return ps[0] if len(ps) == 1 else min(1.0, 2 * statistics.median(ps))


def sign_test(ones: NDArray[np.int64], others: NDArray[np.int64]) -> list[float]:
    """Return p of the exact binomial test of a share of one half, for each pair of counts (N,).

    All pairs are computed at once, since many seeds give many pairs.
    """
    trials, fewer = ones + others, np.minimum(ones, others)
    ps = stats.binom.cdf(fewer, trials, 0.5) + stats.binom.sf(trials - fewer - 1, trials, 0.5)
    return np.where(ones == others, 1.0, np.minimum(ps, 1.0)).tolist()


def lines_of(groups: Sequence[Group], keys: Sequence[str]) -> dict[str, list[Group]]:
    """Return the lines of at least two groups along the main axis, by name; none without one."""
    x = main_axis(groups, keys) if groups else None
    along = {} if x is None else lines_along(groups, keys, x)
    return {name: members for name, members in along.items() if len(members) > 1}


def rank(groups: Sequence[Group], metric: str) -> list[Group]:
    """Sort the groups from the best to the worst mean."""
    return sorted(groups, key=lambda group: group.mean, reverse=METRICS[metric][1])


def between(a: Group, b: Group, found: Sequence[Difference]) -> Difference:
    """Return a against b, which is among the differences found."""
    each = next(each for each in found if {id(each.a), id(each.b)} == {id(a), id(b)})
    return each if each.a is a else reverse(each)


def reverse(each: Difference) -> Difference:
    """Return b against a."""

    def negate(interval: Interval | None) -> Interval | None:
        return None if interval is None else (-interval[1], -interval[0])

    matched = each.matched
    if matched is not None:
        matched = Matched(matched.pairs, above=matched.below, below=matched.above)
    return replace(
        each,
        a=each.b,
        b=each.a,
        mean=-each.mean,
        matched=matched,
        over_seeds=negate(each.over_seeds),
        over_images=negate(each.over_images),
    )
