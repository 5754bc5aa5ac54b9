"""Standard input, output and error as every command needs them: all three are there, show any text, and none that fails ends a run.

A run's words are in its run.log too, so it goes on when nobody can read them. A command whose words
are all that it is for fails.
"""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# what becomes of characters that an output cannot show
SHOWN = "backslashreplace"
NAMES = {1: "stdout", 2: "stderr"}
# whether what is said is kept elsewhere too
spared = False


class Patient(io.FileIO):
    """An output that raises nothing: what goes wrong is kept as `failure`, and what is written after that is dropped."""

    failure: OSError | None = None

    def write(self, content: Any, /) -> int:
        """Write, wait where a pipe without blocking is full; the number of bytes, those that are dropped included."""
        while self.failure is None:
            try:
                written = super().write(content)
            except OSError as error:
                self.failure = error
            else:
                if written is not None:
                    return written
                select.select([], [self], [])
        return memoryview(content).nbytes


def prepare() -> None:
    """Make sure of the three streams of this process: the first thing that a command does.

    A descriptor that is closed is opened on the null device, or the next file to be opened would
    take its number, and its words.
    """
    missing = [number for number in (0, 1, 2) if is_closed(number)]
    for number in missing:
        # the lowest that is free, which is this one
        opened = os.open(os.devnull, os.O_RDWR)
        # a system that gives others
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    for number, name in NAMES.items():
        before: Any = getattr(sys, name)
        # a console of Windows
        if (
            before is not None
            and type(getattr(before.buffer, "raw", before.buffer)) is not io.FileIO
        ):
            before.reconfigure(errors=SHOWN)
            continue
        raw = Patient(
            number if before is not None or number in missing else os.open(os.devnull, os.O_WRONLY),
            "w",
            closefd=False,
        )
        if before is None:
            raw.failure = OSError(errno.EBADF, "it is closed")
        setattr(sys, name, renewed(before, raw))


def is_closed(number: int) -> bool:
    """Whether a descriptor is none."""
    try:
        os.fstat(number)
    except OSError as error:
        return error.errno == errno.EBADF
    return False


def renewed(before: Any, raw: Patient) -> io.TextIOWrapper:
    """A text stream like the one before (None: there was none), on another file, which shows what it cannot encode as escapes."""
    if before is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors=SHOWN)
    with suppress(OSError):
        before.flush()
    options = {"line_buffering": before.line_buffering, "write_through": before.write_through}
    # as Python makes them with and without PYTHONUNBUFFERED
    buffer: Any = raw if before.write_through else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, encoding=before.encoding, errors=SHOWN, **options)


def to_log(path: Path | str) -> None:
    """Have all that this process says go to the end of a file, in UTF-8."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number, name in NAMES.items():
        os.dup2(descriptor, number)
        raw = Patient(number, "w", closefd=False)
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(raw), encoding="utf-8", errors=SHOWN, line_buffering=True
            ),
        )
    os.close(descriptor)


def spare() -> None:
    """What is said from now on is kept elsewhere too, in a run's log or a study's files: an output that fails is no failure."""
    global spared
    spared = True


def settled(code: int) -> int:
    """The exit code of a command that would end with this one: another where its words were all, and did not arrive."""
    for name in NAMES.values():
        # of a stream that is closed
        with suppress(OSError, ValueError):
            getattr(sys, name).flush()
    buffer = getattr(sys.stdout, "buffer", None)
    failure = getattr(getattr(buffer, "raw", buffer), "failure", None)
    if failure is None or spared or code:
        return code
    # `skiplab list | head`: nobody reads on, so there is nothing to say
    if failure.errno == errno.EPIPE:
        # as one that SIGPIPE ends, which is what a shell expects
        return 141
    print(f"error: standard output: cannot be written ({failure.strerror})", file=sys.stderr)
    return 4
