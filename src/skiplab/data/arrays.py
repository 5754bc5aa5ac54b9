"""A split of a data set as its files hold it, in NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Arrays:
    """One split as the files hold it: images uint8 (N, H, W, C), labels uint8 (N,), and the file to name in errors."""

    images: Bytes
    labels: Bytes
    path: Path


def join(parts: Sequence[Arrays]) -> Arrays:
    """Several files as one split."""
    if len(parts) == 1:
        return parts[0]
    return Arrays(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.labels for p in parts]),
        parts[0].path.parent,
    )
