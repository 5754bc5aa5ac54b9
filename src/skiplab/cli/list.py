"""`skiplab list [FOLDER]`: a table of the runs under a folder, and its studies."""

import argparse
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skiplab import locations, provenance, regular
from skiplab.cli.answer import Answer
from skiplab.cli.collector import pause_collector
from skiplab.cli.options import path
from skiplab.config import stored
from skiplab.config.schema import Config
from skiplab.errors import UsageError
from skiplab.runs import folders, status
from skiplab.runs.status import Status
from skiplab.study import record
from skiplab.words import duration, percent, printable

# Characters of name= in the table.
LONGEST_LABEL = 40
STATES = ("finished", "running", "stopped", "broken", "not begun")
# Facts of a run's config, which a broken run has none of.
FACTS = ["name", "dataset", "model", "block", "depth", "width", "seed", "lr", "epochs", "changed"]
HEADINGS = (
    "state",
    "data",
    "model",
    "lr",
    "epochs",
    "steps",
    "best val",
    "test",
    "time",
    "run folder",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab list`."""
    parser.add_argument("folder", type=path, nargs="?", help="outputs, or $SKIPLAB_OUTPUTS")


def command(options: argparse.Namespace) -> Answer:
    """Return the table."""
    with pause_collector():
        root = options.folder or locations.outputs()
        runs, studies = find(root)
        document = {
            "folder": str(root),
            "runs": [run.as_json() for run in runs],
            "studies": [study.as_json() for study in studies],
        }
        return Answer(document, describe(root, runs, studies))


@dataclass(frozen=True)
class Listed:
    """A run of the list; None where its files say nothing, or are damaged."""

    folder: str
    state: str
    # What is wrong with a broken run.
    problem: str | None = None
    config: Config | None = None
    is_edited: bool = False
    status: Status | None = None

    def as_json(self) -> dict[str, object]:
        """Return the run as docs/json.md states it."""
        config, stood = self.config, self.status or Status(self.state)
        facts: Mapping[str, object] = dict.fromkeys(FACTS)
        if config is not None:
            facts = {
                "name": config.name,
                "dataset": config.dataset.name,
                "model": config.model.name,
                "block": config.block.name,
                "depth": config.depth,
                "width": config.width,
                "seed": config.seed,
                "lr": config.optimizer.lr,
                "epochs": config.epochs if config.steps is None else None,
                "changed": [change.as_dict() for change in config.changed],
            }
        go_on = f"train resume={shlex.quote(self.folder)}" if self.state == "stopped" else None
        return {
            "folder": self.folder,
            "state": self.state,
            "problem": self.problem,
            "is_edited": self.is_edited,
            **facts,
            "step": stood.step,
            "num_steps": stood.num_steps,
            "best_val_accuracy": stood.val_accuracy,
            "test_accuracy": stood.test_accuracy,
            "train_seconds": stood.seconds,
            "command": go_on,
        }

    def cells(self) -> tuple[str, ...]:
        """Return the table's row, a text per heading."""
        where, config, stood = printable(shlex.quote(self.folder)), self.config, self.status
        if config is None or stood is None:
            problem = printable(self.problem)
            return ("broken", *[""] * (len(HEADINGS) - 2), f"{where} ({problem})")
        if self.is_edited:
            where += "  (config.yaml was edited by hand)"
        if config.changed:
            where += f"  (changed: {provenance.in_words(config.changed)})"
        return (
            self.state,
            config.dataset.name,
            describe_model(config),
            f"{config.optimizer.lr:g}",
            str(config.epochs) if config.steps is None else "-",
            describe_steps(stood),
            percent(stood.val_accuracy),
            percent(stood.test_accuracy),
            "-" if stood.seconds is None else duration(stood.seconds),
            where,
        )


@dataclass(frozen=True)
class ListedStudy:
    """A study of the list: how many of its runs are in which state, and its command."""

    folder: str
    # Why study.json cannot be read.
    problem: str | None = None
    command: str | None = None
    states: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Return the study as docs/json.md states it."""
        states = {state.replace(" ", "_"): number for state, number in self.states.items()}
        return {**vars(self), "states": states}

    def lines(self) -> str:
        """Return the study's lines below the table."""
        if self.problem is not None:
            return f"\n{self.problem}"
        counts = self.states
        summary = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        name = printable(shlex.quote(self.folder))
        return f"\nstudy {name}: {summary or 'no runs'}\n  its command: {self.command}"


def find(root: Path) -> tuple[list[Listed], list[ListedStudy]]:
    """Find all runs and studies under `root`. Raises UsageError if it is no folder."""
    if (rule := regular.no_folder(root)) is not None:
        raise UsageError(f"{root}: {rule}; runs go to {locations.outputs_in_words()}")
    found = record.find(root)
    runs = {os.path.abspath(run): read_run(run) for run in found.runs}
    states = {run: each.state for run, each in runs.items()}
    return list(runs.values()), list(read_studies(found.studies, states))


def describe(root: Path, runs: Sequence[Listed], studies: Sequence[ListedStudy]) -> str:
    """Describe runs and studies, and how to go on with those that stopped."""
    table = align([run.cells() for run in runs]) if runs else f"no runs under {printable(root)}"
    lines = [table]
    if any(run.state == "stopped" for run in runs):
        lines.append("go on with a stopped run: train resume=RUN_FOLDER")
    return "\n".join([*lines, *(study.lines() for study in studies)])


def read_studies(found: Sequence[Path], states: Mapping[str, str]) -> Iterator[ListedStudy]:
    """Yield each study. `states` maps absolute run folders to states known already."""
    runs_in: dict[str, list[str]] = {os.path.abspath(study): [] for study in found}
    for run in states if runs_in else ():
        for parent in map(str, Path(run).parents):
            if parent in runs_in:
                runs_in[parent].append(run)
    for study, runs in zip(found, list(runs_in.values()), strict=True):
        try:
            noted = record.read(study)
        except UsageError as error:
            yield ListedStudy(str(study), problem=str(error), states=dict.fromkeys(STATES, 0))
            continue
        # A dict drops runs that are named twice, and keeps the order.
        members = dict.fromkeys([*map(os.path.abspath, noted.cells), *runs])
        counts = Counter(states.get(run) or state_of(Path(run)) for run in members)
        by_state = {state: counts[state] for state in STATES}
        yield ListedStudy(str(study), command=noted.command, states=by_state)


def state_of(folder: Path) -> str:
    """Return the state of one of a study's runs."""
    if not record.is_begun(folder):
        return "not begun"
    return "broken" if folders.problem_of(folder) else status.read(folder).state


def align(found: Sequence[tuple[str, ...]]) -> str:
    """Align rows below their headings."""
    rows = [HEADINGS, *found]
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(HEADINGS) - 1)]
    lines: list[str] = []
    for *cells, last in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*padded, last]))
    return "\n".join(lines)


def row(folder: Path) -> tuple[str, ...]:
    """Return the table's row for one run, a text per heading."""
    return read_run(folder).cells()


def read_run(folder: Path) -> Listed:
    """Read what the list says of one run."""
    config, problem = read_config(folder)
    if config is None:
        return Listed(str(folder), "broken", problem=problem)
    is_edited = stored.identity(config) != folders.identity_of(folder)
    stood = status.read(folder)
    return Listed(str(folder), stood.state, config=config, is_edited=is_edited, status=stood)


def read_config(folder: Path) -> tuple[Config | None, str]:
    """Return a run's config, or None and what is wrong with the run."""
    if (problem := folders.problem_of(folder)) is not None:
        return None, problem
    file = folder / folders.CONFIG
    try:
        return stored.load(file), ""
    except UsageError as error:
        reason = str(error).split("\n")[0].removeprefix(f"{file}: ")
        return None, f"its {folders.CONFIG} does not pass the check: {reason}"


def describe_model(config: Config) -> str:
    """Describe a run's network in a few characters, with the first of its label."""
    text = f"{config.model.name}/{config.block.name} d{config.depth} w{config.width} s{config.seed}"
    label = " ".join((config.name or "").split())
    if len(label) > LONGEST_LABEL:
        label = f"{label[:LONGEST_LABEL]}..."
    return f"{text} ({label})" if label else text


def describe_steps(state: Status) -> str:
    """Describe how many steps a run has done, and of how many if it is not finished."""
    if state.num_steps is None:
        return "-"
    steps = "-" if state.step is None else f"{state.step:,}"
    return steps if state.state == "finished" else f"{steps} of {state.num_steps:,}"
