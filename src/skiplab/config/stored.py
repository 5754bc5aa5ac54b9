"""A config as files hold it: config.yaml, and the identity. Imports no torch, no Hydra."""

import functools
import hashlib
import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from skiplab import __version__, regular
from skiplab.config import code, keys, presets, rules, sections
from skiplab.config.options import Folder
from skiplab.config.schema import Config
from skiplab.config.validate import check, convert_value, schema_of
from skiplab.errors import UsageError
from skiplab.paths import conf_folder


def flat(config: Config) -> dict[str, Any]:
    """Return every value that a user can set, by its full path."""
    shape = _shape_of(config)
    return dict(zip(shape.paths, shape.values_of(config), strict=True))


class _Shape(NamedTuple):
    """What all configs have in common whose sections are of the same classes."""

    # The full path of each key, and the function that takes all their values from a config.
    paths: Sequence[str]
    values_of: Callable[[Config], Sequence[object]]
    # The keys that change the numbers, with their neutral values.
    neutral: Sequence[tuple[str, object]]


def _shape_of(config: Config) -> _Shape:
    return _shape(tuple((name, type(getattr(config, name))) for name in _section_names()))


@functools.cache
def _section_names() -> list[str]:
    hints = keys.hints(Config)
    return [name for name in hints if any(map(is_dataclass, keys.variants(hints[name])))]


@functools.cache
def _shape(options: tuple[tuple[str, Any], ...]) -> _Shape:
    schemas, known = dict(options), keys.leaves()
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
    return _Shape(paths, operator.attrgetter(*paths), neutral)


def tree(config: Config) -> dict[str, Any]:
    """Return the config as plain values, from which `check` makes it again.

    Of the keys that Skiplab writes itself only those that are not empty are in it.
    """
    plain = {name: value for name, value in asdict(config).items() if name not in OWN}
    return plain | own_values(config)


# The keys that Skiplab writes itself.
OWN = ("init_sha256", "code", "changed")


def own_values(config: Config) -> dict[str, Any]:
    """Return the keys that Skiplab writes itself as plain values, without the empty ones."""
    plain = {
        "init_sha256": config.init_sha256,
        "code": [code.as_dict() for code in config.code],
        "changed": [change.as_dict() for change in config.changed],
    }
    return {name: value for name, value in plain.items() if value}


def effect_on_schedule(path: str) -> str:
    """Return what a changed value does to the schedule of a run that goes on, or an empty text."""
    if path in ("epochs", "steps"):
        return ": the schedule is stretched to the new length and goes on from this step"
    return ""


def identity_values(config: Config) -> dict[str, Any]:
    """Return the values that a run's identity is made of.

    These are the keys that change the numbers and are not at their neutral value, and the keys that
    Skiplab writes itself.
    """
    values = flat(config)
    changing = _shape_of(config).neutral
    kept = {path: values[path] for path, neutral in changing if values[path] != neutral}
    own = {name: value for name, value in own_values(config).items() if name != "code"}
    return kept | own | code_values(config)


def code_values(config: Config) -> dict[str, Any]:
    """Return what tells a run's own code from other code: by group, the SHA-256 of its file.

    An augmentation's name is there too, since no key of a config states it. Where the file lay is
    not.
    """
    digests = {f"{code.group}.sha256": code.sha256 for code in config.code}
    names = [code.name for code in config.code if code.group == "augment"]
    return digests | ({"augment.name": names[0]} if names else {})


# The root of a folder of images, where only the network of a run is known.
NOT_STORED = "not-stored-with-the-weights"


def of_values(values: Mapping[str, object]) -> Config:
    """Make a config of what `identity_values` gave. Keys that change no number are as in conf/.

    Raises UsageError if it is not the config of a run.
    """
    values = dict(values)
    tree: dict[str, Any] = {"code": _code_of(values)}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    for path, value in _machine_values(tree):
        section, _, name = path.rpartition(".")
        (tree.setdefault(section, {}) if section else tree).setdefault(name, value)
    return check(tree, is_stored=True)


