"""What a search may choose from, as the command line says it. Imports no torch."""

import math
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from skiplab.config import grid, keys, overrides
from skiplab.config.functions import whole_range
from skiplab.errors import UsageError

if TYPE_CHECKING:
    import optuna


def space_of(parsed: Sequence[Override]) -> "dict[str, optuna.distributions.BaseDistribution]":
    """A distribution for each override with several values: a list is categorical, range() whole numbers, interval() a continuum.

    `tag(log, interval(1e-4, 1))` is logarithmic. Raises UsageError for what cannot be searched.
    """
    from optuna.distributions import CategoricalDistribution, IntDistribution

    space: dict[str, Any] = {}
    for override in parsed:
        if not override.is_sweep_override():
            continue
        key, value = override.key_or_group, override.value()
        tags = getattr(value, "tags", set())
        is_log = "log" in tags
        if tags - {"log"}:
            raise UsageError(
                f"{override.input_line}: a search knows one tag, log; leave {', '.join(sorted(tags - {'log'}))} out"
            )
        if isinstance(value, IntervalSweep):
            space[key] = of_interval(override, value, is_log=is_log)
        elif isinstance(value, RangeSweep):
            numbers = whole_range(value)
            if is_log and (min(numbers) < 1 or abs(numbers.step) != 1):
                raise UsageError(
                    f"{override.input_line}: on a log scale, steps of 1 from 1 on are expected"
                )
            space[key] = IntDistribution(
                min(numbers), max(numbers), log=is_log, step=abs(numbers.step)
            )
        elif is_log:
            raise UsageError(
                f"{override.input_line}: a list has no scale; log is for interval(), and range() of whole numbers"
            )
        else:
            space[key] = CategoricalDistribution(
                [each.get_value_element_as_str() for each in grid.each_of(override)]
            )
    if not space:
        raise UsageError(
            "skiplab search: nothing to search; give a key several values: block=conv,skip 'optimizer.lr=tag(log,interval(1e-3,1))'"
        )
    return space


def of_interval(
    override: Override, value: IntervalSweep, *, is_log: bool
) -> "optuna.distributions.BaseDistribution":
    """The distribution of interval(): whole numbers where the key takes those, or where int() asks for them."""
    from optuna.distributions import FloatDistribution, IntDistribution

    key, low, high = override.key_or_group, value.start, value.end
    assert low is not None
    assert high is not None
    if low >= high or (is_log and low <= 0):
        rule = f"an interval from a smaller to a larger number is expected{', above 0' if is_log else ''}"
        raise UsageError(f"{override.input_line}: {rule}")
    if not isinstance(low, int) and not (
        key in keys.leaves() and is_whole(keys.leaves()[key].type)
    ):
        return FloatDistribution(float(low), float(high), log=is_log)
    # Hydra reads the ends as fractions
    low, high = math.ceil(low), math.floor(high)
    if low > high:
        raise UsageError(f"{override.input_line}: no whole number lies in it")
    return IntDistribution(low, high, log=is_log)


def is_whole(kind: Any) -> bool:
    """Whether a key of this type takes whole numbers: int, or int | None."""
    return int in (kind, *typing.get_args(kind))


def check_ends(parsed: Sequence[Override], fixed: Sequence[str]) -> None:
    """Raise UsageError for an interval of a key that there is not with the fixed values, or beyond the key's bounds.

    Where an end cannot be for another reason, such as a width that the block does not divide,
    values between may.
    """
    for override in parsed:
        value = override.value()
        if isinstance(value, IntervalSweep):
            for end in (value.start, value.end):
                text = f"{override.key_or_group}={end:g}"
                try:
                    overrides.check([*fixed, text], multirun=True)
                except UsageError as error:
                    for line in str(error).split("\n"):
                        if "no such key" in line or ": must be " in line:
                            raise UsageError(f"{line} (an end of {override.input_line})") from None
