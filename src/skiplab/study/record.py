"""What a study's folder says of itself: the command that it goes on with, and the folders of its cells. Imports no torch."""

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
    """The last command of a study, and the run folders of its cells, begun or not; none before they are planned."""

    command: str
    cells: tuple[Path, ...] = ()


def write(folder: Path, *, command: str, cells: Iterable[Path] = ()) -> None:
    """Note in the study's folder what `skiplab list` tells of it."""
    told = {"command": command, "cells": [os.path.relpath(cell, folder) for cell in cells]}
    atomic.write(folder / RECORD, json.dumps(told, indent=1).encode() + b"\n")


def read(folder: Path) -> Record:
    """What was noted in a study's folder. Raises UsageError if it is not there, or damaged."""
    path = folder / RECORD
    try:
        found = json.loads(regular.read(path, most=contents.LARGEST))
        texts = [str(found["command"]), *map(str, found["cells"])]
        # raises ValueError on half a surrogate pair
        if "\0" in "".join(texts).encode().decode():
            raise ValueError
        return Record(texts[0], tuple(Path(os.path.normpath(folder / cell)) for cell in texts[1:]))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({regular.why(path, error)}); the study's own command writes it anew"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            f"{path}: not what a study writes; the study's own command writes it anew"
        ) from None


@dataclass(frozen=True)
class Found:
    """What lies under a folder: the runs, oldest first, and the folders of studies by name."""

    runs: list[Path]
    studies: list[Path]


def under(folder: Path) -> Found:
    """All run folders and studies under a folder; of a study also its cells that lie elsewhere (out=)."""
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
    return Found(found, sorted(studies))


def is_begun(cell: Path) -> bool:
    """Whether a cell's run has begun, in a folder wherever it is."""
    path, names = next(folders.walk(cell))
    return folders.is_run(path, names) and os.path.lexists(path)


def runs_of(folder: Path) -> list[Path]:
    """The run folders of a study: those that lie in it, and its cells that lie elsewhere (out=); of another folder those under it."""
    return under(folder).runs
