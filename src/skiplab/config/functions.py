"""The functions that a value may call on the command line: choice, range, sort, glob, casts ...

A function returns what its words mean, or refuses. Imports no torch.
"""

import builtins
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NoReturn, TypeGuard

from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    ParsedElementType,
    Quote,
    QuotedString,
    RangeSweep,
    Sweep,
)

from skiplab.errors import UsageError

# The most values of one key.
MAX_VALUES = 10_000
# What Hydra's parser makes of a value, and hands to a function as an argument.
Parsed = ParsedElementType | Sweep | Glob


def choice(*values: ParsedElementType) -> ChoiceSweep:
    """Return a sweep over these values."""
    if not values:
        raise UsageError("a choice without a value; write choice(A,B)")
    return ChoiceSweep(list=list(values))


def range_of(start: Parsed, stop: Parsed = None, step: Parsed = 1) -> RangeSweep:
    """Return the numbers from `start` to before `stop`. A negative step goes down.

    With one argument this is `stop`, and the range starts at 0.
    """
    start, stop = (0, start) if stop is None else (start, stop)
    if not (is_number(start) and is_number(stop) and is_number(step)):
        raise UsageError("finite numbers are expected, such as range(2,8,2)")
    number = math.ceil((exact(stop) - exact(start)) / exact(step)) if step else 0
    if number <= 0:
        raise UsageError("a range without a value; write range(START,STOP,STEP)")
    if number > MAX_VALUES:
        told = f"{number:,}" if number < 10**12 else "too many"
        raise UsageError(f"{told} values; a sweep takes at most {MAX_VALUES:,} of one key")
    return RangeSweep(start=start, stop=stop, step=step)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a finite number."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def exact(number: float) -> Fraction:
    """Return the number as it is typed: 0.1 is a tenth."""
    return Fraction(repr(number))


def is_whole(sweep: RangeSweep) -> bool:
    """Return whether a range is one of whole numbers."""
    return all(isinstance(number, int) for number in (sweep.start, sweep.stop, sweep.step))


def whole_range(sweep: RangeSweep) -> "builtins.range":
    """Return a range of whole numbers as Python's."""
    assert isinstance(sweep.start, int)
    assert isinstance(sweep.stop, int)
    assert isinstance(sweep.step, int)
    return range(sweep.start, sweep.stop, sweep.step)


def numbers_of(sweep: RangeSweep) -> list[ParsedElementType]:
    """Return the numbers of a range. Fractions have no error from adding them up."""
    if is_whole(sweep):
        return list(whole_range(sweep))
    assert sweep.start is not None
    assert sweep.stop is not None
    start, step = exact(sweep.start), exact(sweep.step)
    count = math.ceil((exact(sweep.stop) - start) / step)
    return [float(start + i * step) for i in range(count)]


def sort(
    *values: Parsed,
    sweep: Parsed = None,
    list: Parsed = None,
    reverse: Parsed = False,
) -> Parsed:
    """Return the values in order, from the smallest or with reverse=true the largest.

    The arguments have Hydra's names. Raises TypeError if they are not of this function.
    """
    given = [*values, *(each for each in (sweep, list) if each is not None)]
    if not given or not isinstance(reverse, bool):
        raise TypeError
    if len(given) > 1:
        return ChoiceSweep(list=in_order(given, reverse=reverse), simple_form=True)
    (only,) = given
    if isinstance(only, RangeSweep) and is_whole(only):
        numbers = whole_range(only)
        if (numbers.step < 0) != reverse:
            numbers = numbers[::-1]
        return replace(only, start=numbers.start, stop=numbers.stop, step=numbers.step)
    if isinstance(only, RangeSweep):
        return ChoiceSweep(list=in_order(numbers_of(only), reverse=reverse), tags=only.tags)
    if isinstance(only, ChoiceSweep):
        return replace(only, list=in_order(only.list, reverse=reverse))
    if isinstance(only, builtins.list):
        return in_order(only, reverse=reverse)
    if isinstance(only, Sweep | Glob):
        raise UsageError("sort takes values, choice() or range()")
    return only


def in_order(values: Sequence[Parsed], *, reverse: bool) -> list[ParsedElementType]:
    """Return numbers by size, or words by their letters."""
    plain = [value.text if isinstance(value, QuotedString) else value for value in values]
    numbers = [value for value in plain if is_number(value)]
    words = [value for value in plain if isinstance(value, str) and "${" not in value]
    if len(numbers) == len(values):
        order = sorted(range(len(values)), key=lambda i: numbers[i], reverse=reverse)
    elif len(words) == len(values):
        order = sorted(range(len(values)), key=lambda i: words[i], reverse=reverse)
    else:
        raise UsageError("sort takes numbers, or words, not both")
    elements = [value for value in values if not isinstance(value, Sweep | Glob)]
    return [elements[i] for i in order]


