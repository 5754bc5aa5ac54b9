"""A config as files hold it: the text of a run folder's config.yaml, and the identity. Imports no torch, no Hydra."""

import functools
import hashlib
import json
import operator
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from skiplab import __version__, regular
from skiplab.config import keys, rules, sections
from skiplab.config.schema import Config
from skiplab.config.validate import check, convert_value
from skiplab.errors import UsageError


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
        if any(is_dataclass(v) for v in keys.variants(keys.hints(Config)[f.name]))
    ]


@functools.cache
def _keys_of(options: tuple[tuple[str, Any], ...]) -> tuple[list[str], Any, list[tuple[str, Any]]]:
    """Of configs with these options: the full paths of their keys, what takes the values from one, and the neutral ones of `identity_values`."""
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
    return paths, operator.attrgetter(*paths), neutral


def tree(config: Config) -> dict[str, Any]:
    """The config as a plain tree of values, from which `check` makes it again; of Skiplab's own keys those that say something."""
    plain = {name: value for name, value in asdict(config).items() if name not in OWN}
    return plain | own_values(config)


OWN = ("init_sha256", "changed")


def own_values(config: Config) -> dict[str, Any]:
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


def identity_values(config: Config) -> dict[str, Any]:
    """The keys that change the numbers and are not at their neutral value: what a run's identity is made of."""
    values = flat(config)
    kept = {
        path: values[path]
        for path, neutral in _keys_of(_options(config))[2]
        if values[path] != neutral
    }
    return kept | own_values(config)


def identity(config: Config) -> str:
    """SHA-256 of canonical JSON of the keys that change the numbers, each left out at its neutral value."""
    return hashlib.sha256(
        json.dumps(identity_values(config), sort_keys=True, allow_nan=False).encode()
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
    checked = [
        convert_value(value, keys.hints(Config)[name], name, problems, f.metadata) for f in found
    ]
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
