"""The keys of the schema, and the line for one that it lacks. Imports no torch, no Hydra."""

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
def leaves(schema: type[Any] = Config, prefix: str = "") -> dict[str, Field[Any]]:
    """Return every key that a user can set, by its full path."""
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


def fields_of(schema: type[Any]) -> tuple[Field[Any], ...]:
    """Return the fields of a class of the schema."""
    return fields(schema)


@functools.cache
def hints(schema: type) -> dict[str, Any]:
    """Return the type of each field of a class of the schema."""
    return typing.get_type_hints(schema)


def variants(kind: object) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def unknown_key(path: str) -> str:
    """Return the line for a key that the schema lacks: which key is meant, or which there are."""
    # The name of an option is no key: its group chooses it.
    known = {name: f for name, f in leaves().items() if not name.endswith(".name")}
    groups = {name.split(".")[0] for name in known if "." in name}
    group, _, leaf = path.rpartition(".")
    if found := _key_meant(path, known, groups):
        is_elsewhere = any(name.endswith(f".{leaf}") for name in known)
        at_the_root = " at the root" if is_elsewhere and not group else ""
        return f"{path}: no such key{at_the_root}; did you mean {' or '.join(found)}?"
    if reason := lexicon.reason_against(leaf):
        return f"{path}: no such key; {reason}"
    if group in groups:
        siblings = [name.split(".")[1] for name in known if name.startswith(f"{group}.")]
        return f"{path}: no such key; {nearest(leaf, siblings, prefix=f'{group}.')}"
    return f"{path}: no such key; `train --help` lists the groups, `train --cfg job` all keys"


def _key_meant(path: str, known: Mapping[str, Field[Any]], groups: Collection[str]) -> list[str]:
    """Return the keys that an unknown one can mean, from the surest ground to the least sure."""
    group, _, leaf = path.rpartition(".")
    whole = {lexicon.plain(name): name for name in [*known, *groups, *PRESET_GROUPS]}
    # Only the spelling differs: batchSize, Optimizer.LR.
    if lexicon.plain(path) in whole:
        return [whole[lexicon.plain(path)]]
    if group in groups and f"{group}.{leaf.lower()}" in known:
        return [f"{group}.{leaf.lower()}"]
    if full := sorted(name for name in known if name.split(".")[-1] == leaf.lower()):
        return lexicon.keys_of(leaf) or full
    if found := lexicon.keys_of(leaf):
        return found
    if lexicon.reason_against(leaf):
        return []
    if full := _keys_by_meaning(leaf, known):
        return full
    if group in groups:
        siblings = _last_parts(name for name in known if name.startswith(f"{group}."))
        return [f"{group}.{name}" for name in lexicon.near(lexicon.plain(leaf), siblings)]
    # The key holds no others: epochs.foo.
    if group and path.split(".")[0] in known:
        return [path.split(".")[0]]
    return _keys_near(lexicon.plain(leaf), known, groups)


# Groups whose options are presets for other keys.
PRESET_GROUPS = ("sweep", "experiment")


def _keys_by_meaning(leaf: str, known: Mapping[str, Field[Any]]) -> list[str]:
    """Return the keys whose meaning begins with the words of the leaf, if these are several."""
    if "_" not in leaf:
        return []
    words = leaf.replace("_", " ")
    return sorted(name for name, f in known.items() if f.metadata["meaning"].startswith(words))


def _keys_near(bare: str, known: Collection[str], groups: Collection[str]) -> list[str]:
    """Return the keys that a slip of the keyboard turns into a word without case and dashes."""
    names = [*groups, *PRESET_GROUPS]
    near = lexicon.near(bare, _last_parts(known) | dict(zip(names, names, strict=True)))
    by_leaf = {name.split(".")[-1]: name for name in known}
    # Words of other scripts have slips too: learning_rat.
    words = {word: keys[0] for word, keys in lexicon.KEY_OF.items() if len(word) > 7}
    return [by_leaf.get(name, name) for name in near] or lexicon.near(bare, words)


def _last_parts(names: Iterable[str]) -> dict[str, str]:
    """Return the last part of each key by its letters and digits."""
    return {lexicon.plain(name.split(".")[-1]): name.split(".")[-1] for name in names}
