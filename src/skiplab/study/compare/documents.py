"""A comparison as rows, CSV, JSON, Markdown and LaTeX.

Imports no torch.
"""

import csv
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from skiplab.study.compare.comparison import Comparison
from skiplab.study.compare.factorial import Effect
from skiplab.study.compare.groups import Group
from skiplab.study.compare.results import FIGURES
from skiplab.study.compare.statistics import Difference
from skiplab.study.compare.texts import LEGEND, best_of, effects_table, table
from skiplab.words import now

# What LaTeX takes for a command, or prints as another sign.
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}

if TYPE_CHECKING:
    from skiplab.study.compare.drawing import Picture


def as_rows(made: Comparison) -> list[dict[str, object]]:
    """Return a row per group, in plain numbers: its keys, metric, n, mean and spread, costs."""
    rows: list[dict[str, object]] = []
    for group in made.groups:
        low, high = group.interval or (None, None)
        keys: dict[str, object] = dict(zip(made.keys, group.key, strict=True))
        rows.append(
            keys
            | {"metric": made.metric, "n": group.n}
            | ({"seeds": len(group.replicates)} if made.is_pooled else {})
            | {"mean": group.mean}
            | {"deviation": group.deviation, "low_95": low, "high_95": high}
            | {"best": best_of(group, made.metric)}
            | {name: group.cost(name) for name in FIGURES}
        )
    return rows


def as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows with the same keys as CSV; an empty cell for None."""
    buffer = io.StringIO()
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
        "effects": [effect_as_json(each) for each in made.effects.rows] if made.effects else [],
        "effects_of": None if made.effects is None else made.effects.note,
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
        "seeds_p": each.p_seeds,
        "images_p": each.p_images,
        "p": each.p,
        "p_corrected": each.corrected,
        "is_real": each.is_real,
        "pairs": None if each.matched is None else vars(each.matched),
    }


def effect_as_json(each: Effect) -> dict[str, object]:
    """Return a row of the table of effects."""
    return {
        "keys": list(each.keys),
        "size": each.size,
        "interval_over_seeds_95": each.interval,
        "df": each.freedom,
        "df_error": each.error_freedom,
        "epsilon": each.epsilon,
        "seeds_p": each.p_seeds,
        "images_p": each.p_images,
        "p": each.p,
        "p_corrected": each.corrected,
        "is_real": each.is_real,
    }


def as_markdown(made: Comparison, drawn: "Sequence[Picture]") -> str:
    """Return the table, the verdict, the table of effects and the pictures."""
    parts = [markdown_table(table(made)), "\n".join(f"* {line}" for line in made.lines())]
    if made.effects is not None:
        parts.append(f"{made.effects.note}:" if made.effects.rows else made.effects.note)
        if made.effects.rows:
            parts += [markdown_table(effects_table(made)), LEGEND]
    parts.append("\n".join(f"![{picture.title}]({picture.name}.png)" for picture in drawn))
    return "\n\n".join(parts) + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts in Markdown."""
    # A bar would end its cell.
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |" for cells in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines)


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts for a page."""
    first, *others = [[html.escape(cell) for cell in cells] for cells in rows]
    head = "".join(f"<th>{cell}</th>" for cell in first)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for cells in others
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def as_latex(made: Comparison) -> str:
    """Return the tables of groups and of effects for LaTeX, with the lines of booktabs."""
    text = "% needs \\usepackage{booktabs}\n" + latex_table(table(made))
    if made.effects is not None and made.effects.rows:
        text += f"\n% {made.effects.note}\n" + latex_table(effects_table(made))
    return text


def latex_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts for LaTeX."""
    first, *others = [" & ".join(map(escaped, cells)) + r" \\" for cells in rows]
    columns = "l" + "r" * (len(rows[0]) - 1)
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    lines = [begin, r"\toprule", first, r"\midrule", *others, r"\bottomrule", end]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return a text with what LaTeX takes for commands, or another sign, escaped."""
    return "".join(SPECIAL.get(character, character) for character in text)
