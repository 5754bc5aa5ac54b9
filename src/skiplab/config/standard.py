"""The values that the files in conf/ state, option by option. Imports no torch, no Hydra.

Hydra composes a run's config. This reads the same files, to say where a value comes from: what is
the default of a key, and in what a run differs from its presets.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from skiplab.config import code, keys, sections, stored
from skiplab.config.options import Folder
from skiplab.config.schema import Config
from skiplab.paths import conf_folder, groups, option_file

# The groups of a run's config, in the order in which conf/config.yaml takes them.
GROUPS = ("block", "augment", "model", "dataset", "optimizer", "scheduler", "trainer")
# What dataset=folder reads from the images.
READ_FROM_IMAGES = tuple(
    f"dataset.{leaf}"
    for leaf in (
        *("channels", "classes", "train_images", "val_images", "test_images"),
        *("mean", "std", "sha256"),
    )
)
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """What an option states, those that it builds on included."""

    # The values by the full paths of their keys.
    values: Values = field(default_factory=dict)
    # The options of other groups that it chooses.
    chosen: Mapping[str, str] = field(default_factory=dict)


def preset(group: str, option: str) -> Preset:
    """Return what an option states; nothing for one whose file cannot be read."""
    return _preset(option_file(group, option))


@functools.cache
def _preset(path: Path) -> Preset:
    try:
        text = path.read_text(encoding="utf-8")
        tree = sections.tree_of(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return Preset()
    if not isinstance(tree, dict):
        return Preset()
    values, chosen = dict[str, Any](), dict[str, str]()
    defaults = tree.pop("defaults", None)
    for entry in defaults if isinstance(defaults, list) else ():
        if isinstance(entry, str) and entry != "_self_":
            base = preset(path.parent.name, entry)
            values |= base.values
            chosen |= base.chosen
        elif isinstance(entry, dict):
            for key, option in entry.items():
                chosen[str(key).removeprefix("override ").lstrip("/")] = str(option)
    is_whole = "@package _global_" in text or path == conf_folder() / "config.yaml"
    values |= _flat(tree if is_whole else {path.parent.name: tree})
    return Preset(values, chosen)


def every_preset() -> dict[str, Values]:
    """Return what each option of a run's config states, by GROUP=OPTION."""
    known = groups()
    return {
        f"{group}={option}": preset(group, option).values
        for group in GROUPS
        for option in known[group]
    }


def _flat(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the leaves of a preset's tree by their full paths."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= {f"{name}.{leaf}": each for leaf, each in value.items()}
        else:
            found[str(name)] = value
    return {key: as_value(value) for key, value in found.items() if not key.startswith("hydra.")}


def as_value(value: object) -> object:
    """Return a value as a config has it: a list as a tuple."""
    return tuple(value) if isinstance(value, list) else value


@functools.cache
def root() -> Preset:
    """Return what conf/config.yaml states, and the option that it chooses of each group."""
    found = _preset(conf_folder() / "config.yaml")
    values = {key: value for key, value in found.values.items() if value != "???"}
    chosen = {group: found.chosen[group] for group in GROUPS}
    return Preset(values, chosen)


def composed(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that options of some groups give together, with the defaults of the rest.

    A model chooses a block, a data set an augmentation, where `options` does not.
    """
    values = dict(root().values)
    implied = dict(root().chosen)
    for group in ("model", "dataset"):
        implied |= preset(group, options.get(group, implied[group])).chosen
    for group in GROUPS:
        option = options.get(group, implied[group])
        values |= preset(group, option).values
    return values


def nearest_options(config: Config) -> dict[str, str]:
    """Return the options from which a config's values differ least, group by group.

    The name of an option decides in its group. Code of a user's own stands for its base.
    """
    values, chosen = stored.flat(config), dict(root().chosen)
    known = groups()
    for group in GROUPS:
        name = values.get(f"{group}.name")
        if isinstance(name, str) and code.is_own(name):
            chosen[group] = code.BASES[group]
            continue
        fitting = [
            option
            for option in known[group]
            if name is None or preset(group, option).values.get(f"{group}.name") == name
        ]
        if fitting:
            chosen[group] = min(
                fitting,
                key=lambda option: (
                    num_different(preset(group, option).values, values),
                    # What other groups imply and the option named like the network come first.
                    option != chosen[group],
                    option != name,
                ),
            )
        if group in ("model", "dataset"):
            chosen |= {
                other: option
                for other, option in preset(group, chosen[group]).chosen.items()
                if other in chosen and GROUPS.index(other) > GROUPS.index(group)
            }
    return chosen


def differences(config: Config) -> dict[str, Any]:
    """Return what a command line must say for a config besides its model, block and data set.

    These are the options of other groups, and the keys that change numbers, by their full paths.
    """
    chosen = nearest_options(config)
    options = {group: chosen[group] for group in ("model", "block", "dataset")}
    usual, implied = composed(chosen), dict(root().chosen)
    for group in ("model", "dataset"):
        implied |= preset(group, options[group]).chosen
    found: dict[str, Any] = {
        group: option
        for group, option in chosen.items()
        if group not in options and option != implied[group]
    }
    known = keys.leaves()
    for key, value in stored.flat(config).items():
        if not known[key].metadata["changes_numbers"] or key.endswith(".name"):
            continue
        if isinstance(config.dataset, Folder) and key in READ_FROM_IMAGES:
            continue
        if key not in usual or as_value(value) != usual[key]:
            found[key] = value
    return found


def num_different(stated: Values, values: Values) -> int:
    """Count the values of a preset that a config has otherwise."""
    return sum(as_value(values.get(key)) != value for key, value in stated.items())
