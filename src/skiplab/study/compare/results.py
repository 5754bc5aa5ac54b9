"""Read finished runs for a comparison: config, figures, stored predictions.

What cannot be compared is refused. Imports no torch.
"""

import functools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiplab import locations, provenance, regular
from skiplab.config import code, stored
from skiplab.config.keys import leaves, unknown_key
from skiplab.config.schema import Config
from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.runs import contents, folders
from skiplab.runs.result import RunResult, read as read_result
from skiplab.study import record
from skiplab.study.compare import answers
from skiplab.words import counted

# Each metric has a name for people, and whether more of it is better.
METRICS = {
    "test.accuracy": ("test accuracy", True),
    "test.loss": ("test loss", False),
    "test.f1_macro": ("test F1, macro mean", True),
    "test.expected_calibration_error": ("test calibration error", False),
    "val.accuracy": ("best validation accuracy", True),
    "val.loss": ("validation loss at the best accuracy", False),
    "train.accuracy": ("training accuracy, last epoch", True),
    "train.loss": ("training loss without label smoothing, last epoch", False),
    "train.seconds": ("seconds of training", False),
}
# These tell runs apart, next to the keys that a user sets.
RUN_KEYS = ("changed", "init_sha256", "augment.name", *code.DIGESTS)
# These are a run's costs.
FIGURES = ("params", "macs", "seconds")


def keys_of(text: str) -> list[str]:
    """Return the full paths of the keys in `--by block,depth`; a group's name is its option.

    Raises UsageError for an unknown key.
    """
    known = leaves()
    found: list[str] = []
    for word in re.split(r"[,\s]+", text.strip(", ")):
        if word == "seed":
            raise UsageError("--by seed: the groups are averaged over seeds; leave it out")
        paths = [path for path in (word, f"{word}.name") if path in known or path in RUN_KEYS]
        if not paths:
            raise UsageError(f"--by {unknown_key(word)}")
        found.append(paths[0])
    return list(dict.fromkeys(found))


def check_x(x: str) -> None:
    """Check `--x`. Raises UsageError if it names neither a key nor a cost."""
    if f"{x}.name" in leaves():
        raise UsageError(
            f"--x {x}: holds no numbers; a key that does is expected, such as depth, "
            f"or {', '.join(FIGURES)}"
        )
    if x not in leaves() and x not in FIGURES:
        if (advice := nearest(x, FIGURES)).startswith("did you mean"):
            raise UsageError(f"--x {x}: no such key; {advice}")
        raise UsageError(f"--x {unknown_key(x)} (beside keys: {', '.join(FIGURES)})")


def output_folder(paths: Sequence[Path]) -> Path:
    """Return where a comparison goes: into the study, if it is of one, else outputs/compare."""
    is_study = len(paths) == 1 and folders.identity_of(paths[0]) is None
    return paths[0] if is_study else locations.outputs() / "compare"


def is_share(metric: str) -> bool:
    """Return whether a metric is a share of 1, shown in percent."""
    return metric.endswith(("accuracy", "error", "f1_macro"))


# metrics.jsonl has this many bytes at most.
LARGEST = 2**30
# A row with one of these keys is of an evaluation or a probe.
READ_ROW = re.compile('"(?:train_loss|gradient_norm|activation_deviation|update_ratio)"')


