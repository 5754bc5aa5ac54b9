"""What a study's folder says of itself: the command that it goes on with, and the folders of its cells. Imports no torch."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from skiplab import checkpoint, folders
from skiplab.errors import UsageError

RECORD = "study.json"


@dataclass(frozen=True)
class Record:
    """The last command of a study, and the run folders of its cells, begun or not; none before they are planned."""

    command: str
    cells: tuple[Path, ...] = ()


def write(folder: Path, *, command: str, cells: Iterable[Path] = ()) -> None:
    """Note in the study's folder what `skiplab list` tells of it."""
    told = {"command": command, "cells": [os.path.relpath(cell, folder) for cell in cells]}
    checkpoint.write_atomically(folder / RECORD, json.dumps(told, indent=1).encode() + b"\n")


def read(folder: Path) -> Record:
    """What was noted in a study's folder. Raises UsageError if it is not there, or damaged."""
    path = folder / RECORD
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        texts = [str(found["command"]), *map(str, found["cells"])]
        if "\0" in "".join(texts).encode().decode():  # raises ValueError on half a surrogate pair
            raise ValueError
        return Record(texts[0], tuple(Path(os.path.normpath(folder / cell)) for cell in texts[1:]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{path}: cannot be read, or is not what a study writes; the study's own command writes it anew") from None


def runs_of(folder: Path) -> list[Path]:
    """The run folders of a study: those that lie in it, and its cells that lie elsewhere (out=); of another folder those under it."""
    runs = folders.runs_under(folder)
    with suppress(UsageError):
        there = {os.path.abspath(run) for run in runs}
        runs += [cell for cell in read(folder).cells if os.path.abspath(cell) not in there and folders.identity_of(cell)]
    return runs
