"""What lies in the folder of a run or a study: which names are files, and what is wrong with one that is none. Imports no torch."""

import os
import re
import stat
from pathlib import Path

from skiplab import regular
from skiplab.errors import FolderError

CONFIG, LAST, BEST, RESULT, LOG = "config.yaml", "last.ckpt", "best.ckpt", "result.json", "run.log"
METRICS, TIMING, PREDICTIONS, REPORT, READS = (
    "metrics.jsonl",
    "timing.jsonl",
    "predictions.npz",
    "report.txt",
    "test_reads.jsonl",
)
CHECKPOINTS = (LAST, BEST, "last.prev.ckpt", "best.prev.ckpt")
PICTURES = ("curves.png", "confusion.png", "mistakes.png", "samples.png")
# What is a file where it is, and what is a folder: of a run, and of a study.
FILES = {
    CONFIG,
    RESULT,
    LOG,
    METRICS,
    TIMING,
    PREDICTIONS,
    REPORT,
    READS,
    ".lock",
    *CHECKPOINTS,
    *PICTURES,
}
FILES |= {"study.json", "multirun.yaml", "search.journal", "search.png"}
FOLDERS = {".hydra", "logs"}
OWN_FILE = re.compile(r"compare\w*\.(?:csv|json|md|html|png)")
# bytes of a text file of a run, metrics.jsonl aside
LARGEST = 2**26


def check(folder: Path) -> None:
    """Raise FolderError if something else is in the place of a file of ours, which would be written: a folder, a pipe, a broken link."""
    try:
        with os.scandir(folder) as entries:
            problems = [
                f"{folder / entry.name}: {reason}; move it away"
                for entry in entries
                # a picture that cannot be drawn is a warning
                if entry.name not in PICTURES and (reason := odd(entry)) is not None
            ]
    except OSError as error:
        raise FolderError(f"{folder}: cannot be read ({regular.why(folder, error)})") from None
    if problems:
        raise FolderError("\n".join(problems))


def odd(entry: "os.DirEntry[str]") -> str | None:
    """What is wrong with a thing in a folder of ours that is not what its name says; None if nothing is, or the name is not ours."""
    if entry.name in FOLDERS:
        return None if entry.is_dir() else "not a folder"
    if (entry.name not in FILES and not OWN_FILE.fullmatch(entry.name)) or entry.is_file(
        follow_symlinks=False
    ):
        return None
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        return regular.why(entry.path, error)
    # run.log -> /dev/null is somebody's wish
    if stat.S_ISREG(mode) or (entry.name == LOG and stat.S_ISCHR(mode)):
        return None
    return f"{regular.kind(mode)}, not a file"


def unreadable(path: str) -> str | None:
    """Why a file cannot be read, or is too large to be; None if it can."""
    try:
        size = regular.size(path)
    except OSError as error:
        return regular.why(path, error)
    return f"{size:,} bytes, which is no such file" if size > LARGEST else None
