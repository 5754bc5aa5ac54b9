"""Converts one value, from YAML or a command line, to the type of its key.

Counts may be written 80k or 1e5. Imports no torch, no Hydra.
"""

import math
import operator
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from skiplab.config import lexicon


def nearest(word: str, choices: Iterable[str], *, prefix: str = "") -> str:
    """Return "did you mean X?", with `prefix` before X, or where that is unsure the choices."""
    names = sorted(choices)
    every = ", ".join(names)
    meant = lexicon.meant(word, names)
    if not meant:
        return f"choices: {every}"
    question = f"did you mean {' or '.join(f'{prefix}{name}' for name in meant)}?"
    return f"{question} Choices: {every}" if len(names) <= 10 else question


COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:[eE][0-9]+)?)([kKmM]?)")
FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


def choose(value: object, choices: Sequence[str], path: str, problems: list[str]) -> str | None:
    """Return a value that is one of the choices; else append a line to `problems`."""
    if isinstance(value, str) and value in choices:
        return value
    problems.append(f"{path}={shown(value)}: {nearest(str(value), choices)}")
    return None


def convert(
    value: object, kind: object, path: str, problems: list[str], meta: Mapping[str, Any]
) -> object:
    """Return `value` as `kind`, or append what is wrong with it to `problems` and return None.

    `meta` is the metadata of the key's field.
    """
    if typing.get_origin(kind) is Literal:
        return choose(value, typing.get_args(kind), path, problems)
    if kind is bool:
        converted = value if isinstance(value, bool) else None
        expected = "true or false"
    elif kind is int:
        converted = as_count(value)
        expected = "a whole number (80k and 1e5 will do)"
        if meta.get("word"):
            expected += f" or {meta['word']}"
    elif kind is float:
        converted = _as_float(value)
        expected = "a finite number"
    else:
        converted = _as_text(value)
        expected = "text without ${" if "${" in str(value) else "text"
        if converted is not None and not _fits(converted, meta.get("pattern")):
            problems.append(_pattern_problem(converted, path, meta))
            return None
    if converted is None:
        meaning = meta.get("meaning", "")
        problems.append(f"{path}={shown(value)}: {expected} is expected ({meaning})")
        return None
    if isinstance(converted, int | float):
        problems += _bound_problems(converted, f"{path}={shown(value)}", meta)
    return converted


def _as_text(value: object) -> str | None:
    if isinstance(value, (Mapping, list, tuple, bool)) or value is None:
        return None
    # An interpolation would not load again.
    return None if str(value) == "" or "${" in str(value) else str(value)


def _fits(text: str, pattern: str | None) -> bool:
    return not pattern or re.fullmatch(pattern, text) is not None


def _pattern_problem(text: str, path: str, meta: Mapping[str, Any]) -> str:
    expected = meta.get("expected") or f"one of {meta['meaning']}"
    problem = f"{path}={text}: {expected} is expected"
    guess = lexicon.device_of(text) if path == "device" else None
    return f"{problem}; did you mean {guess}?" if guess else problem


def _bound_problems(number: float, given: str, meta: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each bound that a number breaks."""
    bounds: Mapping[str, float | None] = meta.get("bounds") or {}
    compare = {
        "at least": operator.ge,
        "above": operator.gt,
        "at most": operator.le,
        "below": operator.lt,
    }
    for rule, bound in bounds.items():
        if bound is not None and not compare[rule](number, bound):
            yield f"{given}: must be {rule} {bound} ({meta['meaning']})"


def shown(value: object) -> str:
    """Return a value as a command line has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_count(value: object) -> int | None:
    """Return a whole number, also if it is written 80k or 1e5; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    number = value if isinstance(value, float) else None
    if isinstance(value, str) and (match := COUNT.fullmatch(value.replace("_", ""))):
        mantissa = int(match[1]) if match[1].isdigit() else float(match[1])
        number = mantissa * FACTORS[match[2].lower()]
    if number is None or not math.isfinite(number) or number != int(number):
        return None
    return int(number)


def _as_float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
