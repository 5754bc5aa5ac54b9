"""Effects of a grid's keys: against SciPy's tests, against designs by hand, and by simulation."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from skiplab.study.compare import factorial, power

Grid = NDArray[np.float64]


def by_name(rows: Sequence[factorial.Effect]) -> dict[str, factorial.Effect]:
    return {"x".join(row.keys): row for row in rows}


def one_sample(values: Any) -> Any:
    """SciPy's t-test against 0, whose result has attributes that its classes do not declare."""
    return stats.ttest_1samp(values, 0)


def test_a_key_of_two_values_is_the_paired_t_test_on_the_means_of_seeds() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 2, 5))
    found = by_name(factorial.effects(values, ["a", "b", "c"]))
    assert list(found) == ["a", "b", "c", "axb", "axc", "bxc", "axbxc"]
    first, second = values.mean((1, 2))
    expected: Any = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    row = found["a"]
    assert row.p_seeds == pytest.approx(expected.pvalue)
    assert row.size == pytest.approx(abs((first - second).mean()))
    assert row.interval is not None
    assert sorted(map(abs, row.interval)) == pytest.approx(sorted(map(abs, interval)))
    # An interaction of two values each is the t-test on the differences of differences.
    inner = values.mean(1)
    gaps = inner[0, 0] - inner[1, 0] - inner[0, 1] + inner[1, 1]
    assert found["axc"].p_seeds == pytest.approx(one_sample(gaps).pvalue)
    assert found["axc"].size == pytest.approx(abs(gaps.mean()))


def test_a_key_of_three_values_is_the_anova_with_repeated_measures() -> None:
    """Sums of squares by hand; epsilon by Greenhouse and Geisser's formula of the covariances."""
    values = np.random.default_rng(1).normal(size=(3, 2, 6)) + np.arange(3)[:, None, None]
    row = by_name(factorial.effects(values, ["a", "b"]))["a"]
    table = values.mean(1)
    levels, seeds = table.shape
    of_levels, of_seeds, grand = table.mean(1), table.mean(0), table.mean()
    effect = seeds * ((of_levels - grand) ** 2).sum() / (levels - 1)
    rest = table - of_levels[:, None] - of_seeds[None] + grand
    error = (rest**2).sum() / ((levels - 1) * (seeds - 1))
    s = np.cov(table)
    top = (levels * (np.trace(s) / levels - s.mean())) ** 2
    bottom = (s**2).sum() - 2 * levels * (s.mean(1) ** 2).sum() + levels**2 * s.mean() ** 2
    epsilon = top / ((levels - 1) * bottom)
    assert row.epsilon == pytest.approx(epsilon)
    assert (row.freedom, row.error_freedom) == (2, 10)
    assert row.p_seeds == pytest.approx(
        stats.f.sf(effect / error, 2 * epsilon, 10 * epsilon), rel=1e-9
    )
    assert row.size == pytest.approx(np.ptp(of_levels))


def test_effects_stand_against_the_test_images_too() -> None:
    """Seeds that agree to the image cannot vouch for other images."""
    right = np.zeros((2, 2, 400))
    right[..., :200] = 1
    # The first key turns four images, the second a hundred.
    right[1, :, 200:204] += 1
    right[:, 1, 210:310] += 1
    values = np.repeat(right.mean(-1)[..., None], 3, -1)
    values += np.random.default_rng(0).normal(0, 1e-4, values.shape)
    found = by_name(factorial.effects(values, ["a", "b"], right=right, is_tested=True))
    for name, images in (("a", 4), ("b", 100)):
        gap = np.zeros(400)
        gap[:images] = 1
        z = gap.mean() / (gap.std(ddof=1) / 20)
        row = found[name]
        assert row.p_images == pytest.approx(2 * stats.t.sf(z, 399))
        assert row.p_seeds is not None
        assert row.p_images is not None
        assert row.p == max(row.p_seeds, row.p_images)
    assert found["axb"].p_images == 1.0
    # A missing prediction leaves one source unknown.
    missing = factorial.effects(values, ["a", "b"], right=None, is_tested=True)
    assert [row.p for row in missing] == [None, None, None]


def test_images_count_by_hotellings_test() -> None:
    """Three values give two contrasts: by the formula, and right in 5 % of draws without effect."""
    generator = np.random.default_rng(0)
    scores = generator.normal(0.1, 1, (2, 40))
    mean, covariance = scores.mean(1), np.cov(scores)
    squared = 40 * mean @ np.linalg.inv(covariance) @ mean
    assert factorial.hotelling(scores) == pytest.approx(stats.f.sf(squared * 38 / (2 * 39), 2, 38))
    ps = [factorial.hotelling(generator.normal(size=(2, 40))) for _ in range(400)]
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=0.03)
    # A contrast that repeats another adds nothing.
    assert factorial.hotelling(scores[[0, 0]]) == pytest.approx(one_sample(scores[0]).pvalue)


