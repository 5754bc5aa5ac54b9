"""The names in the folder of a run or a study, and what is wrong where one is no file.

Imports no torch.
"""

import os
import re
import stat
from pathlib import Path

from skiplab import regular
from skiplab.errors import FolderError

CONFIG = "config.yaml"
LAST = "last.safetensors"
BEST = "best.safetensors"
RESULT = "result.json"
LOG = "run.log"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
PREDICTIONS = "predictions.npz"
REPORT = "report.txt"
READS = "test_reads.jsonl"
# The folder of the run's own code.
CODE = "code"
# Earlier releases wrote format 1, with the suffix .ckpt.
CHECKPOINTS = tuple(
    f"{name}{generation}{suffix}"
    for suffix in (".safetensors", ".ckpt")
    for name in ("last", "best")
    for generation in ("", ".prev")
)
PICTURES = ("curves.png", "confusion.png", "mistakes.png", "samples.png")
# The picture of each kind that a probe records.
FLOWS = {
    "gradients": "gradient_flow.png",
    "activations": "activation_flow.png",
    "updates": "update_flow.png",
}
# Names that must be files, and names that must be folders, in the folder of a run or a study.
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
FOLDERS = {".hydra", "logs", CODE}
OWN_FILE = re.compile(r"compare\w*\.(?:csv|json|md|html|png)")
# Bytes that a text file of a run may have, metrics.jsonl aside.
LARGEST = 2**26


def check(folder: Path) -> None:
    """Raise FolderError if something else is in the place of a file that a run writes.

    That may be a folder, a pipe or a broken link.
    """
    try:
        with os.scandir(folder) as entries:
            problems = [
                f"{folder / entry.name}: {reason}; move it away"
                for entry in entries
                # A picture that cannot be drawn is only a warning.
                if entry.name not in PICTURES and (reason := odd(entry)) is not None
            ]
    except OSError as error:
        raise FolderError(f"{folder}: cannot be read ({regular.why(folder, error)})") from None
    if problems:
        raise FolderError("\n".join(problems))


def odd(entry: "os.DirEntry[str]") -> str | None:
    """Return why an entry of a folder is not what its name says.

    None if nothing is wrong, or if the name is not ours.
    """
    if entry.name in FOLDERS:
        return None if entry.is_dir() else "not a folder"
    is_ours = entry.name in FILES or OWN_FILE.fullmatch(entry.name) is not None
    if not is_ours or entry.is_file(follow_symlinks=False):
        return None
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        return regular.why(entry.path, error)
    # A link from run.log to /dev/null is made on purpose.
    if stat.S_ISREG(mode) or (entry.name == LOG and stat.S_ISCHR(mode)):
        return None
    return f"{regular.kind(mode)}, not a file"


def unreadable(path: str) -> str | None:
    """Return why a file cannot be read, or is too large to be one of ours; None if it can."""
    try:
        size = regular.size(path)
    except OSError as error:
        return regular.why(path, error)
    return f"{size:,} bytes, which is no such file" if size > LARGEST else None
