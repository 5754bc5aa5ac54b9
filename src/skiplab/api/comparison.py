"""A comparison of runs in Python: rows, sentences, a frame, LaTeX, a table in a notebook."""

import html
from typing import TYPE_CHECKING, Any

from skiplab.api.rows import Rows

if TYPE_CHECKING:
    from skiplab.study.compare import tables

# What LaTeX takes for a command.
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


class Comparison:
    """Groups of runs, averaged over seeds. `made` is what the tables and pages are made of."""

    def __init__(self, made: "tables.Comparison"):
        self.made = made

    @property
    def rows(self) -> Rows:
        """A row per group: its keys, metric, n, mean, deviation, interval, best, costs."""
        from skiplab.study.compare import tables

        return Rows(tables.as_rows(self.made))

    @property
    def sentences(self) -> list[str]:
        """What can be told apart, and notes on the runs."""
        return self.made.lines()

    @property
    def differences(self) -> Rows:
        """A row per pair of groups: mean difference, intervals, p-values before and after."""
        from skiplab.study.compare import tables

        return Rows([tables.difference_as_json(each) for each in self.made.differences])

    def frame(self) -> Any:  # noqa: ANN401 - either library's
        """Return `rows` as a data frame."""
        return self.rows.frame()

    def latex(self) -> str:
        """Return the table for LaTeX, with the lines of the package booktabs."""
        from skiplab.study.compare import tables

        first, *others = tables.table(self.made)
        lines = [" & ".join(map(escaped, cells)) + r" \\" for cells in (first, *others)]
        columns = "l" + "r" * (len(first) - 1)
        return "\n".join(
            [
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                lines[0],
                r"\midrule",
                *lines[1:],
                r"\bottomrule",
                r"\end{tabular}",
            ]
        )

    def __repr__(self) -> str:
        from skiplab.study.compare import tables

        return tables.text(self.made)

    def _repr_html_(self) -> str:
        from skiplab.study.compare import tables

        first, *others = tables.table(self.made)
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in first)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in others
        )
        said = "".join(f"<li>{html.escape(line)}</li>" for line in self.sentences)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"{table}<ul>{said}</ul>"


def escaped(text: str) -> str:
    """Return a text with what LaTeX takes for commands escaped."""
    return "".join(SPECIAL.get(character, character) for character in text)
