"""A cluster that takes its machine back: under submitit the run saves, the job is queued again, and there it goes on."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from skiplab.machine.decisions import stop_with
from skiplab.machine.signals import StopSignal, of_submitit

# what a preempted run ends with, as after SIGTERM
STOPPED = 143


class Preemption:
    """While entered in a job of submitit's, its signal (SIGUSR2, or what SUBMITIT_PREEMPT_SIGNAL names) stops the run after a save.

    Then `requeue` hands over to submitit's own handler, which queues the job again and ends the
    process. Elsewhere nothing is done.
    """

    def __init__(self, stop_signal: StopSignal):
        self.stop_signal, self.came = stop_signal, False
        self.number = of_submitit()
        self.before: Callable[[int, FrameType | None], Any] | int | None = None

    def __enter__(self) -> "Preemption":
        if self.number is not None:
            self.before = signal.signal(self.number, self.catch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.number is not None:
            signal.signal(self.number, self.before)

    def catch(self, _number: int, _frame: FrameType | None) -> None:
        """Ask for a stop; outside training, where nothing can be lost, requeue at once."""
        self.came = True
        if self.stop_signal.is_training:
            self.stop_signal.asked = stop_with(STOPPED)
        else:
            self.requeue()

    def requeue(self) -> None:
        """Have submitit queue the job again if its signal came; does not return then."""
        if self.came and callable(self.before):
            assert self.number is not None
            self.before(self.number, None)
