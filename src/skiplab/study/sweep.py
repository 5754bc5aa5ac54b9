"""`train -m ...` and `train sweep=...`: plan the study, launch it, close it with a table.

Imports no torch.
"""

import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import Override

from skiplab import locations, paths
from skiplab.config import compose, grammar, grid
from skiplab.config.schema import Config
from skiplab.errors import FolderError, SkiplabError, UsageError, in_words
from skiplab.exits import complain
from skiplab.launch import with_data
from skiplab.machine import streams
from skiplab.machine.signals import EXIT_CODES, StopSignal
from skiplab.runs import folders, lock, status
from skiplab.study import launcher, other_launchers, plan, progress_view, record
from skiplab.study.supervisor import Job
from skiplab.words import counted

if TYPE_CHECKING:
    from omegaconf import DictConfig

HydraMain = Callable[[Sequence[str], Callable[["DictConfig"], None]], int]
# A study of more cells needs force=true.
MAX_CELLS = 1_000
# `train -v` sets this variable to 1.
VERBOSE = "SKIPLAB_VERBOSE"


@dataclass(frozen=True)
class Study:
    """A study as its command asks for it; `first` is the config of its first cell."""

    # These are the overrides as typed, in the order of the command line.
    texts: Sequence[str]
    # These are the overrides with those of the preset.
    parsed: list[Override]
    folder: Path
    first: Config

    @property
    def num_combinations(self) -> int:
        """How many combinations the grid has; some may describe the same run."""
        return grid.count_cells(self.parsed)

    def cells(self) -> list[plan.Cell]:
        """Plan every cell, in the folder where each run lies or will lie."""
        fixed = plan.fixed_keys(self.parsed)
        return plan.cells_of(grid.combinations(self.parsed), folder=self.folder, fixed=fixed)


def plan_study(texts: Sequence[str]) -> Study:
    """Plan the study of checked overrides.

    Raises UsageError for more than MAX_CELLS cells without force=true, and if the study's folder
    is something else.
    """
    parsed = grid.parsed(grid.with_preset(texts))
    sweep = grid.preset_of(texts)
    number = grid.count_cells(parsed)
    (first,) = compose.compose_all([grid.first_of(parsed)])
    if number > MAX_CELLS and not first.force:
        # This imports torch.
        from skiplab.study import estimate

        time = estimate.in_words([with_data(first)], number=number)
        raise UsageError(
            f"{number:,} cells would take about {time}; with more than {MAX_CELLS:,}, "
            "add force=true to run them all the same"
        )
    folder = locations.studies() / plan.name_of(parsed, first, sweep=sweep)
    plan.check_folder(folder)
    return Study(texts, parsed, folder, first)


# ---------------------------------------------------------------------------------------------
# the preview


def preview(texts: Sequence[str]) -> None:
    """`train -m ... --cfg job`: print the cells, how each stands and how long they would take.

    Nothing is run.
    """
    study = plan_study(texts)
    cells = study.cells()
    rows = [("state", "cell", "run folder"), *map(preview_row, cells)]
    print(progress_view.align(rows))
    words = f"study {study.folder}: {counted(len(cells), 'cell')}"
    if left := [cell.config for cell in cells if not cell.is_finished]:
        # This imports torch.
        from skiplab.study import estimate

        time = estimate.in_words(left, jobs=cells[0].config.jobs)
        words += f", {len(left)} to run, about {time}"
    one = grid.for_people(overrides_of_one(study, cells[0].config)) + paths.flag_for_own()
    print(f"\n{words}\nthe config of one: train --cfg job {one}")


def preview_row(cell: plan.Cell) -> tuple[str, str, str]:
    """Return the texts of a cell's row in the preview."""
    state = "not begun"
    if cell.is_finished:
        state = "done before"
    elif folders.has_state(cell.folder):
        state = "to go on with"
    width = f" (width {cell.config.width})" if cell.config.match != "none" else ""
    return state, cell.label + width, shlex.quote(str(cell.folder))


