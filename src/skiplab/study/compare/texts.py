"""The tables of a comparison as texts: of groups, and of effects.

Imports no torch.
"""

import textwrap
from collections.abc import Sequence

from skiplab.study.compare import sentences
from skiplab.study.compare.comparison import Comparison
from skiplab.study.compare.factorial import Effect
from skiplab.study.compare.groups import Group
from skiplab.study.compare.reasons import bare
from skiplab.study.compare.results import FIGURES, METRICS, is_share

# The table on the terminal shows this many groups at most.
MAX_ROWS = 60
# These columns are left out first where a terminal is too narrow.
SPARED_FIRST = ("seconds", "M MACs", "best", "params")
SPARED_OF_EFFECTS = ("df", "95 % interval")
# These spaces are no place to break a line.
BOUND = (" %", " = ")
LEGEND = (
    "size: the highest minus the lowest mean over all else, of keys together the largest "
    "difference of differences; an effect stands if p is below 0.05 after correction"
)


def headings(made: Comparison) -> list[str]:
    """Return the headings of the table's columns."""
    unit = ", %" if is_share(made.metric) else ""
    figures = [f"{made.metric}{unit}", "deviation", "95 % interval", "best"]
    seeds = ["seeds"] if made.is_pooled else []
    return ["group", "n", *seeds, *figures, "params", "M MACs", "seconds"]


def best_of(group: Group, metric: str) -> float:
    """Return a group's best value."""
    _, more_is_better = METRICS[metric]
    return max(group.values) if more_is_better else min(group.values)


def row(group: Group, metric: str) -> list[str]:
    """Return the texts of a group's row."""
    ends = [bare(end, metric) for end in group.interval or ()]
    deviation = group.deviation
    return [
        group.label,
        str(group.n),
        *([] if group.seed_means is None else [str(len(group.seed_means))]),
        bare(group.mean, metric),
        "-" if deviation is None else bare(deviation, metric),
        " to ".join(ends) or "-",
        bare(best_of(group, metric), metric),
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
        *([] if group.seed_means is None else [len(group.seed_means)]),
        group.mean,
        group.deviation or 0.0,
        low,
        best_of(group, metric),
        *(group.cost(name) for name in FIGURES),
    ]


def table(made: Comparison) -> list[list[str]]:
    """Return the headings, then a row for each group."""
    return [headings(made), *(row(group, made.metric) for group in made.groups)]


def effects_table(made: Comparison) -> list[list[str]]:
    """Return the headings, then a row for each effect; nothing where there are none."""
    if made.effects is None or not made.effects.rows:
        return []
    unit = ", points" if is_share(made.metric) else ""
    rows = [
        ["effect", f"size{unit}", "95 % interval", "df", "p", "corrected", "stands"],
        *(effect_row(each, made.metric) for each in made.effects.rows),
    ]
    is_tested = any(each.p is not None for each in made.effects.rows)
    return rows if is_tested else [cells[:2] for cells in rows]


def effect_row(each: Effect, metric: str) -> list[str]:
    """Return the texts of an effect's row."""
    ends = [bare(end, metric) for end in each.interval or ()]
    freedom = f"{each.freedom}, {each.error_freedom}"
    ps = ["-" if p is None else f"{p:.2g}" for p in (each.p, each.corrected)]
    stands = "-" if each.p is None else "yes" if each.is_real else "no"
    name = " x ".join(key.removesuffix(".name") for key in each.keys)
    return [name, bare(each.size, metric), " to ".join(ends) or "-", freedom, *ps, stands]


def text(made: Comparison, *, columns: int | None = None) -> str:
    """Return the tables with aligned columns, and the verdict between them.

    For a terminal of so many columns, lines are wrapped between words, and figures that do not fit
    are left out and named. The command for more seeds stays whole, to be copied.
    """
    rows = table(made)
    cut, gone = fit(rows[: MAX_ROWS + 1], columns, spared=SPARED_FIRST)
    lines = aligned(cut)
    if len(rows) > len(cut):
        lines.append(f"... and {len(rows) - len(cut)} more; compare.csv holds all")
    if gone:
        told = f"not shown for want of width: {', '.join(gone)}; compare.csv holds all"
        lines.append(wrapped(told, columns))
    lines += ["", *(wrapped(line, columns) for line in made.lines())]
    if made.effects is not None:
        shown = effects_table(made)
        end = ":" if shown else ""
        fitting, _ = fit(shown, columns, spared=SPARED_OF_EFFECTS)
        lines += ["", wrapped(f"{made.effects.note}{end}", columns), *aligned(fitting)]
        lines += [wrapped(LEGEND, columns)] if shown else []
    return "\n".join(lines)


def fit(
    rows: Sequence[Sequence[str]], columns: int | None, *, spared: Sequence[str]
) -> tuple[list[list[str]], list[str]]:
    """Return a table with the columns that fit, and the headings of those that do not."""
    kept, gone = [list(cells) for cells in rows], list[str]()
    for name in spared:
        if columns is None or not kept or len(aligned(kept)[0]) <= columns:
            break
        at = kept[0].index(name)
        kept = [[cell for i, cell in enumerate(cells) if i != at] for cells in kept]
        gone.append(name)
    return kept, gone


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in rows
    ]


def wrapped(line: str, columns: int | None) -> str:
    """Return a sentence in lines of so many columns; a command stays whole."""
    if columns is None or line.startswith(sentences.COMMAND):
        return line
    for text in BOUND:
        line = line.replace(text, text.replace(" ", "\0"))
    filled = textwrap.fill(
        line,
        max(columns, 20),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled.replace("\0", " ")
