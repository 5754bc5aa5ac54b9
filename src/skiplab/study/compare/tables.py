"""`skiplab compare`: runs in groups, averaged over seeds; a table, a verdict, pictures, a page.

Imports no torch.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from skiplab.errors import FolderError, UsageError, in_words
from skiplab.machine import streams
from skiplab.runs import atomic
from skiplab.study.compare import documents, page, runs_table
from skiplab.study.compare.comparison import Comparison, compare
from skiplab.study.compare.groups import numeric_keys
from skiplab.study.compare.results import FIGURES, Found
from skiplab.study.compare.texts import effects_table, sort_keys, table, text
from skiplab.words import printable

if TYPE_CHECKING:
    from skiplab.study.compare.drawing import Picture

# A row for each run, whatever the metric.
RUNS = "runs.csv"


def command(
    found: Found,
    folder: Path,
    *,
    by: Sequence[str] | None,
    metric: str,
    x: str | None,
    output: str = "text",
) -> dict[str, object]:
    """Print the tables and the verdict, and write everything into a folder; return all of it.

    `x` is the key or cost to draw along, or None. `output` is text, or what standard output holds
    and nothing else: latex, csv (a row per group) or runs (a row per run). A picture that fails is
    a warning. What is returned is compare.json with the paths of the files, and the warnings.
    Raises UsageError for what cannot be compared, FolderError if the folder cannot be written.
    """
    made = compare(found, by=by, metric=metric)
    if x is not None and x not in FIGURES:
        x = check_x(x, made)
    columns = streams.columns(sys.stdout)
    console = show(made, output, columns=columns)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written, warnings = write(made, folder, x=x)
    except OSError as error:
        raise FolderError(
            f"{folder}: cannot be written ({error.strerror}); --out names another"
        ) from None
    first, *more = written
    files = f"written: {first}" + (f" and {len(more)} more" if more else "")
    print(f"\n{files}", file=console)
    if warnings:
        what = "it" if len(warnings) == 1 else "them"
        print(
            f"warning: {'; '.join(warnings)}; skiplab compare draws {what} again",
            file=sys.stderr,
        )
    return documents.as_json(made) | {"written": written, "warnings": warnings}


def show(made: Comparison, output: str, *, columns: int | None) -> TextIO:
    """Print a comparison as text, latex, csv or runs; return the stream for notes on it."""
    if output == "text":
        print(text(made, columns=columns))
        return sys.stdout
    if output == "latex":
        print(documents.as_latex(made), end="")
    else:
        rows = runs_table.as_rows(made.found) if output == "runs" else documents.as_rows(made)
        print(printable(documents.as_csv(rows)), end="")
    for note in made.notes:
        print(note, file=sys.stderr)
    return sys.stderr


def check_x(x: str, made: Comparison) -> str:
    """Return the key that --x means.

    Raises UsageError if the groups do not differ in it, or it holds no numbers.
    """
    choices = numeric_keys(made.groups, made.keys)
    if x not in choices:
        differs = x in made.keys or f"{x}.name" in made.keys
        rule = "holds no numbers" if differs else "the groups do not differ in it"
        raise UsageError(f"--x {x}: {rule}; choices: {', '.join([*choices, *FIGURES])}")
    return x


# ---------------------------------------------------------------------------------------------
# the files


def write(made: Comparison, folder: Path, *, x: str | None) -> tuple[list[Path], list[str]]:
    """Write compare.csv, .json, .md and .tex, runs.csv, then the pictures, then .html.

    The files of another metric than the test accuracy are named compare_METRIC. Returns what was
    written, and what could not be drawn. A picture that fails does not prevent a table.
    """
    base = "compare"
    if made.metric != "test.accuracy":
        base = f"compare_{made.metric.replace('.', '_')}"
    contents = {
        ".csv": documents.as_csv(documents.as_rows(made)),
        ".json": json.dumps(documents.as_json(made), indent=1) + "\n",
        ".md": documents.as_markdown(made, []),
        ".tex": documents.as_latex(made),
    }
    for ending, content in contents.items():
        put(folder / f"{base}{ending}", content)
    put(folder / RUNS, documents.as_csv(runs_table.as_rows(made.found)))
    drawn, warnings = draw(made, x=x)
    paths: list[Path] = []
    figures: list[tuple[str, str]] = []
    tips: dict[str, str] = {}
    for picture in list(drawn):
        picture.name = picture.name.replace("compare", base)
        try:
            figures.append((picture.title, picture.svg()))
            paths.append(picture.save(folder))
            tips |= picture.tips
        except Exception as error:
            warnings.append(f"{picture.name}.png not drawn ({in_words(error)})")
            drawn.remove(picture)
    put(folder / f"{base}.md", documents.as_markdown(made, drawn))
    if made.effects is not None and made.effects.rows:
        figures.insert(0, (made.effects.note, documents.html_table(effects_table(made))))
    values = [sort_keys(group, made.metric) for group in made.groups]
    put(
        folder / f"{base}.html",
        page.as_html(folder, made.groups, table(made), values, made.lines(), figures, tips),
    )
    tables = [folder / f"{base}{ending}" for ending in (".html", *contents)]
    return [*tables, folder / RUNS, *paths], warnings


def draw(made: Comparison, *, x: str | None) -> "tuple[list[Picture], list[str]]":
    """Draw the pictures, each on its own; return them, and what could not be drawn."""
    drawn: list[Picture] = []
    warnings: list[str] = []
    try:
        # matplotlib takes half a second to import, and may fail.
        from skiplab.study.compare import pictures
    except Exception as error:
        return [], [f"no picture drawn ({in_words(error)})"]
    groups = made.groups[: pictures.MAX_GROUPS]
    makers = pictures.makers(groups, made.keys, metric=made.metric, x=x)
    for make in makers:
        try:
            if (picture := make()) is not None:
                drawn.append(picture)
        except Exception as error:
            warnings.append(f"a picture not drawn ({in_words(error)})")
    return drawn, warnings


def put(path: Path, content: str) -> None:
    """Write a text file, whole or not at all."""
    # A folder's name may hold bytes that are no UTF-8.
    atomic.write(path, content.encode(errors="backslashreplace"))
