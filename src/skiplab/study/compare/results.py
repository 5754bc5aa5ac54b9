"""Finished runs as a comparison reads them: config, figures, stored predictions. Refuses what cannot be compared. Imports no torch."""

import functools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiplab import placement, provenance, regular
from skiplab.config import stored
from skiplab.config.keys import leaves, unknown_key
from skiplab.config.schema import Config
from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.runs import contents, folders
from skiplab.study import record
from skiplab.study.compare import answers
from skiplab.words import counted

# name -> what it is called, and whether more of it is better
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
# what tells runs apart beside the keys that a user sets
OF_RUNS = ("changed", "init_sha256")
# what a run costs
FIGURES = ("params", "macs", "seconds")
# what must be the same in all runs, or the figures are not of the same question
PROTOCOL = ("dataset.name", "dataset.resize", "dataset.classes", "val_fraction", "evaluator.tta")


def keys_of(text: str) -> list[str]:
    """What `--by block,depth` names, by full paths, a group's name standing for its option. Raises UsageError for an unknown key."""
    known = leaves()
    found: list[str] = []
    for word in re.split(r"[,\s]+", text.strip(", ")):
        if word == "seed":
            raise UsageError("--by seed: the groups are averaged over seeds; leave it out")
        path = next(
            (path for path in (word, f"{word}.name") if path in known or path in OF_RUNS), None
        )
        if path is None:
            raise UsageError(f"--by {unknown_key(word)}")
        found.append(path)
    return list(dict.fromkeys(found))


def check_x(x: str) -> None:
    """Raise UsageError if `--x` names neither a key nor a cost."""
    if f"{x}.name" in leaves():
        raise UsageError(
            f"--x {x}: holds no numbers; a key that does is expected, such as depth, or {', '.join(FIGURES)}"
        )
    if x not in leaves() and x not in FIGURES:
        if (told := nearest(x, FIGURES)).startswith("did you mean"):
            raise UsageError(f"--x {x}: no such key; {told}")
        raise UsageError(f"--x {unknown_key(x)} (beside keys: {', '.join(FIGURES)})")


def home(paths: Sequence[Path]) -> Path:
    """Where a comparison of these folders goes: into the study, if it is one, else to outputs/compare."""
    return (
        paths[0]
        if len(paths) == 1 and folders.identity_of(paths[0]) is None
        else placement.OUTPUTS / "compare"
    )


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1, shown in percent."""
    return metric.endswith(("accuracy", "error", "f1_macro"))


# bytes of metrics.jsonl
LARGEST = 2**30
# keys of its rows
READ = re.compile('"(?:train_loss|gradient_norm|activation_deviation|update_ratio)"')


@dataclass(frozen=True)
class Result:
    """A finished run."""

    folder: Path
    config: Config
    # of its config, by full path
    values: dict[str, Any]
    result: dict[str, Any]
    identity: str

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def changed(self) -> str:
        """What was changed on the way, in words; empty if nothing was."""
        return provenance.told(self.result.get("changed"))

    def metric(self, name: str) -> float:
        """A figure of METRICS or FIGURES. Raises UsageError where the run has none such."""
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
            return self.result["test"][key]
        if kind == "val":
            return self.result[f"best_val_{key}"]
        if name in ("train.seconds", "seconds"):
            return self.result["train_seconds"]
        if kind == "train":
            last = self.evaluations[-1]
            names = (f"train_eval_{key}", f"train_plain_{key}", f"train_{key}")
            return next((last[name] for name in names if name in last), None)
        return self.result["summary"][{"params": "parameters", "macs": "macs"}[name]]

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl that a comparison reads: of evaluations and probes. Those of single steps are a hundred to one."""
        path = self.folder / contents.METRICS
        try:
            lines = regular.read_text(path, most=LARGEST).splitlines()
            if not all(line.startswith("{") and line.endswith("}") for line in lines):
                raise ValueError
            return json.loads(f"[{','.join(line for line in lines if READ.search(line))}]")
        except OSError as error:
            raise UsageError(
                f"{self.folder}: its metrics.jsonl is missing or damaged ({regular.why(path, error)})"
            ) from None
        except (ValueError, RecursionError):
            raise UsageError(f"{self.folder}: its metrics.jsonl is missing or damaged") from None

    @functools.cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The rows that an evaluation has written, in order."""
        return [row for row in self.rows if "train_loss" in row]

    @property
    def is_smoothed(self) -> bool:
        """Whether its train.loss is label-smoothed: the run is of a version that recorded none without."""
        return (
            self.config.trainer.label_smoothing > 0
            and not {"train_eval_loss", "train_plain_loss"} & self.evaluations[-1].keys()
        )

    def probed(self, key: str) -> dict[int, dict[str, float]]:
        """What a probe has recorded under `gradient_norm`, `activation_deviation` or `update_ratio`: by step, a value a layer in order."""
        return {row["step"]: row[key] for row in self.rows if key in row}

    def correct(self, split: str) -> NDArray[np.bool_] | None:
        """Which images of `test` or `val` were predicted rightly, bool (N,), in the data set's order; None without stored predictions."""
        if split not in self._answers:
            self._answers[split] = answers.correct(self.folder / contents.PREDICTIONS, split)
        return self._answers[split]

    @functools.cached_property
    def _answers(self) -> dict[str, NDArray[np.bool_] | None]:
        return {}


