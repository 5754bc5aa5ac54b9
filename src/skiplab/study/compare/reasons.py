"""Judge a difference: proved, too close to call, or ahead without proof, and why."""

import statistics
from enum import Enum

from skiplab.study.compare import more_seeds, power
from skiplab.study.compare.groups import CONFIDENCE
from skiplab.study.compare.results import is_share
from skiplab.study.compare.statistics import Difference

# Means that are further apart are never called close, whatever their interval: a share of one
# point, of other metrics a part of the larger.
CLOSE_SHARE, CLOSE_PART = 0.01, 0.05
# Up to so many seeds a sentence says what they can show at all.
FEW = 3


class Kind(Enum):
    """What can be said of a difference."""

    REAL = "stands against both sources of chance"
    ONE_SEED = "one seed each: of the spread over seeds nothing is known"
    CLOSE = "small, and not large against its uncertainty"
    AHEAD = "can be seen, and is not proved"


def kind_of(each: Difference, metric: str) -> Kind:
    """Judge a difference, so that the words agree with what the eye sees in the table."""
    if each.is_real:
        return Kind.REAL
    interval = each.interval
    if each.is_of_one_seed or interval is None:
        return Kind.ONE_SEED
    half = (interval[1] - interval[0]) / 2
    larger = max(abs(each.a.mean), abs(each.b.mean))
    visible = CLOSE_SHARE if is_share(metric) else CLOSE_PART * larger
    is_uncertain = abs(each.mean) <= half / 2 or (each.p is not None and each.p >= 0.5)
    # Means of equal values may differ by rounding.
    is_close = is_uncertain and abs(each.mean) < visible
    return Kind.CLOSE if is_close or abs(each.mean) < 1e-12 else Kind.AHEAD


def why(each: Difference, metric: str) -> str:
    """Say why a difference that can be seen is not proved, and what would probably decide it."""
    if each.p is None:
        return "but predictions of the test images are missing, so chance cannot be excluded"
    seeds = seeds_of(each)
    fails = "these test images"
    if fails_over_seeds(each):
        fails = f"{seeds} and {fails}" if fails_over_images(each) else seeds
    text = f"but {fails} cannot exclude chance ({p_of(each)})"
    if not each.is_paired:
        return f"{text}; the same seeds in both would show more"
    if fails_over_images(each) or not fails_over_seeds(each):
        return text
    if each.seeds <= FEW:
        limit = power.largest_deviation(each.mean, seeds=each.seeds, level=level_of(each))
        have = statistics.stdev(gaps(each))
        text += (
            f": {seeds} prove it only if their differences deviate by less than "
            f"{bare(limit, metric)}, and they do by {bare(have, metric)}"
        )
    return text + outlook(each)


def outlook(each: Difference) -> str:
    """Say which more seeds would probably decide a paired difference."""
    more, chance = power.seeds_to_decide(gaps(each), level=level_of(each))
    if more is not None:
        seeds = more_seeds.named(more_seeds.fresh_seeds([each.a, each.b], more))
        return f"; {seeds} would probably decide it ({100 * chance:.0f} %)"
    if chance < 0.5:
        total = more_seeds.in_words(each.seeds + power.MOST_MORE)
        return f"; even {total} would probably not decide it"
    return ""


def seeds_wanted(each: Difference, metric: str) -> int | None:
    """Return how many seeds more than both groups have would help to decide a difference.

    It is 0 where one group lacks seeds of the other, and None where no seeds help.
    """
    kind = kind_of(each, metric)
    if kind is Kind.REAL:
        return None
    seeds = {result.seed for group in (each.a, each.b) for result in group.results}
    fewest = max(0, FEW - len(seeds))
    if not each.is_paired:
        return fewest
    is_of_seeds = fails_over_seeds(each) and not fails_over_images(each)
    if kind is not Kind.AHEAD or each.p is None or not is_of_seeds:
        return fewest or None
    more, _ = power.seeds_to_decide(gaps(each), level=level_of(each))
    return max(fewest, more or 0) or None


def gaps(each: Difference) -> list[float]:
    """Return the difference of each seed, of a paired difference."""
    if each.matched is not None:
        return [x - y for x, y in zip(each.a.replicates, each.b.replicates, strict=True)]
    other = {
        result.seed: value for result, value in zip(each.b.results, each.b.values, strict=True)
    }
    pairs = zip(each.a.results, each.a.values, strict=True)
    return [value - other[result.seed] for result, value in pairs]


def level_of(each: Difference) -> float:
    """Return the p that a difference has to reach before it is corrected.

    The correction's factor is the one that it has now.
    """
    if not each.p or each.corrected is None:
        return 1 - CONFIDENCE
    return (1 - CONFIDENCE) * each.p / each.corrected


def fails_over_seeds(each: Difference) -> bool:
    """Return whether the seeds alone leave it open."""
    return fails(each, each.p_seeds, each.over_seeds)


def fails_over_images(each: Difference) -> bool:
    """Return whether the test images alone leave it open."""
    return fails(each, each.p_images, each.over_images)


def fails(each: Difference, p: float | None, interval: tuple[float, float] | None) -> bool:
    """Return whether one source of chance leaves a difference open."""
    includes_none = interval is not None and interval[0] <= 0 <= interval[1]
    return includes_none or (p is not None and p >= level_of(each))


def seeds_of(each: Difference) -> str:
    """Return the seeds of a difference in words: `three seeds`, `one seed against five`."""
    if each.is_paired:
        return more_seeds.in_words(each.seeds)
    a, b = (len(group.replicates) for group in (each.a, each.b))
    return f"{more_seeds.in_words(a)} against {more_seeds.in_words(b).split()[0]}"


def p_of(each: Difference) -> str:
    """Return `p = 0.057`, and that it is corrected, where that changes it."""
    assert each.p is not None
    assert each.corrected is not None
    words = f"p = {each.corrected:.2g}"
    return words if each.corrected <= each.p * (1 + 1e-9) else f"{words} after correction"


def bare(value: float, metric: str) -> str:
    """Format a value without its unit: a share in percent."""
    # Adding 0 turns -0 into 0.
    return f"{round(100 * value, 2) + 0:.2f}" if is_share(metric) else f"{value + 0:.4g}"
