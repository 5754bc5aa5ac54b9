"""Runs the cells of a study, each in a process of its own: starts them, watches them, tells what became of each. Imports no torch."""

import json
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from typing import Protocol

from skiplab.config import stored
from skiplab.errors import UsageError
from skiplab.machine.signals import EXIT_CODES, SAVE
from skiplab.runs import folders
from skiplab.study import workers
from skiplab.study.plan import Cell
from skiplab.study.slots import Slot

# seconds between two looks at the signals and the view
TICK = 0.2
# after a signal: saved, or before there was anything to save
STOPPED = (*EXIT_CODES.values(), -signal.SIGTERM)
# exit codes after which the same again would end the same: bad config or data, the folder,
# divergence
HOPELESS = (2, 4, 5)
# characters of a log's end that are looked through for its error
WORST = 4_000


@dataclass
class Job:
    """A cell on its way: waiting, running, finished, failed or stopped, at the end of a stopped sweep also not begun.

    `before`: it was finished already.
    """

    cell: Cell
    state: str = "waiting"
    before: bool = False
    attempts: int = 0
    # of a failure, one line
    reason: str = ""
    began: float = 0.0
    # in its processes, of this call
    seconds: float = 0.0
    # bytes of its log before its last attempt
    said: int = 0
    # it was told to stop, since it gets nowhere
    is_unwanted: bool = False
    process: BaseProcess | None = None
    slot: Slot | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "failed", "stopped")


class View(Protocol):
    """Who is told what happens."""

    def changed(self, job: Job, jobs: Sequence[Job]) -> None:
        """A job has started, ended, or is tried again."""

    def tick(self, jobs: Sequence[Job]) -> None:
        """Some time has passed."""


def no_more() -> Job | None:
    """Of a study: its cells are known."""


def run(
    jobs: list[Job],
    slots: Sequence[Slot],
    view: View,
    asked: Callable[[], int],
    *,
    retries: int,
    go_on: bool,
    more: Callable[[], Job | None] = no_more,
    is_hopeless: Callable[[Job], bool] = lambda job: False,
) -> int:
    """Every job to its end, as many at once as there are slots; the exit code that a signal asked for, or 0. The jobs say the rest.

    `asked` is a StopSignal: at a stop the running jobs save and stop, and no other starts; SAVE is
    passed on. One that fails is tried again `retries` times, from its last save; unless `go_on`,
    its failure stops the others so too. `more` gives a further job when none waits, or None; one
    that `is_hopeless` says of while it runs is stopped.
    """
    free, stopping, code = list(slots), False, 0
    try:
        while True:
            while (
                free
                and not stopping
                and (job := next((job for job in jobs if job.state == "waiting"), None) or more())
            ):
                if job not in jobs:
                    jobs.append(job)
                slot = free.pop(0)
                if not begin(job, slot):
                    free.append(slot)
                view.changed(job, jobs)
            running = [job for job in jobs if job.state == "running"]
            if not running:
                break
            multiprocessing.connection.wait(
                [job.process.sentinel for job in running if job.process], timeout=TICK
            )
            wish = asked()
            if wish > 0:
                code = code or wish
            if wish == SAVE:
                tell(jobs, signal.SIGUSR1)
            if not stopping and (
                code or (not go_on and any(job.state == "failed" for job in jobs))
            ):
                stopping = True
                tell(jobs, signal.SIGTERM)
            for job in running:
                if job.process is not None and job.process.exitcode is not None:
                    free.append(end(job, stopping=stopping, retries=retries))
                    view.changed(job, jobs)
                elif not job.is_unwanted and is_hopeless(job):
                    job.is_unwanted = True
                    tell([job], signal.SIGTERM)
            view.tick(jobs)
    # nobody would look after them
    except BaseException:
        tell(jobs, signal.SIGTERM)
        code = code or max(0, asked())
        if not code:
            raise
        # a signal to the whole group has ended what processes are forked from
        for job in jobs:
            job.state = "stopped" if job.state == "running" else job.state
    for job in jobs:
        if job.state == "waiting":
            job.state = "stopped" if job.attempts else "not begun"
    return code


def begin(job: Job, slot: Slot) -> bool:
    """Start the job's process, or note why that failed; whether it runs.

    A cell that goes on does so with as many threads as it had, on which its numbers depend.
    """
    job.slot, job.began, job.state = slot, time.monotonic(), "running"
    job.attempts += 1
    with suppress(OSError):
        job.said = job.cell.log.stat().st_size
    config = job.cell.config
    with suppress(UsageError):
        before = stored.load(job.cell.folder / folders.CONFIG).trainer.threads
        config = replace(
            config, trainer=replace(config.trainer, threads=before or config.trainer.threads)
        )
    try:
        job.process = workers.start(
            config, log=job.cell.log, environment=slot.environment, texts=job.cell.words.split(" ")
        )
    except OSError as error:
        job.state, job.reason = (
            "failed",
            f"cannot be started: {error.strerror or error} ({error.filename or 'a new process'})",
        )
        return False
    return True


def end(job: Job, *, stopping: bool, retries: int) -> Slot:
    """Take note of how the job's process ended; the slot that it leaves."""
    assert job.process is not None
    assert job.slot is not None
    code = job.process.exitcode
    assert code is not None
    job.seconds += time.monotonic() - job.began
    job.process.close()
    job.process = None
    if code == 0 and job.cell.is_finished:
        job.state = "finished"
    elif code == 7 or ((stopping or job.is_unwanted) and code in STOPPED):
        job.state, job.reason = (
            "stopped",
            "trainer.max_time" if code == 7 else "pruned" if job.is_unwanted else "",
        )
    else:
        job.reason = reason_of(job.cell, code, said=job.said)
        job.state = (
            "waiting"
            if not stopping and job.attempts <= retries and code not in HOPELESS
            else "failed"
        )
    return job.slot


def reason_of(cell: Cell, code: int, *, said: int = 0) -> str:
    """Why a process ended so, in one line: the signal, or the last error in its log, of which `said` bytes are from before it."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        guess = {
            "SIGKILL": ", as the system does where memory is out",
            "SIGSEGV": ", a crash in native code",
        }.get(name, "")
        return f"ended by {name}{guess}"
    try:
        with cell.log.open("rb") as file:
            file.seek(max(said, cell.log.stat().st_size - WORST))
            lines = [
                line.strip()
                for line in file.read().decode(errors="replace").splitlines()
                if line.strip()
            ]
    except OSError:
        lines = []
    errors = [line for line in lines if line.startswith("error: ")] or lines
    return f"exit code {code}" + (f": {errors[-1].removeprefix('error: ')}" if errors else "")


def tell(jobs: Sequence[Job], number: signal.Signals) -> None:
    """Send a signal to every running process."""
    for job in jobs:
        if job.process is not None and job.process.pid is not None:
            # it has just ended
            with suppress(OSError):
                os.kill(job.process.pid, number)


def step_of(job: Job) -> tuple[int, float] | None:
    """Where a running cell stood at its last evaluation: optimizer steps and seconds of training; None before the first one."""
    try:
        with (job.cell.folder / "timing.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 300))
            row = json.loads(file.read().splitlines()[-1])
            return int(row["step"]), float(row["seconds"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
