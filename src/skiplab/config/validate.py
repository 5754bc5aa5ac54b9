"""From plain values to a typed, checked `Config`. Imports no torch, no Hydra.

Everything that reaches `run` has passed `check`, whether it came from the command line or from a
stored config.
"""

import re
import types
import typing
from collections.abc import Mapping, Sequence, Set
from dataclasses import MISSING, is_dataclass, replace
from typing import Any, TypeGuard, TypeVar

from skiplab import locations
from skiplab.config import code, keys, lexicon, presets, rules
from skiplab.config.options import Folder, OwnOptimizer
from skiplab.config.schema import Change, Code, Config
from skiplab.config.values import choose, convert, nearest, shown
from skiplab.errors import UsageError

T = TypeVar("T")


def check(tree: Mapping[str, object], *, is_stored: bool = False) -> Config:
    """Return the typed config of a tree of plain values, with absolute PATHS.

    `is_stored`: the config is one of a run that exists. Its paths stay as they are, since its
    identity is made of them.

    Raises UsageError with all that is wrong, one line each.
    """
    problems: list[str] = []
    tree = dict(tree) if is_stored else code.pinned(tree, problems)
    config = _convert_mapping(tree, (Config,), "", problems)
    if isinstance(config, Config) and not problems:
        problems = list(rules.across(config))
        if not problems and not is_stored:
            config, problems = with_absolute_paths(config)
        if not problems:
            return config
    raise UsageError("\n".join(problems))


# The keys that name a file or folder. Whoever goes on with a run reads it from any other folder.
PATHS = ("dataset.root", "dataset.list", "init_from")


def with_absolute_paths(config: Config) -> tuple[Config, list[str]]:
    """Return the config with absolute PATHS, and what is wrong with them."""
    problems: list[str] = []
    try:
        config = replace(config, init_from=absolute_value("init_from", config.init_from))
    except UsageError as error:
        problems.append(str(error))
    if isinstance(config.dataset, Folder):
        return with_absolute_folder(config, config.dataset, problems), problems
    # A bundled data set reads no root, so a root that conf/ gives does no harm.
    if config.dataset.name not in rules.BUNDLED:
        try:
            root = absolute_value("dataset.root", config.dataset.root)
            locations.data_root(root)
            config = replace(config, dataset=replace(config.dataset, root=root))
        except UsageError as error:
            problems.append(str(error))
    return config, problems


def with_absolute_folder(config: Config, dataset: Folder, problems: list[str]) -> Config:
    """Return the config with the absolute paths of images of one's own."""
    paths: dict[str, str | None] = {}
    for name, value in (("root", dataset.root), ("list", dataset.list)):
        try:
            paths[name] = absolute_value(f"dataset.{name}", value)
        except UsageError as error:
            problems.append(str(error))
    return replace(config, dataset=replace(dataset, **paths))


def absolute_value(path: str, value: T) -> T | str:
    """Return a value as a config keeps it, which is an absolute path for PATHS.

    Raises UsageError for what cannot be a path.
    """
    if path in PATHS and isinstance(value, str) and value:
        return locations.absolute(value, key=path)
    return value


def convert_value(
    value: object,
    kind: object,
    path: str,
    problems: list[str],
    meta: Mapping[str, Any] | None = None,
) -> object:
    """Return `value` as `kind`, or append what is wrong with it to `problems` and return None.

    `meta` is the metadata of the key's field.
    """
    if kind == tuple[Change, ...]:
        return _convert_changes(value, path, problems)
    if kind == tuple[Code, ...]:
        return _convert_code(value, path, problems)
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
        if group in code.BASES and code.is_own(value):
            return value
        return choose(value, tuple(presets.keys_by_name(group)), path, problems)
    return convert(value, kind, path, problems, meta or {})


