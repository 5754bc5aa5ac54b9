"""The keys of the schema by their full paths, and the line for a key that it does not have. Imports no torch, no Hydra."""

import functools
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any

from skiplab.config import lexicon
from skiplab.config.schema import Config
from skiplab.config.values import nearest


@functools.cache
def leaves(schema: Any = Config, prefix: str = "") -> dict[str, Field[Any]]:
    """Every key that a user can set, by its full path."""
    found: dict[str, Field[Any]] = {}
    types_of = hints(schema)
    for f in fields(schema):
        if f.metadata.get("own"):
            continue
        options = [v for v in variants(types_of[f.name]) if is_dataclass(v)]
        for variant in options:
            found |= leaves(variant, f"{prefix}{f.name}.")
        if not options:
            found[prefix + f.name] = f
    return found


@functools.cache
def hints(schema: Any) -> dict[str, Any]:
    """Return the type of each field of a class of the schema."""
    return typing.get_type_hints(schema)


def variants(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def unknown_key(path: str) -> str:
    """The one line for a key that the schema does not have: where its last part stands or is meant, else the nearest key."""
    # an option is chosen by its group
    known = {name: f for name, f in leaves().items() if not name.endswith(".name")}
    groups = {name.split(".")[0] for name in known if "." in name}
    group, _, leaf = path.rpartition(".")
    if found := _key_meant(path, known, groups):
        at_the_root = (
            "" if group or not any(name.endswith(f".{leaf}") for name in known) else " at the root"
        )
        return f"{path}: no such key{at_the_root}; did you mean {' or '.join(found)}?"
    if reason := lexicon.reason_against(leaf):
        return f"{path}: no such key; {reason}"
    if group in groups:
        siblings = [name.split(".")[1] for name in known if name.startswith(f"{group}.")]
        return f"{path}: no such key; {nearest(leaf, siblings, prefix=f'{group}.')}"
    return f"{path}: no such key; `train --help` lists the groups, `train --cfg job` all keys"


def _key_meant(path: str, known: Mapping[str, Field[Any]], groups: Collection[str]) -> list[str]:
    """The keys that an unknown one can mean, from the surest ground to the least sure."""
    group, _, leaf = path.rpartition(".")
    whole = {lexicon.plain(name): name for name in [*known, *groups, "sweep", "experiment"]}
    # batchSize, Optimizer.LR
    if lexicon.plain(path) in whole:
        return [whole[lexicon.plain(path)]]
    if group in groups and (own := [name for name in known if name == f"{group}.{leaf.lower()}"]):
        return own
    if full := sorted(name for name in known if name.split(".")[-1] == leaf.lower()):
        return lexicon.keys_of(leaf) or full
    if keys := lexicon.keys_of(leaf):
        return keys
    if lexicon.reason_against(leaf):
        return []
    if "_" in leaf and (
        full := sorted(
            name
            for name, f in known.items()
            if f.metadata["meaning"].startswith(leaf.replace("_", " "))
        )
    ):
        # the words that a meaning begins with
        return full
    if group in groups:
        return [
            f"{group}.{name}"
            for name in lexicon.near(
                lexicon.plain(leaf),
                _last_parts(name for name in known if name.startswith(f"{group}.")),
            )
        ]
    # epochs.foo
    if group and path.split(".")[0] in known:
        return [path.split(".")[0]]
    near = lexicon.near(
        lexicon.plain(leaf),
        _last_parts(known) | {name: name for name in [*groups, "sweep", "experiment"]},
    )
    by_leaf = {name.split(".")[-1]: name for name in known}
    # learning_rat
    words = {word: keys[0] for word, keys in lexicon.KEY_OF.items() if len(word) > 7}
    return [by_leaf.get(name, name) for name in near] or lexicon.near(lexicon.plain(leaf), words)


def _last_parts(names: Iterable[str]) -> dict[str, str]:
    """The last part of each key, by its letters alone."""
    return {lexicon.plain(name.split(".")[-1]): name.split(".")[-1] for name in names}
