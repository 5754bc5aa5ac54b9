"""Save a run when a cluster takes its machine back, and have submitit queue the job again."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from skiplab.machine.decisions import stop_with
from skiplab.machine.signals import StopSignal, of_submitit

# A preempted run ends with this exit code, as after SIGTERM.
EXIT_CODE = 143


class Preemption:
    """Catches submitit's signal while entered in a job of submitit's, and stops the run.

    The signal is SIGUSR2, or what SUBMITIT_PREEMPT_SIGNAL names. The run saves first. Then
    `requeue` hands over to submitit's own handler, which queues the job again and ends the
    process. Outside such a job nothing is done.
    """

    def __init__(self, stop_signal: StopSignal):
        self.stop_signal = stop_signal
        self.is_preempted = False
        self.number = of_submitit()
        self.handler: Callable[[int, FrameType | None], Any] | int | None = None

    def __enter__(self) -> "Preemption":
        if self.number is not None:
            self.handler = signal.signal(self.number, self.catch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.number is not None:
            signal.signal(self.number, self.handler)

    def catch(self, _number: int, _frame: FrameType | None) -> None:
        """Ask for a stop; outside training, where nothing can be lost, requeue at once."""
        self.is_preempted = True
        if self.stop_signal.is_training:
            self.stop_signal.asked = stop_with(EXIT_CODE)
        else:
            self.requeue()

    def requeue(self) -> None:
        """Have submitit queue the job again if its signal came; this does not return then."""
        if self.is_preempted and callable(self.handler):
            assert self.number is not None
            self.handler(self.number, None)
