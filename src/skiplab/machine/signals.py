"""The signals that a run heeds.

SIGINT, SIGTERM and others ask it to save and stop; a second one ends it at once. SIGUSR1 asks it to
save and go on.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from skiplab.machine.decisions import GO_ON, SAVE, Decision, stop_with

# Ctrl-C and kill; a closed terminal and Ctrl-\; what batch systems send before a limit (LSF and
# Grid Engine SIGUSR2, CPU time SIGXCPU); a failing power supply. Windows has only the first two.
STOPS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR2", "SIGXCPU", "SIGPWR")
EXIT_CODES = {
    number: 128 + number for name in STOPS if (number := getattr(signal, name, None)) is not None
}
# The kernel sends this one every second from the limit on.
REPEATED = getattr(signal, "SIGXCPU", None)
# Windows has no SIGUSR1.
ALL = (*EXIT_CODES, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))


def ignore() -> None:
    """Ignore all these signals, in a process that follows another's decisions.

    A terminal's Ctrl-C reaches every process.
    """
    for number in ALL:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore all these signals inside the `with`."""
    before = {number: signal.getsignal(number) for number in ALL}
    ignore()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def kept_back() -> Iterator[None]:
    """Block these signals inside the `with`.

    A process that is started inside inherits the block; it calls `let_through` once its handlers
    are set.
    """
    # Windows blocks no signals.
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def of_submitit() -> signal.Signals | None:
    """Return the signal that submitit sends to a job of its own that has to leave.

    It is SIGUSR2, or what SUBMITIT_PREEMPT_SIGNAL names; None in other processes.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return None
    return getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}", None)


def hang_up() -> None:
    """Send all further output to the null device.

    The terminal was closed, or nobody reads the pipe any more.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def keep_back() -> None:
    """Block these signals, in this process and those that it forks, until `let_through`."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, ALL)


def let_through() -> None:
    """Unblock the signals that `kept_back` or `keep_back` blocked, here or in the parent."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL)


class StopSignal:
    """Catches the signals inside the `with`.

    While a network trains (`heeded`), a call returns what was asked for. At all other times nothing
    can be lost, so a stop ends the process at once, with `advice` as the last line. It raises no
    exception: in the middle of an import, that can turn into another.
    """

    def __init__(self) -> None:
        self.advice = "stopped before a run was made"
        self.asked = GO_ON
        self.is_training = False
        self.before: dict[signal.Signals, Any] = {}

    def __call__(self) -> Decision:
        asked, self.asked = self.asked, GO_ON
        return asked

    def __enter__(self) -> "StopSignal":
        # Handlers are set even where signals were ignored: a shell starts background jobs with
        # SIGINT ignored.
        if threading.current_thread() is threading.main_thread():
            handlers = dict.fromkeys(EXIT_CODES, self.stop)
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
                # nohup ignores SIGHUP on purpose.
                del handlers[signal.SIGHUP]
            # Windows has no SIGUSR1.
            if hasattr(signal, "SIGUSR1"):
                handlers[signal.SIGUSR1] = self.save
            handlers.pop(of_submitit(), None)
            self.before = {
                number: signal.signal(number, handler) for number, handler in handlers.items()
            }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Take a stop for a request inside the `with`."""
        self.is_training = True
        try:
            yield
        finally:
            self.is_training = False
        # The signal came after the last step.
        if self.asked.is_stop:
            self.end()

    def end(self) -> NoReturn:
        """End the process."""
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            os.write(2, f"\n{self.advice}\n".encode())
        os._exit(self.asked.exit_code)

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """End the process, or ask for a stop and give the next signal its default effect."""
        self.asked = stop_with(EXIT_CODES[signal.Signals(number)])
        if not self.is_training:
            self.end()
        for each in EXIT_CODES.keys() & self.before.keys():
            signal.signal(each, signal.SIG_IGN if each == REPEATED else signal.SIG_DFL)
        with suppress(OSError):
            # `print` may be in use when the handler is called.
            os.write(1, b"\nstopping after this step; once more ends at once\n")

    def save(self, number: int, _frame: FrameType | None) -> None:
        """Ask for a save."""
        if not self.asked:
            self.asked = SAVE
