"""How fast a run goes: how long it will take, said after its first steps, and why it is slow where other processes take its cores."""

import time
from pathlib import Path

from skiplab.runs.log import Log

# seconds of training from which a run says how long it takes
LONG = 600
# measured before that; the first step of all is left out, since it prepares the others
FIRST_STEPS, FIRST_SECONDS = 3, 5.0
# seconds over which waiting for a core is measured
WINDOW = 5.0
# of them, from which a run is called slow
WAITED = 1 / 3
# numbers of epochs to offer
NICE = (1, 2, 3, 5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500)
# of this thread, in nanoseconds: computed, waited for a core
SCHEDSTAT = Path("/proc/thread-self/schedstat")


class Pace:
    """The pace of one session of a run. `epochs`: the run's length if it is given so; `threads`: 0 on a device that is no CPU."""

    def __init__(
        self, log: Log, *, steps_per_epoch: int, epochs: int | None, stop_at: int, threads: int
    ):
        self.log, self.steps_per_epoch, self.epochs, self.stop_at, self.threads = (
            log,
            steps_per_epoch,
            epochs,
            stop_at,
            threads,
        )
        # step and time after the session's first step
        self.first: tuple[int, float] | None = None
        self.window = self.clocks()
        self.is_told, self.is_called_slow = False, False

    def after(self, step: int, *, is_synced: bool) -> None:
        """Look at the clock after a step; `is_synced`: its loss has been read, so the device is as far as the host."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.window = (step, now), self.clocks()
            return
        if not self.is_told and (is_synced or self.threads):
            self.say_how_long(step, now)
        if self.threads and not self.is_called_slow and now - self.window[0] >= WINDOW:
            self.say_why_slow()

    def say_how_long(self, step: int, now: float) -> None:
        """Say how long the rest takes, once enough steps have been seen, if it is long."""
        assert self.first is not None
        first, began = self.first
        if step - first < FIRST_STEPS or now - began < FIRST_SECONDS:
            return
        self.is_told = True
        per_step = (now - began) / (step - first)
        left = (self.stop_at - step) * per_step
        if left < LONG:
            return
        line = f"about {in_words(left)} to go, evaluations not counted"
        if (
            self.epochs is not None
            and first == 1
            and (offer := self.shorter(per_step * self.steps_per_epoch))
        ):
            line += f"; epochs={offer} would take about {in_words(offer * per_step * self.steps_per_epoch)}"
        self.log.line(line)

    def shorter(self, per_epoch: float) -> int | None:
        """Return a number of epochs that takes about an hour, of a run of up to an hour and a half ten minutes; None if none is fewer."""
        assert self.epochs is not None
        target = 3600 if self.epochs * per_epoch > 5400 else LONG
        return max(
            (n for n in NICE if n < self.epochs and (n == 1 or n * per_epoch <= 1.1 * target)),
            default=None,
        )

    def say_why_slow(self) -> None:
        """Say once if this thread waited for a core for much of the last seconds, or the process computed for few of them."""
        before, self.window = self.window, self.clocks()
        wall, computed, waited = (now - then for now, then in zip(self.window, before, strict=True))
        share = max(waited / wall, 1 - computed / wall if computed < wall / 2 else 0.0)
        if share < WAITED:
            return
        self.is_called_slow = True
        advice = "run fewer at once, or wait for a quieter machine"
        if self.threads > 1:
            advice = f"a run with trainer.threads=1 (this one has {self.threads}) waits for no other thread"
        self.log.line(
            f"slow: {share:.0%} of the last {wall:.0f} s went by waiting for a core, since other processes use them; {advice}"
        )

    @staticmethod
    def clocks() -> tuple[float, float, float]:
        """Return seconds: of the clock, computed by the process, waited for a core by this thread (0 where the system does not tell)."""
        try:
            waited = int(SCHEDSTAT.read_text().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            waited = 0.0
        return time.monotonic(), time.process_time(), waited


def in_words(seconds: float) -> str:
    """`6 h 30 min`, `12 min`: to a tenth or so, in steps of five minutes from an hour on."""
    minutes = max(1, round(seconds / 60))
    if minutes >= 60:
        minutes = 5 * round(minutes / 5)
    hours, rest = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours / 24:.1f} days"
    return " ".join(
        [*([f"{hours} h"] if hours else []), *([f"{rest} min"] if rest or not hours else [])]
    )
