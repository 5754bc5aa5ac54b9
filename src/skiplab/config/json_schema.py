"""The schema of a config as JSON Schema (draft 2020-12), for editors. Imports no torch, no Hydra.

It knows types, choices, bounds and the names in conf/. Rules between keys, and the bounds of a
number that is written as text (80k), are left to the check of a command.
"""

import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, is_dataclass
from typing import Any, Literal

from skiplab.config import keys, presets, validate
from skiplab.config.schema import Change, Config

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
BOUNDS = {
    "at least": "minimum",
    "above": "exclusiveMinimum",
    "at most": "maximum",
    "below": "exclusiveMaximum",
}
# Numbers that a reader of YAML may take for text: 80k and 1e5, and 1e-3.
COUNT = r"^[0-9][0-9_]*(\.[0-9_]+)?([eE][0-9_]+)?[kKmM]?$"
NUMBER = r"^[+-]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9_]+)([eE][+-]?[0-9_]+)?$"
# An interpolation would not load again.
NO_INTERPOLATION = r"^(?![\s\S]*\$\{)"
# What a preset in conf/ may hold beyond the keys of a config. Hydra checks it.
OF_HYDRA: dict[str, Schema] = {
    "defaults": {"description": "the options that this one builds on"},
    "hydra": {"description": "Hydra's own settings: of a sweep, its mode and its grid"},
}


def of_config() -> Schema:
    """Return the schema of a whole config, as config.yaml in a run folder holds it."""
    heading = {"$schema": DRAFT, "title": "Skiplab: the config of a run"}
    return heading | _object(Config, "", is_whole=True)


def of_preset(group: str) -> Schema:
    """Return the schema of a file in conf/GROUP, in which no key must be there.

    It holds the keys of its group, or with `# @package _global_` those of a whole config.
    """
    heading = {"$schema": DRAFT, "title": f"Skiplab: a preset in conf/{group}"}
    variants = [_object(Config, "", is_whole=False)]
    hint = keys.hints(Config).get(group)
    if hint is not None:
        variants = [*_objects(keys.variants(hint), group, is_whole=False), *variants]
    for variant in variants:
        variant["properties"] |= OF_HYDRA
    return heading | _any_of(variants)


def _any_of(variants: Sequence[Schema]) -> Schema:
    return variants[0] if len(variants) == 1 else {"anyOf": list(variants)}


def _object(schema: type, path: str, *, is_whole: bool, names: Sequence[str] = ()) -> Schema:
    """Return the schema of a class of keys. `names` are the options that have these keys."""
    fields = {f.name: f for f in keys.fields_of(schema)}
    hints = keys.hints(schema)
    properties: dict[str, Schema] = {}
    for name, f in fields.items():
        variants = keys.variants(hints[name])
        if hints[name] == tuple[Change, ...]:
            properties[name] = _changes(f)
        elif any(is_dataclass(variant) for variant in variants):
            properties[name] = _any_of(_objects(variants, name, is_whole=is_whole))
        else:
            properties[name] = _leaf(hints[name], f)
    if names:
        properties["name"] = {"description": fields["name"].metadata["meaning"], "enum": [*names]}
    made: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if path and schema.__doc__:
        made["description"] = schema.__doc__.split("\n")[0]
    if is_whole:
        made["required"] = [
            name for name, f in fields.items() if f.metadata.get("neutral", MISSING) is MISSING
        ]
    return made


def _objects(variants: Sequence[type], group: str, *, is_whole: bool) -> list[Schema]:
    """Return a schema for each class of a group, with the names of the options that have it."""
    if len(variants) == 1:
        return [_object(variants[0], group, is_whole=is_whole)]
    known = presets.keys_by_name(group)
    made: list[Schema] = []
    for variant in variants:
        names = [n for n in known if validate.schema_of(n, known[n], variants) is variant]
        made.append(_object(variant, group, is_whole=is_whole, names=names))
    return made


def _leaf(kind: object, f: "Field[Any]") -> Schema:
    """Return the schema of one key, with its meaning, and the value that it has if it is absent."""
    meta = f.metadata
    found = [_value(variant, meta) for variant in keys.variants(kind) if _counts(variant, meta)]
    if meta["word"] is not None:
        found.append({"const": meta["word"]})
    made = {"description": meta["meaning"]} | _any_of(_flat(found))
    if meta["neutral"] is not MISSING:
        neutral = meta["neutral"]
        made["default"] = list(neutral) if isinstance(neutral, tuple) else neutral
    return made


def _counts(variant: object, meta: Mapping[str, Any]) -> bool:
    """Return whether a member of a union is a type: `int | str` with a word is a number."""
    return variant is not str or meta["word"] is None


def _flat(found: Sequence[Schema]) -> list[Schema]:
    """Return alternatives in one list."""
    return [each for schema in found for each in schema.get("anyOf", [schema])]


def _value(kind: object, meta: Mapping[str, Any]) -> Schema:
    """Return the schema of a value of one type."""
    if kind is types.NoneType:
        return {"type": "null"}
    if typing.get_origin(kind) is Literal:
        return {"enum": list(typing.get_args(kind))}
    if typing.get_origin(kind) is tuple:
        return _list(typing.get_args(kind), meta)
    if meta["option_of"] is not None:
        return {"enum": list(presets.keys_by_name(meta["option_of"]))}
    bounds = {BOUNDS[rule]: bound for rule, bound in meta["bounds"].items() if bound is not None}
    if kind is bool:
        return {"type": "boolean"}
    if kind is int:
        return {"anyOf": [{"type": "integer"} | bounds, {"type": "string", "pattern": COUNT}]}
    if kind is float:
        return {"anyOf": [{"type": "number"} | bounds, {"type": "string", "pattern": NUMBER}]}
    return _text(meta["pattern"])


def _text(pattern: str | None) -> Schema:
    """Return the schema of a text. A number is one too, if its digits fit the pattern."""
    text: Schema = {"type": "string", "minLength": 1, "pattern": NO_INTERPOLATION}
    number: Schema = {"type": "number"}
    if pattern is not None:
        text["pattern"] = f"^(?:{pattern})$"
        if not re.fullmatch(pattern, "0"):
            return text
        if not re.fullmatch(pattern, "-1"):
            number["minimum"] = 0
    return {"anyOf": [text, number]}


def _list(kinds: Sequence[object], meta: Mapping[str, Any]) -> Schema:
    """Return the schema of a list: of any length, or of one item for each type."""
    made: Schema = {"type": "array", "items": _value(kinds[0], meta)}
    if Ellipsis not in kinds:
        made |= {"minItems": len(kinds), "maxItems": len(kinds)}
    return made


def _changes(f: "Field[Any]") -> Schema:
    """Return the schema of a run's history."""
    properties: Schema = {
        "step": {"type": "integer"},
        "key": {"enum": list(keys.leaves())},
        "from": {},
        "to": {},
    }
    entry = {"type": "object", "properties": properties, "additionalProperties": False}
    entry["required"] = list(properties)
    return {"description": f.metadata["meaning"], "type": "array", "items": entry}
