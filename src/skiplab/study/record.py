"""study.json: the command that a study goes on with, and the run folders of its cells.

Imports no torch.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from skiplab import regular
from skiplab.errors import UsageError
from skiplab.runs import atomic, contents, folders

RECORD = "study.json"


@dataclass(frozen=True)
class Record:
    """The last command of a study, and the run folders of its cells, begun or not.

    There are none before they are planned, and none for a search.
    """

    command: str
    cells: tuple[Path, ...] = ()


def write(folder: Path, *, command: str, cells: Iterable[Path] = ()) -> None:
    """Record in the study's folder what `skiplab list` prints of it."""
    content = {"command": command, "cells": [os.path.relpath(cell, folder) for cell in cells]}
    atomic.write(folder / RECORD, json.dumps(content, indent=1).encode() + b"\n")


def read(folder: Path) -> Record:
    """Read a study's record. Raises UsageError if it is not there, or damaged."""
    path = folder / RECORD
    try:
        found = json.loads(regular.read(path, most=contents.LARGEST))
        texts = [str(found["command"]), *map(str, found["cells"])]
        # Half a surrogate pair raises ValueError here.
        if "\0" in "".join(texts).encode().decode():
            raise ValueError
        return Record(texts[0], tuple(Path(os.path.normpath(folder / cell)) for cell in texts[1:]))
    except OSError as error:
        reason = regular.why(path, error)
        raise UsageError(
            f"{path}: cannot be read ({reason}); the study's own command writes it anew"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            f"{path}: not what a study writes; the study's own command writes it anew"
        ) from None


@dataclass(frozen=True)
class RunsAndStudies:
    """What lies under a folder: the runs, oldest first, and the folders of studies by name."""

    runs: list[Path]
    studies: list[Path]


def find(folder: Path) -> RunsAndStudies:
    """Find all run folders and studies under a folder.

    If it is a study's, add the runs of its cells that lie elsewhere (out=).
    """
    runs: list[str] = []
    studies: list[Path] = []
    for path, names in folders.walk(folder):
        if folders.is_run(path, names):
            runs.append(path)
        if RECORD in names:
            studies.append(Path(path))
    found = folders.in_order(runs)
    if folder in studies:
        with suppress(UsageError):
            there = set(map(os.path.abspath, found))
            found += [
                cell
                for cell in read(folder).cells
                if os.path.abspath(cell) not in there and is_begun(cell)
            ]
    return RunsAndStudies(found, sorted(studies))


def is_begun(cell: Path) -> bool:
    """Return whether a cell's run has begun, wherever its folder is."""
    path, names = next(folders.walk(cell))
    return folders.is_run(path, names) and os.path.lexists(path)


def runs_of(folder: Path) -> list[Path]:
    """Return the run folders under a folder.

    If it is a study's, add the runs of its cells that lie elsewhere (out=).
    """
    return find(folder).runs
