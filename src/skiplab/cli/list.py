"""`skiplab list [FOLDER]`: a table of the runs under a folder, and its studies."""

import argparse
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from skiplab import locations, provenance, regular
from skiplab.cli.collector import pause_collector
from skiplab.cli.options import path
from skiplab.config import stored
from skiplab.config.schema import Config
from skiplab.errors import UsageError
from skiplab.runs import folders, status
from skiplab.study import record
from skiplab.words import duration, percent, printable

# Characters of name= in the table.
LONGEST_LABEL = 40
STATES = ("finished", "running", "stopped", "broken", "not begun")
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


def command(options: argparse.Namespace) -> None:
    """Print the table."""
    with pause_collector():
        print(describe_runs(options.folder or locations.outputs()))


def describe_runs(root: Path) -> str:
    """Describe all runs and studies under `root`, and how to go on with those that stopped.

    Raises UsageError if `root` is no folder.
    """
    if (rule := regular.no_folder(root)) is not None:
        raise UsageError(f"{root}: {rule}; runs go to {locations.outputs_in_words()}")
    found = record.find(root)
    rows = {os.path.abspath(run): row(run) for run in found.runs}
    table = align(list(rows.values())) if rows else f"no runs under {printable(root)}"
    lines = [table]
    if "\nstopped " in table:
        lines.append("go on with a stopped run: train resume=RUN_FOLDER")
    states = {run: cells[0] for run, cells in rows.items()}
    return "\n".join([*lines, *describe_studies(found.studies, states)])


def describe_studies(found: Sequence[Path], states: Mapping[str, str]) -> Iterator[str]:
    """Yield two lines per study: how many of its runs are finished, and its command.

    The command goes on with the study. `states` maps absolute run folders to states known already.
    """
    runs_in: dict[str, list[str]] = {os.path.abspath(study): [] for study in found}
    for run in states if runs_in else ():
        for parent in map(str, Path(run).parents):
            if parent in runs_in:
                runs_in[parent].append(run)
    for study, runs in zip(found, list(runs_in.values()), strict=True):
        try:
            noted = record.read(study)
        except UsageError as error:
            yield f"\n{error}"
            continue
        # A dict drops runs that are named twice, and keeps the order.
        members = dict.fromkeys([*map(os.path.abspath, noted.cells), *runs])
        counts = Counter(states.get(run) or state_of(Path(run)) for run in members)
        summary = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        name = printable(shlex.quote(str(study)))
        yield f"\nstudy {name}: {summary or 'no runs'}\n  its command: {noted.command}"


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
    where = printable(shlex.quote(str(folder)))
    config, problem = read_config(folder)
    if config is None:
        return ("broken", *[""] * (len(HEADINGS) - 2), f"{where} ({printable(problem)})")
    if stored.identity(config) != folders.identity_of(folder):
        where += "  (config.yaml was edited by hand)"
    if config.changed:
        where += f"  (changed: {provenance.in_words(config.changed)})"
    state = status.read(folder)
    return (
        state.state,
        config.dataset.name,
        describe_model(config),
        f"{config.optimizer.lr:g}",
        str(config.epochs) if config.steps is None else "-",
        describe_steps(state),
        percent(state.val_accuracy),
        percent(state.test_accuracy),
        "-" if state.seconds is None else duration(state.seconds),
        where,
    )


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


def describe_steps(state: status.Status) -> str:
    """Describe how many steps a run has done, and of how many if it is not finished."""
    if state.num_steps is None:
        return "-"
    steps = "-" if state.step is None else f"{state.step:,}"
    return steps if state.state == "finished" else f"{steps} of {state.num_steps:,}"
