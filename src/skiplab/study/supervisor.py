"""Run the cells of a study, each in its own process: start, watch, record what became of each.

Imports no torch.
"""

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
from skiplab.machine.decisions import SAVE, Decision
from skiplab.machine.signals import EXIT_CODES
from skiplab.runs import contents, folders
from skiplab.study import workers
from skiplab.study.plan import Cell
from skiplab.study.slots import Slot

# The supervisor looks at the signals and updates the view every so many seconds.
TICK = 0.2
# A process exits with one of these after a signal: it has saved, or had nothing to save yet.
STOP_CODES = (*EXIT_CODES.values(), -signal.SIGTERM)
# After these exit codes the same run would end the same: bad config or data, the folder,
# divergence.
FINAL_CODES = (2, 4, 5)
# An error is looked for in this many bytes at the end of a log.
LOG_TAIL = 4_000
# A cell's last row of metrics is looked for in this many bytes at the end of their file.
ROWS_TAIL = 20_000


@dataclass
class Job:
    """A cell on its way: waiting, running, finished, failed or stopped.

    At the end of a stopped sweep it may also be "not begun".
    """

    cell: Cell
    state: str = "waiting"
    # The cell was finished before this call.
    before: bool = False
    attempts: int = 0
    # This is one line, after a failure.
    reason: str = ""
    # The last attempt started at this value of time.monotonic().
    began: float = 0.0
    # All attempts of this call took this long.
    seconds: float = 0.0
    # The log had this many bytes before the last attempt.
    log_start: int = 0
    # The pruner has stopped it.
    is_pruned: bool = False
    process: BaseProcess | None = None
    slot: Slot | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "failed", "stopped")


class View(Protocol):
    """Shows what happens."""

    def changed(self, job: Job, jobs: Sequence[Job]) -> None:
        """Show that a job has started, ended, or is tried again."""

    def tick(self, jobs: Sequence[Job]) -> None:
        """Show that some time has passed."""


def no_further_job() -> Job | None:
    """Return None: a study's cells are all known at the start."""


def never_prune(_job: Job) -> bool:
    """Return False: a study runs each of its cells to the end."""
    return False


@dataclass(frozen=True)
class Policy:
    """How a study's jobs are run.

    A job that fails is tried again `retries` times, from its last save. Unless `go_on`, a failure
    stops the other jobs. `next_job` gives a further job when none waits, or None. A running job
    is stopped when `should_prune` says so.
    """

    retries: int
    go_on: bool
    next_job: Callable[[], Job | None] = no_further_job
    should_prune: Callable[[Job], bool] = never_prune


def run(
    jobs: list[Job],
    slots: Sequence[Slot],
    view: View,
    request: Callable[[], Decision],
    policy: Policy,
) -> int:
    """Run every job to its end, as many at once as there are slots; `jobs` record the outcome.

    Returns the exit code that a signal asked for, or 0. `request` is a StopSignal: at a stop the
    running jobs save and stop, and no other job starts. SAVE is passed on to them.
    """
    return Supervisor(jobs, slots, view, request, policy).run()


class Supervisor:
    """Starts jobs in free slots, passes signals on, and collects what has ended."""

    def __init__(
        self,
        jobs: list[Job],
        slots: Sequence[Slot],
        view: View,
        request: Callable[[], Decision],
        policy: Policy,
    ):
        self.jobs = jobs
        self.free = list(slots)
        self.view = view
        self.request = request
        self.policy = policy
        self.is_stopping = False
        self.code = 0

    def run(self) -> int:
        """Run every job to its end; the exit code that a signal asked for, or 0."""
        try:
            self.run_all()
        # Without this process nobody would look after the jobs, so stop them, whatever happened.
        except BaseException:
            send_signal(self.jobs, signal.SIGTERM)
            self.code = self.code or self.request().exit_code
            if not self.code:
                raise
            # A signal to the whole group has also ended the process that jobs are forked from.
            for job in self.jobs:
                job.state = "stopped" if job.state == "running" else job.state
        for job in self.jobs:
            if job.state == "waiting":
                job.state = "stopped" if job.attempts else "not begun"
        return self.code

    def run_all(self) -> None:
        """Start and watch jobs until none runs and none may start."""
        while True:
            self.start_jobs()
            running = [job for job in self.jobs if job.state == "running"]
            if not running:
                return
            sentinels = [job.process.sentinel for job in running if job.process]
            multiprocessing.connection.wait(sentinels, timeout=TICK)
            self.pass_signals_on()
            for job in running:
                self.look_after(job)
            self.view.tick(self.jobs)

    def start_jobs(self) -> None:
        """Start waiting jobs, then further ones, while slots are free."""
        while self.free and not self.is_stopping:
            waiting = next((job for job in self.jobs if job.state == "waiting"), None)
            job = waiting or self.policy.next_job()
            if job is None:
                return
            if job not in self.jobs:
                self.jobs.append(job)
            slot = self.free.pop(0)
            if not start_job(job, slot):
                self.free.append(slot)
            self.view.changed(job, self.jobs)

    def pass_signals_on(self) -> None:
        """Pass a stop or a save on to the running jobs; stop them after a failure that counts."""
        requested = self.request()
        self.code = self.code or requested.exit_code
        if requested == SAVE:
            send_signal(self.jobs, signal.SIGUSR1)
        has_failed = any(job.state == "failed" for job in self.jobs)
        if not self.is_stopping and (self.code or (has_failed and not self.policy.go_on)):
            self.is_stopping = True
            send_signal(self.jobs, signal.SIGTERM)

    def look_after(self, job: Job) -> None:
        """Collect a running job that has ended, or stop it if it should be pruned."""
        if job.process is not None and job.process.exitcode is not None:
            slot = collect(job, is_stopping=self.is_stopping, retries=self.policy.retries)
            self.free.append(slot)
            self.view.changed(job, self.jobs)
        elif not job.is_pruned and self.policy.should_prune(job):
            job.is_pruned = True
            send_signal([job], signal.SIGTERM)