def overrides_of_one(study: Study, config: Config) -> list[str]:
    """Return the overrides of a study's first cell alone, whose config within budget is given."""
    own = {"sweep", *plan.BOOKKEEPING}
    texts = [text for text in grid.first_of(study.parsed) if text.partition("=")[0] not in own]
    texts = [*grid.values_of_preset(study.texts), *texts]
    if config.match == "none":
        return texts
    budget = ("match", "target")
    texts = [text for text in texts if text.partition("=")[0] not in budget]
    return [*texts, f"width={config.width}"]


# ---------------------------------------------------------------------------------------------
# the sweep


def sweep_command(texts: Sequence[str], hydra_main: HydraMain, *, in_process: bool) -> int:
    """Run every combination of checked overrides; return the exit code.

    With `in_process`, torchrun has started this process as one of its ranks.
    """
    study = plan_study(texts)
    if study.num_combinations == 1:
        print(
            "no key was given several values, so this sweep is one run; "
            "several are written seed=0,1,2"
        )
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{study.folder}: cannot be made ({error.strerror})") from None
    streams.spare()
    command = f"train -m {grid.for_people(texts)}".rstrip()
    sweep = launcher.Sweep(command + paths.flag_for_own())
    with lock.hold(study.folder, instead="study="), StopSignal() as stop_signal:

        def launch() -> None:
            if is_for_our_launcher(study.parsed, in_process=in_process):
                launch_here(study, sweep)
            else:
                cells = [cell.folder for cell in study.cells()]
                record.write(study.folder, command=sweep.command, cells=cells)
                task = other_launchers.task(stop_signal)
                hydra_main(hydra_arguments(study, in_process=in_process), task)

        unforeseen = survive(launch, sweep, study.folder)
        jobs = sweep.ended
        if not jobs:
            is_stopped = sweep.stopped > 0
            jobs = [job_from_folder(cell, is_stopped=is_stopped) for cell in study.cells()]
            if not is_stopped and not any(has_left_files(job.cell) for job in jobs):
                # Nothing was even started, and Hydra has said why.
                return 1
    code = print_closing_table(jobs, stopped=sweep.stopped) or unforeseen
    missing = sum(job.state != "finished" for job in jobs)
    if len(jobs) - missing > 1:
        compared = print_comparison(study.folder, missing=missing, of=len(jobs))
        code = code or compared
    return code


def is_for_our_launcher(parsed: Sequence[Override], *, in_process: bool) -> bool:
    """Return whether the study runs under our launcher, and not another one of Hydra's."""
    chosen = [o for o in parsed if o.key_or_group == "hydra/launcher"]
    return not in_process and all(o.value() == launcher.NAME for o in chosen)


def launch_here(study: Study, sweep: launcher.Sweep) -> None:
    """Run the study under our launcher."""
    cells = study.cells()
    repeated = study.num_combinations - len(cells)
    launcher.run(sweep, cells, study.folder, repeated=repeated, options=study.first)


def survive(launch: Callable[[], None], sweep: launcher.Sweep, folder: Path) -> int:
    """Launch a study; return the exit code of an error that was not foreseen, once it is printed.

    A signal's exit code goes into `sweep`. Raises SkiplabError if the study cannot be run.
    """
    try:
        launch()
    # Who raised it has said why.
    except SystemExit as error:
        if not isinstance(error.code, int) or error.code not in (*EXIT_CODES.values(), 7):
            return 1
        sweep.stopped = error.code
    except SkiplabError:
        remove_if_empty(folder)
        raise
    except OSError as error:
        remove_if_empty(folder)
        raise FolderError(f"{folder}: cannot be written ({error.strerror or error})") from None
    # Another launcher failed, or a cell that it ran.
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        return complain(SkiplabError(f"{type(error).__name__}: {text}"))
    return 0


