"""What scripts/bench prints: figures of two contenders and their ratio, as median (min to max).

It needs only plain Python.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack


@dataclass(frozen=True)
class Row:
    """One figure of one case: a value per repeat for each contender, and the ratios of the pairs.

    A contender without values was not measured.
    """

    case: str
    figure: str
    a: Sequence[float] = ()
    b: Sequence[float] = ()
    ratio: Sequence[float] = ()
    # Digits of the values and of the ratios.
    digits: int = 0
    ratio_digits: int = 2
    # The ratio is a share, shown in percent.
    percent: bool = False
    # Shown behind the ratio.
    note: str = ""


class Look(TypedDict, total=False):
    """How a row is shown: fields of `Row`."""

    digits: int
    ratio_digits: int
    percent: bool
    note: str


@dataclass
class Table:
    """The rows of a part, under the names of its two contenders.

    `notes` say under what conditions they hold.
    """

    part: str
    title: str
    contenders: tuple[str, str]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        case: str,
        figure: str,
        a: Sequence[float],
        b: Sequence[float],
        **options: Unpack[Look],
    ) -> None:
        """Add a row whose ratio is a / b, pair by pair; without b it has no ratio."""
        self.rows.append(Row(case, figure, a, b, ratios(a, b) if b else (), **options))

    def add_peaks(
        self, case: str, a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]
    ) -> None:
        """Add rows of the peak memory of both contenders' processes."""
        for name, figure in (
            ("peak_mib", "MiB, peak memory"),
            ("cuda_peak_mib", "MiB, peak on the GPU"),
        ):
            if all(result.get(name) for result in (*a, *b)):
                self.add(
                    case, figure, [result[name] for result in a], [result[name] for result in b]
                )

    def note(self, *texts: str) -> None:
        """Add notes, each once."""
        self.notes += [text for text in dict.fromkeys(texts) if text and text not in self.notes]


def ratios(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Return a / b, pair by pair. Raises ValueError if they are no pairs."""
    return [x / y for x, y in zip(a, b, strict=True)]


def median_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of the sign test.

    It holds the true median with at least this confidence, whatever the distribution. With fewer
    than six values no interval does so at 95 %; then it is the range.
    """
    ordered, number = sorted(values), len(values)
    # The probability that at most `rank` values lie below the true median.
    outside, rank = 0.0, 0
    while 2 * (outside := outside + math.comb(number, rank) * 0.5**number) <= 1 - confidence:
        rank += 1
    end = max(0, rank - 1)
    return ordered[end], ordered[number - 1 - end]


def shown(values: Sequence[float], digits: int, *, scale: float = 1, unit: str = "") -> str:
    """Return `median (min to max)`; of a single value only itself, of none an empty text."""
    if not values:
        return ""
    scaled = [scale * value for value in values]
    middle = f"{statistics.median(scaled):,.{digits}f}"
    if len(scaled) == 1:
        return f"{middle}{unit}"
    return f"{middle} ({min(scaled):,.{digits}f} to {max(scaled):,.{digits}f}){unit}"


def cells(row: Row) -> list[str]:
    """Return a row as texts: case, figure, both contenders, ratio."""
    ratio = shown(row.ratio, row.ratio_digits)
    if row.percent:
        ratio = shown(row.ratio, max(0, row.ratio_digits - 1), scale=100, unit=" %")
    return [
        row.case,
        row.figure,
        shown(row.a, row.digits),
        shown(row.b, row.digits),
        f"{ratio}  {row.note}".rstrip(),
    ]


def text(table: Table) -> str:
    """Return the table with aligned columns, and its notes below."""
    lines = [["", "", *table.contenders, "ratio"], *map(cells, table.rows)]
    for line, before in zip(reversed(lines[2:]), reversed(lines[1:-1]), strict=True):
        # Each case is named once.
        line[0] = "" if line[0] == before[0] else line[0]
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    body = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join(
        [
            f"{table.part}: {table.title}",
            *(f"  {line}" for line in body),
            *(f"  {note}" for note in table.notes),
        ]
    )


def as_json(table: Table) -> dict[str, Any]:
    """Return the table as JSON holds it: every value of every repeat, and the medians."""
    names = ("a", "b", "ratio")
    return {
        "part": table.part,
        "title": table.title,
        "contenders": list(table.contenders),
        "notes": table.notes,
        "rows": [
            {"case": row.case, "figure": row.figure, "note": row.note}
            | {name: list(getattr(row, name)) for name in names}
            | {f"{name}_median": middle(getattr(row, name)) for name in names}
            for row in table.rows
        ],
    }


def middle(values: Iterable[float]) -> float | None:
    """Return the median; None if there are no values."""
    values = list(values)
    return statistics.median(values) if values else None
