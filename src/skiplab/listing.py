"""The table of runs that `skiplab list` and a sweep's end print, and `skiplab info`."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from skiplab import config, folders
from skiplab.errors import UsageError
from skiplab.locations import root_in_words
from skiplab.study import record

LONGEST_LABEL = 40  # characters of name= in the table
HEADINGS = ("state", "data", "model", "lr", "epochs", "steps", "best val", "test", "time", "run folder")


def under(root: Path) -> str:
    """The table of all runs under `root`, and how to go on with those that stopped."""
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; runs go to outputs/ under the folder that train is started in")
    found = record.runs_of(root)
    shown = table(found) if found else f"no runs under {root}"
    lines = [shown, *(["go on with a stopped run: train resume=RUN_FOLDER"] if "\nstopped " in shown else []), *studies(root)]
    return "\n".join(lines)


def studies(root: Path) -> Iterator[str]:
    """Two lines for each study under `root`: how many of its runs are finished, and its command, which goes on with it."""
    for path in sorted(root.glob(f"**/{record.RECORD}")):
        try:
            noted = record.read(path.parent)
        except UsageError as error:
            yield f"\n{error}"
            continue
        runs = {os.path.abspath(run): run for run in [*noted.cells, *folders.runs_under(path.parent)]}.values()
        states = Counter(folders.state_of(run).state if folders.identity_of(run) else "not begun" for run in runs)
        told = ", ".join(f"{states[state]} {state}" for state in ("finished", "running", "stopped", "not begun") if states[state])
        yield f"\nstudy {shlex.quote(str(path.parent))}: {told or 'no runs'}\n  its command: {noted.command}"


def table(runs: Sequence[Path]) -> str:
    """A line per run folder: state, data, model, what it reached, and the folder."""
    rows = [HEADINGS, *map(row, runs)]
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(HEADINGS) - 1)]
    return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(cells, widths, strict=False)), cells[-1]]) for cells in rows)


def row(folder: Path) -> tuple[str, ...]:
    """The cells of one run."""
    try:
        stored = config.load(folder / folders.CONFIG)
    except UsageError:
        return ("broken", *[""] * (len(HEADINGS) - 2), f"{folder} (its {folders.CONFIG} does not pass the check)")
    state = folders.state_of(folder)
    model = f"{stored.model.name}/{stored.block.name} d{stored.depth} w{stored.width} s{stored.seed}"
    label = " ".join((stored.name or "").split())
    steps = "-" if state.step is None or state.num_steps is None else f"{state.step:,}"
    if state.state != "finished" and state.num_steps is not None:
        steps += f" of {state.num_steps:,}"
    return (
        state.state,
        stored.dataset.name,
        model + (f" ({label[:LONGEST_LABEL]}{'...' if len(label) > LONGEST_LABEL else ''})" if label else ""),
        f"{stored.optimizer.lr:g}",
        str(stored.epochs) if stored.steps is None else "-",
        steps,
        percent(state.val_accuracy),
        percent(state.test_accuracy),
        "-" if state.seconds is None else folders.duration(state.seconds),
        shlex.quote(str(folder)),
    )


def percent(share: float | None) -> str:
    """A share of 1 in words, or a dash for none."""
    return "-" if share is None else f"{100 * share:.2f} %"


def info() -> str:
    """Versions, devices, threads, data root."""
    import torch

    from skiplab import cores, hardware, threads
    from skiplab.paths import conf_folder

    lines = [f"{name:<10} {version}" for name, version in hardware.versions().items()]
    lines.append(f"{'cpu':<10} {hardware.cpu_name()}, {hardware.counted(hardware.num_cores(), 'core')} for this process")
    lines.append(f"{'threads':<10} {threads.in_words()}")
    speed = "in hardware: trainer.amp=bf16 is faster here" if cores.has_bf16() else "not in hardware: trainer.amp=bf16 is slower on the CPU"
    lines.append(f"{'bfloat16':<10} {speed}")
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        lines.append(f"{f'cuda:{i}':<10} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        lines.append(f"{'cuda':<10} none")
    lines.append(f"{'mps':<10} {'yes' if torch.backends.mps.is_available() else 'none'}")
    lines.append(f"{'data root':<10} {root_in_words()}")
    lines.append(f"{'conf':<10} {conf_folder()}")
    return "\n".join(lines)
