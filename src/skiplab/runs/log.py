"""What a run records while it trains.

Lines go to the console and to run.log, a progress bar to a terminal, numbers to metrics.jsonl and
timing.jsonl.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from skiplab.machine import signals, streams
from skiplab.runs.epochs import WIDTH, Evaluated, lines

# By default tqdm's lock is a semaphore of the system, which a killed run would leave behind.
tqdm.set_lock(threading.RLock())
# Seconds after which a run without a bar shows that it lives.
QUIET = 30
# The bar of a run: without the rate, so that the losses fit into 80 columns.
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


@contextmanager
def counting(total: int, *, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a bar of `total` things on a terminal; it gives what counts some of them as done."""
    if not sys.stderr.isatty():
        yield lambda _number: None
        return
    colour = None if os.environ.get("NO_COLOR") else "green"
    with tqdm(total=total, unit=unit, colour=colour, dynamic_ncols=True, leave=False) as bar:

        def advance(number: int) -> None:
            # The terminal may be closed.
            with suppress(OSError):
                bar.update(number)

        yield advance


class Log:
    """The log of one run folder.

    Metrics hold nothing of clock, machine or history, so that they are the same after any kill.
    """

    def __init__(self, folder: Path, *, console: bool = True):
        self.folder, self.console = folder, console
        # A line may name a folder, whose name may be any bytes.
        self.file = (folder / "run.log").open("a", encoding="utf-8", errors="backslashreplace")
        self.metrics = (folder / "metrics.jsonl").open("ab")
        self.timing = (folder / "timing.jsonl").open("a", encoding="utf-8")
        self.bar: tqdm[Any] | None = None
        self.last_line = time.monotonic()
        # Columns of the table of evaluations, once its heading is written.
        self.width: int | None = None

    def record(self, text: str) -> None:
        """Write a line to run.log only.

        A full disk ends a run where it saves, not here: a lost line loses no result.
        """
        with suppress(OSError):
            self.file.write(text + "\n")
            self.file.flush()

    def line(self, text: str) -> None:
        """Write a line to run.log and to the console, above the progress bar if there is one.

        The console's is broken where the terminal ends.
        """
        self.last_line = time.monotonic()
        self.record(text)
        if not self.console:
            return
        try:
            tqdm.write(streams.fitted(text, sys.stdout), file=sys.stdout)
            sys.stdout.flush()
        except OSError:
            self.hang_up()

    def hang_up(self) -> None:
        """Write to run.log only from now on.

        The terminal was closed, or nobody reads the pipe any more. The run goes on.
        """
        self.console, self.bar = False, None
        signals.hang_up()

    def evaluation(self, shown: Evaluated) -> None:
        """Write the line of an evaluation, and before the first one of this session the heading."""
        if self.width is None:
            self.width = streams.columns(sys.stdout) or WIDTH
            # A terminal breaks a line that fills its last column.
            self.line(lines(shown, width=self.width - 1)[0])
        self.line(lines(shown, width=self.width - 1)[1])

    def start_bar(self, *, step: int, num_steps: int) -> None:
        """Show a bar of optimizer steps, only on a terminal. NO_COLOR keeps it plain."""
        if self.console and sys.stderr.isatty():
            colour = None if os.environ.get("NO_COLOR") else "green"
            self.bar = tqdm(
                total=num_steps,
                initial=step,
                unit="step",
                colour=colour,
                dynamic_ncols=True,
                mininterval=0.2,
                leave=False,
                bar_format=BAR,
            )

    def advance(self) -> None:
        """Move the bar by one step."""
        if self.bar is not None:
            try:
                self.bar.update()
            except OSError:
                self.hang_up()

    def show(self, values: Mapping[str, str], *, always: bool = False) -> None:
        """Show values behind the bar.

        Without a bar they are a line, if the last line is half a minute old. With `always` they are
        a line in any case.
        """
        if self.bar is not None:
            # The bar has the step itself, and the table the speed.
            shown = {name: values[name] for name in values if name not in ("step", "img/s")}
            self.bar.set_postfix(shown, refresh=False)
        if always or (self.bar is None and time.monotonic() - self.last_line >= QUIET):
            self.line("  ".join(f"{name} {value}" for name, value in values.items()))

    def stop_bar(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def metric(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to metrics.jsonl. Raises ValueError for a number that is not finite."""
        self.metrics.write(
            b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
        )
        # A study that runs this shows how far it is.
        self.metrics.flush()

    def metrics_size(self) -> int:
        """Return how many bytes metrics.jsonl holds."""
        self.metrics.flush()
        return self.metrics.tell()

    def sync_metrics(self) -> None:
        """Sync metrics.jsonl to the disk, before a checkpoint that counts its bytes is written."""
        os.fsync(self.metrics.fileno())

    def truncate_metrics(self, size: int) -> bool:
        """Cut metrics.jsonl to `size` bytes: the steps after that will be run again.

        Returns False if rows of earlier steps are missing.
        """
        whole = self.metrics_size() >= size
        # The file is too short: cut it after its last whole row.
        if not whole:
            size = (self.folder / "metrics.jsonl").read_bytes().rfind(b"\n") + 1
        self.metrics.truncate(size)
        self.metrics.seek(size)
        return whole

    def time(self, **row: float) -> None:
        """Append a row to timing.jsonl. Other processes can read it now, and the metrics so far."""
        self.metrics.flush()
        self.timing.write(json.dumps(row) + "\n")
        self.timing.flush()

    def close(self) -> None:
        """Take the bar away and close the files."""
        self.stop_bar()
        # A full disk ends no run here: see `record`.
        with suppress(OSError):
            self.file.close()
        for file in (self.metrics, self.timing):
            file.close()


class Silence(Log):
    """The log of a process that writes nothing, since another one does."""

    def __init__(self) -> None:
        self.console = False
        self.bar = None
        self.width = None
        self.last_line = time.monotonic()

    def record(self, text: str) -> None: ...

    def line(self, text: str) -> None: ...

    def metric(self, rows: Iterable[Mapping[str, Any]]) -> None: ...

    def metrics_size(self) -> int:
        return 0

    def truncate_metrics(self, size: int) -> bool:
        return True

    def time(self, **row: float) -> None: ...

    def close(self) -> None: ...