@dataclass(frozen=True)
class Result:
    """A finished run."""

    folder: Path
    config: Config
    # These are the config's values, by full path.
    values: dict[str, Any]
    result: RunResult
    identity: str

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def changed(self) -> str:
        """What was changed on the way, in a text; empty if nothing was."""
        return provenance.describe_stored_changes(self.result.changed)

    def metric(self, name: str) -> float:
        """Return a figure of METRICS or FIGURES. Raises UsageError where the run has none."""
        try:
            found = self._figure(name)
        except (LookupError, TypeError, ValueError):
            found = None
        if found is None or not math.isfinite(found):
            kind = name.partition(".")[0]
            reason = {
                "val": " (val_fraction=0)",
                "test": " (evaluator.split=val): compare --metric val.accuracy",
            }.get(kind, "")
            raise UsageError(f"{self.folder}: has no {name}{reason}")
        return float(found)

    def _figure(self, name: str) -> float | None:
        kind, _, key = name.partition(".")
        if kind == "test":
            return None if self.result.test is None else self.result.test[key]
        if kind == "val":
            return getattr(self.result, f"best_val_{key}")
        if name in ("train.seconds", "seconds"):
            return self.result.train_seconds
        if kind == "train":
            last = self.evaluations[-1]
            names = (f"train_eval_{key}", f"train_plain_{key}", f"train_{key}")
            return next((last[name] for name in names if name in last), None)
        summary = self.result.summary or {}
        return summary[{"params": "parameters", "macs": "macs"}[name]]

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl of evaluations and probes.

        A comparison does not read the rows of single steps, which are a hundred to one. Raises
        UsageError if the file is missing or damaged.
        """
        path = self.folder / contents.METRICS
        try:
            lines = regular.read_text(path, most=LARGEST).splitlines()
            if not all(line.startswith("{") and line.endswith("}") for line in lines):
                raise ValueError
            return json.loads(f"[{','.join(line for line in lines if READ_ROW.search(line))}]")
        except OSError as error:
            reason = regular.why(path, error)
            raise UsageError(
                f"{self.folder}: its metrics.jsonl is missing or damaged ({reason})"
            ) from None
        except (ValueError, RecursionError):
            raise UsageError(f"{self.folder}: its metrics.jsonl is missing or damaged") from None

    @functools.cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The rows that an evaluation has written, in order."""
        return [row for row in self.rows if "train_loss" in row]

    @property
    def is_smoothed(self) -> bool:
        """Whether its train.loss is label-smoothed: an earlier version recorded no other."""
        return (
            self.config.trainer.label_smoothing > 0
            and not {"train_eval_loss", "train_plain_loss"} & self.evaluations[-1].keys()
        )

    def probed(self, key: str) -> dict[int, dict[str, float]]:
        """Return what a probe has recorded by step: a value per layer, in order.

        `key` is `gradient_norm`, `activation_deviation` or `update_ratio`.
        """
        return {row["step"]: row[key] for row in self.rows if key in row}

    def correct(self, split: str) -> NDArray[np.bool_] | None:
        """Return which images of `test` or `val` were predicted rightly, bool (N,).

        They are in the data set's order. None without stored predictions.
        """
        if split not in self._answers:
            self._answers[split] = answers.correct(self.folder / contents.PREDICTIONS, split)
        return self._answers[split]

    @functools.cached_property
    def _answers(self) -> dict[str, NDArray[np.bool_] | None]:
        return {}


@dataclass(frozen=True)
class Found:
    """What lies under some folders: the runs that count, and notes on those that do not."""

    results: list[Result]
    notes: list[str]
    # These are all finished runs, those that do not count included, and the unfinished ones.
    finished: tuple[Result, ...] = ()
    unfinished: tuple[Path, ...] = ()