@dataclass
class Found:
    """What lay under the folders: the runs that count, and notes on those that do not."""

    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(paths: Sequence[Path]) -> Found:
    """The finished runs under the folders. Raises UsageError for a folder without any, and for runs that were tampered with."""
    found = Found()
    seen: dict[Path, None] = {}
    unfinished: list[Path] = []
    problems: list[str] = []
    for path in paths:
        if (rule := regular.no_folder(path)) is not None:
            raise UsageError(
                f"{path}: {rule}; `skiplab list` shows the runs, a study lies under outputs/studies"
            )
        runs = record.runs_of(path)
        if not runs:
            raise UsageError(
                f"{path}: holds no run of ours; `skiplab list` shows the runs, a study lies under outputs/studies"
            )
        seen |= dict.fromkeys(resolved(runs))
    for folder in map(shown, seen):
        if (result := folders.result_of(folder)) is None:
            # nobody knows how far it came
            if (
                problem := folders.problem_of(folder, [folders.CONFIG, folders.RESULT])
            ) is not None:
                problems.append(f"{folder}: {problem}; leave it out or run it anew")
            unfinished.append(folder)
            continue
        try:
            found.results.append(held_together(folder, result))
        except UsageError as error:
            problems += str(error).split("\n")
    if problems:
        raise UsageError("\n".join(problems))
    if unfinished:
        more = f" and {len(unfinished) - 1} more" if len(unfinished) > 1 else ""
        found.notes.append(f"left out, since not finished: {unfinished[0]}{more}")
    if not found.results:
        raise UsageError(
            f"{', '.join(map(str, paths))}: no run there is finished; `skiplab list` shows how to go on with them"
        )
    keep_apart(found)
    once(found)
    return found


def keep_apart(found: Found) -> None:
    """Leave out runs that were changed on the way (a command on resume, a rollback): they are not what their values alone give.

    Where every run was, they stay, and what was changed tells their groups apart.
    """
    changed = [result for result in found.results if result.changed]
    if not changed:
        return
    if len(changed) < len(found.results):
        more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        told = f"{changed[0].folder} ({changed[0].changed}){more}"
        found.notes.append(
            f"left out, since changed on the way and so no run of these values: {told}"
        )
        found.results = [result for result in found.results if not result.changed]
    else:
        found.notes.append(
            "all of these runs were changed on the way; what was changed tells them apart"
        )
        for result in changed:
            result.values["changed"] = result.changed


def resolved(folders_found: Iterable[Path]) -> Iterator[Path]:
    """Paths without links; most share their parent with others, which is looked up once."""
    parents: dict[Path, Path] = {}
    for folder in folders_found:
        if folder.is_symlink() or folder.name in ("", ".."):
            yield folder.resolve()
            continue
        if folder.parent not in parents:
            parents[folder.parent] = folder.parent.resolve()
        yield parents[folder.parent] / folder.name


def shown(folder: Path) -> Path:
    """A path as short as it can be told from here."""
    try:
        return folder.relative_to(os.getcwd())
    except ValueError:
        return folder


