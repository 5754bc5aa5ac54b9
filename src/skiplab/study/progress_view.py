"""Show a study while it runs, by a live table on a terminal or by lines; and the table at its end.

Imports no torch.
"""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from skiplab.config import rules
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


@dataclass
class Pace:
    """How fast a running cell goes, as its log points tell."""

    # When it was looked at first, and the step that it stood at.
    began: float
    first: int
    num_steps: int
    batch_size: int
    # The last log point, and when it was seen.
    step: int
    seen: float
    num_points: int = 0

    @property
    def is_steady(self) -> bool:
        """Whether the pace is measured between log points, without the start."""
        return self.num_points > 1

    @property
    def seconds_per_step(self) -> float:
        return (self.seen - self.began) / (self.step - self.first)

    def rest(self, now: float) -> float:
        """Return the seconds until the last step."""
        left = (self.num_steps - self.step) * self.seconds_per_step
        return max(0.0, left - (now - self.seen))

    def note(self, step: int, now: float) -> None:
        """Take in a log point.

        A run that went back to a save begins again there. The first log point comes late, since a
        start takes seconds; from the second on, the time between log points counts.
        """
        if step < self.step:
            self.began, self.first, self.step, self.seen = now, step, step, now
            self.num_points = 0
        elif step > self.step:
            self.num_points += 1
            if self.num_points == 2:
                self.began, self.first = self.seen, self.step
            self.step, self.seen = step, now


class Progress:
    """What both views know of the jobs.

    `slots` is how many jobs run at a time, `total` how many there will be; None: all are known.
    """

    def __init__(self, *, slots: int, total: int | None = None):
        self.slots = slots
        self.total = total
        self.best: Best | None = None
        # Of the cells that run, by their folders and attempts.
        self.paces: dict[tuple[str, int], Pace] = {}
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

    def pace(self, job: Job) -> Pace | None:
        """Return how fast a running cell goes; None before its first log point."""
        key, now = (str(job.cell.folder), job.attempts), time.monotonic()
        step = supervisor.step_of(job) or 0
        if key not in self.paces:
            config = job.cell.config
            num_steps = config.steps or config.epochs * rules.steps_per_epoch(config)
            num_steps = min(num_steps, config.trainer.limit_steps or num_steps)
            self.paces[key] = Pace(job.began, step, num_steps, config.batch_size, step, job.began)
        pace = self.paces[key]
        pace.note(step, now)
        return pace if pace.step > pace.first else None

    def left(self, jobs: Sequence[Job]) -> float | None:
        """Return the seconds until the end; None before the second log point of a cell.

        A running cell goes on at its pace. A waiting one lasts as long as the mean of those that
        this call has finished, or else as the mean of those that run.
        """
        if all(job.is_over for job in jobs):
            return None
        took = [job.seconds for job in jobs if job.state == "finished" and not job.before]
        now = time.monotonic()
        # Of running cells: the seconds until the end, and those of their whole runs.
        rests: list[float] = []
        expected: list[float] = []
        for job in jobs:
            if job.state != "running":
                continue
            spent, pace = now - job.began, self.pace(job)
            if pace is not None and pace.is_steady:
                rests.append(pace.rest(now))
                expected.append(spent + rests[-1])
            elif took:
                rests.append(max(0.0, sum(took) / len(took) - spent))
        took = took or expected
        if not took:
            return None
        mean = sum(took) / len(took)
        ahead = mean * sum(job.state == "waiting" for job in jobs) + sum(rests)
        # The last cell is nobody's to share.
        return max([ahead / self.slots, *rests])


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
        for heading in ("state", "cell", "step", "val", "img/s", "time"):
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
            pace, spent = self.pace(job), duration(time.monotonic() - job.began)
            if pace is None:
                return job.state, label, "-", "-", "-", spent
            step = f"{pace.step:,} of {pace.num_steps:,}"
            speed = "-"
            if pace.is_steady:
                speed = f"{pace.batch_size / pace.seconds_per_step:,.0f}"
            return job.state, label, step, "-", speed, spent
        found = self.state(job)
        step = "-" if found.step is None else f"{found.step:,}"
        spent = duration(job.seconds)
        return job.state, label, step, percent(found.val_accuracy), "-", spent

    def close(self) -> None:
        """Remove the table."""
        self.redrawn.stop()


def make_view(*, slots: int, total: int | None = None) -> Lines:
    """Make the view that suits stdout: live on a terminal, lines elsewhere."""
    view = Live if sys.stdout.isatty() else Lines
    return view(slots=slots, stream=sys.stdout, total=total)


def closing_table(jobs: Sequence[Job], state_of: Callable[[Job], status.Status]) -> str:
    """Return the table of cells: state, accuracies, seconds of training, and its folder.

    A key that tells the cells apart has a column of its own. The folder that all lie in is named
    once, above the table. A failed cell has its log and its reason in place of its folder.
    """
    parent = os.path.commonpath([job.cell.folder.parent for job in jobs])
    keys, values = by_key([job.cell.label for job in jobs])
    heading = ("state", *keys, "val %", "test %", "seconds", "run folder, or log")
    rows: list[tuple[str, ...]] = [heading]
    for job, labels in zip(jobs, values, strict=True):
        found = state_of(job)
        state = "done" if job.state == "finished" else job.state
        where = shlex.quote(os.path.relpath(job.cell.folder, parent))
        if job.state == "failed":
            log = shlex.quote(os.path.relpath(job.cell.log, parent))
            where = f"{log}: {shorten(job.reason)}"
        row = (
            "done before" if job.before else state,
            *labels,
            percent(found.val_accuracy).removesuffix(" %"),
            percent(found.test_accuracy).removesuffix(" %"),
            "-" if found.seconds is None else f"{found.seconds:.1f}",
            where,
        )
        rows.append(row)
    place = f"in {shlex.quote(parent)}:\n" if parent else ""
    return place + align(rows)


def by_key(labels: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the keys of cells' labels, and of each label its values in their order.

    Labels without the same keys are one column, `cell`.
    """
    parts = [[part.split("=", 1) for part in label.split(" ")] for label in labels]
    keys = [pair[0] for pair in parts[0]]
    alike = all([pair[0] for pair in pairs] == keys for pairs in parts)
    if not alike or any(len(pair) < 2 for pairs in parts for pair in pairs):
        return ["cell"], [[label] for label in labels]
    return keys, [[pair[1] for pair in pairs] for pairs in parts]


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
