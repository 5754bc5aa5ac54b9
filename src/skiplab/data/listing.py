"""Read a list of images: CSV or JSON lines of path, label and part. Imports no torch."""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from skiplab import regular
from skiplab.data.folder import PART_OF, Found, Item, item_of
from skiplab.errors import UsageError

# Bytes of a list, at most.
LARGEST_LIST = 2**28
# The names that a column may have.
COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class"),
    "split": ("split", "part", "set"),
}
COLUMN_OF = {name: column for column, names in COLUMNS.items() for name in names}
CSV_SUFFIXES = (".csv", ".tsv", ".txt")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
DELIMITERS = ",;\t"

# A row of a list: its line, and its columns by the names that COLUMNS gives them.
Row = tuple[int, Mapping[str, str]]


def find(path: Path) -> Found:
    """Return the images of a list, in its order. Paths are relative to the list's folder.

    Raises UsageError, which names the line, if the list cannot be understood.
    """
    try:
        text = regular.read_text(path, most=LARGEST_LIST).removeprefix("\ufeff")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({regular.why(path, error)})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start:,} is no UTF-8; save it as UTF-8") from None
    rows = csv_rows(text, path) if path.suffix.lower() in CSV_SUFFIXES else json_rows(text, path)
    items: list[Item] = []
    lines: dict[str, int] = {}
    with_part: bool | None = None
    for line, row in rows:
        items.append(item_at(path, line, row))
        first = lines.setdefault(items[-1].path, line)
        if first != line:
            raise UsageError(f"{path}: line {line}: {row['path']} is in line {first} already")
        has_part = bool(items[-1].part)
        if with_part not in (None, has_part):
            raise UsageError(
                f"{path}: line {line}: a split in some rows and none in others; "
                "give train, val or test in every row, or in none"
            )
        with_part = has_part
    if not items:
        raise UsageError(f"{path}: names no image")
    if with_part and not any(item.part == "train" for item in items):
        raise UsageError(f"{path}: no row is of split train")
    return Found(items)


def item_at(path: Path, line: int, row: Mapping[str, str]) -> Item:
    """Return the image of a row. Raises UsageError if a value is missing or no part."""
    for column in ("path", "label"):
        if not row.get(column, "").strip():
            raise UsageError(f"{path}: line {line}: no {column}")
    name = row["path"]
    if "\0" in name:
        raise UsageError(f"{path}: line {line}: no file can have a name with a zero byte")
    given = row.get("split", "").strip().lower()
    if given and given not in PART_OF:
        raise UsageError(f"{path}: line {line}: split={given[:40]}: take train, val or test")
    label = unicodedata.normalize("NFC", row["label"].strip())
    place = os.path.join(path.parent, os.path.expanduser(name))
    return item_of(os.path.normpath(place), label, PART_OF.get(given, ""))


def csv_rows(text: str, path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file, whose first row names the columns."""
    heading = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=heading.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [COLUMN_OF.get(name.strip().lower(), "") for name in next(reader, [])]
        check_columns(names, path)
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(names):
                raise UsageError(
                    f"{path}: line {reader.line_num}: {len(cells)} values "
                    f"where the first line names {len(names)}"
                )
            row = dict(zip(names, cells, strict=True))
            yield reader.line_num, {name: row[name] for name in names if name}
    except csv.Error as error:
        raise UsageError(f"{path}: line {reader.line_num}: cannot be read ({error})") from None


def check_columns(names: list[str], path: Path) -> None:
    """Raise UsageError unless the first line of a CSV file names path and label, each once."""
    for column, words in COLUMNS.items():
        if names.count(column) > 1:
            raise UsageError(f"{path}: line 1: several columns are a {column}; leave one of them")
        if column not in names and column != "split":
            raise UsageError(
                f"{path}: line 1: no column {column} (or {', '.join(words[1:])}); "
                "write path,label or path,label,split there"
            )


def json_rows(text: str, path: Path) -> Iterator[Row]:
    """Yield the rows of a file of JSON lines: an object with path, label and split in each."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            said = " ".join(str(error).split())[:80]
            raise UsageError(f"{path}: line {number}: not JSON ({said})") from None
        if not isinstance(row, dict):
            raise UsageError(f"{path}: line {number}: an object with path and label is expected")
        found: dict[str, str] = {}
        for name, value in row.items():
            column = COLUMN_OF.get(name.lower())
            if column is None or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                raise UsageError(f"{path}: line {number}: {name}: text or a number is expected")
            if column in found:
                raise UsageError(f"{path}: line {number}: {name}: gives the {column} again")
            found[column] = str(value)
        yield number, found
