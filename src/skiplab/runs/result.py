"""result.json: what a finished run was, and what came out of it. Imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from skiplab import regular
from skiplab.runs import contents

# Keys whose value may be null in a file that is whole.
NULLABLE = {"name", "best_val_accuracy", "best_val_loss", "test", "git_commit", "test_seconds"}
# Numbers that must stand in a value that is a mapping.
REQUIRED = {"test": ("accuracy",), "summary": ("parameters", "macs")}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The content of result.json, with its keys in the file's order.

    A key that a file lacks, or whose value is of another type, is None and named in `unreadable`:
    files of earlier releases have fewer keys, and any file may have been edited by hand.
    """

    # Always "finished".
    state: str | None
    # What was run: the label, and the keys of the config that tell runs apart.
    name: str | None
    dataset: str | None
    model: str | None
    block: str | None
    depth: int | None
    width: int | None
    seed: int | None
    identity: str | None
    # Changes on the way: step, key, from, to of each, and by whom if no command made it.
    changed: list[dict[str, Any]] | None
    # Optimizer steps, and the passes over the training set that they are.
    steps: int | None
    epochs: float | None
    best_step: int | None
    accumulate: int | None
    # Changes of machine: step and what of each.
    moved: list[dict[str, Any]] | None
    rollbacks: int | None
    lr_factor: float | None
    # A share of 1, and nats per image; null without a validation set.
    best_val_accuracy: float | None
    best_val_loss: float | None
    # `report.metrics` on the test set; null if the test set was not read.
    test: dict[str, Any] | None
    # `models.Summary` of the network.
    summary: dict[str, Any] | None
    train_seconds: float | None
    images_per_second: float | None
    git_commit: str | None
    # Local time.
    finished: str | None
    # SHA-256 of the training set's images and labels.
    data_sha256: str | None
    test_seconds: float | None
    # The machine; `threads` of one process.
    device: str | None
    devices: int | None
    hardware: str | None
    threads: int | None
    instructions: str | None
    versions: dict[str, str] | None
    # Not in the file: keys that are missing or of another type there.
    unreadable: frozenset[str] = frozenset()

    def dump(self) -> bytes:
        """Return the content of the file."""
        return json.dumps({name: getattr(self, name) for name in KINDS}, indent=1).encode() + b"\n"

    @classmethod
    def of_tree(cls, tree: Mapping[str, object]) -> "RunResult":
        """Read the content of a file, key by key."""
        unreadable = frozenset(name for name in KINDS if not _is_readable(name, tree))
        values: dict[str, Any] = {name: tree.get(name) for name in KINDS}
        return cls(**values | dict.fromkeys(unreadable), unreadable=unreadable)


def _kinds() -> dict[str, tuple[type, ...]]:
    """Return the types that each key may have in a file, from the annotations of `RunResult`."""
    hints, kinds = get_type_hints(RunResult), {}
    for field in fields(RunResult):
        if field.name == "unreadable":
            continue
        kind = next(each for each in get_args(hints[field.name]) if each is not NoneType)
        accepted = [get_origin(kind) or kind]
        # JSON writes a float without a fraction as an int if its writer does.
        if kind is float:
            accepted.append(int)
        if field.name in NULLABLE:
            accepted.append(NoneType)
        kinds[field.name] = tuple(accepted)
    return kinds


KINDS = _kinds()


def _is_readable(name: str, tree: Mapping[str, object]) -> bool:
    """Tell whether a key is in the file, with a value of its type."""
    if name not in tree or not isinstance(value := tree[name], KINDS[name]):
        return False
    if isinstance(value, dict) and name in REQUIRED:
        return all(isinstance(value.get(key), (int, float)) for key in REQUIRED[name])
    return True


def tree_of(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's result.json, which is written last; None if there is none.

    A file that is no JSON mapping counts as none: the run's end is done again.
    """
    try:
        found = json.loads(regular.read(f"{folder}/{contents.RESULT}", most=contents.LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read(folder: Path) -> RunResult | None:
    """Return a run's result; None if it has none, as in `tree_of`."""
    tree = tree_of(folder)
    return None if tree is None else RunResult.of_tree(tree)
