"""Show a study while it runs, by a live table on a terminal or by lines; and the table at its end.

Imports no torch.
"""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from skiplab.machine.signals import hang_up
from skiplab.runs import status
from skiplab.study import supervisor
from skiplab.study.supervisor import Job
from skiplab.words import counted, duration, percent

if TYPE_CHECKING:
    from rich.table import Table

# The live table has this many rows at most.
MAX_ROWS = 12
# A failure's reason is cut at this many characters in the closing table.
LONGEST_REASON = 80
STATES = ("finished", "running", "failed", "stopped", "waiting")


@dataclass(frozen=True)
class Best:
    """The best finished cell so far, by validation accuracy."""

    label: str
    accuracy: float


class Progress:
    """What both views know of the jobs.

    `slots` is how many jobs run at a time, `total` how many there will be; None: all are known.
    """

    def __init__(self, *, slots: int, total: int | None = None):
        self.slots = slots
        self.total = total
        self.best: Best | None = None
        # The state of a finished cell is read once. The keys are run folders.
        self.states: dict[str, status.Status] = {}

    def state(self, job: Job) -> status.Status:
        """Read what the run's folder says."""
        key = str(job.cell.folder)
        if job.state != "finished":
            return status.read(job.cell.folder)
        if key not in self.states:
            self.states[key] = found = status.read(job.cell.folder)
            accuracy = found.val_accuracy
            if accuracy is not None and (self.best is None or accuracy > self.best.accuracy):
                self.best = Best(job.cell.label, accuracy)
        return self.states[key]

    def summary(self, jobs: Sequence[Job]) -> str:
        """Return `12 of 60 done, 2 running, 1 failed; about 3:20 left; best so far ...`."""
        counts = {state: sum(job.state == state for job in jobs) for state in STATES}
        parts = [f"{counts['finished']} of {self.total or len(jobs)} done"]
        parts += [
            f"{counts[state]} {state}"
            for state in ("running", "failed", "stopped")
            if counts[state]
        ]
        words = ", ".join(parts)
        if (left := self.left(jobs)) is not None:
            words += f"; about {duration(left)} left"
        if self.best is not None:
            words += f"; best on validation so far {percent(self.best.accuracy)}: {self.best.label}"
        return words

    def left(self, jobs: Sequence[Job]) -> float | None:
        """Return the seconds until the end; None before the first cell of this call has ended.

        Each cell is taken to last as long as the mean of those that this call has finished.
        """
        took = [job.seconds for job in jobs if job.state == "finished" and not job.before]
        if not took or all(job.is_over for job in jobs):
            return None
        mean, now = sum(took) / len(took), time.monotonic()
        ahead = sum(mean for job in jobs if job.state == "waiting")
        ahead += sum(max(0.0, mean - (now - job.began)) for job in jobs if job.state == "running")
        return ahead / self.slots


class Lines(Progress):
    """A line whenever a cell starts, ends or is tried again."""

    def __init__(self, *, slots: int, stream: TextIO, total: int | None = None):
        super().__init__(slots=slots, total=total)
        self.stream = stream

    def changed(self, job: Job, jobs: Sequence[Job]) -> None:
        """Print the line."""
        over, total = sum(each.is_over for each in jobs), self.total or len(jobs)
        line = f"[{over:>{len(str(total))}}/{total}] {self.line(job)}"
        try:
            print(line, file=self.stream, flush=True)
        # Nobody reads any more, so the study goes on in silence.
        except OSError:
            hang_up()

    def line(self, job: Job) -> str:
        """Return what has become of a cell."""
        label = job.cell.label
        if job.state == "finished":
            found = self.state(job)
            shares = [("validation", found.val_accuracy), ("test", found.test_accuracy)]
            words = [f"{split} {percent(share)}" for split, share in shares if share is not None]
            return "  ".join([f"done     {label}", *words, f"{duration(job.seconds)} in all"])
        if job.state == "failed":
            return f"FAILED   {label}: {job.reason}; log {job.cell.log}"
        if job.state == "waiting":
            return f"again    {label} after {job.reason} (attempt {job.attempts + 1})"
        reason = f" ({job.reason})" if job.state == "stopped" and job.reason else ""
        return f"{job.state:<8} {label}{reason}"

    def tick(self, jobs: Sequence[Job]) -> None:
        """Do nothing: lines come when something happens."""

    def close(self) -> None:
        """Do nothing: lines stay."""