def _code_of(values: dict[str, object]) -> list[dict[str, object]]:
    """Take what `code_values` gave out of the values, and return the code as a config has it.

    Where its files lay is not known.
    """
    names = {group: values.get(f"{group}.name") for group in code.BASES}
    names["augment"] = values.pop("augment.name", None)
    return [
        {"group": group, "name": names[group], "path": NOT_STORED, "sha256": values.pop(key)}
        for group in code.BASES
        if (key := f"{group}.sha256") in values
    ]


def _machine_values(tree: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield the keys that change no number and have no neutral value, as conf/ states them."""
    stated = yaml.safe_load((conf_folder() / "config.yaml").read_text(encoding="utf-8"))
    for name, kind in keys.hints(Config).items():
        schemas = [v for v in keys.variants(kind) if is_dataclass(v) and isinstance(v, type)]
        if not schemas:
            continue
        option = str(tree.get(name, {}).get("name", "default"))
        options = presets.keys_by_name(name)
        if len(schemas) > 1 and option in options:
            schemas = [schema_of(option, options[option], schemas)]
        preset = presets.section_of(conf_folder() / name / f"{option}.yaml")
        if schemas[0] is Folder:
            # These images have no place of their own, so conf/ cannot state one.
            preset = {**preset, "root": NOT_STORED}
        for f in fields(schemas[0]):
            if _is_of_machine(f):
                yield f"{name}.{f.name}", preset.get(f.name)
    for f in fields(Config):
        if f.metadata and _is_of_machine(f):
            yield f.name, stated.get(f.name)


def _is_of_machine(f: "Field[Any]") -> bool:
    return not f.metadata["changes_numbers"] and f.metadata["neutral"] is MISSING


def identity(config: Config) -> str:
    """Return the SHA-256 of canonical JSON of `identity_values`, in hexadecimal digits."""
    canonical = json.dumps(identity_values(config), sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def dump(config: Config) -> str:
    """Return the text of a run folder's config.yaml. Its first line carries the identity."""
    # JSON makes lists of tuples.
    plain = json.loads(json.dumps(tree(config)))
    heading = f"# skiplab {__version__} identity {identity(config)}\n"
    return heading + yaml.safe_dump(plain, sort_keys=False, width=120)


# The most bytes of a config.yaml. One has two thousand.
LARGEST = 2**17


def read_tree(path: Path) -> dict[str, Any]:
    """Read a stored config.yaml as plain values, unchecked. Raises UsageError naming the file."""
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
            f"{path}: holds an interpolation (${{...}}); "
            "a stored config is resolved, so this one was changed"
        )
    if not isinstance(stored, dict):
        raise UsageError(f"{path}: not a run's config: a mapping of keys is expected")
    return stored


def _in_sections(text: str) -> Config | None:
    """Return the config of a text, read section by section, or None if anything in it is odd.

    Then only the check of the whole text can say what.
    """
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


def _checked(name: str, value: object) -> object:
    """Return the value of a key at the root as `check` has it. Raises ValueError if it is wrong."""
    found = {f.name: f for f in fields(Config)}.get(name)
    if found is None or value == "???":
        raise ValueError(name)
    problems: list[str] = []
    checked = convert_value(value, keys.hints(Config)[name], name, problems, found.metadata)
    if problems:
        raise ValueError(name)
    return checked


def load(path: Path) -> Config:
    """Read a run folder's config.yaml and check it as a command line is checked.

    Raises UsageError naming the file.
    """
    text = _text_of(path)
    if (config := _in_sections(text)) is not None:
        return config
    try:
        return check(_tree_of(path, text), is_stored=True)
    except UsageError as error:
        raise UsageError("\n".join(f"{path}: {line}" for line in str(error).split("\n"))) from None
