"""SIGINT and SIGTERM ask a run to save and stop; a second one ends it at once."""

import signal
import threading
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopSignal:
    """Callable that gives 0, or once a signal has come the exit code to stop with."""

    def __init__(self) -> None:
        self.exit_code = 0

    def __call__(self) -> int:
        return self.exit_code

    def install(self) -> "StopSignal":
        """Take over both signals, explicitly: a shell starts background jobs with SIGINT ignored."""
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                signal.signal(number, self.receive)
        return self

    def receive(self, number: int, _frame: FrameType | None) -> None:
        self.exit_code = EXIT_CODES[signal.Signals(number)]
        for each in EXIT_CODES:
            signal.signal(each, signal.SIG_DFL)
        print("\nstopping after this step; once more ends at once", flush=True)
