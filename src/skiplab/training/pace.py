"""The pace of a run: how long it will take, and whether other processes take its cores."""

import time
from pathlib import Path

from skiplab.runs.log import Log
from skiplab.words import estimated

# Seconds of training from which a run says how long it takes.
LONG = 600
# Steps and seconds that are measured before. The first step is left out: it prepares the others.
FIRST_STEPS = 3
FIRST_SECONDS = 5.0
# Seconds over which waiting for a core is measured.
WINDOW = 5.0
# Share of these from which a run is called slow.
WAITED = 1 / 3
# Numbers of epochs to offer.
NICE = (1, 2, 3, 5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500)
# Nanoseconds that this thread has computed, and has waited for a core.
SCHEDSTAT = Path("/proc/thread-self/schedstat")


class Pace:
    """The pace of one session of a run.

    `epochs`: the run's length if the config gives it in epochs. `threads`: 0 if the device is not a
    CPU.
    """

    def __init__(
        self, log: Log, *, steps_per_epoch: int, epochs: int | None, stop_at: int, threads: int
    ):
        self.log = log
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self.stop_at = stop_at
        self.threads = threads
        # Step and time after the session's first step.
        self.first: tuple[int, float] | None = None
        self.window = self.clocks()
        self.has_said_how_long = False
        self.is_called_slow = False

    def after(self, step: int, *, is_synced: bool) -> None:
        """Look at the clock after a step, and say what it tells.

        `is_synced`: the step's loss has been read, so the device is as far as the host.
        """
        now = time.monotonic()
        if self.first is None:
            self.first, self.window = (step, now), self.clocks()
            return
        if not self.has_said_how_long and (is_synced or self.threads):
            self.say_how_long(step, now)
        if self.threads and not self.is_called_slow and now - self.window[0] >= WINDOW:
            self.say_why_slow()

    def say_how_long(self, step: int, now: float) -> None:
        """Say how long the rest takes, once enough steps have been seen, if it is long."""
        assert self.first is not None
        first, began = self.first
        if step - first < FIRST_STEPS or now - began < FIRST_SECONDS:
            return
        self.has_said_how_long = True
        per_step = (now - began) / (step - first)
        left = (self.stop_at - step) * per_step
        if left < LONG:
            return
        line = f"about {estimated(left)} to go, evaluations not counted"
        per_epoch = per_step * self.steps_per_epoch
        if self.epochs is not None and first == 1 and (offer := self.fewer_epochs(per_epoch)):
            line += f"; epochs={offer} would take about {estimated(offer * per_epoch)}"
        self.log.line(line)

    def fewer_epochs(self, per_epoch: float) -> int | None:
        """Return a number of epochs that takes about an hour; None if none is fewer.

        For a run of up to an hour and a half it is ten minutes. `per_epoch`: seconds.
        """
        assert self.epochs is not None
        target = 3600 if self.epochs * per_epoch > 5400 else LONG
        return max(
            (n for n in NICE if n < self.epochs and (n == 1 or n * per_epoch <= 1.1 * target)),
            default=None,
        )

    def say_why_slow(self) -> None:
        """Say once if the run has lacked a core for much of the last seconds.

        Either this thread waited for one, or the process computed for less than half of the time.
        """
        before, self.window = self.window, self.clocks()
        wall, computed, waited = (now - then for now, then in zip(self.window, before, strict=True))
        share = waited / wall
        if computed < wall / 2:
            share = max(share, 1 - computed / wall)
        if share < WAITED:
            return
        self.is_called_slow = True
        advice = "run fewer at once, or wait for a quieter machine"
        if self.threads > 1:
            advice = (
                f"a run with trainer.threads=1 (this one has {self.threads}) "
                "waits for no other thread"
            )
        self.log.line(
            f"slow: {100 * share:.0f} % of the last {wall:.0f} s went by waiting for a core, "
            f"since other processes use them; {advice}"
        )

    @staticmethod
    def clocks() -> tuple[float, float, float]:
        """Return seconds: of the clock, computed by the process, waited for a core by this thread.

        The last is 0 where the system does not tell.
        """
        try:
            waited = int(SCHEDSTAT.read_text().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            waited = 0.0
        return time.monotonic(), time.process_time(), waited
