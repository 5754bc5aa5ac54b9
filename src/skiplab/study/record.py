"""What a study's folder says of itself: the command that it goes on with, and the folders of its cells. Imports no torch."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from skiplab import checkpoint
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
        return Record(str(found["command"]), tuple(Path(os.path.normpath(folder / cell)) for cell in found["cells"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: cannot be read, or is not what a study writes; the study's own command writes it anew") from None


def add_cells(folder: Path, cells: Iterable[Path]) -> None:
    """Note the cells of a study whose command is noted."""
    write(folder, command=read(folder).command, cells=cells)
