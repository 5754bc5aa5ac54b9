"""From plain values to a typed, checked `Config`; the identity of a run; a run folder's config.yaml. No torch, no Hydra.

Everything that reaches `run` has passed `check`, whether it came from the command line or from a
stored config.
"""

import functools
import hashlib
import json
import operator
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from skiplab import __version__, locations, regular
from skiplab.config import lexicon, rules, sections
from skiplab.config.schema import Change, Config
from skiplab.config.values import convert, nearest, shown
from skiplab.errors import UsageError


def check(tree: Mapping[str, Any], *, is_stored: bool = False) -> Config:
    """The typed config of a plain tree of values, its PATHS absolute. Raises UsageError with all that is wrong, one line each.

    `is_stored`: of a run that there is, whose paths stay as they are: its identity is made of them.
    """
    problems: list[str] = []
    config = _convert(dict(tree), Config, "", problems)
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


@functools.cache
def leaves(schema: Any = Config, prefix: str = "") -> dict[str, Field[Any]]:
    """Every key that a user can set, by its full path."""
    found: dict[str, Field[Any]] = {}
    hints = _hints(schema)
    for f in fields(schema):
        if f.metadata.get("own"):
            continue
        variants = [v for v in _variants(hints[f.name]) if is_dataclass(v)]
        for variant in variants:
            found |= leaves(variant, f"{prefix}{f.name}.")
        if not variants:
            found[prefix + f.name] = f
    return found


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


def _variants(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def _convert(
    value: Any, kind: Any, path: str, problems: list[str], meta: Mapping[str, Any] | None = None
) -> Any:
    """`value` as `kind`; what is wrong is appended to `problems` and None returned."""
    if kind == tuple[Change, ...]:
        return _convert_changes(value, path, problems)
    variants = _variants(kind)
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
    return convert(value, kind, path, problems, meta or {})


def _convert_mapping(value: Any, variants: tuple[Any, ...], path: str, problems: list[str]) -> Any:
    prefix = f"{path}." if path else ""
    if not isinstance(value, Mapping):
        problems.append(
            f"{path}={shown(value)}: a group of keys is expected here, such as {prefix}{fields(variants[0])[0].name}"
        )
        return None
    schema = variants[0]
    # the option's name picks the schema
    if len(variants) > 1:
        by_name = {name: v for v in variants for name in typing.get_args(_hints(v)["name"])}
        option = value.get("name")
        if not isinstance(option, str) or option not in by_name:
            problems.append(f"{prefix}name={shown(option)}: {nearest(str(option or ''), by_name)}")
            return None
        schema = by_name[option]
    hints = _hints(schema)
    known = {f.name: f for f in fields(schema)}
    for name in value:
        if name not in known:
            owner = f"{value['name']} has no such key" if len(variants) > 1 else None
            choices = nearest(str(name), known)
            problems.append(
                f"{prefix}{name}: {owner}; {choices}" if owner else unknown_key(f"{prefix}{name}")
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
            converted[name] = _convert(
                value[name], hints[name], prefix + name, problems, f.metadata
            )
    return schema(**converted) if len(converted) == len(known) else None


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
    return tuple(_convert(item, kinds[0], path, problems, meta) for item in value)


def _convert_changes(value: Any, path: str, problems: list[str]) -> tuple[Change, ...]:
    """Return a run's history as `tree` writes it: a list of mappings of step, key, from, to."""
    made: list[Change] = []
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        is_one = isinstance(entry, Mapping) and set(entry) == {"step", "key", "from", "to"}
        if is_one and type(entry["step"]) is int and entry["key"] in leaves():
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


@functools.cache
def _hints(schema: Any) -> dict[str, Any]:
    return typing.get_type_hints(schema)


# ----------------------------------------------------------------------------------------------------
# identity and files


def flat(config: Config) -> dict[str, Any]:
    """Every value that a user can set, by its full path."""
    paths, values_of, _ = _keys_of(_options(config))
    return dict(zip(paths, values_of(config), strict=True))


def _options(config: Config) -> tuple[tuple[str, Any], ...]:
    return tuple((name, type(getattr(config, name))) for name in _groups())


@functools.cache
def _groups() -> list[str]:
    return [
        f.name
        for f in fields(Config)
        if any(is_dataclass(v) for v in _variants(_hints(Config)[f.name]))
    ]


@functools.cache
def _keys_of(options: tuple[tuple[str, Any], ...]) -> tuple[list[str], Any, list[tuple[str, Any]]]:
    """Of configs with these options: the full paths of their keys, what takes the values from one, and the neutral ones of `telling`."""
    schemas, known = dict(options), leaves()
    paths: list[str] = []
    for f in fields(Config):
        if f.name in schemas:
            paths += [f"{f.name}.{leaf.name}" for leaf in fields(schemas[f.name])]
        elif not f.metadata["own"]:
            paths.append(f.name)
    neutral = [
        (path, known[path].metadata["neutral"])
        for path in paths
        if known[path].metadata["changes_numbers"]
    ]
    return paths, operator.attrgetter(*paths), neutral


def tree(config: Config) -> dict[str, Any]:
    """The config as a plain tree of values, from which `check` makes it again; of Skiplab's own keys those that say something."""
    plain = {name: value for name, value in asdict(config).items() if name not in OWN}
    return plain | own(config)


OWN = ("init_sha256", "changed")


def own(config: Config) -> dict[str, Any]:
    """Skiplab's own keys that say something, as plain values."""
    plain = {
        "init_sha256": config.init_sha256,
        "changed": [change.as_dict() for change in config.changed],
    }
    return {name: value for name, value in plain.items() if value}


def effect_on_schedule(path: str) -> str:
    """What a changed value means for a run that goes on, where it is not plain."""
    if path in ("epochs", "steps"):
        return ": the schedule is stretched to the new length and goes on from this step"
    return ""


def telling(config: Config) -> dict[str, Any]:
    """The keys that change the numbers and are not at their neutral value: what a run's identity is made of."""
    values = flat(config)
    kept = {
        path: values[path]
        for path, neutral in _keys_of(_options(config))[2]
        if values[path] != neutral
    }
    return kept | own(config)


def identity(config: Config) -> str:
    """SHA-256 of canonical JSON of the keys that change the numbers, each left out at its neutral value."""
    return hashlib.sha256(
        json.dumps(telling(config), sort_keys=True, allow_nan=False).encode()
    ).hexdigest()


def dump(config: Config) -> str:
    """The text of a run folder's config.yaml; its first line carries the identity."""
    # tuples become lists
    plain = json.loads(json.dumps(tree(config)))
    return f"# skiplab {__version__} identity {identity(config)}\n" + yaml.safe_dump(
        plain, sort_keys=False, width=120
    )


# bytes of a config.yaml; one has two thousand
LARGEST = 2**17


def read_tree(path: Path) -> dict[str, Any]:
    """The plain tree of a stored config.yaml, as yet unchecked. Raises UsageError naming the file."""
    return _tree_of(path, _text_of(path))


def _text_of(path: Path) -> str:
    try:
        return regular.read_text(path, most=LARGEST)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({regular.why(path, error)})") from None
    except ValueError as error:
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]})") from None