def read(paths: Sequence[Path]) -> Found:
    """Read the finished runs under the folders.

    Raises UsageError for a folder without any, and for runs that were tampered with.
    """
    results: list[Result] = []
    unfinished: list[Path] = []
    problems: list[str] = []
    for folder in run_folders(paths):
        if (result := read_result(folder)) is None:
            # Nobody knows how far a damaged run came.
            problem = folders.problem_of(folder, [folders.CONFIG, folders.RESULT])
            if problem is not None:
                problems.append(f"{folder}: {problem}; leave it out or run it anew")
            unfinished.append(folder)
            continue
        try:
            results.append(held_together(folder, result))
        except UsageError as error:
            problems += str(error).split("\n")
    if problems:
        raise UsageError("\n".join(problems))
    notes: list[str] = []
    if unfinished:
        more = f" and {len(unfinished) - 1} more" if len(unfinished) > 1 else ""
        notes.append(f"left out, since not finished: {unfinished[0]}{more}")
    if not results:
        raise UsageError(
            f"{', '.join(map(str, paths))}: no run there is finished; "
            "`skiplab list` shows how to go on with them"
        )
    everything = Found(results, notes, tuple(results), tuple(unfinished))
    return without_repeats(without_changed(everything))


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders under some folders, each once. Raises UsageError if one has none."""
    found: dict[Path, None] = {}
    advice = f"`skiplab list` shows the runs, a study lies under {locations.studies()}"
    for path in paths:
        if (rule := regular.no_folder(path)) is not None:
            raise UsageError(f"{path}: {rule}; {advice}")
        runs = record.runs_of(path)
        if not runs:
            raise UsageError(f"{path}: holds no run of ours; {advice}")
        found |= dict.fromkeys(resolve(runs))
    return [relative(folder) for folder in found]


def without_changed(found: Found) -> Found:
    """Leave out runs that were changed on the way: by a command on resume, or a rollback.

    They are not what their values alone give. If all runs were changed, they stay, and what was
    changed tells their groups apart: it becomes a value of theirs.
    """
    changed = [result for result in found.results if result.changed]
    if not changed:
        return found
    if len(changed) == len(found.results):
        for result in changed:
            result.values["changed"] = result.changed
        note = "all of these runs were changed on the way; what was changed tells them apart"
        return replace(found, notes=[*found.notes, note])
    more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    note = (
        "left out, since changed on the way and so no run of these values: "
        f"{changed[0].folder} ({changed[0].changed}){more}"
    )
    kept = [result for result in found.results if not result.changed]
    return replace(found, results=kept, notes=[*found.notes, note])


def resolve(folders_found: Iterable[Path]) -> Iterator[Path]:
    """Yield paths without links. Most share their parent, which is looked up once."""
    parents: dict[Path, Path] = {}
    for folder in folders_found:
        if folder.is_symlink() or folder.name in ("", ".."):
            yield folder.resolve()
            continue
        if folder.parent not in parents:
            parents[folder.parent] = folder.parent.resolve()
        yield parents[folder.parent] / folder.name


def relative(folder: Path) -> Path:
    """Return a path relative to the working folder, if it lies in it."""
    try:
        return folder.relative_to(os.getcwd())
    except ValueError:
        return folder


def result_of(folder: Path) -> Result:
    """Read a finished run.

    Raises UsageError if its files do not belong together or are of another format.
    """
    return held_together(folder, read_result(folder) or RunResult.of_tree({}))


def held_together(folder: Path, result: RunResult) -> Result:
    """Make a Result of what a run's result.json holds. Raises UsageError as `result_of` does."""
    config = provenance.load(folder)
    # `load` has checked that it is the config's.
    identity = folders.identity_of(folder) or ""
    told = result.identity
    is_untested = config.evaluator.split == "test" and result.test is None
    if told is None or is_untested or result.unreadable & {"summary", "train_seconds"}:
        raise UsageError(
            f"{folder}: its {folders.RESULT} is damaged or of another version of the format; "
            "run it anew"
        )
    if told != identity:
        raise UsageError(
            f"{folder}: its {folders.CONFIG} is not what it was run with "
            f"(identity {identity[:8]}, its result says {told[:8]}): "
            "edited by hand, or of another version; leave it out or run it anew"
        )
    return Result(folder, config, values_of(config), result, identity)


def values_of(config: Config) -> dict[str, Any]:
    """Return a config's values by full path, with short digests of what it was begun from."""
    begun_from = {} if config.init_sha256 is None else {"init_sha256": config.init_sha256[:8]}
    own = {
        key: value[:8] if key in code.DIGESTS else value
        for key, value in stored.code_values(config).items()
    }
    return stored.flat(config) | begun_from | own


def without_repeats(found: Found) -> Found:
    """Keep one run of each identity on each data: a second one would count a seed twice.

    A run that has left the test set sealed (evaluator.split=val) is the same as one that has not.
    Of both, the latter stays.
    """
    by_identity: dict[tuple[str, str, str], Result] = {}
    # Runs with split=test come before those with split=val.
    for result in sorted(found.results, key=lambda result: result.config.evaluator.split):
        is_sealed = result.config.evaluator.split == "val"
        identity = provenance.training_identity(result.config) if is_sealed else result.identity
        key = identity, result.changed, str(result.result.data_sha256)
        by_identity.setdefault(key, result)
    kept = {id(result) for result in by_identity.values()}
    results = [result for result in found.results if id(result) in kept]
    notes = list(found.notes)
    if (repeats := len(found.results) - len(results)) > 0:
        notes.append(
            f"{repeats} of {len(found.results)} runs repeat another with the same seed; "
            "each is counted once"
        )
    return replace(found, results=results, notes=notes)


def with_metric(found: Found, metric: str) -> Found:
    """Leave out the runs that do not have a metric on the test set, if others have it.

    They have left the test set sealed. A note says where train.loss is label-smoothed.
    """
    if metric == "train.loss" and (
        old := [result for result in found.results if result.evaluations and result.is_smoothed]
    ):
        note = (
            f"train.loss is label-smoothed in {counted(len(old), 'run')}, "
            f"as an earlier version recorded it: {old[0].folder} the first"
        )
        return replace(found, notes=[*found.notes, note])
    sealed = [result for result in found.results if result.config.evaluator.split == "val"]
    if not metric.startswith("test.") or len(sealed) in (0, len(found.results)):
        return found
    note = (
        "left out, since the test set stays sealed in them (evaluator.split=val): "
        f"{len(sealed)} runs, {sealed[0].folder} the first"
    )
    kept = [result for result in found.results if result not in sealed]
    return replace(found, results=kept, notes=[*found.notes, note])
