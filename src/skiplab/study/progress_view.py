"""How a study is told while it runs: one live table on a terminal, lines elsewhere; and the table at its end. Imports no torch."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from skiplab.machine.signals import hang_up
from skiplab.runs import status
from skiplab.study import supervisor
from skiplab.study.supervisor import Job
from skiplab.words import counted, duration, percent

# rows of the live table
SHOWN = 12
STATES = ("finished", "running", "failed", "stopped", "waiting")


@dataclass(frozen=True)
class Best:
    """The best finished cell so far, by validation accuracy."""

    words: str
    accuracy: float


class Told:
    """What both views know of the jobs."""

    def __init__(self, *, slots: int, total: int | None = None):
        # None: the jobs are all known
        self.slots, self.total = slots, total
        self.best: Best | None = None
        # of finished cells, by folder: read once
        self.states: dict[str, status.Status] = {}

    def state(self, job: Job) -> status.Status:
        """What the run's folder says."""
        key = str(job.cell.folder)
        if job.state != "finished":
            return status.read(job.cell.folder)
        if key not in self.states:
            self.states[key] = found = status.read(job.cell.folder)
            if found.val_accuracy is not None and (
                self.best is None or found.val_accuracy > self.best.accuracy
            ):
                self.best = Best(job.cell.words, found.val_accuracy)
        return self.states[key]

    def summary(self, jobs: Sequence[Job]) -> str:
        """`12 of 60 done, 2 running, 1 failed; about 3:20 left; best so far ...`."""
        counts = {state: sum(job.state == state for job in jobs) for state in STATES}
        told = [f"{counts['finished']} of {self.total or len(jobs)} done"]
        told += [
            f"{counts[state]} {state}"
            for state in ("running", "failed", "stopped")
            if counts[state]
        ]
        words = ", ".join(told)
        if (left := self.left(jobs)) is not None:
            words += f"; about {duration(left)} left"
        if self.best is not None:
            words += f"; best on validation so far {percent(self.best.accuracy)}: {self.best.words}"
        return words

    def left(self, jobs: Sequence[Job]) -> float | None:
        """Seconds until the end, if every cell takes as long as those of this call have; None before the first one has ended."""
        took = [job.seconds for job in jobs if job.state == "finished" and not job.before]
        if not took or all(job.is_over for job in jobs):
            return None
        mean, now = sum(took) / len(took), time.monotonic()
        ahead = sum(mean for job in jobs if job.state == "waiting")
        ahead += sum(max(0.0, mean - (now - job.began)) for job in jobs if job.state == "running")
        return ahead / self.slots


class Lines(Told):
    """A line whenever a cell starts, ends or is tried again."""

    def __init__(self, *, slots: int, stream: TextIO, total: int | None = None):
        super().__init__(slots=slots, total=total)
        self.stream = stream

    def changed(self, job: Job, jobs: Sequence[Job]) -> None:
        """The line."""
        over, total = sum(each.is_over for each in jobs), self.total or len(jobs)
        try:
            print(
                f"[{over:>{len(str(total))}}/{total}] {self.words(job)}",
                file=self.stream,
                flush=True,
            )
        # nobody reads any more: the study goes on, and says nothing
        except OSError:
            hang_up()

    def words(self, job: Job) -> str:
        """What has become of a cell."""
        if job.state == "finished":
            found = self.state(job)
            told = [("validation", found.val_accuracy), ("test", found.test_accuracy)]
            words = [
                f"{split} {percent(accuracy)}" for split, accuracy in told if accuracy is not None
            ]
            return "  ".join(
                [f"done     {job.cell.words}", *words, f"{duration(job.seconds)} in all"]
            )
        if job.state == "failed":
            return f"FAILED   {job.cell.words}: {job.reason}; log {job.cell.log}"
        if job.state == "waiting":
            return f"again    {job.cell.words} after {job.reason} (attempt {job.attempts + 1})"
        return f"{job.state:<8} {job.cell.words}" + (
            f" ({job.reason})" if job.state == "stopped" and job.reason else ""
        )

    def tick(self, jobs: Sequence[Job]) -> None:
        """Nothing: lines come when something happens."""

    def close(self) -> None:
        """Nothing is to be taken away."""


