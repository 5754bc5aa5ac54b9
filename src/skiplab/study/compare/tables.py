"""`skiplab compare`: runs in groups, averaged over seeds; a table, a verdict, pictures, a page.

Imports no torch.
"""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skiplab.errors import FolderError, UsageError, in_words
from skiplab.runs import atomic
from skiplab.study.compare import page, protocol, results, sentences, statistics
from skiplab.study.compare.groups import Group, numeric_keys, partition
from skiplab.study.compare.results import FIGURES, METRICS, Found, is_share
from skiplab.study.compare.statistics import Difference
from skiplab.words import now

if TYPE_CHECKING:
    from skiplab.study.compare.drawing import Picture

# The table on the terminal shows this many groups at most.
MAX_ROWS = 60


@dataclass(frozen=True)
class Comparison:
    """The groups, the keys that they differ in, their differences, and notes on the runs."""

    metric: str
    keys: list[str]
    groups: list[Group]
    differences: list[Difference]
    notes: list[str]
    # Where test or validation accuracy is compared, these are the groups by training accuracy.
    trained: list[Group]

    def lines(self) -> list[str]:
        """Return the verdict, then the notes on the runs."""
        lines = sentences.sentences(self.groups, self.differences, metric=self.metric)
        lines += sentences.trends(self.groups, self.keys, self.differences, metric=self.metric)
        ends = [
            (members[-1], members[0])
            for members in statistics.lines_of(self.trained, self.keys).values()
        ]
        trained = statistics.compare_pairs(ends, metric="train.accuracy")
        lines += sentences.trends(self.trained, self.keys, trained, metric="train.accuracy")
        return [*lines, *self.notes]


def compare(found: Found, *, by: Sequence[str] | None, metric: str) -> Comparison:
    """Compare runs; `by` are keys by their full paths, None: what differs.

    Raises UsageError for what cannot be compared.
    """
    found = results.with_metric(found, metric)
    protocol.check(found.results, by=by or [])
    keys, groups = partition(found.results, metric=metric, by=by)
    trained: list[Group] = []
    if metric in statistics.SPLIT_OF:
        _, trained = partition(found.results, metric="train.accuracy", by=keys)
    differences = statistics.differences(groups, keys, metric=metric)
    return Comparison(metric, keys, groups, differences, found.notes, trained)


def command(
    found: Found, folder: Path, *, by: Sequence[str] | None, metric: str, x: str | None
) -> dict[str, object]:
    """Print the table and the verdict, and write everything into a folder; return all of it.

    `x` is the key or cost to draw along, or None. A picture that fails is a warning. What is
    returned is compare.json with the paths of the files, and the warnings. Raises UsageError for
    what cannot be compared, FolderError if the folder cannot be written.
    """
    made = compare(found, by=by, metric=metric)
    if x is not None and x not in FIGURES:
        x = check_x(x, made)
    print(text(made))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written, warnings = write(made, folder, x=x)
    except OSError as error:
        raise FolderError(
            f"{folder}: cannot be written ({error.strerror}); --out names another"
        ) from None
    print(f"\nwritten: {', '.join(str(path) for path in written)}")
    if warnings:
        what = "it" if len(warnings) == 1 else "them"
        print(
            f"warning: {'; '.join(warnings)}; skiplab compare draws {what} again",
            file=sys.stderr,
        )
    return as_json(made) | {"written": written, "warnings": warnings}


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
# the table


def headings(made: Comparison) -> list[str]:
    """Return the headings of the table's columns."""
    unit = ", %" if is_share(made.metric) else ""
    figures = [f"{made.metric}{unit}", "deviation", "95 % interval", "best"]
    return ["group", "n", *figures, "params", "M MACs", "seconds"]


def best_of(group: Group, metric: str) -> float:
    """Return a group's best value."""
    _, more_is_better = METRICS[metric]
    return max(group.values) if more_is_better else min(group.values)


def row(group: Group, metric: str) -> list[str]:
    """Return the texts of a group's row."""
    ends = [sentences.bare(end, metric) for end in group.interval or ()]
    deviation = group.deviation
    return [
        group.label,
        str(group.n),
        sentences.bare(group.mean, metric),
        "-" if deviation is None else sentences.bare(deviation, metric),
        " to ".join(ends) or "-",
        sentences.bare(best_of(group, metric), metric),
        f"{group.cost('params'):,.0f}",
        f"{group.cost('macs') / 1e6:,.2f}",
        f"{group.cost('seconds'):,.1f}",
    ]


