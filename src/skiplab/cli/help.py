"""What `train --help` prints, read from conf/ and the schema. Imports neither Hydra nor torch."""

import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Literal

from skiplab import __version__, own_code
from skiplab.config import code, keys, typed
from skiplab.config.schema import Config
from skiplab.errors import UsageError
from skiplab.paths import built_in_groups, groups, option_file, own_options

WIDTH = 80
# Columns before the description of an option or a key.
INDENT = 27

HEAD = """skiplab {version}: train residual and skip-connection networks on small images

  train                                          digits, in seconds, no download
  train model=resnet dataset=cifar10             the notebook's ResNet, CIFAR-10
  train model=resnet20 dataset=cifar10 optimizer.lr=0.1 epochs=60
  train -m block=conv,skip depth=2,6 seed=0,1    a study: every combination
  train resume=outputs/2026-01-31/12-00-00-...   continue a run, bit for bit

The same command continues a killed run. After a finished run it starts a new
one. skiplab --help lists the commands that look at runs.

GROUPS: choose one option of each, GROUP=OPTION. train --help GROUP explains a
group's options and keys. block, model, augment and optimizer also take code of
your own, FILE.py:NAME, and conf/ where you work adds options."""

TAIL = """
KEYS: set any value, KEY=VALUE. train --help KEY explains a key, train --cfg job
shows all of them with their values.
  depth, width   deepcnn: number of blocks (0 will do), their channels
                 resnet: blocks per stage, channels of the first of three stages
                 cifar_resnet: layers, 6n+2 (9n+2 with block=bottleneck)
                 imagenet_resnet: layers, 18, 34, 50, 101 or 152
  network        norm=batch|none init=torch|he shortcut=false (the plain twin)
                 match=params|macs target=80k (a budget that chooses the width)
  run            seed epochs steps batch_size val_fraction name pictures
                 device=auto|cpu|cuda|cuda:N|mps init_from=RUN out=FOLDER
                 resume=auto|never|RUN
  of groups      optimizer.lr scheduler.warmup augment.crop trainer.ema ...
                 evaluator.tta evaluator.split (train --help evaluator)

STUDIES: several values with -m, or a preset sweep=NAME
  study=NAME     the folder outputs/studies/NAME; skiplab compare reports on it
  jobs=auto|N    runs at once; also retries=N on_error=continue|stop force=true
  --cfg job      shows the study's runs and how long they take, and runs none

FLAGS: -m sweeps, --cfg job shows the config, -sc install=bash tab completion
EXIT CODES: 0 done, 2 bad command line, config or data, 3 no usable checkpoint,
  4 output folder, 5 diverged, 6 out of memory, 7 stopped by trainer.max_time,
  130, 143 or 128 + N stopped by signal N after saving, 1 others"""

# The groups in the order in which one meets them. A group that is missing here comes last.
ORDER = ("dataset", "model", "block", "optimizer", "scheduler", "augment", "trainer", "experiment")


def find_topics(arguments: Sequence[str]) -> list[str]:
    """Return the groups and keys that a command line asks about: its words that are no flags."""
    return [
        word
        for before, word in zip(["", *arguments], arguments, strict=False)
        if not word.startswith("-") and "=" not in word and before not in typed.VALUED
    ]


def text_for(topics: Sequence[str]) -> str:
    """Return the help on groups and keys, or the overview without a topic.

    Raises UsageError with the nearest group or key for a topic that is neither.
    """
    if not topics:
        return overview()
    return "\n\n".join(map(_explain, topics))


def overview() -> str:
    """Return the help of `train`: examples, groups, keys, flags and exit codes."""
    known, own = built_in_groups(), own_options()
    order = [*ORDER, *(group for group in known if group not in ORDER)]
    lines = []
    for group in order:
        yours = f", yours: {' '.join(own[group])}" if group in own else ""
        lines.append(_entry(group, " ".join(known[group]) + yours, indent=13))
    return "\n".join([HEAD.format(version=__version__), *lines, TAIL])


def _explain(topic: str) -> str:
    """Return the help on one group, section or key."""
    options = groups().get(topic, [])
    section = dict(_sections()).get(topic)
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
        lines.append(_entry(option, text))
    if group in code.BASES:
        lines.append(f"\n  or {group}=FILE.py:NAME, code of your own: docs/own_code.md")
    return "\n".join([f"OPTIONS: {group}=OPTION", *lines])


def _describe_keys(section: str, schemas: Sequence[type]) -> Iterator[str]:
    """Yield a paragraph for each class of keys that a section can have."""
    for schema in schemas:
        known = [f for f in fields(schema) if f.name != "name"]
        names = _names_of(section, schema, schemas)
        if not names and len(schemas) > 1:
            names = ["FILE.py:NAME"]
        owner = f" of {' '.join(names)}" if names else ""
        lines = [_entry(f"{section}.{f.name}", _meaning(schema, f)) for f in known]
        yield "\n".join([f"KEYS{owner}: KEY=VALUE", *lines])


def _describe_key(path: str) -> str:
    """Return the help on one key, and when it may change."""
    section, _, leaf = path.rpartition(".")
    schemas = dict(_sections())[section] if section else (Config,)
    # The names of the options that say the same of the key.
    owners: dict[str, list[str]] = {}
    metadata = keys.leaves()[path].metadata
    for schema in schemas:
        for f in fields(schema):
            if f.name == leaf:
                owners.setdefault(_meaning(schema, f), []).extend(
                    _names_of(section, schema, schemas)
                )
    lines = []
    for text, names in owners.items():
        owner = f"{', '.join(names)}: " if names else ""
        lines.append(_entry(path, owner + text))
    if metadata["fixed"]:
        lines.append("  It cannot change when a run goes on.")
    if not metadata["changes_numbers"]:
        lines.append("  It changes no number of a run, and is no part of its identity.")
    return "\n".join(lines)


def _sections() -> Iterator[tuple[str, tuple[type, ...]]]:
    """Yield each key of the config that holds keys, with the classes that it can be of."""
    for name, kind in keys.hints(Config).items():
        schemas = tuple(v for v in keys.variants(kind) if is_dataclass(v) and isinstance(v, type))
        if schemas:
            yield name, schemas


def _names_of(group: str, schema: type, schemas: Sequence[type]) -> list[str]:
    """Return the names of a group that have the keys of one class; none if there is only one."""
    if len(schemas) == 1:
        return []
    from skiplab.config import presets, validate

    known = presets.keys_by_name(group)
    return [name for name in known if validate.schema_of(name, known[name], schemas) is schema]


def _meaning(schema: type, f: "Field[object]") -> str:
    """Return what a key means, with its type and range in brackets."""
    return f"{f.metadata['meaning']} ({_values(keys.hints(schema)[f.name], f)})"


def _values(kind: object, f: "Field[object]") -> str:
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


def _entry(name: str, text: str, *, indent: int = INDENT) -> str:
    """Return a name and its text, wrapped; under the name if that is too long."""
    head = f"  {name}".ljust(indent)
    lines = textwrap.wrap(text, WIDTH - indent, break_long_words=False, break_on_hyphens=False)
    if len(head) > indent or head[-1] != " ":
        return "\n".join([head, *(" " * indent + line for line in lines)])
    return "\n".join([head + lines[0], *(" " * indent + line for line in lines[1:])])


def describe(path: Path) -> str:
    """Return the sentence that a preset's first comment begins with."""
    comments = [
        line[2:].strip()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("# ") and "@package" not in line
    ]
    return comments[0].partition("   train ")[0].rstrip() if comments else ""
