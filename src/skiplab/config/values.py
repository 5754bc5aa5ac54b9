"""One value, from YAML or a command line, as the type that its key has; counts may be written 80k or 1e5. No torch, no Hydra."""

import math
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from skiplab.config import lexicon


def nearest(word: str, choices: Iterable[str], *, prefix: str = "") -> str:
    """What was probably meant: "did you mean X?" (with `prefix` before it), or the choices."""
    names = sorted(choices)
    if meant := lexicon.meant(word, names):
        told = " or ".join(f"{prefix}{name}" for name in meant)
        return f"did you mean {told}?" + (
            f" Choices: {', '.join(names)}" if len(names) <= 10 else ""
        )
    return f"choices: {', '.join(names)}"


COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:[eE][0-9]+)?)([kKmM]?)")
FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


def choose(value: object, choices: Sequence[str], path: str, problems: list[str]) -> str | None:
    """Return a value that is one of the choices; else append a line to `problems`."""
    if isinstance(value, str) and value in choices:
        return value
    problems.append(f"{path}={shown(value)}: {nearest(str(value), choices)}")
    return None


def convert(value: Any, kind: Any, path: str, problems: list[str], meta: Mapping[str, Any]) -> Any:
    """Return `value` as `kind`; what is wrong is appended to `problems` and None returned."""
    if typing.get_origin(kind) is Literal:
        return choose(value, typing.get_args(kind), path, problems)
    converted: Any = None
    if kind is bool:
        converted, expected = (value if isinstance(value, bool) else None), "true or false"
    elif kind is int:
        converted, expected = (
            as_count(value),
            "a whole number (80k and 1e5 will do)"
            + (f" or {meta['word']}" if meta.get("word") else ""),
        )
    elif kind is float:
        converted, expected = _as_float(value), "a finite number"
    else:
        converted = (
            None if isinstance(value, (Mapping, list, tuple, bool)) or value is None else str(value)
        )
        # an interpolation would not load again
        expected = "text without ${" if "${" in str(value) else "text"
        if converted == "" or "${" in str(value):
            converted = None
        if (
            converted is not None
            and meta.get("pattern")
            and not re.fullmatch(meta["pattern"], converted)
        ):
            guess = lexicon.device_of(converted) if path == "device" else None
            told = f"; did you mean {guess}?" if guess else ""
            problems.append(
                f"{path}={value}: {meta.get('expected') or 'one of ' + meta['meaning']} is expected{told}"
            )
            return None
    if converted is None:
        problems.append(
            f"{path}={shown(value)}: {expected} is expected ({meta.get('meaning', '')})"
        )
        return None
    for rule, bound in (meta.get("bounds") or {}).items():
        if bound is not None and not _holds(converted, rule, bound):
            problems.append(f"{path}={shown(value)}: must be {rule} {bound} ({meta['meaning']})")
    return converted


def _holds(value: float, rule: str, bound: float) -> bool:
    return {
        "at least": value >= bound,
        "above": value > bound,
        "at most": value <= bound,
        "below": value < bound,
    }[rule]


def shown(value: Any) -> str:
    """Return a value as a command line has it."""
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def as_count(value: Any) -> int | None:
    """A whole number, also as 80k or 1e5; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    number: float | None = value if isinstance(value, float) else None
    if isinstance(value, str) and (match := COUNT.fullmatch(value.replace("_", ""))):
        number = (int(match[1]) if match[1].isdigit() else float(match[1])) * FACTORS[
            match[2].lower()
        ]
    return (
        int(number)
        if number is not None and math.isfinite(number) and number == int(number)
        else None
    )


def _as_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
