"""SIGINT and SIGTERM ask a run to save and stop; a second one ends it at once."""

import signal
import threading
from types import FrameType
from typing import Any

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopSignal:
    """While entered, catches both signals; calling it gives 0, or once one has come the exit code to stop with."""

    def __init__(self) -> None:
        self.exit_code = 0
        self.before: dict[signal.Signals, Any] = {}

    def __call__(self) -> int:
        return self.exit_code

    def __enter__(self) -> "StopSignal":
        # explicitly, also where they were ignored: a shell starts background jobs with SIGINT ignored
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.receive) for number in EXIT_CODES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Ask for a stop, and let the next signal do what it does by default."""
        self.exit_code = EXIT_CODES[signal.Signals(number)]
        for each in EXIT_CODES:
            signal.signal(each, signal.SIG_DFL)
        print("\nstopping after this step; once more ends at once", flush=True)
