"""Standard input, output and error, as every command needs them.

All three are open and take any text. An output that fails ends no run, since its words are in
run.log too. A command that does nothing but print fails then.
"""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from skiplab.words import wrapped

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

# How characters are written that an output cannot show.
SHOWN = "backslashreplace"
NAMES = {1: "stdout", 2: "stderr"}
# Whether all output is kept elsewhere too, so that its failure is no failure.
spared = False


class Patient(io.FileIO):
    """An output that raises nothing: it keeps an error as `failure` and drops later writes."""

    failure: OSError | None = None

    def write(self, content: "Buffer", /) -> int:
        """Write, and wait if a non-blocking pipe is full.

        Returns the number of bytes, dropped ones included.
        """
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
    """Make sure that this process has all three streams: every command calls this first.

    A closed descriptor is opened on the null device. Otherwise the next file that is opened would
    get its number, and its output.
    """
    missing = [number for number in (0, 1, 2) if is_closed(number)]
    for number in missing:
        # `open` takes the lowest free number, which is this one.
        opened = os.open(os.devnull, os.O_RDWR)
        # Some systems may choose another.
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    for number, name in NAMES.items():
        before: io.TextIOWrapper | None = getattr(sys, name)
        if before is not None and not is_plain_file(before):
            before.reconfigure(errors=SHOWN)
            continue
        if before is None and number not in missing:
            number = os.open(os.devnull, os.O_WRONLY)
        raw = Patient(number, "w", closefd=False)
        if before is None:
            raw.failure = OSError(errno.EBADF, "it is closed")
        setattr(sys, name, reopen(before, raw))


def is_plain_file(stream: io.TextIOWrapper) -> bool:
    """Tell whether a stream writes to a descriptor; a console of Windows does not."""
    return type(getattr(stream.buffer, "raw", stream.buffer)) is io.FileIO


def is_closed(number: int) -> bool:
    """Tell whether a descriptor is closed."""
    try:
        os.fstat(number)
    except OSError as error:
        return error.errno == errno.EBADF
    return False


def reopen(before: io.TextIOWrapper | None, raw: Patient) -> io.TextIOWrapper:
    """Return a text stream like the one before, on another file.

    Characters that it cannot encode become escapes. `before` is None if there was no stream.
    """
    if before is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors=SHOWN)
    with suppress(OSError):
        before.flush()
    # Python makes them so with and without PYTHONUNBUFFERED.
    buffer = raw if before.write_through else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        cast(BinaryIO, buffer),
        encoding=before.encoding,
        errors=SHOWN,
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )


def columns(stream: TextIO) -> int | None:
    """Return the columns of the terminal that a stream writes to; None if it is no terminal.

    $COLUMNS says so for any stream, if it is a number above zero.
    """
    said = os.environ.get("COLUMNS", "")
    if said.isascii() and said.isdigit() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    # A stream without a descriptor is none of a terminal.
    except (OSError, ValueError):
        return None


def fitted(text: str, stream: TextIO) -> str:
    """Return a text with its lines broken for the terminal that a stream writes to."""
    width = columns(stream)
    return text if width is None else wrapped(text, width)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a text at once, on stdout unless told otherwise, with its lines broken to fit."""
    target: TextIO = sys.stdout if stream is None else stream
    print(fitted(text, target), file=target, flush=True)


def to_log(path: Path | str) -> None:
    """Append all output of this process to a file, in UTF-8."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number, name in NAMES.items():
        os.dup2(descriptor, number)
        buffer = io.BufferedWriter(Patient(number, "w", closefd=False))
        stream = io.TextIOWrapper(buffer, encoding="utf-8", errors=SHOWN, line_buffering=True)
        setattr(sys, name, stream)
    os.close(descriptor)


def spare() -> None:
    """Count no failing output as a failure from now on.

    All output is kept elsewhere too, in a run's log or a study's files.
    """
    global spared
    spared = True


def require() -> None:
    """Count a failing output as a failure again, where it holds what is nowhere else."""
    global spared
    spared = False


def settled(code: int) -> int:
    """Return the exit code of a command that would end with `code`.

    It is another one if the command only prints and its output did not arrive.
    """
    for name in NAMES.values():
        # A closed stream raises ValueError.
        with suppress(OSError, ValueError):
            getattr(sys, name).flush()
    buffer = getattr(sys.stdout, "buffer", None)
    failure = getattr(getattr(buffer, "raw", buffer), "failure", None)
    if failure is None or spared or code:
        return code
    # Nobody reads on, as in `skiplab list | head`, so nothing is printed. A shell expects the exit
    # code of a process that SIGPIPE ends.
    if failure.errno == errno.EPIPE:
        return 141
    print(f"error: standard output: cannot be written ({failure.strerror})", file=sys.stderr)
    return 4
