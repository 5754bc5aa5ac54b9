"""Read the files of a search: Optuna's journal, and the evaluations of its trials.

Imports no torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from skiplab.errors import UsageError
from skiplab.runs import atomic, contents

JOURNAL = "search.journal"
# The last evaluation is looked for in this many bytes at the end of metrics.jsonl.
METRICS_TAIL = 4_000


@dataclass(frozen=True)
class Evaluation:
    """Where a trial stood when it last evaluated."""

    step: int
    epoch: float
    val_accuracy: float


def drop_torn_line(path: Path) -> None:
    """Remove the last line of a journal if a kill or a full disk left it half written.

    Raises UsageError if more is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return
    whole = content[: content.rfind(b"\n") + 1]
    try:
        for line in whole.splitlines():
            json.loads(line)
    except ValueError:
        raise UsageError(
            f"{path}: damaged; its runs are kept, but the search cannot go on: "
            "take another study=NAME"
        ) from None
    if whole != content:
        atomic.write(path, whole)


def count_lines(path: Path) -> int:
    """Count the lines of a file; 0 if there is no file."""
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def last_evaluation(folder: Path) -> Evaluation | None:
    """Return the last row of metrics.jsonl with a validation accuracy; None before the first."""
    try:
        with (folder / contents.METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - METRICS_TAIL))
            rows = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(rows):
        if b'"val_accuracy"' not in line:
            continue
        try:
            row = json.loads(line)
        # The row was cut off by the seek, or is being written.
        except ValueError:
            continue
        return Evaluation(row["step"], row["epoch"], row["val_accuracy"])
    return None