def hydra_arguments(study: Study, *, in_process: bool) -> list[str]:
    """Return the arguments by which Hydra runs a study under another launcher.

    They name the study's folder and its fixed keys.
    """
    excluded = ",".join(map(grid.quoted, plan.fixed_keys(study.parsed)))
    own = [
        f"hydra.sweep.dir={grid.quoted(str(study.folder))}",
        "hydra.sweep.subdir=.",
        f"hydra.job.config.override_dirname.exclude_keys=[{excluded}]",
    ]
    if in_process:
        own.append("hydra/launcher=basic")
    return ["-m", *map(grammar.evaluated, grid.with_preset(study.texts)), *own]


def remove_if_empty(folder: Path) -> None:
    """Remove a study's folder in which nothing was run."""
    if {path.name for path in folder.iterdir()} <= {".lock", "multirun.yaml", record.RECORD}:
        shutil.rmtree(folder, ignore_errors=True)


def has_left_files(cell: plan.Cell) -> bool:
    """Return whether a cell has left a folder or a log."""
    return cell.folder.exists() or cell.log.exists()


def job_from_folder(cell: plan.Cell, *, is_stopped: bool) -> Job:
    """Return what a cell's folder says became of it.

    With `is_stopped`, the whole sweep was stopped, so a cell without a log was not run to its end.
    """
    if cell.is_finished:
        return Job(cell, "finished")
    try:
        reason = cell.log.read_text(errors="replace").strip().splitlines()[-1]
    except (OSError, IndexError):
        reason = ""
    if reason.startswith("error: "):
        return Job(cell, "failed", reason=reason.removeprefix("error: "))
    if not reason and not cell.folder.exists():
        return Job(cell, "not begun")
    if is_stopped or reason:
        return Job(cell, "stopped", reason=reason)
    return Job(cell, "failed", reason="it left no word")


# ---------------------------------------------------------------------------------------------
# the end


def print_comparison(folder: Path, *, missing: int, of: int) -> int:
    """Print the comparison of all that is finished, as `skiplab compare` does; the exit code.

    It is 0 also where the runs cannot be compared, as long as the reason is known and printed.
    """
    if missing:
        print(f"\nwhat {of - missing} of {of} cells say (the others are not finished):")
    else:
        print()
    again = f"skiplab compare {shlex.quote(str(folder))}"
    try:
        # SciPy takes a second to import.
        from skiplab.study.compare import results, tables

        found = results.read([folder])
        is_sealed = all(result.config.evaluator.split == "val" for result in found.results)
        metric = "val.accuracy" if is_sealed else "test.accuracy"
        tables.command(found, folder, by=None, metric=metric, x=None)
    except UsageError as error:
        print(f"no comparison: {str(error).splitlines()[0]}")
    except SkiplabError as error:
        return complain(error)
    except KeyboardInterrupt:
        print(f"left out: {again} makes the comparison")
    # The study is done, whatever becomes of its comparison.
    except Exception as error:
        traceback.print_exc()
        print(
            f"error: the cells are done, but not their comparison: {in_words(error)}; "
            f"{again} tries again",
            file=sys.stderr,
        )
        return 1
    return 0


def print_closing_table(jobs: Sequence[Job], *, stopped: int) -> int:
    """Print a line on all cells, and the table of those that are not done; return the exit code.

    With `train -v`, or where no comparison follows, the table has all cells.
    """
    done = sum(job.state == "finished" for job in jobs)
    is_whole = done < 2 or os.environ.get(VERBOSE) == "1"
    shown = [job for job in jobs if is_whole or job.state != "finished"]
    if shown:
        print(f"\n{progress_view.closing_table(shown, lambda job: status.read(job.cell.folder))}")
    print(f"\n{progress_view.closing_line(jobs)}")
    if len(shown) < len(jobs):
        print("each cell: train -v, or skiplab list study=NAME".replace("NAME", name_of(jobs)))
    states = {job.state for job in jobs}
    if states - {"finished"}:
        print(
            "the same command again goes on: what is done stays done, "
            "what was broken off is resumed"
        )
    if stopped:
        return stopped
    if "failed" in states:
        return 1
    return 7 if states & {"stopped", "not begun"} else 0


def name_of(jobs: Sequence[Job]) -> str:
    """Return the name of a study, whose folder holds the logs of its cells."""
    return jobs[0].cell.log.parent.parent.name
