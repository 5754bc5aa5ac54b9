"""`skiplab compare`: runs in groups, averaged over seeds; a table, a verdict, pictures and a page. Imports no torch."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skiplab.errors import FolderError, UsageError, in_words
from skiplab.runs import checkpoint
from skiplab.study.compare import page, results, sentences, statistics
from skiplab.study.compare.groups import Group, numeric_keys, partition
from skiplab.study.compare.results import FIGURES, METRICS, Found, is_share
from skiplab.study.compare.statistics import Difference
from skiplab.words import now

# of the table on the terminal
MAX_ROWS = 60


@dataclass(frozen=True)
class Comparison:
    """What was found: the groups, what they differ in, their differences, all in words."""

    metric: str
    keys: list[str]
    groups: list[Group]
    differences: list[Difference]
    notes: list[str]
    # the same groups by their training accuracy, where the test or validation accuracy is compared
    trained: list[Group]

    def lines(self) -> list[str]:
        """The verdict, then what to know of the runs."""
        told = sentences.sentences(self.groups, self.differences, metric=self.metric)
        told += sentences.trends(self.groups, self.keys, self.differences, metric=self.metric)
        ends = [
            (members[-1], members[0])
            for members in statistics.lines_of(self.trained, self.keys).values()
        ]
        trained = statistics.compare_pairs(ends, metric="train.accuracy")
        told += sentences.trends(self.trained, self.keys, trained, metric="train.accuracy")
        return [*told, *self.notes]


def compare(found: Found, *, by: Sequence[str] | None, metric: str) -> Comparison:
    """The comparison of runs; `by` are keys by their full paths, None: what differs. Raises UsageError for what cannot be compared."""
    found = results.with_metric(found, metric)
    results.check_protocol(found.results, by=by or [])
    keys, groups = partition(found.results, metric=metric, by=by)
    trained = (
        partition(found.results, metric="train.accuracy", by=keys)[1]
        if metric in statistics.SPLIT_OF
        else []
    )
    return Comparison(
        metric,
        keys,
        groups,
        statistics.differences(groups, keys, metric=metric),
        found.notes,
        trained,
    )


def command(
    found: Found, folder: Path, *, by: Sequence[str] | None, metric: str, x: str | None
) -> None:
    """`skiplab compare`: the table and the verdict on stdout, everything in a folder; a picture that fails is a warning."""
    made = compare(found, by=by, metric=metric)
    if x is not None and x not in FIGURES:
        x = checked_x(x, made)
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
        print(
            f"warning: {'; '.join(warnings)}; skiplab compare draws {'it' if len(warnings) == 1 else 'them'} again",
            file=sys.stderr,
        )


def checked_x(x: str, made: Comparison) -> str:
    """The key that --x means. Raises UsageError if the groups do not differ in it, or it holds no numbers."""
    choices = numeric_keys(made.groups, made.keys)
    if x not in choices:
        rule = (
            "holds no numbers"
            if x in made.keys or f"{x}.name" in made.keys
            else "the groups do not differ in it"
        )
        raise UsageError(f"--x {x}: {rule}; choices: {', '.join([*choices, *FIGURES])}")
    return x


# -------------------------------------------------------------------------------------------------------------------
# the table


def headings(made: Comparison) -> list[str]:
    """Of the table's columns."""
    unit = ", %" if is_share(made.metric) else ""
    return [
        "group",
        "n",
        f"{made.metric}{unit}",
        "deviation",
        "95 % interval",
        "best",
        "params",
        "M MACs",
        "seconds",
    ]


def row(group: Group, metric: str) -> list[str]:
    """A group as words."""
    interval = group.interval
    best = (max if METRICS[metric][1] else min)(group.values)
    return [
        group.label,
        str(group.n),
        sentences.bare(group.mean, metric),
        "-" if group.deviation is None else sentences.bare(group.deviation, metric),
        "-"
        if interval is None
        else f"{sentences.bare(interval[0], metric)} to {sentences.bare(interval[1], metric)}",
        sentences.bare(best, metric),
        f"{group.cost('params'):,.0f}",
        f"{group.cost('macs') / 1e6:,.2f}",
        f"{group.cost('seconds'):,.1f}",
    ]


