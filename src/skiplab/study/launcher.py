"""The launcher of sweeps, a plugin of Hydra's: every cell is a process of its own, and what is finished stays so. Imports no torch."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from skiplab import folders
from skiplab.config import check as check_config
from skiplab.cores import counted
from skiplab.errors import SkiplabError
from skiplab.overrides import plain
from skiplab.signals import StopSignal
from skiplab.study import plan, record, slots, supervise, view
from skiplab.study.supervise import Job

PACKAGE, NAME = "hydra_plugins", "skiplab"


@dataclass
class Sweep:
    """What the command knows of this process's sweep, and what became of it: Hydra hands nothing over or back."""

    command: str  # as one types it
    ended: list[Job] = field(default_factory=list)
    refused: SkiplabError | None = None  # what stood against the whole sweep
    stopped: int = 0  # the exit code that a signal has asked for


SWEEP = Sweep("")


class StudyLauncher(Launcher):
    """`hydra/launcher=skiplab`, the default."""

    def __init__(self) -> None:
        self.config: Any = None

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Hydra's: what the sweep was composed to."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the cells; a failed one is told and counted, not raised, and so is what stands against the whole sweep."""
        try:
            if not (SWEEP.stopped or SWEEP.refused):  # Hydra goes on with the next batch of a sweep in parts
                self.run(job_overrides)
        except SkiplabError as error:
            SWEEP.refused = error  # Hydra would print a traceback
        return [JobReturn(overrides=texts, status=JobStatus.COMPLETED) for texts in job_overrides]

    def run(self, job_overrides: Sequence[Sequence[str]]) -> None:
        """Plan the cells, run them, remember what became of each."""
        options = check_config(plain(self.config))
        folder = Path(self.config.hydra.sweep.dir)
        cells = plan.cells_of(job_overrides, folder=folder, fixed=list(self.config.hydra.job.config.override_dirname.exclude_keys))
        if (twice := len(job_overrides) - len(cells)) > 0:
            print(f"{twice} of {len(job_overrides)} cells describe the same runs as others, to the bit; each is run once")
        places = slots.slots_for([cell.config for cell in cells], jobs=options.jobs)
        places = places[: max(1, sum(not cell.is_finished for cell in cells))]
        record.write(folder, command=SWEEP.command, cells=[cell.folder for cell in cells])
        print(introduction(folder, cells, places), flush=True)
        jobs = [Job(cell, "finished", before=True) if cell.is_finished else Job(cell) for cell in cells]
        shown = view.of_terminal(slots=len(places))
        try:
            with StopSignal() as stop_signal:  # in place of the command's own, which ends the process
                stop_signal.advice = "stopped; the same command again goes on"
                with stop_signal.heeded():
                    goes_on = options.on_error == "continue"
                    code = supervise.run(jobs, places, shown, stop_signal, retries=options.retries, go_on=goes_on)
                    SWEEP.stopped = SWEEP.stopped or code
                    stop_signal.asked = 0  # what is left is the table
        finally:
            shown.close()
            SWEEP.ended += jobs


def introduction(folder: Path, cells: Sequence[plan.Cell], places: Sequence[slots.Slot]) -> str:
    """What is about to happen."""
    finished = sum(cell.is_finished for cell in cells)
    begun = sum(not cell.is_finished and folders.has_state(cell.folder) for cell in cells)
    words = f"study {folder}: {counted(len(cells), 'cell')}"
    if finished or begun:
        words += f", {finished} done before" + (f", {begun} to go on with" if begun else "")
    budgets = {without_seed(cell): cell.config for cell in cells if cell.config.match != "none"}
    if budgets:
        from skiplab import budget

        words = "\n".join([*(f"{name or 'every cell'}: {budget.in_words(config)}" for name, config in budgets.items()), words])
    if finished < len(cells):
        threads = places[0].threads
        words += f"; {len(places)} at a time" + (f", {threads} thread{'s' if threads > 1 else ''} each" if threads else "")
    return "\n".join([words, *lacking(cells, folder)])


def lacking(cells: Sequence[plan.Cell], folder: Path) -> Iterator[str]:
    """What is asked for now and was not when cells were run that are done: it changes no numbers, so they are not run again."""
    done = [cell for cell in cells if cell.is_finished]
    if number := sum(cell.config.trainer.probe != "none" and not plan.was_probed(cell) for cell in done):
        yield f"note: {counted(number, 'cell')} done before without this trainer.probe; another study=NAME runs all afresh, with it"
    if number := sum(cell.config.pictures == "always" and not (cell.folder / "curves.png").exists() for cell in done):
        yield f"note: {counted(number, 'cell')} done before without pictures; skiplab draw {shlex.quote(str(folder))} makes them"


def without_seed(cell: plan.Cell) -> str:
    """What a cell is called, whatever its seed."""
    return " ".join(word for word in cell.words.split(" ") if not word.startswith("seed="))


def register() -> None:
    """Make the launcher known to Hydra, which takes plugins from the package hydra_plugins alone: there it is this module's other name."""
    StudyLauncher.__module__ = f"{PACKAGE}.{NAME}"
    Plugins.instance().register(StudyLauncher)  # the first call has looked for installed ones
    package = sys.modules.get(PACKAGE) or ModuleType(PACKAGE)
    sys.modules |= {PACKAGE: package, f"{PACKAGE}.{NAME}": sys.modules[__name__]}
    setattr(package, NAME, sys.modules[__name__])
