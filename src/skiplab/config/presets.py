"""The names that the files of a group in conf/ state, with their keys. No torch, no Hydra."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from skiplab.config import code, sections
from skiplab.paths import conf_folder


def keys_by_name(group: str) -> Mapping[str, frozenset[str]]:
    """Return the names that are legal in a group, each with the keys of the preset that states it.

    A preset that builds on another one, such as optimizer=sgd_he2016, states no name of its own.
    """
    return _keys_by_name(conf_folder() / group)


@functools.cache
def _keys_by_name(folder: Path) -> Mapping[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        # Most files state no name, and reading YAML takes time.
        section = section_of(path, holding="name:")
        name = section.get("name")
        if isinstance(name, str) and (name not in found or name == path.stem):
            found[name] = frozenset(map(str, section)) - {"defaults"}
    return found


def base_of(group: str, spec: str) -> tuple[dict[str, Any], str | None]:
    """Return what an option of conf/ would state for code of a user's own, and its package.

    These are the keys and values of the group's base, with `spec` as the name.
    """
    text = (conf_folder() / group / f"{code.BASES[group]}.yaml").read_text(encoding="utf-8")
    tree: dict[str, Any] = yaml.safe_load(text)
    section = tree.get(group)
    is_global = isinstance(section, dict)
    own = dict(section if is_global else tree) | {"name": spec}
    own = {key: value for key, value in own.items() if key not in code.NOT_OF_OWN_CODE}
    return (tree | {group: own}, "_global_") if is_global else (own, None)


def section_of(path: Path, *, holding: str = "") -> Mapping[object, object]:
    """Return what a preset states of its own group, if its text has `holding` in it.

    Nothing if the file cannot be read.

    Composing reports such a file, if a command chooses it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = sections.tree_of(text) if holding in text else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    if not isinstance(tree, dict):
        return {}
    section = tree.get(path.parent.name, tree)
    return section if isinstance(section, dict) else {}
