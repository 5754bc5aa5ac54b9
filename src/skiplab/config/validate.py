"""From plain values to a typed, checked `Config`. Imports no torch, no Hydra.

Everything that reaches `run` has passed `check`, whether it came from the command line or from a
stored config.
"""

import types
import typing
from collections.abc import Mapping, Sequence, Set
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

from skiplab import locations
from skiplab.config import keys, lexicon, presets, rules
from skiplab.config.schema import Change, Config
from skiplab.config.values import choose, convert, nearest, shown
from skiplab.errors import UsageError


def check(tree: Mapping[str, Any], *, is_stored: bool = False) -> Config:
    """The typed config of a plain tree of values, its PATHS absolute. Raises UsageError with all that is wrong, one line each.

    `is_stored`: of a run that there is, whose paths stay as they are: its identity is made of them.
    """
    problems: list[str] = []
    config = convert_value(dict(tree), Config, "", problems)
    if not problems:
        problems = list(rules.across(config))
    if not problems and not is_stored:
        config, problems = with_absolute_paths(config)
    if problems:
        raise UsageError("\n".join(problems))
    return config


# what lies there is read, by whoever goes on with a run from wherever
PATHS = ("dataset.root", "init_from")


def with_absolute_paths(config: Config) -> tuple[Config, list[str]]:
    """The config with absolute PATHS, which it means wherever it is read again; and what is wrong with them."""
    problems: list[str] = []
    try:
        config = replace(config, init_from=absolute_value("init_from", config.init_from))
    except UsageError as error:
        problems.append(str(error))
    # which reads no root, so that one that conf/ gives does no harm
    if config.dataset.name not in rules.BUNDLED:
        try:
            root = absolute_value("dataset.root", config.dataset.root)
            locations.data_root(root)
            config = replace(config, dataset=replace(config.dataset, root=root))
        except UsageError as error:
            problems.append(str(error))
    return config, problems


def absolute_value(path: str, value: Any) -> Any:
    """A value as a config keeps it: of PATHS the absolute path. Raises UsageError for what cannot be one."""
    return (
        locations.absolute(value, key=path)
        if path in PATHS and isinstance(value, str) and value
        else value
    )


def convert_value(
    value: Any, kind: Any, path: str, problems: list[str], meta: Mapping[str, Any] | None = None
) -> Any:
    """`value` as `kind`; what is wrong is appended to `problems` and None returned."""
    if kind == tuple[Change, ...]:
        return _convert_changes(value, path, problems)
    variants = keys.variants(kind)
    if types.NoneType in variants:
        if value is None:
            return None
        (kind,) = (v for v in variants if v is not types.NoneType)
    elif meta and meta.get("word"):
        if value == meta["word"]:
            return value
        (kind,) = (v for v in variants if v is not str)
    elif any(is_dataclass(v) for v in variants):
        return _convert_mapping(value, variants, path, problems)
    if typing.get_origin(kind) is tuple:
        return _convert_tuple(value, kind, path, problems, meta)
    if meta and (group := meta.get("option_of")):
        return choose(value, tuple(presets.keys_by_name(group)), path, problems)
    return convert(value, kind, path, problems, meta or {})


def _convert_mapping(value: Any, variants: tuple[Any, ...], path: str, problems: list[str]) -> Any:
    prefix = f"{path}." if path else ""
    if not isinstance(value, Mapping):
        problems.append(
            f"{path}={shown(value)}: a group of keys is expected here, such as {prefix}{fields(variants[0])[0].name}"
        )
        return None
    schema = variants[0]
    if len(variants) > 1:
        option, options = value.get("name"), presets.keys_by_name(path)
        if not isinstance(option, str) or option not in options:
            problems.append(f"{prefix}name={shown(option)}: {nearest(str(option or ''), options)}")
            return None
        schema = schema_of(option, options[option], variants)
    hints = keys.hints(schema)
    known = {f.name: f for f in fields(schema)}
    for name in value:
        if name not in known:
            owner = f"{value['name']} has no such key" if len(variants) > 1 else None
            choices = nearest(str(name), known)
            problems.append(
                f"{prefix}{name}: {owner}; {choices}"
                if owner
                else keys.unknown_key(f"{prefix}{name}")
            )
    converted = {}
    for name, f in known.items():
        if name not in value and f.metadata.get("neutral", MISSING) is not MISSING:
            converted[name] = f.metadata["neutral"]
        elif name not in value or value[name] == "???":
            problems.append(
                f"{prefix}{name}: missing: {f.metadata.get('meaning', 'a group of keys')}"
            )
        else:
            converted[name] = convert_value(
                value[name], hints[name], prefix + name, problems, f.metadata
            )
    return schema(**converted) if len(converted) == len(known) else None


def schema_of(option: str, preset: Set[str], variants: Sequence[Any]) -> Any:
    """Return the class named as the option, else the one whose keys differ least from its preset's."""

    def difference(variant: Any) -> tuple[bool, int]:
        known = {f.name for f in fields(variant)}
        is_named_so = lexicon.plain(variant.__name__) == lexicon.plain(option)
        return not is_named_so, len(known ^ preset)

    return min(variants, key=difference)


def _convert_tuple(
    value: Any, kind: Any, path: str, problems: list[str], meta: Mapping[str, Any] | None
) -> Any:
    kinds = typing.get_args(kind)
    if not isinstance(value, (list, tuple)):
        example = ",".join("0.1" if k is float else "a" for k in kinds if k is not Ellipsis)
        problems.append(f"{path}={shown(value)}: a list is expected, such as {path}=[{example}]")
        return None
    if Ellipsis not in kinds and len(value) != len(kinds):
        problems.append(f"{path}={list(value)}: {len(kinds)} values are expected")
        return None
    return tuple(convert_value(item, kinds[0], path, problems, meta) for item in value)


def _convert_changes(value: Any, path: str, problems: list[str]) -> tuple[Change, ...]:
    """Return a run's history as `tree` writes it: a list of mappings of step, key, from, to."""
    made: list[Change] = []
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        is_one = isinstance(entry, Mapping) and set(entry) == {"step", "key", "from", "to"}
        if is_one and type(entry["step"]) is int and entry["key"] in keys.leaves():
            before, after = (
                tuple(each) if isinstance(each, list) else each
                for each in (entry["from"], entry["to"])
            )
            made.append(Change(entry["step"], entry["key"], before, after))
        else:
            problems.append(
                f"{path}: Skiplab writes this key itself, as a list of step, key, from, to; {shown(entry)} is none such"
            )
    return tuple(made)