def test_one_seed_and_no_variation_give_sizes_without_p() -> None:
    values = np.arange(4.0).reshape(2, 2, 1)
    for each in (values, values.repeat(3, -1)):
        rows = factorial.effects(each, ["a", "b"])
        assert [row.size for row in rows] == [2.0, 1.0, 0.0]
        assert [row.p for row in rows] == [None, None, None]


def test_the_complete_part_leaves_out_what_misses_most() -> None:
    present = np.ones((2, 3, 5), bool)
    assert factorial.complete_part(present) == [[0, 1], [0, 1, 2], [0, 1, 2, 3, 4]]
    # One value of the second key was run with one value of the first only.
    present[0, 2] = False
    # The last seed was run once.
    present[:, :, 4] = False
    present[0, 0, 4] = True
    assert factorial.complete_part(present) == [[0, 1], [0, 1], [0, 1, 2, 3]]
    assert factorial.complete_part(np.zeros((2, 2), bool)) == [[], []]


def test_more_seeds_are_proposed_by_predictive_power() -> None:
    """Against a simulation with SciPy's test."""
    differences = [0.30, 0.25, 0.10]
    generator = np.random.default_rng(5)
    found = power.predictive_power(differences)
    mean, deviation = np.mean(differences), np.std(differences, ddof=1)
    scales = deviation * np.sqrt(2 / generator.chisquare(2, 2_000))
    centres = generator.normal(mean, scales / np.sqrt(3))
    new = generator.normal(centres, scales, (3, 2_000))
    result: Any = stats.ttest_1samp(np.vstack([np.tile(differences, (2_000, 1)).T, new]), 0)
    wins = np.mean((result.pvalue < 0.05) & (result.statistic > 0))
    assert found[2] == pytest.approx(wins, abs=0.04)
    assert power.seeds_to_decide([0.3, 0.29, 0.31], level=0.05)[0] == 1
    more, chance = power.seeds_to_decide([0.3, -0.2, 0.1], level=0.05)
    assert more is None
    assert chance < 0.5


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_what_few_seeds_can_show_at_all(seeds: int) -> None:
    """At the largest deviation the t-test's p is just the level."""
    limit = power.largest_deviation(0.2, seeds=seeds, level=0.05)
    shape = stats.zscore(np.arange(float(seeds)), ddof=1)
    assert one_sample(0.2 + limit * shape).pvalue == pytest.approx(0.05)
    assert power.largest_deviation(0.2, seeds=1, level=0.05) == 0


# ---------------------------------------------------------------------------------------------
# size and power


def grids(kind: str, shape: Sequence[int], seeds: int, runs: int) -> NDArray[np.float64]:
    """Draw accuracies without any effect: (runs, *shape, seeds)."""
    generator = np.random.default_rng(list(map(ord, kind)) + [*shape, seeds])
    full = (runs, *shape, seeds)
    noise = generator.normal(size=full)
    # All runs of a seed share its split.
    values = noise + generator.normal(size=(runs, *(1 for _ in shape), seeds))
    if kind == "unequal":
        # Deep plain networks vary ten times as much as others.
        values[:, 0] += 10 * generator.normal(size=full)[:, 0]
    if kind == "seed by key":
        # A seed may suit one value of the first key, at every value of the others.
        values += 3 * generator.normal(size=(runs, shape[0], *(1 for _ in shape[1:]), seeds))
    if kind == "skewed":
        # One run in five fails to train.
        values -= 10 * (generator.random(full) < 0.2)
    return values


def rejected(values: NDArray[np.float64], keys: Sequence[str]) -> dict[str, float]:
    """Return the share of simulated grids in which each effect has p < 0.05, before correction."""
    counts: dict[str, int] = {}
    for grid in values:
        for row in factorial.effects(grid, keys):
            assert row.p_seeds is not None
            name = "x".join(row.keys)
            counts[name] = counts.get(name, 0) + (row.p_seeds < 0.05)
    return {name: count / len(values) for name, count in counts.items()}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("kind", ["equal", "unequal", "seed by key", "skewed"])
def test_false_positives_stay_near_five_percent(kind: str, seeds: int) -> None:
    """1,000 grids of 3 x 2 x 2 cells for each kind. docs/decisions.md has the figures."""
    found = rejected(grids(kind, (3, 2, 2), seeds, 1_000), ["a", "b", "c"])
    print(kind, seeds, found)
    assert max(found.values()) < 0.075, found


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "least"), [(3, 0.6), (5, 0.9)])
def test_an_effect_of_one_deviation_is_found(seeds: int, least: float) -> None:
    """Pooling over 12 cells shows what a single pair hides."""
    values = grids("equal", (2, 3, 4), seeds, 500)
    values[:, 1] += 1.0
    pooled = rejected(values, ["a", "b", "c"])["a"]
    pairs = itertools.product(values, ([0, 0],))
    alone = np.mean(
        [one_sample(grid[1, i, j] - grid[0, i, j]).pvalue < 0.05 for grid, (i, j) in pairs]
    )
    print(seeds, pooled, alone)
    assert pooled > least
    assert pooled > 2 * alone
