"""Test main effects and interactions of a grid's keys, with seeds as blocks.

The runs of a seed share its split and its random numbers, so they are not independent: the seeds
are the replicates, not the runs. Each effect is tested against its own variation from seed to seed.
This is the analysis of variance with repeated measures, or a mixed model with a random effect of
the seed and of the seed with every key (Maxwell, Delaney and Kelley 2018, Designing Experiments and
Analyzing Data, chapters 11 and 12). For a key with two values it is the paired t-test on each
seed's mean difference. So no cell has to vary as much as another. Effects of more values get
Greenhouse and Geisser's correction (1959, Psychometrika 24:95-112).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats

from skiplab.study.compare.groups import CONFIDENCE

# A grid of more cells than these is not searched for its complete part.
MOST_CELLS = 100_000
# Of more keys than these, interactions of two are tested and no others.
MOST_KEYS_IN_FULL = 4
# Effects of more degrees of freedom are left out: nobody could read what they say.
MOST_FREEDOM = 100


@dataclass(frozen=True)
class Effect:
    """One row of the table: what a key does, or several keys with each other."""

    # These are full paths: one key for a main effect, several for an interaction.
    keys: tuple[str, ...]
    # Highest minus lowest mean; of an interaction the largest difference of differences.
    size: float
    # The 95 % interval over seeds of the size; None for more than one degree of freedom.
    interval: tuple[float, float] | None
    # The degrees of freedom of F: of the effect, and of its error over seeds.
    freedom: int
    error_freedom: int
    # Greenhouse and Geisser's factor to both, 1 for one degree of freedom.
    epsilon: float
    # It is None without any variation over seeds, and for one seed.
    p_seeds: float | None
    # It is None where predictions of the test set are missing.
    p_images: float | None
    # This is the larger p of both; None where one of them is unknown.
    p: float | None
    # This is p after Benjamini and Hochberg's correction for the number of rows.
    corrected: float | None = None

    @property
    def is_real(self) -> bool:
        """Whether the effect stands, after correction."""
        return self.corrected is not None and self.corrected < 1 - CONFIDENCE


def complete_part(present: NDArray[np.bool_]) -> list[list[int]]:
    """Return the indices along each axis of a part of a grid in which nothing is missing.

    Remove, again and again, the index that misses the largest share of what is left, of the last
    axis first where shares are equal. An axis keeps no index where nothing is complete.
    """
    kept = [list(range(size)) for size in present.shape]
    while all(kept):
        part = present[np.ix_(*kept)]
        if part.all():
            return kept
        worst: list[tuple[float, int, int]] = []
        for axis in range(part.ndim):
            others = tuple(other for other in range(part.ndim) if other != axis)
            missing = 1 - part.mean(axis=others)
            # Of equal shares the last index goes.
            i = part.shape[axis] - 1 - int(np.argmax(missing[::-1].round(12)))
            worst.append((round(float(missing[i]), 12), axis, i))
        _, axis, i = max(worst)
        del kept[axis][i]
    return [[] for _ in kept]


def effects(
    values: NDArray[np.float64],
    keys: Sequence[str],
    *,
    right: NDArray[np.float64] | None = None,
    is_tested: bool = False,
) -> list[Effect]:
    """Test every main effect and interaction of a complete grid.

    `values` are the metric, an axis for each key and the last one for seeds. `right` are the shares
    of seeds that predicted each test image rightly, an axis for each key and the last one for
    images (N). With `is_tested` the metric is of the test images, so an effect has to stand against
    them too, by Hotelling's test over images.
    """
    most = len(keys) if len(keys) <= MOST_KEYS_IN_FULL else 2
    found: list[Effect] = []
    for order in range(1, most + 1):
        for chosen in itertools.combinations(range(len(keys)), order):
            if math.prod(values.shape[i] - 1 for i in chosen) > MOST_FREEDOM:
                continue
            contrasts = contrasts_of(values.shape[:-1], chosen)
            effect = over_seeds(
                contrasts @ values.reshape(-1, values.shape[-1]),
                keys=tuple(keys[i] for i in chosen),
                size=size_of(values.mean(-1), chosen),
            )
            if is_tested:
                p_images = None
                if right is not None:
                    p_images = hotelling(contrasts @ right.reshape(-1, right.shape[-1]))
                effect = with_images(effect, p_images)
            found.append(effect)
    known = [each.p for each in found if each.p is not None]
    corrected = iter(stats.false_discovery_control(known) if known else [])
    return [
        each if each.p is None else replace(each, corrected=float(next(corrected)))
        for each in found
    ]


def contrasts_of(shape: Sequence[int], chosen: Sequence[int]) -> NDArray[np.float64]:
    """Return an effect's orthonormal contrasts over the cells, (q, cells).

    They are Helmert's along the chosen axes and the mean along the others.
    """
    parts = [
        linalg.helmert(size) if axis in chosen else np.full((1, size), 1 / math.sqrt(size))
        for axis, size in enumerate(shape)
    ]
    product: NDArray[Any] = np.ones((1, 1))
    for part in parts:
        product = np.kron(product, part)
    return product


def over_seeds(scores: NDArray[np.float64], *, keys: tuple[str, ...], size: float) -> Effect:
    """Test whether the means over seeds of an effect's contrasts (q, S) are all 0.

    F compares the means with their variation over seeds.
    """
    q, seeds = scores.shape
    between = seeds * float(np.square(scores.mean(1)).sum())
    centred = scores - scores.mean(1, keepdims=True)
    within = float(np.square(centred).sum())
    effect = Effect(
        keys=keys,
        size=size,
        interval=None,
        freedom=q,
        error_freedom=q * (seeds - 1),
        epsilon=1.0,
        p_seeds=None,
        p_images=None,
        p=None,
    )
    # Rounding leaves a variation of 1e-16 where there is none.
    if seeds < 2 or within <= 1e-20 * max(1.0, float(np.square(scores).sum())):
        return effect
    covariance = centred @ centred.T / (seeds - 1)
    epsilon = float(np.trace(covariance) ** 2 / (q * np.square(covariance).sum()))
    f = (between / q) / (within / effect.error_freedom)
    p = float(stats.f.sf(f, epsilon * q, epsilon * effect.error_freedom))
    interval = None
    if q == 1:
        # The size is the mean contrast in another unit, so its interval is as wide in that unit.
        half = float(size * stats.t.isf((1 - CONFIDENCE) / 2, seeds - 1) / math.sqrt(f)) if f else 0
        interval = (size - half, size + half)
    return replace(effect, epsilon=epsilon, interval=interval, p_seeds=p, p=p)


def with_images(effect: Effect, p_images: float | None) -> Effect:
    """Return an effect with its p over images; without it, or for one seed, no p covers both."""
    known = [p for p in (effect.p_seeds, p_images) if p is not None]
    is_known = p_images is not None and effect.error_freedom > 0
    return replace(effect, p_images=p_images, p=max(known) if is_known else None)


def hotelling(scores: NDArray[np.float64]) -> float:
    """Return p of Hotelling's test that the means over images of the contrasts (q, N) are all 0.

    For one contrast it is the t-test over images.
    """
    n = scores.shape[1]
    means = scores.mean(1)
    covariance = np.atleast_2d(np.cov(scores)) / n
    q = int(np.linalg.matrix_rank(covariance, hermitian=True))
    if q == 0:
        return 1.0 if np.allclose(means, 0) else 0.0
    if q >= n:
        return 1.0
    squared = float(means @ linalg.pinvh(covariance) @ means)
    return float(stats.f.sf(squared * (n - q) / (q * (n - 1)), q, n - q))


def size_of(means: NDArray[np.float64], chosen: Sequence[int]) -> float:
    """Return the size of an effect on the cells' means.

    Take the largest over all pairs of values of each chosen key: for one key the difference, for
    two the difference of differences, and so on. Average over the other keys.
    """
    others = tuple(axis for axis in range(means.ndim) if axis not in chosen)
    table = means.mean(axis=others)
    for axis in range(table.ndim):
        # Each axis becomes one of pairs.
        first, second = np.array(list(itertools.combinations(range(table.shape[axis]), 2))).T
        table = np.take(table, first, axis) - np.take(table, second, axis)
    return float(np.abs(table).max())