def shuffle(*_values: Parsed, **_named: Parsed) -> NoReturn:
    """Refuse: Hydra would give other values at each call."""
    raise UsageError(
        "shuffle: what a command means must not change from call to call; "
        "leave it out, the order of runs changes nothing"
    )


def interval(start: Parsed, end: Parsed) -> IntervalSweep:
    """Return all numbers between two."""
    if not is_number(start) or not is_number(end):
        raise UsageError("finite numbers are expected, such as interval(0.1,0.9)")
    return IntervalSweep(start=float(start), end=float(end))


def tag(*values: Parsed, sweep: Parsed = None) -> Sweep:
    """Return the sweep with words to it. Raises TypeError without a sweep."""
    *names, last = [*values, *([] if sweep is None else [sweep])]
    if not isinstance(last, Sweep):
        raise TypeError
    return replace(last, tags={*last.tags, *texts_of(names)})


def glob(include: Parsed, exclude: Parsed | Sequence[Parsed] = ()) -> Glob:
    """Return the pattern for the options of a group. Raises TypeError if it is no text."""
    patterns: list[list[str]] = []
    for each in (include, exclude):
        if isinstance(each, str | QuotedString):
            patterns.append(texts_of([each]))
        elif isinstance(each, Sequence):
            patterns.append(texts_of(each))
        else:
            raise TypeError
    return Glob(include=patterns[0], exclude=patterns[1])


def texts_of(values: Sequence[Parsed]) -> list[str]:
    """Return texts without their quotes. Raises TypeError for another value."""
    plain = [value.text if isinstance(value, QuotedString) else value for value in values]
    texts = [value for value in plain if isinstance(value, str)]
    if len(texts) != len(values):
        raise TypeError
    return texts


def cast(to: Callable[[Any], ParsedElementType]) -> Callable[..., Parsed]:
    """Make the function that casts each value of what it is given."""

    def function(*values: Parsed, value: Parsed = None) -> Parsed:
        given = [*values, *([] if value is None else [value])]
        if not given:
            raise TypeError
        if len(given) == 1:
            return _cast_one(given[0], to)
        return ChoiceSweep(list=_cast_all(given, to), simple_form=True)

    return function


def _cast_all(values: Sequence[Parsed], to: Callable[[Any], ParsedElementType]) -> list[Any]:
    return [_cast_one(value, to) for value in values]


def _cast_one(value: Parsed, to: Callable[[Any], ParsedElementType]) -> Parsed:
    """Return a value cast, at any depth. A range of numbers stays one if it is cast to numbers."""
    if isinstance(value, builtins.list):
        return _cast_all(value, to)
    if isinstance(value, dict):
        return dict(zip(value, _cast_all(list(value.values()), to), strict=True))
    if isinstance(value, ChoiceSweep):
        return replace(value, list=_cast_all(value.list, to))
    if isinstance(value, RangeSweep) and to in (whole, fraction):
        return replace(value, start=to(value.start), stop=to(value.stop), step=to(value.step))
    if isinstance(value, RangeSweep):
        return ChoiceSweep(list=_cast_all(numbers_of(value), to), tags=value.tags)
    if isinstance(value, IntervalSweep) and to in (whole, fraction):
        return replace(value, start=to(value.start), end=to(value.end))
    if isinstance(value, QuotedString):
        return to(value.text)
    if value is None or isinstance(value, Sweep | Glob):
        raise UsageError(f"{'null' if value is None else 'this'} cannot be cast")
    return to(value)


def whole(value: str | float) -> int:
    """Return a whole number."""
    if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
        raise UsageError(f"int: {value} is no whole number, and int would cut it")
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"int: {value} is no whole number") from None


def fraction(value: str | float) -> float:
    """Return a number with a point."""
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise UsageError(f"float: {value} is no number") from None


def truth(value: object) -> bool:
    """Return true or false."""
    if isinstance(value, str):
        if value.lower() not in ("true", "false"):
            raise UsageError(f"bool: {value} is neither true nor false")
        return value.lower() == "true"
    return bool(value)


def text_of(value: object) -> QuotedString:
    """Return a text."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return QuotedString(text, Quote.single)


FUNCTIONS: dict[str, Callable[..., Parsed]] = {
    "choice": choice,
    "range": range_of,
    "sort": sort,
    "shuffle": shuffle,
    "interval": interval,
    "tag": tag,
    "glob": glob,
    "int": cast(whole),
    "float": cast(fraction),
    "bool": cast(truth),
    "str": cast(text_of),
}
USAGE = {
    "choice": "choice(A,B)",
    "range": "range(START,STOP,STEP)",
    "sort": "sort(A,B), sort(range(1,9)), reverse=true",
    "shuffle": "nothing",
    "interval": "interval(START,END)",
    "tag": "tag(log,interval(1e-3,1))",
    "glob": "glob(resnet*)",
} | {name: f"{name}(VALUE)" for name in ("int", "float", "bool", "str")}
