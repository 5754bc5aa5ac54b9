"""`skiplab keys [GROUP|KEY ...]`: every key of a run, with type, range, default and meaning.

All of it is read from the schema and conf/. Imports no torch, no Hydra.
"""

import argparse
import json
import textwrap
import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass
from typing import Any, Literal

from skiplab.cli import help, topics
from skiplab.cli.answer import Answer
from skiplab.config import code, keys, standard
from skiplab.config.schema import Config
from skiplab.errors import UsageError
from skiplab.paths import groups

# A longer value is cut, and of more options the others are named.
LONGEST_VALUE = 40
FEW = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab keys`."""
    parser.add_argument(
        "topic",
        nargs="*",
        metavar="GROUP|KEY",
        help="such as optimizer or optimizer.lr; without one all keys are listed",
    )


@dataclass(frozen=True)
class Key:
    """A key of the schema, as it is for some options of its group."""

    path: str
    # The options that have the key like this; empty if all have.
    options: tuple[str, ...]
    kind: object
    field: "Field[Any]"
    # The value in a run by `train` alone, else that of the first option; None if there is none.
    default: object
    # GROUP=OPTION -> the value that it states, where that is another.
    others: Mapping[str, object]

    def as_json(self) -> dict[str, object]:
        """Return the key as docs/json.md states it."""
        meta = self.field.metadata
        bounds = {rule.replace(" ", "_"): bound for rule, bound in meta["bounds"].items()}
        return {
            "key": self.path,
            "options": list(self.options),
            "type": topics.values_in_words(self.kind, self.field).partition(", ")[0],
            "choices": choices_of(self.kind),
            **bounds,
            "default": self.default,
            "other_defaults": dict(self.others),
            "meaning": meta["meaning"],
            "may_change_on_resume": not meta["fixed"],
            "changes_numbers": meta["changes_numbers"],
        }

    def entry(self) -> str:
        """Return the key's lines in the list: its meaning, its values, its default."""
        values = topics.values_in_words(self.kind, self.field)
        values += f"; default {in_words(self.default)}"
        if self.others:
            groups_of = dict.fromkeys(option.partition("=")[0] for option in self.others)
            values += f", or as {', '.join(f'{group}=' for group in groups_of)} says"
        meaning = self.field.metadata["meaning"] + self.owners()
        return "\n".join([help.entry(self.path, meaning), *wrapped(values)])

    def owners(self) -> str:
        """Return which options have the key like this, in brackets; empty if all have."""
        if not self.options:
            return ""
        absent = [name for name in names_in(self.path) if name not in self.options]
        if len(absent) < len(self.options) > FEW:
            return f" (not of {', '.join(absent)})"
        return f" ({', '.join(self.options)})"

    def details(self) -> str:
        """Return the key's lines where it is asked for: also the options with other defaults."""
        lines = [self.entry()]
        others: dict[str, list[str]] = {}
        for option, value in self.others.items():
            others.setdefault(in_words(value), []).append(option)
        for value, options in others.items():
            lines += wrapped(f"{value} with {', '.join(options)}")
        if self.field.metadata["fixed"]:
            lines += wrapped("It cannot change when a run goes on.")
        if not self.field.metadata["changes_numbers"]:
            lines += wrapped("It changes no number of a run, and is no part of its identity.")
        return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    """Return a text in lines below the description of a key."""
    indent = " " * help.INDENT
    return textwrap.wrap(
        text, help.WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def command(options: argparse.Namespace) -> Answer:
    """Return the keys that are asked for, in the order of the schema."""
    found = find(options.topic)
    document = {"keys": [key.as_json() for key in found]}
    return Answer(document, describe(found, options.topic))


def find(asked: Sequence[str]) -> list[Key]:
    """Return the keys of groups, or single ones. Raises UsageError with the nearest for others."""
    every = all_keys()
    if not asked:
        return every
    found: list[Key] = []
    for topic in asked:
        those = [key for key in every if topic in (key.path, key.path.partition(".")[0])]
        if not those:
            raise UsageError(f"skiplab keys {reason_against(topic)}")
        found += [key for key in those if key not in found]
    return found


def reason_against(topic: str) -> str:
    """Return why a word is none of the keys that are listed, and the nearest one."""
    group = topic.removesuffix(".name")
    if group in groups():
        return f"{topic}: an option is chosen whole; train --help {group} lists them"
    return keys.unknown_key(topic).replace("no such key", "no such group or key", 1)


# GROUP=OPTION -> what the option states.
Stated = Mapping[str, Mapping[str, Any]]


def all_keys() -> list[Key]:
    """Return every key that a user can set; one for each meaning that it has in its group."""
    usual, stated = standard.composed({}), standard.every_preset()
    sections = dict(topics.sections())
    found: list[Key] = []
    for f in keys.fields_of(Config):
        if f.metadata.get("own"):
            continue
        if f.name in sections:
            found += keys_of_section(f.name, sections[f.name], usual, stated)
        else:
            kind, default = keys.hints(Config)[f.name], usual.get(f.name)
            others = {
                option: values[f.name]
                for option, values in stated.items()
                if values.get(f.name, default) != default
            }
            found.append(Key(f.name, (), kind, f, default, others))
    # Keys at the root come first, as in train --help.
    return sorted(found, key=lambda key: "." in key.path)


def keys_of_section(
    group: str, schemas: Sequence[type], usual: Mapping[str, Any], stated: Stated
) -> list[Key]:
    """Return the keys of a group's options; options that say the same of a key share one."""
    held: dict[tuple[str, str], list[tuple[type, Field[Any]]]] = {}
    for schema in schemas:
        for f in keys.fields_of(schema):
            if f.name != "name":
                words = topics.values_in_words(keys.hints(schema)[f.name], f)
                held.setdefault((f.name, f.metadata["meaning"] + words), []).append((schema, f))
    found: list[Key] = []
    for (leaf, _), members in held.items():
        path, f = f"{group}.{leaf}", members[0][1]
        names = [name for schema, _ in members for name in names_of(group, schema, schemas)]
        options = () if len(members) == len(schemas) else tuple(names)
        values = {
            option: each[path]
            for option, each in stated.items()
            if option.startswith(f"{group}=")
            and path in each
            and (not options or each.get(f"{group}.name") in options)
        }
        default = usual.get(path)
        if options and usual.get(f"{group}.name") not in options:
            base = stated.get(f"{group}={code.BASES.get(group)}", {}).get(path)
            default = next(iter(values.values()), base)
        others = {option: value for option, value in values.items() if value != default}
        found.append(Key(path, options, keys.hints(members[0][0])[leaf], f, default, others))
    return found


def names_of(group: str, schema: type, schemas: Sequence[type]) -> list[str]:
    """Return the names of a group that have one class of keys; FILE.py:NAME where none has."""
    return topics.names_of(group, schema, schemas) or ["FILE.py:NAME"]


def names_in(path: str) -> list[str]:
    """Return the names of a key's group, and FILE.py:NAME if code of one's own has keys there."""
    group = path.partition(".")[0]
    schemas = dict(topics.sections())[group]
    return [name for schema in schemas for name in names_of(group, schema, schemas)]


def choices_of(kind: object) -> list[str] | None:
    """Return the values of a key with fixed choices; None for another."""
    for variant in keys.variants(kind):
        if typing.get_origin(variant) is Literal:
            return list(typing.get_args(variant))
    return None


def in_words(value: object) -> str:
    """Return a value as a command line has it; a long one is cut."""
    if isinstance(value, tuple):
        text = f"[{','.join(map(in_words, value))}]"
    elif isinstance(value, float):
        text = f"{value:.12g}"
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def describe(found: Sequence[Key], asked: Sequence[str]) -> str:
    """Return the keys' lines, with a heading for each section; all is told of a key by its path."""
    lines: list[str] = []
    section = None
    for key in found:
        here = key.path.partition(".")[0] if "." in key.path else ""
        if here != section:
            lines += ["", f"KEYS of {here}" if here else "KEYS of a run"]
            section = here
        lines.append(key.details() if key.path in asked else key.entry())
    lines += [] if asked else ["", "skiplab keys KEY says more of a key, train --help of an option"]
    return "\n".join(lines[1:])
