"""Rows of a table as Python has them, and as a data frame where a library for that is installed."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, overload

from skiplab.errors import UsageError

# Rows that a notebook shows.
MOST_SHOWN = 60
Row = Mapping[str, Any]


class Rows(Sequence[Row]):
    """A list of dicts. Not every row has every key."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index: int | slice) -> "Row | Rows":
        return Rows(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and self.rows == other.rows

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @property
    def columns(self) -> list[str]:
        """The keys of all rows, in the order in which they first appear."""
        return list(dict.fromkeys(key for row in self.rows for key in row))

    def frame(self) -> Any:  # noqa: ANN401 - either library's
        """Return a pandas DataFrame, or a Polars one where only that is installed.

        Raises UsageError if neither is.
        """
        columns = self.columns
        table = {name: [row.get(name) for row in self.rows] for name in columns}
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError:
            pass
        else:
            return pandas.DataFrame(table, columns=columns)
        try:
            import polars  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UsageError("a frame needs pandas or polars: pip install pandas") from None
        return polars.DataFrame(table, strict=False)

    def __repr__(self) -> str:
        names = ", ".join(self.columns[:8])
        return f"<{len(self.rows):,} rows: {names}{', ...' if len(self.columns) > 8 else ''}>"

    def _repr_html_(self) -> str:
        columns = self.columns
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{shown(row.get(name))}</td>" for name in columns) + "</tr>"
            for row in self.rows[:MOST_SHOWN]
        )
        left = len(self.rows) - MOST_SHOWN
        more = f"<p>and {left:,} more rows</p>" if left > 0 else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def shown(value: object) -> str:
    """Return a cell of a table in a page."""
    if value is None:
        return ""
    return html.escape(f"{value:.6g}" if isinstance(value, float) else str(value))
