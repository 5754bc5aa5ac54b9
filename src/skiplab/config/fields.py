"""A field of the schema: what a key means, which values it takes, and what may be done with it. No torch, no Hydra."""

from dataclasses import MISSING, field
from typing import Any


def key(
    meaning: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    pattern: str | None = None,
    expected: str | None = None,
    word: str | None = None,
    option_of: str | None = None,
    changes_numbers: bool = True,
    fixed: bool = False,
    at_end: bool = False,
    own: bool = False,
    neutral: Any = MISSING,
) -> Any:
    """A field of the schema. `expected`: what fits the pattern, in words (none: the meaning says it).

    `fixed`: cannot change when a run is resumed; `at_end`: decides what happens after training, and
    nothing in it; `own`: written by Skiplab into a run's config, never by a user; `word`: what may
    stand for a number.

    `neutral`: the value that leaves it out of the identity, and that a config has which was stored
    before there was this key.
    """
    return field(
        metadata={
            "meaning": meaning,
            "bounds": {"at least": at_least, "above": above, "at most": at_most, "below": below},
            "pattern": pattern,
            "expected": expected,
            "word": word,
            "option_of": option_of,
            "changes_numbers": changes_numbers,
            "fixed": fixed,
            "at_end": at_end,
            "own": own,
            "neutral": neutral,
        }
    )