def sort_keys(group: Group, metric: str) -> list[float | str]:
    """Return what a row of the page is sorted by, column by column."""
    low = group.interval[0] if group.interval else group.mean
    return [
        group.label,
        group.n,
        group.mean,
        group.deviation or 0.0,
        low,
        best_of(group, metric),
        *(group.cost(name) for name in FIGURES),
    ]


def table(made: Comparison) -> list[list[str]]:
    """Return the headings, then a row for each group."""
    return [headings(made), *(row(group, made.metric) for group in made.groups)]


def text(made: Comparison) -> str:
    """Return the table with aligned columns, and the verdict."""
    rows = table(made)
    cut = rows[: MAX_ROWS + 1]
    widths = [max(len(cells[i]) for cells in cut) for i in range(len(rows[0]))]
    lines: list[str] = []
    for first, *others in cut:
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *right]))
    if len(rows) > len(cut):
        lines.append(f"... and {len(rows) - len(cut)} more; compare.csv holds all")
    return "\n".join([*lines, "", *made.lines()])


# ---------------------------------------------------------------------------------------------
# the files


def write(made: Comparison, folder: Path, *, x: str | None) -> tuple[list[Path], list[str]]:
    """Write compare.csv, .json and .md, then the pictures, then .html.

    The files of another metric than the test accuracy are named compare_METRIC. Returns what was
    written, and what could not be drawn. A picture that fails does not prevent a table.
    """
    base = "compare"
    if made.metric != "test.accuracy":
        base = f"compare_{made.metric.replace('.', '_')}"
    contents = {
        ".csv": as_csv(made),
        ".json": json.dumps(as_json(made), indent=1) + "\n",
        ".md": as_markdown(made, []),
    }
    for ending, content in contents.items():
        put(folder / f"{base}{ending}", content)
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
    put(folder / f"{base}.md", as_markdown(made, drawn))
    values = [sort_keys(group, made.metric) for group in made.groups]
    put(
        folder / f"{base}.html",
        page.as_html(folder, made.groups, table(made), values, made.lines(), figures, tips),
    )
    return [folder / f"{base}{ending}" for ending in (".html", *contents)] + paths, warnings


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


def as_rows(made: Comparison) -> list[dict[str, object]]:
    """Return a row per group, in plain numbers: its keys, metric, n, mean and spread, costs."""
    rows: list[dict[str, object]] = []
    for group in made.groups:
        low, high = group.interval or (None, None)
        keys: dict[str, object] = dict(zip(made.keys, group.key, strict=True))
        rows.append(
            keys
            | {"metric": made.metric, "n": group.n, "mean": group.mean}
            | {"deviation": group.deviation, "low_95": low, "high_95": high}
            | {"best": best_of(group, made.metric)}
            | {name: group.cost(name) for name in FIGURES}
        )
    return rows


def as_csv(made: Comparison) -> str:
    """Return `as_rows` as CSV."""
    buffer = io.StringIO()
    rows = as_rows(made)
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return buffer.getvalue()


def as_json(made: Comparison) -> dict[str, object]:
    """Return everything, every run's value included."""
    return {
        "metric": made.metric,
        "keys": made.keys,
        "made": now(),
        "groups": [group_as_json(group, made.keys) for group in made.groups],
        "differences": [difference_as_json(each) for each in made.differences],
        "verdict": made.lines(),
    }


def group_as_json(group: Group, keys: Sequence[str]) -> dict[str, object]:
    """Return a group with its runs and costs."""
    return {
        "label": group.label,
        "key": dict(zip(keys, group.key, strict=True)),
        "mean": group.mean,
        "deviation": group.deviation,
        "interval_95": group.interval,
        "runs": [
            {"folder": str(result.folder), "seed": result.seed, "value": value}
            for result, value in zip(group.results, group.values, strict=True)
        ],
        **{name: group.cost(name) for name in FIGURES},
    }


def difference_as_json(each: Difference) -> dict[str, object]:
    """Return a difference with its intervals and p-values."""
    return {
        "a": each.a.label,
        "b": each.b.label,
        "mean": each.mean,
        "n": each.seeds,
        "paired_by_seed": each.is_paired,
        "interval_over_seeds_95": each.over_seeds,
        "interval_over_images_95": each.over_images,
        "mcnemar_p": each.mcnemar,
        "p": each.p,
        "p_corrected": each.corrected,
        "is_real": each.is_real,
    }


def as_markdown(made: Comparison, drawn: "Sequence[Picture]") -> str:
    """Return the table, the verdict and the pictures."""
    rows = table(made)
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    pictures = [f"![{picture.title}]({picture.name}.png)" for picture in drawn]
    return "\n".join([*lines, "", *(f"* {line}" for line in made.lines()), "", *pictures]) + "\n"
