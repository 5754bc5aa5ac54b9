"""Reads a stored config section by section. A section is a key at the root and what it holds.

Thousands of runs share most of their sections, so each is read and checked once.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import yaml

HEADING = re.compile(r"\n(?=[a-z])")
COMMENT = re.compile(r"#[^\n]*(?:\n#[^\n]*)*")
# What reaches beyond its section, or ends with the text: a second document, a directive, an anchor
# or its alias, text in lines.
REACHES = re.compile(r"[&*|>]|^(?:---|\.\.\.|%)", re.MULTILINE)
FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# In characters. libyaml's loader calls itself for each level, and a longer text may have more of
# them than the stack holds.
LONGEST = 4_000

# Takes a key and its value as read, and returns the checked value, which is immutable. Raises
# ValueError if it is wrong.
Check = Callable[[str, Any], Any]


def values_of(text: str, check: Check) -> dict[str, Any] | None:
    """Return the checked value of each key at the root of a text of YAML, or None.

    None means that something is odd. Then only the check of the whole text can say what.
    """
    first, *parts = HEADING.split(text)
    if not COMMENT.fullmatch(first):
        return None
    found: dict[str, Any] = {}
    for part in parts:
        if (pair := _read(part, check)) is None:
            return None
        found[pair[0]] = pair[1]
    return found


@functools.lru_cache(maxsize=16_384)
def _read(section: str, check: Check) -> tuple[str, Any] | None:
    """Return the key of a section and its checked value; None if it is not just that."""
    if REACHES.search(section):
        return None
    try:
        tree = tree_of(section)
        if not isinstance(tree, dict) or len(tree) != 1:
            return None
        ((key, value),) = tree.items()
        if not isinstance(key, str) or not section.startswith(f"{key}:"):
            return None
        return key, check(key, value)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None


def tree_of(text: str) -> object:
    """Return the plain values of a text of YAML. Raises ValueError, RecursionError or YAMLError."""
    loader = (FAST_LOADER if len(text) <= LONGEST else yaml.SafeLoader)(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
