"""What `train --help GROUP` and `train --help KEY` print, read from conf/ and the schema.

Imports neither Hydra nor torch.
"""

import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Literal

from skiplab import own_code
from skiplab.cli.help import WIDTH, entry
from skiplab.config import code, keys
from skiplab.config.schema import Config
from skiplab.errors import UsageError
from skiplab.paths import groups, option_file, own_options


def text_for(topics: Sequence[str]) -> str:
    """Return the help on groups and keys.

    Raises UsageError with the nearest group or key for a topic that is neither.
    """
    return "\n\n".join(map(explain, topics))


def explain(topic: str) -> str:
    """Return the help on one group, section or key."""
    options = groups().get(topic, [])
    section = dict(sections()).get(topic)
    if options or section:
        paragraphs = [_describe_options(topic, options)] if options else []
        paragraphs += _describe_keys(topic, section or ())
        return "\n\n".join(paragraphs)
    if topic.endswith(".name") and topic in keys.leaves():
        group = topic.removesuffix(".name")
        raise UsageError(f"--help {topic}: an option is chosen whole; write --help {group}")
    if topic in keys.leaves():
        return _describe_key(topic)
    line = keys.unknown_key(topic).replace("no such key", "no such group or key", 1)
    raise UsageError(f"--help {line}")


def _describe_options(group: str, options: Iterable[str]) -> str:
    own = own_options().get(group, ())
    lines = []
    for option in options:
        text = describe(path := option_file(group, option))
        if option in own:
            text = f"yours, {own_code.shown(str(path))}{f': {text}' if text else ''}"
        lines.append(entry(option, text))
    if group in code.BASES:
        lines.append(f"\n  or {group}=FILE.py:NAME, code of your own: docs/own_code.md")
    return "\n".join([f"OPTIONS: {group}=OPTION", *lines])


def _describe_keys(section: str, schemas: Sequence[type]) -> Iterator[str]:
    """Yield a paragraph for each class of keys that a section can have."""
    for schema in schemas:
        known = [f for f in fields(schema) if f.name != "name"]
        names = names_of(section, schema, schemas)
        if not names and len(schemas) > 1:
            names = ["FILE.py:NAME"]
        owner = f" of {' '.join(names)}" if names else ""
        lines = [entry(f"{section}.{f.name}", _meaning(schema, f)) for f in known]
        heading = textwrap.fill(f"KEYS{owner}: KEY=VALUE", WIDTH, subsequent_indent="  ")
        yield "\n".join([heading, *lines])


def _describe_key(path: str) -> str:
    """Return the help on one key, and when it may change."""
    section, _, leaf = path.rpartition(".")
    schemas = dict(sections())[section] if section else (Config,)
    # The names of the options that say the same of the key.
    owners: dict[str, list[str]] = {}
    metadata = keys.leaves()[path].metadata
    for schema in schemas:
        for f in fields(schema):
            if f.name == leaf:
                owners.setdefault(_meaning(schema, f), []).extend(
                    names_of(section, schema, schemas)
                )
    lines = []
    for text, names in owners.items():
        owner = f"{', '.join(names)}: " if names else ""
        lines.append(entry(path, owner + text))
    if metadata["fixed"]:
        lines.append("  It cannot change when a run goes on.")
    if not metadata["changes_numbers"]:
        lines.append("  It changes no number of a run, and is no part of its identity.")
    return "\n".join(lines)


def sections() -> Iterator[tuple[str, tuple[type, ...]]]:
    """Yield each key of the config that holds keys, with the classes that it can be of."""
    for name, kind in keys.hints(Config).items():
        schemas = tuple(v for v in keys.variants(kind) if is_dataclass(v) and isinstance(v, type))
        if schemas:
            yield name, schemas


def names_of(group: str, schema: type, schemas: Sequence[type]) -> list[str]:
    """Return the names of a group that have the keys of one class; none if there is only one."""
    if len(schemas) == 1:
        return []
    from skiplab.config import presets, validate

    known = presets.keys_by_name(group)
    return [name for name in known if validate.schema_of(name, known[name], schemas) is schema]


def _meaning(schema: type, f: "Field[object]") -> str:
    """Return what a key means, with its type and range in brackets."""
    return f"{f.metadata['meaning']} ({values_in_words(keys.hints(schema)[f.name], f)})"


def values_in_words(kind: object, f: "Field[object]") -> str:
    """Return which values a key takes, in words."""
    variants, word = keys.variants(kind), f.metadata["word"]
    # A key with a word for a number has the type `int | str`.
    plain = [v for v in variants if v is not types.NoneType and (v is not str or word is None)]
    choices = [*map(_type, plain)]
    if word is not None:
        choices.append(word)
    if types.NoneType in variants:
        choices.append("null")
    bounds = [
        f"{rule} {bound}" for rule, bound in f.metadata["bounds"].items() if bound is not None
    ]
    return ", ".join([" or ".join(choices), *bounds])


def _type(kind: object) -> str:
    """Return a type in words; of a choice, its values."""
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        of = typing.get_args(kind)
        number = "" if Ellipsis in of else f"{len(of)} "
        return f"list of {number}{'numbers' if of[0] is float else 'texts'}"
    words = {bool: "true|false", int: "whole number", float: "number", str: "text"}
    return words[typing.cast(type, kind)]


def describe(path: Path) -> str:
    """Return the sentence that a preset's first comment begins with."""
    comments = [
        line[2:].strip()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("# ") and "@package" not in line
    ]
    return comments[0].partition("   train ")[0].rstrip() if comments else ""
