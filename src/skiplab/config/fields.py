"""The fields of the schema: a meaning and the rules for values. Imports no torch, no Hydra."""

from dataclasses import MISSING, field
from typing import TypedDict, TypeVar, Unpack

T = TypeVar("T")


class Rules(TypedDict, total=False):
    """What a key takes beyond its type, and what may be done with it."""

    at_least: float
    above: float
    at_most: float
    below: float
    # What the whole text must match, and what fits it in words. Without words the meaning says it.
    pattern: str
    expected: str
    # What may stand for a number.
    word: str
    # The group of conf/ whose files state the names that are legal.
    option_of: str
    # Whether the key is part of a run's identity. By default it is.
    changes_numbers: bool
    # The key cannot change when a run is resumed.
    fixed: bool
    # The key decides what happens after training, and nothing in it.
    at_end: bool
    # Skiplab writes the key into a run's config. A user never does.
    own: bool
    # The value that leaves the key out of the identity. A config that was stored before there was
    # this key has it too.
    neutral: object


def key(meaning: str, **rules: Unpack[Rules]) -> T:  # pyright: ignore[reportInvalidTypeVarUse]
    """Make a field of the schema with its meaning and rules as metadata.

    Its type is said to be that of the field, as that of `dataclasses.field` is.
    """
    bounds = {
        "at least": rules.get("at_least"),
        "above": rules.get("above"),
        "at most": rules.get("at_most"),
        "below": rules.get("below"),
    }
    return field(
        metadata={
            "meaning": meaning,
            "bounds": bounds,
            "pattern": rules.get("pattern"),
            "expected": rules.get("expected"),
            "word": rules.get("word"),
            "option_of": rules.get("option_of"),
            "changes_numbers": rules.get("changes_numbers", True),
            "fixed": rules.get("fixed", False),
            "at_end": rules.get("at_end", False),
            "own": rules.get("own", False),
            "neutral": rules.get("neutral", MISSING),
        }
    )