def _tree_of(path: Path, text: str) -> dict[str, Any]:
    try:
        stored = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]})") from None
    if "${" in text:
        raise UsageError(
            f"{path}: holds an interpolation (${{...}}); a stored config is resolved, so this one was changed"
        )
    if not isinstance(stored, dict):
        raise UsageError(f"{path}: not a run's config: a mapping of keys is expected")
    return stored


def _in_sections(text: str) -> Config | None:
    """The config of a text, read section by section; None where anything in it is odd: the whole text then tells what."""
    values = sections.values_of(text, _checked)
    if values is None or "${" in text:
        return None
    for f in fields(Config):
        if f.name not in values:
            if f.metadata.get("neutral", MISSING) is MISSING:
                return None
            values[f.name] = f.metadata["neutral"]
    config = Config(**values)
    return None if any(rules.across(config)) else config


def _checked(name: str, value: Any) -> Any:
    """The value of a key at the root as `check` has it. Raises ValueError if it is wrong."""
    found = [f for f in fields(Config) if f.name == name and value != "???"]
    problems: list[str] = []
    checked = [_convert(value, _hints(Config)[name], name, problems, f.metadata) for f in found]
    if problems or not found:
        raise ValueError(name)
    return checked[0]


def load(path: Path) -> Config:
    """A run folder's config.yaml through the same schema as the command line. Raises UsageError naming the file."""
    text = _text_of(path)
    if (config := _in_sections(text)) is not None:
        return config
    try:
        return check(_tree_of(path, text), is_stored=True)
    except UsageError as error:
        raise UsageError("\n".join(f"{path}: {line}" for line in str(error).split("\n"))) from None