class Live(Lines):
    """A table that is redrawn in place, with failures as lines above it."""

    def __init__(self, *, slots: int, stream: TextIO, total: int | None = None):
        super().__init__(slots=slots, stream=stream, total=total)
        from rich.console import Console
        from rich.live import Live as Redrawn

        self.console = Console(file=stream)
        self.redrawn = Redrawn(console=self.console, refresh_per_second=4, transient=True)
        self.redrawn.start()
        # A second Ctrl-C ends the process before it could show the cursor again.
        self.console.show_cursor()

    def changed(self, job: Job, jobs: Sequence[Job]) -> None:
        """Print a failure at once; all else is in the table."""
        if job.state in ("failed", "waiting"):
            line = self.line(job)
            self.redrawn.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.tick(jobs)

    def tick(self, jobs: Sequence[Job]) -> None:
        """Redraw the table."""
        self.redrawn.update(self.table(jobs))

    def table(self, jobs: Sequence[Job]) -> "Table":
        """Make a table of the running cells and the last that ended, under a line of figures."""
        from rich.table import Table
        from rich.text import Text

        ended = [job for job in jobs if job.is_over and not job.before]
        for job in ended:
            # Reading the states finds the best one so far.
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
        styles = {"running": "green", "failed": "red", "finished": "dim"}
        for job in [*running, *ended[::-1]][:MAX_ROWS]:
            table.add_row(*map(Text, self.row(job)), style=styles.get(job.state))
        return table

    def row(self, job: Job) -> tuple[str, ...]:
        """Return the texts of one job's row."""
        label = job.cell.label
        if job.state == "running":
            stood = supervisor.step_of(job)
            step = f"{stood[0]:,}" if stood else "-"
            return job.state, label, step, "-", duration(time.monotonic() - job.began)
        found = self.state(job)
        step = "-" if found.step is None else f"{found.step:,}"
        return job.state, label, step, percent(found.val_accuracy), duration(job.seconds)

    def close(self) -> None:
        """Remove the table."""
        self.redrawn.stop()


def make_view(*, slots: int, total: int | None = None) -> Lines:
    """Make the view that suits stdout: live on a terminal, lines elsewhere."""
    view = Live if sys.stdout.isatty() else Lines
    return view(slots=slots, stream=sys.stdout, total=total)


def closing_table(jobs: Sequence[Job], state_of: Callable[[Job], status.Status]) -> str:
    """Return the table of every cell: state, accuracies, seconds of training, and its folder.

    A failed cell has its log and its reason in place of its folder.
    """
    rows = [("state", "cell", "validation", "test", "training, s", "run folder, or log")]
    for job in jobs:
        found = state_of(job)
        state = "done" if job.state == "finished" else job.state
        where = shlex.quote(str(job.cell.folder))
        if job.state == "failed":
            where = f"{shlex.quote(str(job.cell.log))}: {shorten(job.reason)}"
        row = (
            "done before" if job.before else state,
            job.cell.label,
            percent(found.val_accuracy),
            percent(found.test_accuracy),
            "-" if found.seconds is None else f"{found.seconds:.1f}",
            where,
        )
        rows.append(row)
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines with aligned columns; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for *padded, last in rows:
        texts = [text.ljust(width) for text, width in zip(padded, widths[:-1], strict=True)]
        lines.append("  ".join([*texts, last]))
    return "\n".join(lines)


def shorten(text: str) -> str:
    """Cut a text that is too long for a table; it was printed whole when it happened."""
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 4]} ..."


def closing_line(jobs: Sequence[Job]) -> str:
    """Return `8 of 8 cells done`, with what else became of them."""
    done = sum(job.state == "finished" for job in jobs)
    before = sum(job.before for job in jobs)
    words = f"sweep: {done} of {counted(len(jobs), 'cell')} done"
    words += f" ({before} before)" if before else ""
    for state in ("failed", "stopped", "not begun"):
        if number := sum(job.state == state for job in jobs):
            words += f", {number} {state}"
    return words
