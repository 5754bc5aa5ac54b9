"""Overrides read by Hydra's grammar, with functions of our own: each gives the values that its words mean, or is refused. No torch.

Hydra 1.3.8 sorts a range wrongly, sums the steps of a range of fractions, and ends in a traceback
on a sweep within a list.
"""

import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.grammar.functions import FunctionCall, Functions
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    RangeSweep,
    Sweep,
    ValueType,
)
from hydra.errors import HydraException

from skiplab.config.functions import FUNCTIONS, USAGE, is_whole, numbers_of, whole_range
from skiplab.config.typed import shown
from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.paths import groups

# values that an error writes down
MOST_SPELT_OUT = 20


class Unreadable(Exception):
    """A text that is no override in Hydra's grammar."""


class OurFunctions(Functions):
    """What the grammar calls in place of Hydra's functions."""

    def eval(self, func: FunctionCall) -> Any:
        """The value of a call; raises UsageError where it has none."""
        if func.name not in FUNCTIONS:
            raise UsageError(f"no such function: {func.name}; {nearest(func.name, FUNCTIONS)}")
        try:
            return FUNCTIONS[func.name](*func.args, **func.kwargs)
        except TypeError:
            raise UsageError(
                f"{func.name}() does not take this; {USAGE[func.name]} is expected"
            ) from None


def parse(text: str) -> Override:
    """One override. Raises UsageError for a function without a value here, Unreadable for what is no override at all."""
    try:
        override = OverridesParser(functions=OurFunctions()).parse_override(text)
    except HydraException as error:
        if isinstance(error.__cause__, UsageError):
            raise UsageError(f"{shown(text)}: {error.__cause__}") from None
        raise Unreadable(text) from None
    # a number of five thousand digits, brackets within brackets
    except (ValueError, RecursionError):
        raise Unreadable(text) from None
    try:
        value = settled(override)
    except UsageError as error:
        raise UsageError(f"{shown(text)}: {error}") from None
    override._value = value
    override.value_type = type_of(value)
    return override


def type_of(value: Any) -> ValueType:
    """The kind of an override with this value."""
    if isinstance(value, ChoiceSweep):
        return ValueType.SIMPLE_CHOICE_SWEEP if value.simple_form else ValueType.CHOICE_SWEEP
    kinds = {RangeSweep: ValueType.RANGE_SWEEP, IntervalSweep: ValueType.INTERVAL_SWEEP}
    return kinds.get(type(value), ValueType.ELEMENT)


def settled(override: Override) -> Any:
    """An override's value: a glob as the options that it fits, a range of fractions as its numbers. UsageError for a sweep in a list."""
    value, key = override._value, override.key_or_group
    if isinstance(value, Glob):
        options: list[Any] = list(options_of(value, key))
        return ChoiceSweep(list=options)
    if isinstance(value, RangeSweep) and not is_whole(value):
        return ChoiceSweep(list=numbers_of(value), tags=value.tags)
    items = value.list if isinstance(value, ChoiceSweep) else [value]
    if (
        not any(isinstance(item, list | dict) for item in items)
        and (flat := flattened(items, key)) != items
        and len(items) > 1
    ):
        advice = (
            f"write {key}={','.join(map(written, flat))}"
            if len(flat) <= MOST_SPELT_OUT
            else "write out its values"
        )
        raise UsageError(f"a sweep within a list; {advice}")
    if any(
        isinstance(part, Sweep | Glob)
        for item in items
        for part in (inner(item) if item is not value else inside(item))
    ):
        raise UsageError("a sweep within a list, or within another; write out the values")
    return value


def flattened(items: Sequence[Any], key: str) -> list[Any]:
    """The values of a list and of the sweeps within it."""
    found: list[Any] = []
    for item in items:
        if isinstance(item, Glob):
            found += options_of(item, key)
        elif isinstance(item, RangeSweep):
            found += numbers_of(item)
        elif isinstance(item, ChoiceSweep):
            found += flattened(item.list, key)
        else:
            found.append(item)
    return found


def inner(value: Any) -> Iterator[Any]:
    """A value and what it holds, at any depth."""
    yield value
    yield from inside(value)


def inside(value: Any) -> Iterator[Any]:
    """What a list or a mapping holds, at any depth."""
    for item in (
        value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    ):
        yield from inner(item)


def options_of(pattern: Glob, group: str) -> list[str]:
    """The options of a group that a glob fits."""
    options = groups().get(group)
    if options is None:
        raise UsageError(
            "glob picks options of a group; list the values, or write range(START,STOP,STEP)"
        )
    fits = [
        name for name in options if any(fnmatch.fnmatchcase(name, glob) for glob in pattern.include)
    ]
    fits = [
        name
        for name in fits
        if not any(fnmatch.fnmatchcase(name, glob) for glob in pattern.exclude)
    ]
    if not fits:
        raise UsageError(f"fits no option; choices: {', '.join(options)}")
    return fits


def values_of(override: Override) -> list[str]:
    """Each value of a sweep as a text that means it in this grammar; none of an interval."""
    value = override._value
    if isinstance(value, RangeSweep):
        return [str(number) for number in numbers_of(value)]
    return [written(item) for item in value.list] if isinstance(value, ChoiceSweep) else []


def num_values(override: Override) -> int:
    """How many values an override gives its key; an interval counts as one."""
    value = override._value
    if isinstance(value, RangeSweep):
        return len(whole_range(value))
    return len(value.list) if isinstance(value, ChoiceSweep) else 1


def written(value: Any) -> str:
    """A value as a text of this grammar."""
    return Override._get_value_element_as_str(value)


def evaluated(text: str) -> str:
    """An override with its functions evaluated: Hydra reads what we read. As it is typed if it holds none."""
    override = parse(text)
    if (
        override.is_hydra_override()
        or "(" not in text
        or override.value_type == ValueType.INTERVAL_SWEEP
        or override.is_delete()
    ):
        return text
    values = values_of(override) if override.is_sweep_override() else [written(override._value)]
    return f"{override.get_key_element()}={','.join(values)}"
