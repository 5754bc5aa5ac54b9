"""A study's cell under another of Hydra's launchers: in a process, on a machine of its choosing, with the same folder as under ours."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from skiplab import placement
from skiplab.config import compose, validate
from skiplab.errors import SkiplabError, Stopped
from skiplab.launch import complain, launch, settled
from skiplab.machine.signals import StopSignal
from skiplab.runs import folders
from skiplab.study import plan
from skiplab.study.preemption import Preemption


def task(stop_signal: StopSignal) -> Callable[[Any], None]:
    """What Hydra calls for each cell. In a process of the launcher's own, a cell that fails raises, which the launcher passes on."""
    here = os.getpid()

    def run(cfg: Any) -> None:
        if os.getpid() == here:
            code, is_stop = run_cell(cfg, stop_signal)
        else:
            with StopSignal() as own, Preemption(own) as preemption:
                code, is_stop = run_cell(cfg, own)
                preemption.requeue()
            if code and not is_stop:
                raise RuntimeError(f"exit code {code}")
        if is_stop:
            # whoever stops a run of a sweep means the sweep
            raise SystemExit(code)

    return run


def run_cell(cfg: Any, stop_signal: StopSignal) -> tuple[int, bool]:
    """The cell's run, from where it stands; nothing if it is finished. Its exit code, and whether it was told to stop."""
    hydra_config = HydraConfig.get()
    texts, fixed = (
        list(hydra_config.overrides.task),
        list(hydra_config.job.config.override_dirname.exclude_keys),
    )
    cell = plan.cell_of(
        texts,
        plan.within_budget(validate.check(compose.plain(cfg))),
        folder=Path(hydra_config.sweep.dir),
        fixed=fixed,
    )
    if cell.is_finished:
        print(f"done before: {cell.words}")
        return 0, False
    try:
        config = settled(cell.config)
        with placement.held(config, cell.folder.parent, "") as (folder, is_new):
            if is_new:
                placement.record(folder, cfg, hydra_config)
            code = launch(config, folder, stop_signal)
    except SkiplabError as error:
        say(cell, f"{error}" if isinstance(error, Stopped) else f"error: {error}")
        return complain(error), isinstance(error, Stopped)
    if code:
        say(cell, f"error: exit code {code}; its traceback is in {folder / folders.LOG}")
    return code, False


def say(cell: plan.Cell, text: str) -> None:
    """A line in the cell's log."""
    with suppress(OSError):
        cell.log.parent.mkdir(parents=True, exist_ok=True)
        with cell.log.open("a", encoding="utf-8", errors="backslashreplace") as log:
            print(text, file=log)
    sys.stdout.flush()
