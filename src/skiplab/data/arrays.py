"""A split of a data set as its files hold it, in NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Arrays:
    """One split as its files hold it.

    `images` is uint8 (N, H, W, C), `labels` uint8 (N,); `path` is the file that errors name.
    """

    images: Bytes
    labels: Bytes
    path: Path


def join(parts: Sequence[Arrays]) -> Arrays:
    """Join what several files hold, in order, into one split. Errors name the files' folder."""
    if len(parts) == 1:
        return parts[0]
    return Arrays(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        parts[0].path.parent,
    )
