"""`train -m ...` and `train sweep=...` as a command: plans the study, launches it, closes it with a table. Imports no torch."""

import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from skiplab.config import compose, grammar, grid
from skiplab.config.schema import Config
from skiplab.errors import FolderError, SkiplabError, UsageError, in_words
from skiplab.exits import complain
from skiplab.machine import streams
from skiplab.machine.signals import EXIT_CODES, StopSignal
from skiplab.runs import folders
from skiplab.study import launcher, other_launchers, plan, progress_view, record
from skiplab.study.supervisor import Job
from skiplab.words import counted

HydraMain = Callable[[Sequence[str], Callable[[Any], None]], int]
# cells; more are asked about
MANY = 1_000


def planned(texts: Sequence[str]) -> tuple[list[Override], Path, Config]:
    """The overrides of a sweep, its preset's included, the study's folder, and the config of its first cell.

    Raises UsageError for more cells than one means.
    """
    parsed, sweep = grid.parsed(grid.with_preset(texts)), grid.preset_of(texts)
    number, (first, *_) = grid.count_cells(parsed), compose.compose_all([grid.first_of(parsed)])
    if number > MANY and not first.force:
        # imports torch
        from skiplab.study import estimate

        told = estimate.in_words([first], number=number)
        raise UsageError(
            f"{number:,} cells would take about {told}; with more than {MANY:,}, add force=true to run them all the same"
        )
    folder = plan.STUDIES / plan.name_of(parsed, first, sweep=sweep)
    plan.check_folder(folder)
    return parsed, folder, first


def preview(texts: Sequence[str]) -> None:
    """`train -m ... --cfg job`: the cells of a study, how each stands and how long they would take, without running any."""
    parsed, folder, _ = planned(texts)
    cells = all_cells(parsed, folder)
    rows = [("state", "cell", "run folder")]
    for cell in cells:
        state = (
            "done before"
            if cell.is_finished
            else "to go on with"
            if folders.has_state(cell.folder)
            else "not begun"
        )
        words = cell.words + (
            f" (width {cell.config.width})" if cell.config.match != "none" else ""
        )
        rows.append((state, words, shlex.quote(str(cell.folder))))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    print(
        "\n".join(
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[2]])
            for row in rows
        )
    )
    words = f"study {folder}: {counted(len(cells), 'cell')}"
    if left := [cell.config for cell in cells if not cell.is_finished]:
        # imports torch
        from skiplab.study import estimate

        words += f", {len(left)} to run, about {estimate.in_words(left, jobs=cells[0].config.jobs)}"
    one = [
        text
        for text in grid.first_of(parsed)
        if text.partition("=")[0] not in ("sweep", *plan.BOOKKEEPING)
    ]
    one = [*grid.values_of_preset(texts), *one]
    if cells[0].config.match != "none":
        one = [text for text in one if text.partition("=")[0] not in ("match", "target")] + [
            f"width={cells[0].config.width}"
        ]
    print(f"\n{words}\nthe config of one: train --cfg job {grid.for_people(one)}")


