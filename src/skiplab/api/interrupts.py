"""Ctrl-C, and a notebook's stop button, while Python goes on afterwards."""

import signal
import threading
from types import FrameType
from typing import NoReturn

from skiplab.machine.decisions import stop_with
from skiplab.machine.signals import StopSignal


class Interrupts(StopSignal):
    """Catches SIGINT inside the `with`; other signals keep the effect that they have.

    While a network trains, an interrupt asks it to save and stop. At other times, and the second
    time, it raises KeyboardInterrupt. Outside the main thread nothing is caught.
    """

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self.before = {signal.SIGINT: signal.signal(signal.SIGINT, self.stop)}
        return self

    def end(self) -> NoReturn:
        """Leave the process as it is."""
        raise KeyboardInterrupt

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """Ask for a stop, or raise KeyboardInterrupt where there is nothing to save."""
        if not self.is_training:
            raise KeyboardInterrupt
        self.asked = stop_with(128 + number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("stopping after this step; once more ends at once", flush=True)
