"""A comparison of runs in Python: rows, sentences, a frame, LaTeX, a table in a notebook."""

import html
from typing import TYPE_CHECKING, Any

from skiplab.api.rows import Rows

if TYPE_CHECKING:
    from skiplab.study.compare import comparison


class Comparison:
    """Groups of runs, averaged over seeds. `made` is what the tables and pages are made of."""

    def __init__(self, made: "comparison.Comparison"):
        self.made = made

    @property
    def rows(self) -> Rows:
        """A row per group: its keys, metric, n, mean, deviation, interval, best, costs."""
        from skiplab.study.compare import documents

        return Rows(documents.as_rows(self.made))

    @property
    def sentences(self) -> list[str]:
        """What can be told apart, and notes on the runs."""
        return self.made.lines()

    @property
    def differences(self) -> Rows:
        """A row per pair of groups: mean difference, intervals, p-values before and after."""
        from skiplab.study.compare import documents

        return Rows([documents.difference_as_json(each) for each in self.made.differences])

    @property
    def effects(self) -> Rows:
        """A row per key and per interaction, tested over seeds; none for less than two keys."""
        from skiplab.study.compare import documents

        grid = self.made.effects
        return Rows([documents.effect_as_json(each) for each in grid.rows] if grid else [])

    @property
    def runs(self) -> Rows:
        """A row per run, finished or not, as runs.csv: folder, seed, status, keys, figures."""
        from skiplab.study.compare import runs_table

        return Rows(runs_table.as_rows(self.made.found))

    def frame(self) -> Any:  # noqa: ANN401 - either library's
        """Return `rows` as a data frame."""
        return self.rows.frame()

    def latex(self) -> str:
        """Return the tables of groups and of effects for LaTeX (package booktabs)."""
        from skiplab.study.compare import documents

        return documents.as_latex(self.made)

    def __repr__(self) -> str:
        from skiplab.study.compare import texts

        return texts.text(self.made)

    def _repr_html_(self) -> str:
        from skiplab.study.compare import documents, texts

        table = documents.html_table(texts.table(self.made))
        if effects := texts.effects_table(self.made):
            table += documents.html_table(effects)
        said = "".join(f"<li>{html.escape(line)}</li>" for line in self.sentences)
        return f"{table}<ul>{said}</ul>"
