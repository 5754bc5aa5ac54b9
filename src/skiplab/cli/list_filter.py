"""What `skiplab list KEY=VALUE ...` keeps: runs with a state, a study, or values of keys."""

import fnmatch
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skiplab import locations
from skiplab.cli import list_table
from skiplab.config import keys, standard, stored
from skiplab.config.schema import Config
from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.paths import groups

if TYPE_CHECKING:
    from skiplab.cli.list import Listed, ListedStudy

STATES = ("finished", "running", "stopped", "broken")
# The keys that are none of a config.
STATUS, STUDY = "status", "study"
# KEY -> the values that are kept.
Filters = Mapping[str, Sequence[str]]


def read(words: Sequence[str]) -> tuple[Path | None, Filters]:
    """Return the folder among the words of the command, and the filters.

    Raises UsageError for two folders, an unknown key, or a value that no run can have.
    """
    found: dict[str, list[str]] = {}
    places: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        # A folder's name may hold an equals sign.
        if not equals or os.path.isdir(word):
            places.append(word)
            continue
        key = STATUS if key == "state" else key
        found.setdefault(key, []).extend(value.split(","))
    if len(places) > 1:
        raise UsageError(f"{places[1]}: one folder at a time; filters are written KEY=VALUE")
    for key, choices in found.items():
        check(key, choices)
    return (locations.given(places[0]) if places else None), found


def check(key: str, choices: Sequence[str]) -> None:
    """Raise UsageError for a filter that no run can pass."""
    if key == STUDY:
        return
    known = groups()
    if key not in (STATUS, *known, *keys.leaves()):
        if nearest(key, [STATUS]).startswith("did"):
            raise UsageError(f"{key}: no such key; did you mean {STATUS}?")
        raise UsageError(keys.unknown_key(key))
    names = STATES if key == STATUS else known.get(key, ())
    for choice in choices:
        is_pattern = any(letter in choice for letter in "*?[.")
        if names and choice not in names and not is_pattern:
            raise UsageError(f"{key}={choice}: {nearest(choice, names)}")


def fits(run: "Listed", studies: Sequence["ListedStudy"], filters: Filters) -> bool:
    """Return whether a run passes all filters. A broken one has no values, only a state."""
    return all(passes(run, studies, key, choices) for key, choices in filters.items())


def passes(
    run: "Listed", studies: Sequence["ListedStudy"], key: str, choices: Sequence[str]
) -> bool:
    """Return whether a run passes one filter."""
    if key == STATUS:
        return any(fnmatch.fnmatchcase(run.state, choice) for choice in choices)
    if key == STUDY:
        names = [
            Path(study.folder).name
            for study in studies
            if os.path.abspath(run.folder) in study.members
        ]
        return any(fnmatch.fnmatchcase(name, each) for name in names for each in choices)
    if run.config is None:
        return False
    return any(has(run.config, key, choice) for choice in choices)


def has(config: Config, key: str, choice: str) -> bool:
    """Return whether a run has a value. A group's is the name of an option, or a preset of it."""
    values = stored.flat(config)
    if key not in keys.leaves():
        name = values.get(f"{key}.name")
        option = standard.nearest_options(config).get(key, "")
        if any(fnmatch.fnmatchcase(str(each), choice) for each in (name, option)):
            return True
        # model=resnet110 is a depth of model=cifar_resnet.
        stated = standard.preset(key, choice).values if choice in groups().get(key, ()) else {}
        return bool(stated) and all(
            standard.as_value(values.get(path)) == value
            for path, value in stated.items()
            if path.startswith(f"{key}.") or path == "depth"
        )
    return fnmatch.fnmatchcase(list_table.in_words(values.get(key)), choice)
