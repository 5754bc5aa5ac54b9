"""Run a study's cell under Slurm, Ray or joblib, in the same folder as under our launcher."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from skiplab.config import compose, validate
from skiplab.errors import SkiplabError, Stopped
from skiplab.exits import complain
from skiplab.launch import launch, write_hydra_record
from skiplab.machine.signals import StopSignal
from skiplab.runs import folders
from skiplab.study import plan
from skiplab.study.preemption import Preemption

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(stop_signal: StopSignal) -> "Callable[[DictConfig], None]":
    """Make the function that Hydra calls for each cell.

    In a process of the launcher's own, a cell that fails raises RuntimeError, which the launcher
    passes on.
    """
    here = os.getpid()

    def run(cfg: "DictConfig") -> None:
        if os.getpid() == here:
            code, is_stop = run_cell(cfg, stop_signal)
        else:
            with StopSignal() as own, Preemption(own) as preemption:
                code, is_stop = run_cell(cfg, own)
                preemption.requeue()
            if code and not is_stop:
                raise RuntimeError(f"exit code {code}")
        if is_stop:
            # Whoever stops a run of a sweep means the sweep.
            raise SystemExit(code)

    return run


def run_cell(cfg: "DictConfig", stop_signal: StopSignal) -> tuple[int, bool]:
    """Run a cell from where it stands, unless it is finished.

    Returns its exit code, and whether it was told to stop.
    """
    hydra_config = HydraConfig.get()
    config = plan.within_budget(validate.check(compose.plain(cfg)))
    cell = plan.cell_of(
        list(hydra_config.overrides.task),
        config,
        folder=Path(hydra_config.sweep.dir),
        fixed=list(hydra_config.job.config.override_dirname.exclude_keys),
    )
    if cell.is_finished:
        print(f"done before: {cell.label}")
        return 0, False
    try:
        code = launch(
            cell.config,
            stop_signal,
            record=lambda folder: write_hydra_record(folder, cfg, hydra_config),
        )
    except SkiplabError as error:
        is_stop = isinstance(error, Stopped)
        write_to_log(cell, str(error) if is_stop else f"error: {error}")
        return complain(error), is_stop
    if code:
        log = cell.folder / folders.LOG
        write_to_log(cell, f"error: exit code {code}; its traceback is in {log}")
    return code, False


def write_to_log(cell: plan.Cell, text: str) -> None:
    """Append a line to the cell's log; a log that cannot be written is no error."""
    with suppress(OSError):
        cell.log.parent.mkdir(parents=True, exist_ok=True)
        with cell.log.open("a", encoding="utf-8", errors="backslashreplace") as log:
            print(text, file=log)
    sys.stdout.flush()
