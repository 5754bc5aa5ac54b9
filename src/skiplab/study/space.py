"""What a search may choose from, as the command line says it. Imports no torch."""

import math
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from skiplab import config as configs, grid, overrides
from skiplab.errors import UsageError

if TYPE_CHECKING:
    import optuna


def space_of(parsed: Sequence[Override]) -> "dict[str, optuna.distributions.BaseDistribution]":
    """A distribution for each override with several values: a list is categorical, range() whole numbers, interval() a continuum.

    `tag(log, interval(1e-4, 1))` is logarithmic. Raises UsageError for what cannot be searched.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space: dict[str, Any] = {}
    for override in parsed:
        if not override.is_sweep_override():
            continue
        key, value = override.key_or_group, override.value()
        is_log = "log" in getattr(value, "tags", ())
        if isinstance(value, IntervalSweep):
            low, high = value.start, value.end
            assert low is not None
            assert high is not None
            if low >= high or (is_log and low <= 0):
                raise UsageError(
                    f"{override.input_line}: an interval from a smaller to a larger number is expected{', above 0' if is_log else ''}"
                )
            whole = key in configs.leaves() and is_whole(configs.leaves()[key].type)  # Hydra reads the ends as fractions
            if whole:
                low, high = math.ceil(low), math.floor(high)
                if low > high:
                    raise UsageError(f"{override.input_line}: no whole number lies in it")
            space[key] = (
                IntDistribution(int(low), int(high), log=is_log) if whole else FloatDistribution(float(low), float(high), log=is_log)
            )
        elif isinstance(value, RangeSweep) and all(isinstance(v, int) for v in (value.start, value.stop, value.step)):
            numbers = range(int(value.start or 0), int(value.stop or 0), int(value.step))
            space[key] = IntDistribution(min(numbers), max(numbers), step=abs(int(value.step)))
        else:
            space[key] = CategoricalDistribution([each.get_value_element_as_str() for each in grid.each_of(override)])
    if not space:
        raise UsageError(
            "skiplab search: nothing to search; give a key several values: block=conv,skip 'optimizer.lr=tag(log,interval(1e-3,1))'"
        )
    return space


def is_whole(kind: Any) -> bool:
    """Whether a key of this type takes whole numbers: int, or int | None."""
    return int in (kind, *typing.get_args(kind))


def check_ends(parsed: Sequence[Override], fixed: Sequence[str]) -> None:
    """Raise UsageError for an interval of a key that there is not with the fixed values, or beyond the key's bounds.

    Where an end cannot be for another reason, such as a width that the block does not divide, values between may.
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
