"""Numbers as a config may spell them, and their bounds. Imports no torch."""

import math
import re
from typing import Any

COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:[eE][0-9]+)?)([kKmM]?)")
FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


def holds(value: float, rule: str, bound: float) -> bool:
    """Tell whether a value keeps to a bound: at least, above, at most or below it."""
    return {"at least": value >= bound, "above": value > bound, "at most": value <= bound, "below": value < bound}[rule]


def as_count(value: Any) -> int | None:
    """A whole number, also as 80k or 1e5; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    number: float | None = value if isinstance(value, float) else None
    if isinstance(value, str) and (match := COUNT.fullmatch(value.replace("_", ""))):
        number = (int(match[1]) if match[1].isdigit() else float(match[1])) * FACTORS[match[2].lower()]
    return int(number) if number is not None and math.isfinite(number) and number == int(number) else None


def as_float(value: Any) -> float | None:
    """Return a finite number, also of a text; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
