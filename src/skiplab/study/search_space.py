"""Turn the overrides of a search into Optuna's distributions. Imports no torch."""

import math
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from skiplab.config import code, grid, keys, overrides
from skiplab.config.functions import whole_range
from skiplab.errors import UsageError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def space_of(parsed: Sequence[Override]) -> "dict[str, BaseDistribution]":
    """Return a distribution for each override with several values.

    A list is categorical, range() gives whole numbers, interval() a continuum. A tag makes a scale
    logarithmic: `tag(log, interval(1e-4, 1))`. Raises UsageError for what cannot be searched.
    """
    space = {
        override.key_or_group: distribution_of(override)
        for override in parsed
        if override.is_sweep_override()
    }
    if not space:
        raise UsageError(
            "skiplab search: nothing to search; give a key several values: "
            "block=conv,skip 'optimizer.lr=tag(log,interval(1e-3,1))'"
        )
    return space


def distribution_of(override: Override) -> "BaseDistribution":
    """Return the distribution of one override with several values.

    Raises UsageError for what cannot be searched.
    """
    from optuna.distributions import CategoricalDistribution

    value = override.value()
    tags = getattr(value, "tags", set())
    is_log = "log" in tags
    if others := sorted(tags - {"log"}):
        raise UsageError(
            f"{override.input_line}: a search knows one tag, log; leave {', '.join(others)} out"
        )
    if isinstance(value, IntervalSweep):
        return of_interval(override, value, is_log=is_log)
    if isinstance(value, RangeSweep):
        return of_range(override, value, is_log=is_log)
    if is_log:
        raise UsageError(
            f"{override.input_line}: a list has no scale; "
            "log is for interval(), and range() of whole numbers"
        )
    choices = [code.as_typed(each.get_value_element_as_str()) for each in grid.each_of(override)]
    return CategoricalDistribution(choices)


def digests_of(parsed: Sequence[Override]) -> list[str]:
    """Return the name and SHA-256 of each piece of a user's own code that overrides name."""
    pieces = [
        code.read(override.key_or_group, str(each.value()))
        for override in parsed
        for each in (grid.each_of(override) if override.key_or_group in code.BASES else ())
        if code.is_spec(each.value())
    ]
    return [f"{each.group}={each.name} {each.sha256[:8]}" for each in pieces]


def of_range(override: Override, value: RangeSweep, *, is_log: bool) -> "BaseDistribution":
    """Return the distribution of range(). Raises UsageError for steps that have no log scale."""
    from optuna.distributions import IntDistribution

    numbers = whole_range(value)
    if is_log and (min(numbers) < 1 or abs(numbers.step) != 1):
        raise UsageError(
            f"{override.input_line}: on a log scale, steps of 1 from 1 on are expected"
        )
    return IntDistribution(min(numbers), max(numbers), log=is_log, step=abs(numbers.step))


def of_interval(override: Override, value: IntervalSweep, *, is_log: bool) -> "BaseDistribution":
    """Return the distribution of interval().

    It has whole numbers where the key takes those, or where int() asks for them. Raises UsageError
    for an interval without values.
    """
    from optuna.distributions import FloatDistribution, IntDistribution

    key, low, high = override.key_or_group, value.start, value.end
    assert low is not None
    assert high is not None
    if low >= high or (is_log and low <= 0):
        above = ", above 0" if is_log else ""
        raise UsageError(
            f"{override.input_line}: an interval from a smaller to a larger number is expected"
            f"{above}"
        )
    takes_whole = key in keys.leaves() and is_whole(keys.leaves()[key].type)
    if not isinstance(low, int) and not takes_whole:
        return FloatDistribution(float(low), float(high), log=is_log)
    # Hydra reads the ends as fractions.
    least, most = math.ceil(low), math.floor(high)
    if least > most:
        raise UsageError(f"{override.input_line}: no whole number lies in it")
    return IntDistribution(least, most, log=is_log)


def is_whole(kind: object) -> bool:
    """Return whether a key of this type takes whole numbers: int, or int | None."""
    return int in (kind, *typing.get_args(kind))


def check_ends(parsed: Sequence[Override], fixed: Sequence[str]) -> None:
    """Check that each interval's key exists with the fixed values, and takes both ends.

    Raises UsageError if not. An end that is refused for another reason is no error, such as a
    width that the block does not divide: values between may be fine.
    """
    for override in parsed:
        value = override.value()
        if not isinstance(value, IntervalSweep):
            continue
        for end in (value.start, value.end):
            try:
                overrides.check([*fixed, f"{override.key_or_group}={end:g}"], multirun=True)
            except UsageError as error:
                for line in str(error).split("\n"):
                    if "no such key" in line or ": must be " in line:
                        raise UsageError(f"{line} (an end of {override.input_line})") from None
