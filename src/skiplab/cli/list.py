"""The table of runs that `skiplab list` and a sweep's end print, and `skiplab info`."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from skiplab import provenance, regular
from skiplab.config.stored import identity, load
from skiplab.errors import UsageError
from skiplab.locations import root_in_words
from skiplab.machine.cpu import num_cores
from skiplab.runs import folders
from skiplab.study import record
from skiplab.words import counted, duration, percent, printable

# characters of name= in the table
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


def under(root: Path) -> str:
    """The table of all runs under `root`, and how to go on with those that stopped."""
    if (rule := regular.no_folder(root)) is not None:
        raise UsageError(
            f"{root}: {rule}; runs go to outputs/ under the folder that train is started in"
        )
    found = record.find(root)
    rows = {os.path.abspath(run): row(run) for run in found.runs}
    shown = aligned(list(rows.values())) if rows else f"no runs under {printable(root)}"
    lines = [
        shown,
        *(["go on with a stopped run: train resume=RUN_FOLDER"] if "\nstopped " in shown else []),
    ]
    return "\n".join(
        [*lines, *studies(found.studies, {run: cells[0] for run, cells in rows.items()})]
    )


def studies(found: Sequence[Path], states: Mapping[str, str]) -> Iterator[str]:
    """Two lines for each study: how many of its runs are finished, and its command, which goes on with it.

    `states`: of the runs that are known already, by their absolute paths.
    """
    within: dict[str, list[str]] = {os.path.abspath(study): [] for study in found}
    for run in states if within else ():
        for parent in map(str, Path(run).parents):
            if parent in within:
                within[parent].append(run)
    for study, runs in zip(found, list(within.values()), strict=True):
        try:
            noted = record.read(study)
        except UsageError as error:
            yield f"\n{error}"
            continue
        cells = dict.fromkeys([*map(os.path.abspath, noted.cells), *runs])
        counts = Counter(states[cell] if cell in states else state(Path(cell)) for cell in cells)
        told = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
        yield f"\nstudy {printable(shlex.quote(str(study)))}: {told or 'no runs'}\n  its command: {noted.command}"


def state(cell: Path) -> str:
    """How a cell of a study stands."""
    if not record.is_begun(cell):
        return "not begun"
    return "broken" if folders.problem_of(cell) else folders.state_of(cell).state


def table(runs: Sequence[Path]) -> str:
    """A line per run folder: state, data, model, what it reached, and the folder."""
    return aligned([row(run) for run in runs])


def aligned(found: Sequence[tuple[str, ...]]) -> str:
    """Rows below their headings."""
    rows = [HEADINGS, *found]
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(HEADINGS) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(cells, widths, strict=False)), cells[-1]])
        for cells in rows
    )


def row(folder: Path) -> tuple[str, ...]:
    """The cells of one run."""
    problem, stored = folders.problem_of(folder), None
    if problem is None:
        try:
            stored = load(folder / folders.CONFIG)
        except UsageError as error:
            reason = str(error).split("\n")[0].removeprefix(f"{folder / folders.CONFIG}: ")
            problem = f"its {folders.CONFIG} does not pass the check: {reason}"
    where = printable(shlex.quote(str(folder)))
    if stored is not None and identity(stored) != folders.identity_of(folder):
        where += "  (config.yaml was edited by hand)"
    if stored is None:
        return ("broken", *[""] * (len(HEADINGS) - 2), f"{where} ({printable(problem)})")
    state = folders.state_of(folder)
    model = (
        f"{stored.model.name}/{stored.block.name} d{stored.depth} w{stored.width} s{stored.seed}"
    )
    label = " ".join((stored.name or "").split())
    steps = "-" if state.step is None or state.num_steps is None else f"{state.step:,}"
    if state.state != "finished" and state.num_steps is not None:
        steps += f" of {state.num_steps:,}"
    return (
        state.state,
        stored.dataset.name,
        model
        + (
            f" ({label[:LONGEST_LABEL]}{'...' if len(label) > LONGEST_LABEL else ''})"
            if label
            else ""
        ),
        f"{stored.optimizer.lr:g}",
        str(stored.epochs) if stored.steps is None else "-",
        steps,
        percent(state.val_accuracy),
        percent(state.test_accuracy),
        "-" if state.seconds is None else duration(state.seconds),
        where + (f"  (changed: {provenance.in_words(stored.changed)})" if stored.changed else ""),
    )


def info() -> str:
    """Versions, devices, threads, data root."""
    import torch

    from skiplab.machine import cpu, devices, threads
    from skiplab.paths import conf_folder

    lines = [f"{name:<10} {version}" for name, version in devices.versions().items()]
    lines.append(
        f"{'cpu':<10} {devices.cpu_name()}, {counted(num_cores(), 'core')} for this process"
    )
    lines.append(f"{'threads':<10} {threads.in_words()}")
    speed = (
        "in hardware: trainer.amp=bf16 is faster here"
        if cpu.has_bf16()
        else "not in hardware: trainer.amp=bf16 is slower on the CPU"
    )
    lines.append(f"{'bfloat16':<10} {speed}")
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        lines.append(
            f"{f'cuda:{i}':<10} {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        )
    if not torch.cuda.is_available():
        lines.append(f"{'cuda':<10} none")
    lines.append(f"{'mps':<10} {'yes' if torch.backends.mps.is_available() else 'none'}")
    lines.append(f"{'data root':<10} {root_in_words()}")
    lines.append(f"{'conf':<10} {conf_folder()}")
    return "\n".join(lines)