class Live(Lines):
    """A table that is redrawn in place, failures as lines above it."""

    def __init__(self, *, slots: int, stream: TextIO, total: int | None = None):
        super().__init__(slots=slots, stream=stream, total=total)
        from rich.console import Console
        from rich.live import Live as Redrawn

        self.console = Console(file=stream)
        self.redrawn = Redrawn(console=self.console, refresh_per_second=4, transient=True)
        self.redrawn.start()
        # a second Ctrl-C ends the process before it could
        self.console.show_cursor()

    def changed(self, job: Job, jobs: Sequence[Job]) -> None:
        """Announce a failure at once; all else is in the table."""
        if job.state in ("failed", "waiting"):
            self.redrawn.console.print(
                self.words(job), markup=False, highlight=False, soft_wrap=True
            )
        self.tick(jobs)

    def tick(self, jobs: Sequence[Job]) -> None:
        """Draw anew."""
        self.redrawn.update(self.table(jobs))

    def table(self, jobs: Sequence[Job]) -> Any:
        """The running cells and the last that ended, under one line of figures."""
        from rich.table import Table
        from rich.text import Text

        ended = [job for job in jobs if job.is_over and not job.before]
        for job in ended:
            # for the best so far
            self.state(job)
        table = Table(
            title=Text(self.summary(jobs)),
            title_justify="left",
            title_style="bold",
            box=None,
            padding=(0, 2, 0, 0),
        )
        for heading in ("state", "cell", "step", "validation", "time"):
            table.add_column(heading, overflow="fold")
        running = [job for job in jobs if job.state == "running"]
        for job in [*running, *ended[::-1]][:SHOWN]:
            table.add_row(
                *map(Text, self.row(job)),
                style={"running": "green", "failed": "red", "finished": "dim"}.get(job.state),
            )
        return table

    def row(self, job: Job) -> tuple[str, ...]:
        """The cells of one job."""
        if job.state == "running":
            stood = supervisor.step_of(job)
            return (
                job.state,
                job.cell.words,
                f"{stood[0]:,}" if stood else "-",
                "-",
                duration(time.monotonic() - job.began),
            )
        found = self.state(job)
        steps = "-" if found.step is None else f"{found.step:,}"
        return job.state, job.cell.words, steps, percent(found.val_accuracy), duration(job.seconds)

    def close(self) -> None:
        """Take the table away."""
        self.redrawn.stop()


def of_terminal(*, slots: int, total: int | None = None) -> Lines:
    """The view that suits stdout."""
    return (Live if sys.stdout.isatty() else Lines)(slots=slots, stream=sys.stdout, total=total)


def closing_table(jobs: Sequence[Job], state_of: Callable[[Job], status.Status]) -> str:
    """Every cell: state, accuracies, seconds of training, and its folder, or the log and the reason of a failure."""
    rows = [("state", "cell", "validation", "test", "training, s", "run folder, or log")]
    for job in jobs:
        found = state_of(job)
        seconds = "-" if found.seconds is None else f"{found.seconds:.1f}"
        where = (
            f"{shlex.quote(str(job.cell.log))}: {shortened(job.reason)}"
            if job.state == "failed"
            else shlex.quote(str(job.cell.folder))
        )
        state = "done before" if job.before else "done" if job.state == "finished" else job.state
        rows.append(
            (
                state,
                job.cell.words,
                percent(found.val_accuracy),
                percent(found.test_accuracy),
                seconds,
                where,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]])
        for row in rows
    )


def shortened(text: str, *, most: int = 80) -> str:
    """A text cut off where it is longer; it was told whole when it happened."""
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def closing_words(jobs: Sequence[Job]) -> str:
    """`8 of 8 cells done`, with what else became of them."""
    done, before = (sum(job.state == "finished" for job in jobs), sum(job.before for job in jobs))
    words = f"sweep: {done} of {counted(len(jobs), 'cell')} done" + (
        f" ({before} before)" if before else ""
    )
    for state in ("failed", "stopped", "not begun"):
        if number := sum(job.state == state for job in jobs):
            words += f", {number} {state}"
    return words
