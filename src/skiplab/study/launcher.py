"""How a study runs on this machine: every cell is a process of its own, and what is finished stays so. Imports no torch."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skiplab.config.schema import Config
from skiplab.machine.signals import StopSignal
from skiplab.runs import folders
from skiplab.study import plan, progress_view, record, slots, supervisor
from skiplab.study.supervisor import Job
from skiplab.words import counted

NAME = "skiplab"


@dataclass
class Sweep:
    """A study's command, and what became of it."""

    # as one types it
    command: str
    ended: list[Job] = field(default_factory=list)
    # the exit code that a signal has asked for
    stopped: int = 0


def run(
    sweep: Sweep, cells: Sequence[plan.Cell], folder: Path, *, repeated: int, options: Config
) -> None:
    """Run the cells of a study and remember in `sweep` what became of each. A failed one is told and counted, not raised.

    `repeated`: how many combinations have dropped out as the same as others. `options`: a config
    with the study's own keys.
    """
    if repeated:
        print(
            f"{repeated} of {len(cells) + repeated} cells describe the same runs as others, to the bit; each is run once"
        )
    places = slots.slots_for([cell.config for cell in cells], jobs=options.jobs)
    places = places[: max(1, sum(not cell.is_finished for cell in cells))]
    record.write(folder, command=sweep.command, cells=[cell.folder for cell in cells])
    print(introduction(folder, cells, places), flush=True)
    jobs = [Job(cell, "finished", before=True) if cell.is_finished else Job(cell) for cell in cells]
    shown = progress_view.of_terminal(slots=len(places))
    try:
        # in place of the command's own, which ends the process
        with StopSignal() as stop_signal:
            stop_signal.advice = "stopped; the same command again goes on"
            with stop_signal.heeded():
                goes_on = options.on_error == "continue"
                code = supervisor.run(
                    jobs, places, shown, stop_signal, retries=options.retries, go_on=goes_on
                )
                sweep.stopped = sweep.stopped or code
                # what is left is the table
                stop_signal.asked = 0
    finally:
        shown.close()
        sweep.ended += jobs


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

        words = "\n".join(
            [
                *(
                    f"{name or 'every cell'}: {budget.describe(config)}"
                    for name, config in budgets.items()
                ),
                words,
            ]
        )
    if finished < len(cells):
        threads = places[0].threads
        words += f"; {len(places)} at a time" + (
            f", {threads} thread{'s' if threads > 1 else ''} each" if threads else ""
        )
    return "\n".join([words, *lacking(cells, folder)])


def lacking(cells: Sequence[plan.Cell], folder: Path) -> Iterator[str]:
    """What is asked for now and was not when cells were run that are done: it changes no numbers, so they are not run again."""
    done = [cell for cell in cells if cell.is_finished]
    if number := sum(
        cell.config.trainer.probe != "none" and not plan.was_probed(cell) for cell in done
    ):
        yield f"note: {counted(number, 'cell')} done before without this trainer.probe; another study=NAME runs all afresh, with it"
    if number := sum(
        cell.config.pictures == "always" and not (cell.folder / "curves.png").exists()
        for cell in done
    ):
        yield f"note: {counted(number, 'cell')} done before without pictures; skiplab draw {shlex.quote(str(folder))} makes them"


def without_seed(cell: plan.Cell) -> str:
    """What a cell is called, whatever its seed."""
    return " ".join(word for word in cell.words.split(" ") if not word.startswith("seed="))
