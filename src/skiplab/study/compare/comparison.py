"""A comparison: its groups, their differences, the effects of its keys, and the verdict.

Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from skiplab.errors import UsageError
from skiplab.study.compare import pooling, protocol, results, sentences, statistics
from skiplab.study.compare.groups import Group, distinguishing, numeric_keys, partition, varying
from skiplab.study.compare.results import Found
from skiplab.study.compare.statistics import Difference


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
    # The runs that were found, counted or not.
    found: Found
    # What single keys and their interactions do; None for less than two keys.
    effects: pooling.Grid | None = None
    # Of a grid: the options of each key that is no number, over all settings of the others.
    pooled: Sequence[pooling.Pooled] = ()

    @property
    def is_pooled(self) -> bool:
        """Whether each group holds runs of several settings, in matched pairs."""
        return any(group.seed_means is not None for group in self.groups)

    def lines(self) -> list[str]:
        """Return the verdict, then the notes on the runs.

        Of a grid, matched pairs say what a key does, in place of one sentence per pair of groups.
        """
        lines = [
            line
            for each in self.pooled
            for line in sentences.of_matched(each.groups, each.differences, metric=self.metric)
        ]
        lines += sentences.sentences(
            self.groups, self.differences, metric=self.metric, of_pairs=not self.pooled
        )
        lines += sentences.trends(self.groups, self.keys, self.differences, metric=self.metric)
        ends = [
            (members[-1], members[0])
            for members in statistics.lines_of(self.trained, self.keys).values()
        ]
        trained = statistics.compare_pairs(ends, metric="train.accuracy")
        lines += sentences.trends(self.trained, self.keys, trained, metric="train.accuracy")
        if self.effects is not None:
            lines += sentences.about_effects(self.effects.rows, self.metric)
        more = sentences.seeds_line(self.groups, self.differences, metric=self.metric)
        return [*lines, *self.notes, *more]


def compare(found: Found, *, by: Sequence[str] | None, metric: str) -> Comparison:
    """Compare runs; `by` are keys by their full paths, None: what differs.

    Where runs of one group differ in other keys, they are pooled in matched pairs. Raises
    UsageError for what cannot be compared.
    """
    everything, found = found, results.with_metric(found, metric)
    protocol.check(found.results, by=by or [])
    all_keys = distinguishing(found.results, varying(found.results))
    try:
        keys, groups = partition(found.results, metric=metric, by=by)
    except UsageError:
        made = compare_pooled(found, by=by or [], all_keys=all_keys, metric=metric)
        if made is None:
            raise
        return replace(made, found=everything)
    trained: list[Group] = []
    if metric in statistics.SPLIT_OF:
        _, trained = partition(found.results, metric="train.accuracy", by=keys)
    differences = statistics.differences(groups, keys, metric=metric)
    effects = pooling.effects(found.results, keys, metric=metric)
    pooled: list[pooling.Pooled] = []
    if effects is not None:
        numbers = numeric_keys(groups, keys)
        named = [key for key in keys if key not in numbers]
        for key in named:
            others = [each for each in all_keys if each != key]
            one = pooling.pool(found.results, by=[key], others=others, metric=metric)
            pooled += [one] if one is not None else []
    return Comparison(
        metric, keys, groups, differences, found.notes, trained, everything, effects, pooled
    )


def compare_pooled(
    found: Found, *, by: Sequence[str], all_keys: Sequence[str], metric: str
) -> Comparison | None:
    """Compare groups by some of the keys, over all settings of the others, in matched pairs.

    None where no pair matches.
    """
    others = [key for key in all_keys if key not in by]
    if not others or not by:
        return None
    pooled = pooling.pool(found.results, by=by, others=others, metric=metric)
    if pooled is None:
        return None
    effects = pooling.effects(found.results, all_keys, metric=metric)
    notes = [*pooled.notes, *found.notes]
    return Comparison(
        metric, list(by), pooled.groups, pooled.differences, notes, [], found, effects
    )
