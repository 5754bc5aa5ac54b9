"""What scripts/bench prints: rows of figures for two contenders and their ratio, each as median (min to max). Plain Python."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure of one case: a value per repeat for each contender (none: not measured), and the ratios of the pairs."""

    case: str
    figure: str
    a: Sequence[float] = ()
    b: Sequence[float] = ()
    ratio: Sequence[float] = ()
    # of the values
    digits: int = 0
    ratio_digits: int = 2
    # the ratio is a share, shown in percent
    percent: bool = False
    # shown behind the ratio
    note: str = ""


@dataclass
class Table:
    """The rows of a part, under the names of its two contenders; `notes` say under what conditions they hold."""

    part: str
    title: str
    contenders: tuple[str, str]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, case: str, figure: str, a: Sequence[float], b: Sequence[float], **options: Any
    ) -> None:
        """A row whose ratio is a / b, pair by pair; none where there is no b."""
        self.rows.append(Row(case, figure, a, b, ratios(a, b) if b else (), **options))

    def add_peaks(
        self, case: str, a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]
    ) -> None:
        """Rows of the peak memory of both contenders' processes."""
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
    """a / b, pair by pair. Raises ValueError if they are no pairs."""
    return [x / y for x, y in zip(a, b, strict=True)]


def median_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the sign test, which holds the true median with at least this confidence, whatever the distribution.

    Below six values none does with 95 %; then it is the range.
    """
    ordered, number = sorted(values), len(values)
    # probability that at most `rank` values lie below the true median
    outside, rank = 0.0, 0
    while 2 * (outside := outside + math.comb(number, rank) * 0.5**number) <= 1 - confidence:
        rank += 1
    end = max(0, rank - 1)
    return ordered[end], ordered[number - 1 - end]


def shown(values: Sequence[float], digits: int, *, scale: float = 1, unit: str = "") -> str:
    """`median (min to max)`; a single value alone, none as nothing."""
    if not values:
        return ""
    scaled = [scale * value for value in values]
    middle = f"{statistics.median(scaled):,.{digits}f}"
    return (
        f"{middle}{unit}"
        if len(scaled) == 1
        else f"{middle} ({min(scaled):,.{digits}f} to {max(scaled):,.{digits}f}){unit}"
    )


def cells(row: Row) -> list[str]:
    """A row as text: case, figure, both contenders, ratio."""
    scale, digits, unit = (
        (100, max(0, row.ratio_digits - 1), " %") if row.percent else (1, row.ratio_digits, "")
    )
    ratio = shown(row.ratio, digits, scale=scale, unit=unit)
    return [
        row.case,
        row.figure,
        shown(row.a, row.digits),
        shown(row.b, row.digits),
        f"{ratio}  {row.note}".rstrip(),
    ]


def text(table: Table) -> str:
    """The table with aligned columns, its notes below."""
    lines = [["", "", *table.contenders, "ratio"], *map(cells, table.rows)]
    for line, before in zip(reversed(lines[2:]), reversed(lines[1:-1]), strict=True):
        # each case is named once
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
    """The table as JSON holds it: every value of every repeat, and the medians."""
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
    """The median, or None of nothing."""
    values = list(values)
    return statistics.median(values) if values else None
