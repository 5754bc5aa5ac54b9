"""Reads overrides by Hydra's grammar, with functions of our own (functions.py). Imports no torch.

Hydra 1.3.8 sorts a range wrongly, sums the steps of a range of fractions, and ends in a traceback
on a sweep within a list.
"""

import fnmatch
from collections.abc import Iterator, Sequence

from hydra._internal.grammar.functions import FunctionCall, Functions
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    ParsedElementType,
    RangeSweep,
    Sweep,
    ValueType,
)
from hydra.errors import HydraException

from skiplab.config.functions import FUNCTIONS, USAGE, Parsed, is_whole, numbers_of, whole_range
from skiplab.config.typed import shown
from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.paths import groups

# An error writes down at most so many values.
MOST_SPELT_OUT = 20


class Unreadable(Exception):
    """A text that is no override in Hydra's grammar."""


class OurFunctions(Functions):
    """The functions that the grammar calls in place of Hydra's."""

    def eval(self, func: FunctionCall) -> Parsed:
        """Return the value of a call. Raises UsageError where it has none."""
        if func.name not in FUNCTIONS:
            raise UsageError(f"no such function: {func.name}; {nearest(func.name, FUNCTIONS)}")
        try:
            return FUNCTIONS[func.name](*func.args, **func.kwargs)
        except TypeError:
            raise UsageError(
                f"{func.name}() does not take this; {USAGE[func.name]} is expected"
            ) from None


def parse(text: str) -> Override:
    """Return one override.

    Raises UsageError for a function without a value here, Unreadable for what is no override.
    """
    try:
        override = OverridesParser(functions=OurFunctions()).parse_override(text)
    except HydraException as error:
        if isinstance(error.__cause__, UsageError):
            raise UsageError(f"{shown(text)}: {error.__cause__}") from None
        raise Unreadable(text) from None
    # A number has five thousand digits, or brackets are nested too deeply.
    except (ValueError, RecursionError):
        raise Unreadable(text) from None
    try:
        value = settle(override)
    except UsageError as error:
        raise UsageError(f"{shown(text)}: {error}") from None
    override._value = value
    override.value_type = type_of(value)
    return override


def type_of(value: Parsed) -> ValueType:
    """Return the kind of an override with this value."""
    if isinstance(value, ChoiceSweep):
        return ValueType.SIMPLE_CHOICE_SWEEP if value.simple_form else ValueType.CHOICE_SWEEP
    kinds = {RangeSweep: ValueType.RANGE_SWEEP, IntervalSweep: ValueType.INTERVAL_SWEEP}
    return kinds.get(type(value), ValueType.ELEMENT)


def settle(override: Override) -> ParsedElementType | ChoiceSweep | RangeSweep | IntervalSweep:
    """Return an override's value: a glob as its options, a range of fractions as its numbers.

    Raises UsageError for a sweep within a list or within another sweep.
    """
    value, key = override._value, override.key_or_group
    # Hydra's type of a value has no globs, which its parser makes all the same.
    if isinstance(value, Glob):
        return ChoiceSweep(list=[*options_of(value, key)])
    if isinstance(value, RangeSweep):
        if is_whole(value):
            return value
        return ChoiceSweep(list=numbers_of(value), tags=value.tags)
    if isinstance(value, ChoiceSweep):
        _check_choices(value.list, key)
    elif any(isinstance(part, Sweep | Glob) for part in inside(value)):
        raise UsageError(NESTED)
    return value


NESTED = "a sweep within a list, or within another; write out the values"


def _check_choices(items: Sequence[Parsed], key: str) -> None:
    """Raise UsageError if a choice holds sweeps, with its values written out if they are few."""
    are_plain = not any(isinstance(item, list | dict) for item in items)
    if are_plain and len(items) > 1 and (flat := flatten(items, key)) != items:
        advice = "write out its values"
        if len(flat) <= MOST_SPELT_OUT:
            advice = f"write {key}={','.join(map(written, flat))}"
        raise UsageError(f"a sweep within a list; {advice}")
    if any(isinstance(part, Sweep | Glob) for item in items for part in (item, *inside(item))):
        raise UsageError(NESTED)


def flatten(items: Sequence[Parsed], key: str) -> list[ParsedElementType]:
    """Return the values of a list and of the sweeps within it. An interval stays."""
    found: list[ParsedElementType] = []
    for item in items:
        if isinstance(item, Glob):
            found += options_of(item, key)
        elif isinstance(item, RangeSweep):
            found += numbers_of(item)
        elif isinstance(item, ChoiceSweep):
            found += flatten(item.list, key)
        else:
            found.append(item)  # pyright: ignore[reportArgumentType]
    return found


def inside(value: Parsed) -> Iterator[Parsed]:
    """Yield what a list or a mapping holds, at any depth."""
    items: Sequence[Parsed] = []
    if isinstance(value, list):
        items = value
    elif isinstance(value, dict):
        items = [*value.values()]
    for item in items:
        yield item
        yield from inside(item)


def options_of(pattern: Glob, group: str) -> list[str]:
    """Return the options of a group that a glob fits."""
    options = groups().get(group)
    if options is None:
        raise UsageError(
            "glob picks options of a group; list the values, or write range(START,STOP,STEP)"
        )

    def is_of(name: str, globs: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, each) for each in globs)

    fits = [
        name
        for name in options
        if is_of(name, pattern.include) and not is_of(name, pattern.exclude)
    ]
    if not fits:
        raise UsageError(f"fits no option; choices: {', '.join(options)}")
    return fits


def values_of(override: Override) -> list[str]:
    """Return each value of a sweep as a text of this grammar; none of an interval."""
    value = override._value
    if isinstance(value, RangeSweep):
        return [str(number) for number in numbers_of(value)]
    return [written(item) for item in value.list] if isinstance(value, ChoiceSweep) else []


def num_values(override: Override) -> int:
    """Return how many values an override gives its key. An interval counts as one."""
    value = override._value
    if isinstance(value, RangeSweep):
        return len(whole_range(value))
    return len(value.list) if isinstance(value, ChoiceSweep) else 1


def written(value: ParsedElementType) -> str:
    """Return a value as a text of this grammar."""
    return Override._get_value_element_as_str(value)


def evaluated(text: str) -> str:
    """Return an override with its functions evaluated, so that Hydra reads what we read.

    An override without functions, and an interval, stay as they are.
    """
    override = parse(text)
    if (
        override.is_hydra_override()
        or "(" not in text
        or override.value_type == ValueType.INTERVAL_SWEEP
        or override.is_delete()
    ):
        return text
    if override.is_sweep_override():
        values = values_of(override)
    else:
        assert not isinstance(override._value, Sweep)
        values = [written(override._value)]
    return f"{override.get_key_element()}={','.join(values)}"
