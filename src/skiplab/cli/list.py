"""`skiplab list [FOLDER] [KEY=VALUE ...]`: a table of the runs and studies under a folder."""

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skiplab import locations, provenance, regular
from skiplab.cli import list_filter, list_table
from skiplab.cli.answer import Answer
from skiplab.cli.collector import pause_collector
from skiplab.config import standard, stored
from skiplab.config.keys import leaves
from skiplab.config.schema import Config
from skiplab.errors import UsageError
from skiplab.machine import streams
from skiplab.runs import folders, status
from skiplab.runs.status import Status
from skiplab.study import record
from skiplab.words import duration, percent, printable

# Characters of name= in the table.
LONGEST_LABEL = 40
STATES = ("finished", "running", "stopped", "broken", "not begun")
# Facts of a run's config, which a broken run has none of.
FACTS = ["name", "dataset", "model", "block", "depth", "width", "seed", "lr", "epochs", "changed"]
# The table has so many rows without --all.
MOST_ROWS = 20
# An error is looked for in so many bytes at the end of a log.
LOG_TAIL = 4_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab list`."""
    parser.description = (
        "List runs and studies, newest last. The best of a study is its run with the best "
        "validation accuracy."
    )
    parser.epilog = (
        "KEY=VALUE keeps runs that have the value, or one of several with commas between: "
        "status=stopped, study=first, name='base*', model=resnet, or any key of a run."
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="FOLDER | KEY=VALUE",
        help="a folder (outputs, or $SKIPLAB_OUTPUTS), and what to keep",
    )
    parser.add_argument("--all", action="store_true", help=f"more than the newest {MOST_ROWS}")


def command(options: argparse.Namespace) -> Answer:
    """Return the table."""
    with pause_collector():
        folder, filters = list_filter.read(options.words)
        root = folder or locations.outputs()
        runs, studies = find(root)
        kept = [run for run in runs if list_filter.fits(run, studies, filters)]
        shown = [study for study in studies if not filters or study.holds(kept)]
        document = {
            "folder": str(root),
            "runs": [run.as_json() for run in kept],
            "studies": [study.as_json() for study in shown],
        }
        most = None if options.all else MOST_ROWS
        opened = "study" in filters
        text = describe(root, kept, shown, most=most, opened=opened)
        if filters and not kept:
            words = " ".join(f"{key}={','.join(each)}" for key, each in filters.items())
            text = f"no runs under {printable(root)} with {words}"
        return Answer(document, text)


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

    def row(self) -> list_table.Row:
        """Return the table's row."""
        where, config, stood = printable(shlex.quote(self.folder)), self.config, self.status
        began = folders.started(Path(self.folder))[0]
        if config is None or stood is None:
            cells: dict[str, str] = {"state": "broken", "status": "broken"}
            return list_table.Row(began, cells, f"{where} ({printable(self.problem)})")
        if self.is_edited:
            where += "  (config.yaml was edited by hand)"
        if config.changed:
            where += f"  (changed: {provenance.in_words(config.changed)})"
        cells = {
            "state": self.state,
            "status": list_table.status_in_words(self.state, stood),
            "data": config.dataset.name,
            "model": describe_model(config),
            "network": describe_network(config),
            "val %": bare(stood.val_accuracy),
            "test %": bare(stood.test_accuracy),
            "lr": f"{config.optimizer.lr:g}",
            "epochs": str(config.epochs) if config.steps is None else "-",
            "steps": describe_steps(stood),
            "best val": percent(stood.val_accuracy),
            "test": percent(stood.test_accuracy),
            "time": "-" if stood.seconds is None else duration(stood.seconds),
        }
        return list_table.Row(began, cells, where, list_table.differences(config))


@dataclass(frozen=True)
class ListedStudy:
    """A study of the list: how many of its runs are in which state, and its command."""

    folder: str
    # Why study.json cannot be read.
    problem: str | None = None
    command: str | None = None
    states: Mapping[str, int] = field(default_factory=dict)
    # The absolute folders of its runs, begun or not.
    members: frozenset[str] = frozenset()
    # Those of them whose log ends in an error; so many have no run folder.
    failed: Sequence[str] = ()
    failed_early: int = 0

    def as_json(self) -> dict[str, object]:
        """Return the study as docs/json.md states it."""
        states = {state.replace(" ", "_"): number for state, number in self.states.items()}
        found = {"folder": self.folder, "problem": self.problem, "command": self.command}
        return {**found, "states": states}

    def holds(self, runs: Sequence[Listed]) -> bool:
        """Return whether one of these runs is the study's."""
        return any(os.path.abspath(run.folder) in self.members for run in runs)

    def row(self, runs: Sequence[Listed], *, is_open: bool) -> list_table.Row:
        """Return the table's row, of those of its runs that are listed.

        The command of a finished study is shown where it `is_open`.
        """
        own = [run for run in runs if os.path.abspath(run.folder) in self.members]
        # With out= all runs may lie elsewhere, where the list does not look.
        begun = [] if own else [each for each in map(Path, self.members) if record.is_begun(each)]
        own += map(read_run, begun)
        where = printable(shlex.quote(self.folder))
        began = max((folders.started(Path(run.folder))[0] for run in own), default=0.0)
        began = began or folders.modified(Path(self.folder) / record.RECORD)
        if self.problem is not None:
            cells: dict[str, str] = {"state": "study", "status": "study"}
            return list_table.Row(began, cells, where, notes=[printable(self.problem)])
        configs = [run.config for run in own if run.config is not None]
        stood = [run.status for run in own if run.status and run.status.val_accuracy is not None]
        best = max(stood, key=lambda each: each.val_accuracy or 0.0, default=Status(""))
        data = dict.fromkeys(config.dataset.name for config in configs)
        cells = {
            "state": "study",
            "status": "study",
            "data": next(iter(data)) if len(data) == 1 else "-",
            "model": self.progress(),
            "network": self.progress(),
            "val %": bare(best.val_accuracy),
            "test %": bare(best.test_accuracy),
            "best val": percent(best.val_accuracy),
            "test": percent(best.test_accuracy),
        }
        cells |= dict.fromkeys(("lr", "epochs", "steps", "time"), "-")
        is_done = set(+Counter(self.states)) <= {"finished"}
        notes = [f"its command: {self.command}"] if is_open or not is_done else []
        return list_table.Row(began, cells, where, dict.fromkeys(swept(configs), ""), notes)

    def progress(self) -> str:
        """Return `9 of 12 done, 2 failed`."""
        counts = Counter(self.states)
        number = counts["failed"] = len(self.failed)
        # A failed run is one that stopped, or has left nothing but its log.
        counts["stopped"] -= number - self.failed_early
        counts["not begun"] -= self.failed_early
        words = [f"{counts['finished']} of {sum(self.states.values())} done"]
        words += [
            f"{counts[state]} {state}"
            for state in ("running", "failed", "stopped", "broken")
            if counts[state]
        ]
        return ", ".join(words)


def find(root: Path) -> tuple[list[Listed], list[ListedStudy]]:
    """Find all runs and studies under `root`. Raises UsageError if it is no folder."""
    if (rule := regular.no_folder(root)) is not None:
        raise UsageError(f"{root}: {rule}; runs go to {locations.outputs_in_words()}")
    found = record.find(root)
    runs = {os.path.abspath(run): read_run(run) for run in found.runs}
    states = {run: each.state for run, each in runs.items()}
    return list(runs.values()), list(read_studies(found.studies, states))


def describe(
    root: Path,
    runs: Sequence[Listed],
    studies: Sequence[ListedStudy],
    *,
    most: int | None,
    opened: bool,
) -> str:
    """Describe runs and studies, newest last, and how to go on with those that stopped.

    A study stands for its runs, unless it is `opened` or the folder that is listed. `most` is the
    number of rows; None: all.
    """
    here = os.path.abspath(root)
    closed = [each for each in studies if not opened and os.path.abspath(each.folder) != here]
    inside = frozenset[str]().union(*(study.members for study in closed))
    single = [run for run in runs if os.path.abspath(run.folder) not in inside]
    rows = [run.row() for run in single]
    rows += [study.row(runs, is_open=study not in closed) for study in studies]
    if not rows:
        return f"no runs under {printable(root)}"
    rows.sort(key=lambda row: row.began)
    shown = rows if most is None else rows[-most:]
    lines = list_table.render(shown, width=streams.columns(sys.stdout))
    if hidden := len(rows) - len(shown):
        lines.append(f"{hidden} older: skiplab list --all")
    if any(run.state == "stopped" for run in single):
        lines.append("go on with a stopped run: train resume=RUN_FOLDER")
    return "\n".join(lines)


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
            none: dict[str, int] = dict.fromkeys(STATES, 0)
            members = frozenset(runs)
            yield ListedStudy(str(study), problem=str(error), states=none, members=members)
            continue
        # A dict drops runs that are named twice, and keeps the order.
        members = dict.fromkeys([*map(os.path.abspath, noted.cells), *runs])
        found_states = {run: states.get(run) or state_of(Path(run)) for run in members}
        counts = Counter(found_states.values())
        failed = [
            run
            for run, state in found_states.items()
            if state in ("stopped", "not begun") and has_failed(study, Path(run))
        ]
        yield ListedStudy(
            str(study),
            command=noted.command,
            states={state: counts[state] for state in STATES},
            members=frozenset(members),
            failed=failed,
            failed_early=sum(found_states[run] == "not begun" for run in failed),
        )


def has_failed(study: Path, run: Path) -> bool:
    """Return whether the log of a study's run ends in an error."""
    try:
        with (study / "logs" / f"{run.name}.log").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LOG_TAIL))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return False
    return bool(lines) and lines[-1].startswith("error: ")


def state_of(folder: Path) -> str:
    """Return the state of one of a study's runs."""
    if not record.is_begun(folder):
        return "not begun"
    return "broken" if folders.problem_of(folder) else status.read(folder).state


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


def swept(configs: Sequence[Config]) -> list[str]:
    """Return the keys in which runs differ, without those that follow from an option."""
    values: dict[str, set[object]] = {}
    for config in configs:
        for key, value in stored.flat(config).items():
            values.setdefault(key, set()).add(standard.as_value(value))
    known = leaves()
    found = [
        key
        for key, each in values.items()
        if len(each) > 1 and known[key].metadata["changes_numbers"]
    ]
    names = {key.removesuffix(".name") for key in found if key.endswith(".name")}
    return [
        key.removesuffix(".name")
        for key in found
        if key.endswith(".name") or key.partition(".")[0] not in names
    ]


def bare(share: float | None) -> str:
    """Return a share of 1 in percent, without the sign."""
    return percent(share).removesuffix(" %")


def describe_network(config: Config) -> str:
    """Describe a run's network in a few characters."""
    return f"{config.model.name}/{config.block.name} d{config.depth} w{config.width}"


def describe_model(config: Config) -> str:
    """Describe a run's network and seed in a few characters, with the first of its label."""
    text = f"{describe_network(config)} s{config.seed}"
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
