"""The grid of a sweep: which values each key takes, and their combinations. Imports no torch."""

import itertools
import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.types import Override, Quote, QuotedString

from skiplab.config import code, grammar
from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.paths import groups, option_file

# Keys whose values are taken as typed. Hydra's grammar stumbles over = , ( in a path, and would
# sweep over a list.
AS_TYPED = ("resume", "init_from", "dataset.root", "dataset.list", "trainer.probe")


def parsed(texts: Sequence[str]) -> list[Override]:
    """Parse overrides. A repeated key keeps its first position and its last value.

    A preset and the command line may give the same key.
    """
    by_key = {override.get_key_element(): override for override in map(grammar.parse, texts)}
    return list(by_key.values())


def count_cells(overrides: Sequence[Override]) -> int:
    """Return how many combinations a grid has."""
    return math.prod(map(grammar.num_values, overrides))


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of each combination, as Hydra's sweeper lists them."""
    cells = itertools.product(*map(each_of, overrides))
    return [[str(override.input_line) for override in cell] for cell in cells]


def first_of(overrides: Sequence[Override]) -> list[str]:
    """Return the overrides of the first combination."""
    return [
        f"{o.get_key_element()}={grammar.values_of(o)[0]}"
        if o.is_sweep_override()
        else str(o.input_line)
        for o in overrides
    ]


def quoted(text: str) -> str:
    """Return a text as a value in Hydra's grammar."""
    return QuotedString(text, Quote.single).with_quotes()


def for_hydra(argument: str) -> str:
    """Return an argument with its value quoted for Hydra's grammar, where that is needed.

    These are the values of AS_TYPED, and an out= that begins with `~` and is not swept.
    """
    name, equals, value = argument.partition("=")
    is_home = name == "out" and value.startswith("~") and not set(value) & set(",()[]{}")
    is_quoted = value[:1] in ("'", '"')
    if not equals or is_quoted or value in ("", "null"):
        return argument
    if name in code.BASES and any(map(code.is_spec, value.split(","))):
        return f"{name}={','.join(map(_quoted_spec, value.split(',')))}"
    return f"{name}={quoted(value)}" if name in AS_TYPED or is_home else argument


# What Hydra's grammar reads in a value without quotes.
PLAIN = re.compile(r"[\w ./\\:+@?%*|-]+", re.ASCII)


def _quoted_spec(value: str) -> str:
    """Return a value, quoted if it is FILE.py:NAME and holds signs of Hydra's grammar."""
    return value if PLAIN.fullmatch(value) or not code.is_spec(value) else quoted(value)


def for_people(texts: Iterable[str]) -> str:
    """Return overrides as one types them in a shell. This is the reverse of `for_hydra`."""
    plain = {text: text for text in texts}
    for text in plain:
        name, _, value = text.partition("=")
        if text != (bare := f"{name}={value[1:-1]}") and for_hydra(bare) == text:
            plain[text] = bare
    return shlex.join(plain.values())


def each_of(override: Override, *, most: int | None = None) -> list[Override]:
    """Return the override once for each of its values. An interval has none.

    Of more than 2 `most` values these are the first and last `most`.
    """
    if not override.is_sweep_override():
        return [override]
    texts = grammar.values_of(override)
    if most is not None and len(texts) > 2 * most:
        texts = [*texts[:most], *texts[-most:]]
    return [grammar.parse(f"{override.get_key_element()}={text}") for text in texts]


def preset_of(texts: Sequence[str]) -> str | None:
    """Return the preset that sweep= names, if any. Raises UsageError if it does not exist."""
    named = [text.partition("=")[2] for text in texts if text.startswith("sweep=")]
    if not named or named[-1] == "null":
        return None
    known = groups().get("sweep", [])
    if named[-1] not in known:
        raise UsageError(f"sweep={named[-1]}: no such sweep; {nearest(named[-1], known)}")
    return named[-1]


def with_preset(texts: Sequence[str]) -> list[str]:
    """Return the overrides with the grid of sweep=. A key that is given wins over the preset's."""
    name = preset_of(texts)
    if name is None:
        return list(texts)
    given = {text.partition("=")[0] for text in texts}
    grid = read_preset(name)["hydra"]["sweeper"]["params"]
    return [*(f"{key}={values}" for key, values in grid.items() if key not in given), *texts]


def read_preset(name: str) -> dict[str, Any]:
    """Read the tree of a sweep's file. Raises UsageError if it states no grid."""
    path = option_file("sweep", name)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(tree["hydra"]["sweeper"]["params"], dict):
            return tree
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        pass
    raise UsageError(f"{path}: a sweep states its grid under hydra: sweeper: params: KEY: VALUES")


def values_of_preset(texts: Sequence[str]) -> list[str]:
    """Return the values next to the grid of sweep= as overrides; none without a preset."""
    name = preset_of(texts)
    if name is None:
        return []
    pairs: list[tuple[str, object]] = []
    at_the_root: list[tuple[str, object]] = []
    for key, value in read_preset(name).items():
        if key in ("hydra", "defaults"):
            continue
        if isinstance(value, dict):
            pairs += [(f"{key}.{leaf}", each) for leaf, each in value.items()]
        else:
            at_the_root.append((key, value))
    given = {text.partition("=")[0] for text in texts}
    return [
        for_hydra(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
        for key, value in [*pairs, *at_the_root]
        if key not in given
    ]
