"""The table of a run's evaluations: one heading, then a line of each. Imports no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from skiplab.words import duration, percent

# Columns of a terminal that nobody has told.
WIDTH = 80


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation as it is shown."""

    # The row of metrics.jsonl.
    row: Mapping[str, Any]
    lr: float
    images_per_second: float
    # Of training so far; and an estimate of what is left, evaluations counted.
    seconds: float
    left: float
    # Whether these weights are the best so far.
    is_best: bool
    # What the training loss is where that is not the plain one: smoothed, say. Else empty.
    loss_name: str


@dataclass(frozen=True)
class Cell:
    """A column's title and its text in one line."""

    title: str
    text: str
    # The column's least width, and the spaces before it.
    width: int
    gap: int
    # Where the terminal is too narrow, the columns of the highest ranks are left out.
    rank: int

    @property
    def size(self) -> int:
        """The column's width."""
        return max(self.width, len(self.title))


def cells(shown: Evaluated) -> Iterator[Cell]:
    """Yield the cells of a line, from left to right. Ranks up to 8 take 76 columns."""
    row = shown.row
    loss = row.get("train_plain_loss", row["train_loss"])
    yield Cell("epoch", f"{round(row['epoch'], 2):.5g}", 5, 0, 0)
    yield Cell("step", f"{row['step']:,}", 7, 1, 5)
    yield Cell("lr", f"{shown.lr:.3g}", 8, 1, 7)
    yield Cell("train loss", f"{loss:.4f}", 10, 2, 3)
    if "train_plain_loss" in row:
        yield Cell(shown.loss_name, f"{row['train_loss']:.4f}", 8, 2, 9)
    yield Cell("accuracy", percent(row["train_accuracy"]), 8, 1, 4)
    if "val_loss" in row:
        yield Cell("val loss", f"{row['val_loss']:.4f}", 8, 2, 2)
        yield Cell("accuracy", percent(row["val_accuracy"]), 8, 1, 1)
    yield Cell("img/s", f"{shown.images_per_second:,.0f}", 7, 1, 8)
    yield Cell("time", duration(shown.seconds), 11, 2, 10)
    yield Cell("left", duration(shown.left), 11, 2, 11)
    if "val_loss" in row:
        yield Cell("best", "best" if shown.is_best else "", 4, 2, 6)


def lines(shown: Evaluated, *, width: int) -> tuple[str, str]:
    """Return the heading, and the line of an evaluation, in at most `width` columns.

    Columns that do not fit are left out; those that are left stay, however narrow it is.
    """
    chosen = list(cells(shown))
    while len(chosen) > 1 and sum(cell.gap + cell.size for cell in chosen) > width:
        chosen.remove(max(chosen, key=lambda cell: cell.rank))
    heading = line = ""
    for cell in chosen:
        heading += " " * cell.gap + cell.title.rjust(cell.size)
        line += " " * cell.gap + cell.text.rjust(cell.size)
    return heading.rstrip(), line.rstrip()
