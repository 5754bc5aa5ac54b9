"""What a run says while it runs: lines on the console and in run.log, a progress bar on a terminal, metrics.jsonl, timing.jsonl."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from skiplab.machine import signals

# its own default is a semaphore of the system, which a killed run would leave behind
tqdm.set_lock(threading.RLock())
# seconds after which a run without a bar says that it lives
QUIET = 30


class Log:
    """The log of one run folder. Metrics hold nothing of clock, machine or history, so that they are the same after any kill."""

    def __init__(self, folder: Path, *, console: bool = True):
        self.folder, self.console = folder, console
        # of a folder's name, anything
        self.file = (folder / "run.log").open("a", encoding="utf-8", errors="backslashreplace")
        self.metrics = (folder / "metrics.jsonl").open("ab")
        self.timing = (folder / "timing.jsonl").open("a", encoding="utf-8")
        self.bar: tqdm[Any] | None = None
        self.last_line = time.monotonic()

    def record(self, text: str) -> None:
        """One line in run.log alone. A disk that is full ends a run where it saves, not here: these are words, and no result."""
        with suppress(OSError):
            self.file.write(text + "\n")
            self.file.flush()

    def line(self, text: str) -> None:
        """One line for the reader, above the progress bar if there is one."""
        self.last_line = time.monotonic()
        self.record(text)
        if not self.console:
            return
        try:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
        except OSError:
            self.hang_up()

    def hang_up(self) -> None:
        """The terminal was closed, or nobody reads the pipe any more: the run goes on, and says what it says in run.log alone."""
        self.console, self.bar = False, None
        signals.hang_up()

    def evaluation(
        self, row: Mapping[str, Any], *, lr: float, images_per_second: float, is_best: bool
    ) -> None:
        """The line of an evaluation's row of metrics.jsonl."""
        percent = {name: f"{100 * row[name]:.2f} %" for name in row if name.endswith("accuracy")}
        smoothed = f" (smoothed {row['train_loss']:.4f})" if "train_plain_loss" in row else ""
        self.line(
            f"epoch {row['epoch']:<5.4g} step {row['step']:<7,} lr {lr:<8.3g} "
            f"train loss {row.get('train_plain_loss', row['train_loss']):.4f}{smoothed} accuracy {percent['train_accuracy']:<8}"
            + (
                f" val loss {row['val_loss']:.4f} accuracy {percent['val_accuracy']:<8}"
                if "val_loss" in row
                else ""
            )
            + f" {images_per_second:,.0f} img/s"
            + ("  best so far" if is_best else "")
        )

    def start_bar(self, *, step: int, num_steps: int) -> None:
        """Show a bar of optimizer steps, on a terminal only; NO_COLOR keeps it plain."""
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
            )

    def advance(self) -> None:
        """Move the bar by one step."""
        if self.bar is not None:
            try:
                self.bar.update()
            except OSError:
                self.hang_up()

    def show(self, values: Mapping[str, str], *, always: bool = False) -> None:
        """What stands behind the bar from now on. Where there is no bar: a line, if the last one is half a minute old, or `always`."""
        if self.bar is not None:
            self.bar.set_postfix(values, refresh=False)
        if always or (self.bar is None and time.monotonic() - self.last_line >= QUIET):
            self.line("  ".join(f"{name} {value}" for name, value in values.items()))

    def stop_bar(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def metric(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to metrics.jsonl."""
        self.metrics.write(
            b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)
        )

    def metrics_size(self) -> int:
        """How many bytes metrics.jsonl holds."""
        self.metrics.flush()
        return self.metrics.tell()

    def sync_metrics(self) -> None:
        """Hand metrics.jsonl to the disk: before a checkpoint that counts its bytes is written."""
        os.fsync(self.metrics.fileno())

    def truncate_metrics(self, size: int) -> bool:
        """Forget the metrics of steps that will be run again; False if rows of earlier steps are missing."""
        whole = self.metrics_size() >= size
        # then to the end of the last row that is whole
        if not whole:
            size = (self.folder / "metrics.jsonl").read_bytes().rfind(b"\n") + 1
        self.metrics.truncate(size)
        self.metrics.seek(size)
        return whole

    def time(self, **row: Any) -> None:
        """Append a row to timing.jsonl; whoever looks on can read it now, and the metrics up to here."""
        self.metrics.flush()
        self.timing.write(json.dumps(row) + "\n")
        self.timing.flush()

    def close(self) -> None:
        """Take the bar away and close the files."""
        self.stop_bar()
        # of a disk that is full: see `record`
        with suppress(OSError):
            self.file.close()
        for file in (self.metrics, self.timing):
            file.close()


class Silence(Log):
    """The log of a process that writes and says nothing: another one does."""

    def __init__(self) -> None:
        self.console, self.bar, self.last_line = False, None, time.monotonic()

    def record(self, text: str) -> None: ...

    def line(self, text: str) -> None: ...

    def metric(self, rows: Iterable[Mapping[str, Any]]) -> None: ...

    def metrics_size(self) -> int:
        return 0

    def truncate_metrics(self, size: int) -> bool:
        return True

    def time(self, **row: Any) -> None: ...

    def close(self) -> None: ...
