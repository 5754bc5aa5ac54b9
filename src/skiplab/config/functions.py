"""What a value may call on the command line: choice, range, sort, glob, tag, interval and casts, each right or refused. No torch."""

import builtins
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Quote,
    QuotedString,
    RangeSweep,
    Sweep,
)

from skiplab.errors import UsageError

# of one key
MAX_VALUES = 10_000


def choice(*values: Any) -> ChoiceSweep:
    """These values."""
    if not values:
        raise UsageError("a choice without a value; write choice(A,B)")
    return ChoiceSweep(list=list(values))


def range_of(start: Any, stop: Any = None, step: Any = 1) -> RangeSweep:
    """Numbers from `start`, which is 0 if it is left out, up to `stop`, which is none of them; a negative step goes down."""
    start, stop = (0, start) if stop is None else (start, stop)
    if not all(is_number(number) for number in (start, stop, step)):
        raise UsageError("finite numbers are expected, such as range(2,8,2)")
    number = math.ceil((exact(stop) - exact(start)) / exact(step)) if step else 0
    if number <= 0:
        raise UsageError("a range without a value; write range(START,STOP,STEP)")
    if number > MAX_VALUES:
        told = f"{number:,}" if number < 10**12 else "too many"
        raise UsageError(f"{told} values; a sweep takes at most {MAX_VALUES:,} of one key")
    return RangeSweep(start=start, stop=stop, step=step)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
    )


def exact(number: float) -> Fraction:
    """The number as it is typed: 0.1 is a tenth."""
    return Fraction(repr(number))


def is_whole(sweep: RangeSweep) -> bool:
    """Whether a range is one of whole numbers."""
    return all(isinstance(number, int) for number in (sweep.start, sweep.stop, sweep.step))


def whole_range(sweep: RangeSweep) -> "builtins.range":
    """A range of whole numbers as Python's."""
    assert isinstance(sweep.start, int)
    assert isinstance(sweep.stop, int)
    assert isinstance(sweep.step, int)
    return range(sweep.start, sweep.stop, sweep.step)


def numbers_of(sweep: RangeSweep) -> list[Any]:
    """The numbers of a range; fractions without the error that adding them up would bring."""
    if is_whole(sweep):
        return list(whole_range(sweep))
    assert sweep.start is not None
    assert sweep.stop is not None
    start, step = exact(sweep.start), exact(sweep.step)
    return [float(start + i * step) for i in range(math.ceil((exact(sweep.stop) - start) / step))]


# as Hydra names them
def sort(*values: Any, sweep: Any = None, list: Any = None, reverse: Any = False) -> Any:
    """The values in order, from the smallest or (reverse=true) the largest."""
    given = [*values, *(each for each in (sweep, list) if each is not None)]
    if not given or not isinstance(reverse, bool):
        raise TypeError
    if len(given) > 1:
        return ChoiceSweep(list=in_order(given, reverse=reverse), simple_form=True)
    (only,) = given
    if isinstance(only, RangeSweep) and is_whole(only):
        numbers = whole_range(only)
        numbers = numbers if (numbers.step < 0) == reverse else numbers[::-1]
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


def in_order(values: Sequence[Any], *, reverse: bool) -> list[Any]:
    """Numbers by size, or words by their letters."""
    plain = [value.text if isinstance(value, QuotedString) else value for value in values]
    if not all(map(is_number, plain)) and not all(
        isinstance(value, str) and "${" not in value for value in plain
    ):
        raise UsageError("sort takes numbers, or words, not both")
    return [values[i] for i in sorted(range(len(values)), key=lambda i: plain[i], reverse=reverse)]


def shuffle(*_values: Any, **_named: Any) -> Any:
    """Refused."""
    raise UsageError(
        "shuffle: what a command means must not change from call to call; leave it out, the order of runs changes nothing"
    )


def interval(start: Any, end: Any) -> IntervalSweep:
    """All numbers between two."""
    if not is_number(start) or not is_number(end):
        raise UsageError("finite numbers are expected, such as interval(0.1,0.9)")
    return IntervalSweep(start=float(start), end=float(end))


def tag(*values: Any, sweep: Any = None) -> Any:
    """A sweep with words to it."""
    *names, last = [*values, *([] if sweep is None else [sweep])]
    names = [name.text if isinstance(name, QuotedString) else name for name in names]
    if not isinstance(last, Sweep) or not all(isinstance(name, str) for name in names):
        raise TypeError
    return replace(last, tags={*last.tags, *names})


def glob(include: Any, exclude: Any = ()) -> Glob:
    """The options of a group whose names fit."""
    include, exclude = (
        [each] if isinstance(each, str | QuotedString) else each for each in (include, exclude)
    )
    patterns = [
        [part.text if isinstance(part, QuotedString) else part for part in each]
        for each in (include, exclude)
    ]
    if not all(isinstance(part, str) for each in patterns for part in each):
        raise TypeError
    return Glob(include=patterns[0], exclude=patterns[1])


def cast(to: Callable[[Any], Any]) -> Callable[..., Any]:
    """A function that casts each value of what it is given."""

    def each(value: Any) -> Any:
        if isinstance(value, builtins.list):
            return [each(item) for item in value]
        if isinstance(value, dict):
            return {key: each(item) for key, item in value.items()}
        if isinstance(value, ChoiceSweep):
            return replace(value, list=[each(item) for item in value.list])
        if isinstance(value, RangeSweep) and to in (whole, fraction):
            return replace(value, start=to(value.start), stop=to(value.stop), step=to(value.step))
        if isinstance(value, RangeSweep):
            return ChoiceSweep(list=[each(number) for number in numbers_of(value)], tags=value.tags)
        if isinstance(value, IntervalSweep) and to in (whole, fraction):
            return replace(value, start=to(value.start), end=to(value.end))
        value = value.text if isinstance(value, QuotedString) else value
        if value is None or isinstance(value, Sweep | Glob):
            raise UsageError(f"{'null' if value is None else 'this'} cannot be cast")
        return to(value)

    def function(*values: Any, value: Any = None) -> Any:
        given = [*values, *([] if value is None else [value])]
        if not given:
            raise TypeError
        return (
            each(given[0])
            if len(given) == 1
            else ChoiceSweep(list=[each(item) for item in given], simple_form=True)
        )

    return function


def whole(value: Any) -> int:
    """A whole number."""
    if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
        raise UsageError(f"int: {value} is no whole number, and int would cut it")
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"int: {value} is no whole number") from None


def fraction(value: Any) -> float:
    """A number with a point."""
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise UsageError(f"float: {value} is no number") from None


def truth(value: Any) -> bool:
    """True or false."""
    if isinstance(value, str):
        if value.lower() not in ("true", "false"):
            raise UsageError(f"bool: {value} is neither true nor false")
        return value.lower() == "true"
    return bool(value)


def text_of(value: Any) -> QuotedString:
    """A text."""
    return QuotedString(str(value).lower() if isinstance(value, bool) else str(value), Quote.single)


FUNCTIONS: dict[str, Callable[..., Any]] = {
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
