"""Run a study on this machine: each cell in its own process; finished cells are not run again.

Imports no torch.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skiplab import trust
from skiplab.config.schema import Config
from skiplab.machine.decisions import GO_ON
from skiplab.machine.signals import StopSignal
from skiplab.runs import folders
from skiplab.study import plan, progress_view, record, slots, supervisor
from skiplab.study.supervisor import Job
from skiplab.words import counted

NAME = "skiplab"


@dataclass
class Sweep:
    """A study's command as typed, and what became of its cells."""

    command: str
    ended: list[Job] = field(default_factory=list)
    # This is the exit code that a signal has asked for, or 0.
    stopped: int = 0


def run(
    sweep: Sweep, cells: Sequence[plan.Cell], folder: Path, *, repeated: int, options: Config
) -> None:
    """Run the cells of a study and record in `sweep` what became of each.

    A failed cell is printed and counted, not raised. `repeated` combinations have dropped out as
    the same as others. `options` is a config with the study's own keys.
    """
    for cell in cells:
        trust.admit(cell.config)
    if repeated:
        print(
            f"{repeated} of {len(cells) + repeated} cells describe the same runs as others, "
            "to the bit; each is run once"
        )
    places = slots.slots_for([cell.config for cell in cells], jobs=options.jobs)
    places = places[: max(1, sum(not cell.is_finished for cell in cells))]
    record.write(folder, command=sweep.command, cells=[cell.folder for cell in cells])
    print(introduction(folder, cells, places), flush=True)
    jobs = [Job(cell, "finished", before=True) if cell.is_finished else Job(cell) for cell in cells]
    view = progress_view.make_view(slots=len(places))
    policy = supervisor.Policy(retries=options.retries, go_on=options.on_error == "continue")
    try:
        # The command's own StopSignal would end the process.
        with StopSignal() as stop_signal:
            stop_signal.advice = "stopped; the same command again goes on"
            with stop_signal.heeded():
                code = supervisor.run(jobs, places, view, stop_signal, policy)
                sweep.stopped = sweep.stopped or code
                # Only the table is left to print, so forget a late signal.
                stop_signal.asked = GO_ON
    finally:
        view.close()
        sweep.ended += jobs


def introduction(folder: Path, cells: Sequence[plan.Cell], places: Sequence[slots.Slot]) -> str:
    """Return what is about to happen: widths, how many cells, how many at a time, notes."""
    finished = sum(cell.is_finished for cell in cells)
    begun = sum(not cell.is_finished and folders.has_state(cell.folder) for cell in cells)
    words = f"study {folder}: {counted(len(cells), 'cell')}"
    if finished or begun:
        words += f", {finished} done before"
    if begun:
        words += f", {begun} to go on with"
    if finished < len(cells):
        words += f"; {len(places)} at a time"
        if threads := places[0].threads:
            words += f", {threads} thread{'s' if threads > 1 else ''} each"
    return "\n".join([*chosen_widths(cells), words, *missing_extras(cells, folder)])


def chosen_widths(cells: Sequence[plan.Cell]) -> list[str]:
    """Return a line for each width that a budget has chosen."""
    budgets = {without_seed(cell): cell.config for cell in cells if cell.config.match != "none"}
    if not budgets:
        return []
    from skiplab import budget

    return [
        f"{label or 'every cell'}: {budget.describe(config)}" for label, config in budgets.items()
    ]


def missing_extras(cells: Sequence[plan.Cell], folder: Path) -> Iterator[str]:
    """Yield a note on probes and pictures that finished cells lack and this command asks for.

    They change no numbers, so these cells are not run again.
    """
    done = [cell for cell in cells if cell.is_finished]
    unprobed = [
        cell for cell in done if cell.config.trainer.probe != "none" and not plan.was_probed(cell)
    ]
    if unprobed:
        yield (
            f"note: {counted(len(unprobed), 'cell')} done before without this trainer.probe; "
            "another study=NAME runs all afresh, with it"
        )
    undrawn = [
        cell
        for cell in done
        if cell.config.pictures == "always" and not (cell.folder / "curves.png").exists()
    ]
    if undrawn:
        yield (
            f"note: {counted(len(undrawn), 'cell')} done before without pictures; "
            f"skiplab draw {shlex.quote(str(folder))} makes them"
        )


def without_seed(cell: plan.Cell) -> str:
    """Return the cell's label without its seed."""
    return " ".join(part for part in cell.label.split(" ") if not part.startswith("seed="))