def sweep_command(texts: Sequence[str], hydra_main: HydraMain, *, in_process: bool) -> int:
    """Run every combination of `texts`, which have passed their check; the exit code. `in_process`: torchrun has started the ranks."""
    parsed, folder, first = planned(texts)
    if grid.count_cells(parsed) == 1:
        print(
            "no key was given several values, so this sweep is one run; several are written seed=0,1,2"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{folder}: cannot be made ({error.strerror})") from None
    streams.spare()
    sweep = launcher.Sweep(f"train -m {grid.for_people(texts)}".rstrip())
    is_ours = not in_process and all(
        o.key_or_group != "hydra/launcher" or o.value() == launcher.NAME for o in parsed
    )
    # exit code of what nobody foresaw, once it is told
    unforeseen = 0
    with folders.locked(folder, instead="study="), StopSignal() as stop_signal:
        try:
            cells = all_cells(parsed, folder)
            if is_ours:
                launcher.run(
                    sweep,
                    cells,
                    folder,
                    repeated=grid.count_cells(parsed) - len(cells),
                    options=first,
                )
            else:
                record.write(folder, command=sweep.command, cells=[cell.folder for cell in cells])
                hydra_main(
                    by_hydra(texts, parsed, folder, in_process=in_process),
                    other_launchers.task(stop_signal),
                )
        # who raised it has said why
        except SystemExit as error:
            if isinstance(error.code, int) and error.code in (*EXIT_CODES.values(), 7):
                sweep.stopped = error.code
            else:
                unforeseen = 1
        except SkiplabError:
            forget(folder)
            raise
        except OSError as error:
            forget(folder)
            raise FolderError(f"{folder}: cannot be written ({error.strerror or error})") from None
        # of another launcher, or of the cell that it ran
        except Exception as error:
            unforeseen = complain(
                SkiplabError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            )
        jobs = sweep.ended or [
            of_folder(cell, is_stopped=sweep.stopped > 0) for cell in all_cells(parsed, folder)
        ]
        if (
            not sweep.ended
            and not sweep.stopped
            and not any(job.cell.folder.exists() or job.cell.log.exists() for job in jobs)
        ):
            # nothing was even started; Hydra has said why
            return 1
    code = close(jobs, stopped=sweep.stopped) or unforeseen
    if sum(job.state == "finished" for job in jobs) > 1:
        told = answer(folder, missing=sum(job.state != "finished" for job in jobs), of=len(jobs))
        code = code or told
    return code


def by_hydra(
    texts: Sequence[str], parsed: Sequence[Override], folder: Path, *, in_process: bool
) -> list[str]:
    """The arguments by which Hydra runs a study under another launcher, the study's folder and its fixed keys among them."""
    excluded = ",".join(map(grid.quoted, plan.fixed_keys(parsed)))
    own = [f"hydra.sweep.dir={grid.quoted(str(folder))}", "hydra.sweep.subdir=."]
    own += [
        f"hydra.job.config.override_dirname.exclude_keys=[{excluded}]",
        *(["hydra/launcher=basic"] if in_process else []),
    ]
    return ["-m", *map(grammar.evaluated, grid.with_preset(texts)), *own]


def forget(folder: Path) -> None:
    """Remove a study's folder in which nothing was run."""
    if {path.name for path in folder.iterdir()} <= {".lock", "multirun.yaml", record.RECORD}:
        shutil.rmtree(folder, ignore_errors=True)


def all_cells(parsed: Sequence[Override], folder: Path) -> list[plan.Cell]:
    """Every cell of a study, as another launcher has run them."""
    return plan.cells_of(grid.combinations(parsed), folder=folder, fixed=plan.fixed_keys(parsed))


def of_folder(cell: plan.Cell, *, is_stopped: bool) -> Job:
    """What a cell's folder says became of it; `is_stopped`: the whole sweep was, so that one without a word was not run to its end."""
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
    return (
        Job(cell, "stopped", reason=reason)
        if is_stopped or reason
        else Job(cell, "failed", reason="it left no word")
    )


def answer(folder: Path, *, missing: int, of: int) -> int:
    """What the study says so far: the comparison of all that is finished in it, as `skiplab compare` makes it.

    The exit code: 0 also where the runs cannot be compared, as long as that is foreseen and said.
    """
    print(
        f"\nwhat {of - missing} of {of} cells say (the others are not finished):" if missing else ""
    )
    again = f"skiplab compare {shlex.quote(str(folder))}"
    try:
        # SciPy: a second
        from skiplab.study.compare import results, tables

        found = results.read([folder])
        sealed = all(result.config.evaluator.split == "val" for result in found.results)
        tables.command(
            found, folder, by=None, metric="val.accuracy" if sealed else "test.accuracy", x=None
        )
    except UsageError as error:
        print(f"no comparison: {str(error).splitlines()[0]}")
    except SkiplabError as error:
        return complain(error)
    except KeyboardInterrupt:
        print(f"left out: {again} makes the comparison")
    # the study is done, whatever becomes of what it says
    except Exception as error:
        traceback.print_exc()
        print(
            f"error: the cells are done, but not their comparison: {in_words(error)}; {again} tries again",
            file=sys.stderr,
        )
        return 1
    return 0


def close(jobs: Sequence[Job], *, stopped: int) -> int:
    """The table of all cells and a line below it; the exit code."""
    print(f"\n{progress_view.closing_table(jobs, lambda job: folders.state_of(job.cell.folder))}\n")
    print(progress_view.closing_words(jobs))
    if any(job.state != "finished" for job in jobs):
        print(
            "the same command again goes on: what is done stays done, what was broken off is resumed"
        )
    is_open = any(job.state in ("stopped", "not begun") for job in jobs)
    return stopped or (1 if any(job.state == "failed" for job in jobs) else 7 if is_open else 0)