def _convert_mapping(
    value: object, variants: Sequence[type], path: str, problems: list[str]
) -> object:
    """Return a mapping as one of the classes, or None where anything in it is wrong."""
    prefix = f"{path}." if path else ""
    if not isinstance(value, Mapping):
        example = f"{prefix}{keys.fields_of(variants[0])[0].name}"
        problems.append(
            f"{path}={shown(value)}: a group of keys is expected here, such as {example}"
        )
        return None
    schema = variants[0]
    if len(variants) > 1:
        option, options = value.get("name"), presets.keys_by_name(path)
        if path in code.BASES and code.is_own(option):
            schema = own_schema(variants)
        elif isinstance(option, str) and option in options:
            schema = schema_of(option, options[option], variants)
        else:
            problems.append(f"{prefix}name={shown(option)}: {nearest(str(option or ''), options)}")
            return None
    hints, known = keys.hints(schema), {f.name: f for f in keys.fields_of(schema)}
    for name in value:
        if name in known:
            continue
        if len(variants) > 1:
            lacks = f"{value['name']} has no such key; {nearest(str(name), known)}"
            problems.append(f"{prefix}{name}: {lacks}")
        else:
            problems.append(keys.unknown_key(f"{prefix}{name}"))
    converted: dict[str, Any] = {}
    for name, f in known.items():
        if name not in value and f.metadata.get("neutral", MISSING) is not MISSING:
            converted[name] = f.metadata["neutral"]
        elif name not in value or value[name] == "???":
            meaning = f.metadata.get("meaning", "a group of keys")
            problems.append(f"{prefix}{name}: missing: {meaning}")
        else:
            converted[name] = convert_value(
                value[name], hints[name], prefix + name, problems, f.metadata
            )
    return schema(**converted) if len(converted) == len(known) else None


def schema_of(option: str, preset: Set[str], variants: Sequence[type]) -> type:
    """Return the class named like an option, else the one whose keys differ least from `preset`.

    `preset` is the keys of the option's YAML.
    """

    def difference(variant: type) -> tuple[bool, int]:
        known = {f.name for f in keys.fields_of(variant)}
        is_namesake = lexicon.plain(variant.__name__) == lexicon.plain(option)
        return not is_namesake, len(known ^ preset)

    return min(variants, key=difference)


def own_schema(variants: Sequence[type]) -> type:
    """Return the class of a group's keys that code of a user's own has."""
    return OwnOptimizer if OwnOptimizer in variants else variants[0]


def _convert_tuple(
    value: object,
    kind: object,
    path: str,
    problems: list[str],
    meta: Mapping[str, Any] | None,
) -> tuple[object, ...] | None:
    kinds = typing.get_args(kind)
    if not isinstance(value, (list, tuple)):
        example = ",".join("0.1" if k is float else "a" for k in kinds if k is not Ellipsis)
        problems.append(f"{path}={shown(value)}: a list is expected, such as {path}=[{example}]")
        return None
    if Ellipsis not in kinds and len(value) != len(kinds):
        problems.append(f"{path}={list(value)}: {len(kinds)} values are expected")
        return None
    return tuple(convert_value(item, kinds[0], path, problems, meta) for item in value)


def _convert_changes(value: object, path: str, problems: list[str]) -> tuple[Change, ...]:
    """Return a run's history as `stored.tree` writes it: mappings of step, key, from, to."""
    made: list[Change] = []
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        if _is_change(entry):
            before, after = map(_as_tuple, (entry["from"], entry["to"]))
            made.append(Change(entry["step"], entry["key"], before, after))
        else:
            problems.append(
                f"{path}: Skiplab writes this key itself, as a list of step, key, from, to; "
                f"{shown(entry)} is none such"
            )
    return tuple(made)


def _convert_code(value: object, path: str, problems: list[str]) -> tuple[Code, ...]:
    """Return a run's own code as `stored.tree` writes it: mappings of group, name, path, sha256."""
    made: list[Code] = []
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        if _is_code(entry):
            made.append(Code(entry["group"], entry["name"], entry["path"], entry["sha256"]))
        else:
            problems.append(
                f"{path}: Skiplab writes this key itself, as a list of group, name, path, sha256; "
                f"{shown(entry)} is none such"
            )
    return tuple(made)


def _is_code(entry: object) -> TypeGuard[Mapping[str, str]]:
    if not isinstance(entry, Mapping) or set(entry) != {"group", "name", "path", "sha256"}:
        return False
    if not all(isinstance(each, str) for each in entry.values()):
        return False
    is_digest = re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]) is not None
    return entry["group"] in code.BASES and code.is_own(entry["name"]) and is_digest


def _is_change(entry: object) -> TypeGuard[Mapping[str, Any]]:
    if not isinstance(entry, Mapping) or set(entry) != {"step", "key", "from", "to"}:
        return False
    key = entry["key"]
    is_known = isinstance(key, str) and (key in keys.leaves() or key in code.DIGESTS)
    return type(entry["step"]) is int and is_known


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
