"""Folders of small made-up images, for the tests of one's own images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from skiplab.data import own
from skiplab.data.decoding import Advance

# Colours that a small network tells apart.
CLASSES = {"cat": (200, 60, 60), "dog": (60, 200, 60), "fish": (60, 60, 200)}


def draw(count: int, colour: Sequence[int], *, size: tuple[int, int], seed: int) -> np.ndarray:
    """Noise around a colour: uint8 (count, H, W, C)."""
    noise = np.random.default_rng(seed).normal(0, 40, (count, *size, len(colour)))
    return np.clip(noise + np.array(colour), 0, 255).astype(np.uint8)


def make(
    root: Path, *, count: int = 10, parts: Sequence[str] = ("",), size: tuple[int, int] = (12, 10)
) -> Path:
    """Make ROOT/[PART/]CLASS/NUMBER.png, `count` of each class and part, and return the root."""
    for p, part in enumerate(parts):
        for c, (name, colour) in enumerate(CLASSES.items()):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i, pixels in enumerate(draw(count, colour, size=size, seed=10 * p + c)):
                Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return root


def source(path: Path, **values: object) -> own.Source:
    """Make a source of small colour images."""
    options: dict[str, object] = {
        "size": (8, 8),
        "channels": None,
        "test_fraction": 0.2,
        "test_seed": 0,
    }
    return own.Source(path=path, **options | values)  # pyright: ignore[reportArgumentType]


class Recorder:
    """What a user would be told, and how many images were decoded."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.decoded = 0

    @contextmanager
    def bar(self, total: int) -> Iterator[Advance]:
        def advance(number: int) -> None:
            self.decoded += number

        yield advance
        assert self.decoded % total == 0

    def prepare(self, of: own.Source) -> own.Contents:
        """Prepare a source and count what is decoded for it."""
        self.decoded = 0
        return own.prepare(of, own.Telling(line=self.lines.append, bar=self.bar))