def result_of(folder: Path) -> Result:
    """A finished run. Raises UsageError if its files do not belong together or are of another format."""
    return held_together(folder, folders.result_of(folder) or {})


def held_together(folder: Path, result: dict[str, Any]) -> Result:
    """A finished run, `result` being what its result.json holds. Raises UsageError as `result_of` does."""
    config = provenance.load(folder)
    # which `load` has found to be that of the config
    identity = folders.identity_of(folder) or ""
    try:
        told = str(result["identity"])
        tested = result["test"]["accuracy"] if config.evaluator.split == "test" else 0
        float(
            sum(
                (
                    tested,
                    result["summary"]["parameters"],
                    result["summary"]["macs"],
                    result["train_seconds"],
                )
            )
        )
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{folder}: its {folders.RESULT} is damaged or of another version of the format; run it anew"
        ) from None
    if told != identity:
        raise UsageError(
            f"{folder}: its {folders.CONFIG} is not what it was run with (identity {identity[:8]}, its result says {told[:8]}): "
            "edited by hand, or of another version; leave it out or run it anew"
        )
    begun_from = {} if config.init_sha256 is None else {"init_sha256": config.init_sha256[:8]}
    return Result(folder, config, stored.flat(config) | begun_from, result, identity)


def once(found: Found) -> None:
    """Keep one run of each identity on each data: a second one is the same numbers again, and would count a seed twice.

    A run that has left the test set sealed (evaluator.split=val) is the same as one that has not;
    of both the latter stays.
    """
    by_identity: dict[tuple[str, str, str], Result] = {}
    # test, then val
    for result in sorted(found.results, key=lambda result: result.config.evaluator.split):
        identity = (
            provenance.training(result.config)
            if result.config.evaluator.split == "val"
            else result.identity
        )
        key = identity, result.changed, str(result.result.get("data_sha256"))
        by_identity.setdefault(key, result)
    if (twice := len(found.results) - len(by_identity)) > 0:
        found.notes.append(
            f"{twice} of {len(found.results)} runs repeat another with the same seed; each is counted once"
        )
    kept = {id(result) for result in by_identity.values()}
    found.results = [result for result in found.results if id(result) in kept]


def with_metric(found: Found, metric: str) -> Found:
    """What is found, of a metric on the test set without the runs that left it sealed, if others have not."""
    if metric == "train.loss" and (
        old := [result for result in found.results if result.evaluations and result.is_smoothed]
    ):
        note = f"train.loss is label-smoothed in {counted(len(old), 'run')}, as an earlier version recorded it: {old[0].folder} the first"
        return Found(found.results, [*found.notes, note])
    sealed = [result for result in found.results if result.config.evaluator.split == "val"]
    if not metric.startswith("test.") or len(sealed) in (0, len(found.results)):
        return found
    note = f"left out, since the test set stays sealed in them (evaluator.split=val): {len(sealed)} runs, {sealed[0].folder} the first"
    return Found([result for result in found.results if result not in sealed], [*found.notes, note])


def check_protocol(results: Iterable[Result], *, by: Sequence[str]) -> None:
    """Raise UsageError if data, split or protocol differ between runs, unless they are what is compared."""
    results, problems = list(results), []
    for key in PROTOCOL:
        values = {json.dumps(result.values[key]): result for result in results}
        if (
            len(values) > 1
            and key not in by
            and not (key.startswith("dataset.") and "dataset.name" in by)
        ):
            told = ", ".join(
                f"{text} in {result.folder}" for text, result in list(values.items())[:3]
            )
            problems.append(
                f"{key} differs ({told}): these runs answer different questions; compare them apart, or by it: --by {key}"
            )
    for name in (
        sorted({result.values["dataset.name"] for result in results}) if not problems else ()
    ):
        sums = {
            result.result.get("data_sha256"): result
            for result in results
            if result.values["dataset.name"] == name
        }
        if len(sums) > 1:
            one, other = list(sums.values())[:2]
            problems.append(
                f"the files of {name} differ between {one.folder} and {other.folder} (data_sha256); compare them apart"
            )
    if problems:
        raise UsageError("\n".join(problems))
