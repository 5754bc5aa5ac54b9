"""Tell what more seeds would probably show, and what few seeds can show at all.

A paired t-test has no smallest p: it falls to 0 with the deviation of the differences. So few seeds
show a difference only if its size hardly varies between them (`largest_deviation`).
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from skiplab.study.compare.groups import CONFIDENCE

# A difference is "probably" decided from this probability on.
PROBABLY = 0.8
# No more seeds than these are proposed.
MOST_MORE = 7
# The predictive probabilities are means over this many draws.
DRAWS = 4_000


def largest_deviation(mean: float, *, seeds: int, level: float) -> float:
    """Return the deviation of paired differences below which a t-test over seeds shows their mean.

    `level` is the p that has to be reached. For 2 seeds at 0.05 it is 0.11 of the mean, for 3 seeds
    0.40, for 5 seeds 0.81. It is 0 for one seed.
    """
    if seeds < 2:
        return 0.0
    return float(abs(mean) * math.sqrt(seeds) / stats.t.isf(level / 2, seeds - 1))


def predictive_power(differences: Sequence[float], *, level: float = 1 - CONFIDENCE) -> list[float]:
    """Return the probability that 1, 2, ... MOST_MORE more seeds would show the mean difference.

    `differences` are those of the seeds at hand, two or more. "Show" is a paired t-test over all
    seeds, old and new, with p below `level` and the sign that the mean has now.

    This is the predictive power of Spiegelhalter, Freedman and Blackburn (1986, Controlled Clinical
    Trials 7:8-17). It averages over what mean and variance may be, given the seeds at hand and a
    flat prior of the mean and of the logarithm of the deviation. A power that takes the measured
    effect for the true one would promise too much: with 3 seeds and p = 0.1 it gives 0.80 for 3
    more seeds, and this 0.76.
    """
    old = np.asarray(differences, float)
    n, freedom = len(old), len(old) - 1
    generator = np.random.default_rng(0)
    deviation = old.std(ddof=1) * np.sqrt(freedom / generator.chisquare(freedom, DRAWS))
    mean = old.mean() + deviation / math.sqrt(n) * generator.standard_normal(DRAWS)
    noise = generator.standard_normal((DRAWS, MOST_MORE))
    new = mean[:, None] + deviation[:, None] * noise
    powers: list[float] = []
    for more in range(1, MOST_MORE + 1):
        # The shape is (DRAWS, n + more).
        together = np.hstack([np.broadcast_to(old, (DRAWS, n)), new[:, :more]])
        t = together.mean(1) * math.sqrt(n + more) / together.std(1, ddof=1)
        limit = stats.t.isf(level / 2, n + more - 1)
        powers.append(float(np.mean(t * np.sign(old.mean()) > limit)))
    return powers


def seeds_to_decide(differences: Sequence[float], *, level: float) -> tuple[int | None, float]:
    """Return how many more seeds would probably show a difference, and with what probability.

    The number is None where MOST_MORE would not. The probability is theirs then.
    """
    powers = predictive_power(differences, level=level)
    for more, power in enumerate(powers, 1):
        if power >= PROBABLY:
            return more, power
    return None, powers[-1]