def start_job(job: Job, slot: Slot) -> bool:
    """Start the job's process, or record why that failed; return whether it runs.

    A cell that goes on keeps its number of threads, on which its numbers depend.
    """
    job.slot = slot
    job.began = time.monotonic()
    job.state = "running"
    job.attempts += 1
    with suppress(OSError):
        job.log_start = job.cell.log.stat().st_size
    config = job.cell.config
    with suppress(UsageError):
        before = stored.load(job.cell.folder / folders.CONFIG).trainer.threads
        threads = before or config.trainer.threads
        config = replace(config, trainer=replace(config.trainer, threads=threads))
    texts = job.cell.label.split(" ")
    try:
        job.process = workers.start(
            config, log=job.cell.log, environment=slot.environment, texts=texts
        )
    except OSError as error:
        what = error.filename or "a new process"
        job.state = "failed"
        job.reason = f"cannot be started: {error.strerror or error} ({what})"
        return False
    return True


def collect(job: Job, *, is_stopping: bool, retries: int) -> Slot:
    """Record how the job's process ended; return the slot that it frees."""
    assert job.process is not None
    assert job.slot is not None
    code = job.process.exitcode
    assert code is not None
    job.seconds += time.monotonic() - job.began
    job.process.close()
    job.process = None
    if code == 0 and job.cell.is_finished:
        job.state = "finished"
    elif code == 7:
        job.state = "stopped"
        job.reason = "trainer.max_time"
    elif (is_stopping or job.is_pruned) and code in STOP_CODES:
        job.state = "stopped"
        job.reason = "pruned" if job.is_pruned else ""
    else:
        may_retry = not is_stopping and job.attempts <= retries and code not in FINAL_CODES
        job.state = "waiting" if may_retry else "failed"
        job.reason = reason_of(job.cell, code, log_start=job.log_start)
    return job.slot


def reason_of(cell: Cell, code: int, *, log_start: int = 0) -> str:
    """Return in one line why a process ended: the signal, or the last error in its log.

    The first `log_start` bytes of the log are of earlier attempts.
    """
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        guess = {
            "SIGKILL": ", as the system does where memory is out",
            "SIGSEGV": ", a crash in native code",
        }.get(name, "")
        return f"ended by {name}{guess}"
    try:
        with cell.log.open("rb") as file:
            file.seek(max(log_start, cell.log.stat().st_size - LOG_TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")] or lines
    return f"exit code {code}" + (f": {errors[-1].removeprefix('error: ')}" if errors else "")


def send_signal(jobs: Sequence[Job], number: signal.Signals) -> None:
    """Send a signal to every running process."""
    for job in jobs:
        if job.process is not None and job.process.pid is not None:
            # A process may have ended just now.
            with suppress(OSError):
                os.kill(job.process.pid, number)


def step_of(job: Job) -> int | None:
    """Return the optimizer step of a running cell's last log point; None before the first."""
    try:
        with (job.cell.folder / contents.METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - ROWS_TAIL))
            rows = file.read().split(b"\n")[:-1]
    except OSError:
        return None
    for row in reversed(rows):
        # The first of them may be cut, and a row of an evaluation or a probe has its step too.
        with suppress(ValueError, KeyError, TypeError):
            return int(json.loads(row)["step"])
    return None