def sort_keys(group: Group, metric: str) -> list[float | str]:
    """What a row of the page is sorted by, column by column."""
    best = (max if METRICS[metric][1] else min)(group.values)
    low = group.interval[0] if group.interval else group.mean
    return [
        group.label,
        group.n,
        group.mean,
        group.deviation or 0.0,
        low,
        best,
        *(group.cost(name) for name in FIGURES),
    ]


def table(made: Comparison) -> list[list[str]]:
    """Headings, then a row for each group."""
    return [headings(made), *(row(group, made.metric) for group in made.groups)]


def text(made: Comparison) -> str:
    """The table, aligned, and the verdict."""
    rows = table(made)
    cut = rows[: MAX_ROWS + 1]
    widths = [max(len(cells[i]) for cells in cut) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            [
                cells[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
            ]
        )
        for cells in cut
    ]
    if len(rows) > len(cut):
        lines.append(f"... and {len(rows) - len(cut)} more; compare.csv holds all")
    return "\n".join([*lines, "", *made.lines()])


# -------------------------------------------------------------------------------------------------------------------
# the files


def write(made: Comparison, folder: Path, *, x: str | None) -> tuple[list[Path], list[str]]:
    """compare.csv, .json, .md, then the pictures, then .html; of another metric than the test accuracy compare_METRIC.csv ...

    Returns what was written, and what could not be drawn. No picture stands in the way of a table.
    """
    base = (
        "compare" if made.metric == "test.accuracy" else f"compare_{made.metric.replace('.', '_')}"
    )
    contents = {
        ".csv": as_csv(made),
        ".json": json.dumps(as_json(made), indent=1) + "\n",
        ".md": as_markdown(made, []),
    }
    for ending, content in contents.items():
        put(folder / f"{base}{ending}", content)
    drawn, warnings = pictures_of(made, x=x)
    paths, figures, tips = [], [], {}
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


def pictures_of(made: Comparison, *, x: str | None) -> tuple[list[Any], list[str]]:
    """The pictures, each made by itself, and what could not be made."""
    drawn, warnings = [], []
    try:
        # matplotlib: half a second, and it may fail
        from skiplab.study.compare import layer_plots, pictures
    except Exception as error:
        return [], [f"no picture drawn ({in_words(error)})"]
    groups = made.groups[: pictures.MAX_GROUPS]
    for make in (
        *pictures.makers(groups, made.keys, metric=made.metric, x=x),
        *layer_plots.makers(groups, made.keys),
    ):
        try:
            if (picture := make()) is not None:
                drawn.append(picture)
        except Exception as error:
            warnings.append(f"a picture not drawn ({in_words(error)})")
    return drawn, warnings


def put(path: Path, content: str) -> None:
    """Write a text file, whole or not at all."""
    # a folder's name may be no text
    checkpoint.write_atomically(path, content.encode(errors="backslashreplace"))


def as_csv(made: Comparison) -> str:
    """A row a group, in plain numbers."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [*made.keys, "metric", "n", "mean", "deviation", "low_95", "high_95", "best", *FIGURES]
    )
    for group in made.groups:
        best = (max if METRICS[made.metric][1] else min)(group.values)
        spread = [group.deviation, *(group.interval or (None, None))]
        writer.writerow(
            [
                *group.key,
                made.metric,
                group.n,
                group.mean,
                *spread,
                best,
                *(group.cost(name) for name in FIGURES),
            ]
        )
    return buffer.getvalue()


def as_json(made: Comparison) -> dict[str, Any]:
    """Everything, every run's value included."""
    return {
        "metric": made.metric,
        "keys": made.keys,
        "made": now(),
        "groups": [
            {
                "label": group.label,
                "key": dict(zip(made.keys, group.key, strict=True)),
                "mean": group.mean,
                "deviation": group.deviation,
                "interval_95": group.interval,
                "runs": [
                    {"folder": str(result.folder), "seed": result.seed, "value": value}
                    for result, value in zip(group.results, group.values, strict=True)
                ],
            }
            | {name: group.cost(name) for name in FIGURES}
            for group in made.groups
        ],
        "differences": [
            {
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
            for each in made.differences
        ],
        "verdict": made.lines(),
    }


def as_markdown(made: Comparison, drawn: Sequence[Any]) -> str:
    """The table, the verdict and the pictures."""
    rows = table(made)
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    pictures = [f"![{picture.title}]({picture.name}.png)" for picture in drawn]
    return "\n".join([*lines, "", *(f"* {line}" for line in made.lines()), "", *pictures]) + "\n"
