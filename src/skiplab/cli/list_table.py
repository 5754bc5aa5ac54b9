"""The table of `skiplab list`: a row for each run and study, within the terminal's width."""

import json
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from skiplab.config import standard
from skiplab.config.schema import Config
from skiplab.runs.status import Status
from skiplab.words import printable

# The columns of a row on one line, the folder last, and of a row that has its folder below it.
WIDE = (
    *("state", "data", "model", "lr", "epochs", "steps", "best val", "test", "time", "when"),
    *("differs in", "run folder"),
)
NARROW = ("age", "status", "data", "network", "val %", "test %")
# Keys with columns of their own, in both tables and in the wide one.
SHOWN, SHOWN_WIDE = ("depth", "width"), ("seed", "name", "optimizer.lr", "epochs")
# A value in the table is cut at so many characters.
LONGEST_VALUE = 30
# Seconds of a unit, and from how many on the next one is used.
UNITS = ((1, 60, "s"), (60, 3600, "min"), (3600, 86_400, "h"), (86_400, float("inf"), "d"))


@dataclass(frozen=True)
class Row:
    """A run or a study of the table."""

    # When it began, in seconds since 1970; a study when its newest run did.
    began: float
    # The texts of the columns, by their headings.
    cells: Mapping[str, str]
    # Its folder, as a shell takes it.
    folder: str
    # What differs from its presets, by key; of a study the keys in which its runs differ, without
    # values.
    differs: Mapping[str, str] = field(default_factory=dict)
    # What stands below the row.
    notes: Sequence[str] = ()

    def said(self, but: Sequence[str]) -> str:
        """Return what differs, as a command line has it, without some keys."""
        return " ".join(
            f"{key}={value}" if value else key
            for key, value in self.differs.items()
            if key not in but or not value
        )


def differences(config: Config) -> dict[str, str]:
    """Return what differs from a run's presets, in words, by key. A label stands last."""
    found = {key: in_words(value) for key, value in standard.differences(config).items()}
    label = " ".join((config.name or "").split())
    return found | ({"name": in_words(repr(label))} if label else {})


def in_words(value: object) -> str:
    """Return a value as a command line has it; a long one is cut."""
    if isinstance(value, (tuple, list)):
        text = f"[{','.join(map(in_words, value))}]"
    elif isinstance(value, float):
        text = f"{value:.12g}"
    else:
        text = printable(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def render(rows: Sequence[Row], *, width: int | None, now: float | None = None) -> list[str]:
    """Return the lines of the table, with a heading.

    Without a width each row is one line, for programs that read lines. With one a row is one line
    if all fit; else its folder stands below it. `now` is the time that ages are counted to.
    """
    wide = align([WIDE, *(wide_cells(row) for row in rows)])
    if width is None or max(map(len, wide)) <= width:
        return with_notes(wide, rows)
    at = time.time() if now is None else now
    texts = [tuple(row.cells.get(heading, "") for heading in NARROW[1:]) for row in rows]
    ages = [age(at - row.began) for row in rows]
    first = [(*NARROW, "differs")]
    lines = align([*first, *((old, *cells, "") for old, cells in zip(ages, texts, strict=True))])
    room = len(lines[0]) - len(first[0][-1])
    # A long name of a network leaves no room for the last heading.
    found = [lines[0] if len(lines[0]) <= width else lines[0][:room].rstrip()]
    for row, line in zip(rows, lines[1:], strict=True):
        found += placed(row, line, room, width)
    return found


def wide_cells(row: Row) -> tuple[str, ...]:
    """Return the texts of a row on one line."""
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.began))
    # A broken run says nothing of itself.
    said = row.said((*SHOWN, *SHOWN_WIDE)) or ("-" if "data" in row.cells else "")
    own = {"when": began if row.began else "-", "differs in": said, "run folder": row.folder}
    return tuple(own.get(heading) or row.cells.get(heading, "") for heading in WIDE)


def with_notes(lines: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return the lines of the wide table with each row's notes below it."""
    found = [lines[0]]
    for row, line in zip(rows, lines[1:], strict=True):
        found += [line, *(f"  {note}" for note in row.notes)]
    return found


def placed(row: Row, line: str, room: int, width: int) -> list[str]:
    """Return a row whose folder stands below it, and what differs where there is room for it."""
    said = row.said(SHOWN)
    below = [f"  {row.folder}"]
    if said and room + len(said) <= width:
        line = f"{line:<{room}}{said}"
    elif said and len(below[0]) + 2 + len(said) <= width:
        below[0] += f"  {said}"
    elif said:
        # A line ends between keys, not inside a value.
        below += textwrap.wrap(
            said,
            width,
            initial_indent=" " * 4,
            subsequent_indent=" " * 4,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return [line.rstrip(), *below, *(f"  {note}" for note in row.notes)]


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for *cells, last in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths[:-1], strict=True)]
        lines.append("  ".join([*padded, last]))
    return lines


def age(seconds: float) -> str:
    """Return how long ago something was: `40 s`, `12 min`, `5 h`, `31 d`."""
    seconds = max(0.0, seconds)
    unit, _, name = next(each for each in UNITS if seconds < each[1])
    return f"{seconds / unit:.0f} {name}"


def status_in_words(state: str, stood: Status | None) -> str:
    """Return a run's state, and how far it is if it is not finished: `stopped 50 %`."""
    if stood is None or state == "finished" or not stood.num_steps or stood.step is None:
        return state
    return f"{state} {100 * stood.step / stood.num_steps:.0f} %"
