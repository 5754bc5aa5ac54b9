"""Mean and deviation of the channels of many images, from whole sums. Imports no torch."""

import math

import numpy as np

from skiplab.data.arrays import Bytes


def added(sums: list[list[int]], more: list[list[int]]) -> list[list[int]]:
    """Add two tables of sums; the first may be empty."""
    if not sums:
        return more
    return [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(sums, more, strict=True)]


def sums_of(images: Bytes) -> list[list[int]]:
    """Return the sum of the values and of their squares for each channel of (N, H, W, C)."""
    flat = images.reshape(-1, images.shape[3])
    counts = [np.bincount(plane, minlength=256) for plane in flat.T]
    values = np.arange(256)
    return [[int(count @ values), int(count @ values**2)] for count in counts]


def mean_and_std(sums: list[list[int]], count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel, of pixels in [0, 1], to four places.

    The sums are whole, so that they are the same everywhere. A channel without deviation gets 1.
    """
    means = tuple(round(total / (255 * count), 4) for total, _ in sums)
    variances = [(count * squares - total**2) / (255 * count) ** 2 for total, squares in sums]
    return means, tuple(round(math.sqrt(variance), 4) or 1.0 for variance in variances)
