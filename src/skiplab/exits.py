"""How a command ends: what goes wrong becomes lines on stderr and an exit code.

Imports no torch.
"""

import errno
import gc
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from skiplab import own_code
from skiplab.errors import FolderError, OutOfMemory, SkiplabError, Stopped
from skiplab.locations import cache_folder
from skiplab.machine import streams

# With this variable in the environment, tracebacks are shown too.
TRACEBACK = "SKIPLAB_TRACEBACK"
# What torch, NumPy and the loader of shared libraries say when memory is out. MemoryError says it
# by its type.
OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|Storage size calculation overflowed"
    r"|failed to map segment|Cannot allocate memory|Unable to allocate|overflowed with sizes"
    r"|invalid dimensions for convolution|numel: integer multiplication overflow"
)


def run_and_exit(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code."""
    try:
        try:
            code = guard(command)
        # argparse exits by itself after --help.
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        sys.exit(streams.settled(code))
    finally:
        # At the end Python would look for garbage in all that torch has made, which takes a second
        # and helps nobody. A compiler's binding reports what is never freed, so it is left alone.
        if "triton" not in sys.modules:
            gc.freeze()


def guard(command: Callable[[], int]) -> int:
    """Run a command and return its exit code. Any error becomes a line on stderr and a code."""
    try:
        return command()
    except SkiplabError as error:
        if error.__cause__ is not None:
            show_traceback()
        return complain(error)
    except KeyboardInterrupt:
        with suppress(OSError):
            print("interrupted", file=sys.stderr)
        return 130
    # In `skiplab list | head` nobody reads on, so there is nothing to say.
    except BrokenPipeError:
        with suppress(OSError):
            sys.stderr.close()
        # A shell expects this code of a command that SIGPIPE ends.
        return 141
    except OSError as error:
        show_traceback()
        return complain(explain_os_error(error))
    except (MemoryError, RuntimeError, ImportError) as error:
        show_traceback()
        problem = explain_memory_error(error)
        if problem is not None:
            return complain(problem)
        return report_unforeseen(error, log=error_log())
    except Exception as error:
        show_traceback()
        return report_unforeseen(error, log=error_log())


def complain(error: SkiplabError) -> int:
    """Print an error on stderr, one line per message, and return its exit code.

    A stop that was asked for is no error, so it is not called one.
    """
    prefix = "" if isinstance(error, Stopped) else "error: "
    # The terminal may be closed.
    with suppress(OSError):
        for line in str(error).split("\n"):
            streams.say(f"{prefix}{line}", sys.stderr)
    return error.exit_code


def explain_os_error(error: OSError) -> SkiplabError:
    """Convert what the operating system refuses: exit code 4, and 6 where memory is out."""
    if error.errno == errno.ENOMEM:
        return OutOfMemory(
            f"the system gives no more memory ({error.strerror}); "
            "take a smaller network, batch_size or dataset.resize"
        )
    what = " ".join(str(error.strerror or error).split())
    if error.filename is None:
        return FolderError(
            f"the system refuses an operation ({what}); "
            f"{TRACEBACK}=1 in the environment shows where"
        )
    return FolderError(f"{os.fsdecode(error.filename)}: cannot be written or read ({what})")


def explain_memory_error(error: BaseException) -> OutOfMemory | None:
    """Convert an error of Python's or torch's which says that memory is out; None for others."""
    said = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(said):
        return None
    detail = f" ({said[:160]})" if said else ""
    return OutOfMemory(
        f"memory is out{detail}; take a smaller network, batch_size or dataset.resize, "
        "or lift the limit (ulimit -v)"
    )


def report_unforeseen(error: Exception, *, log: Path, advice: str = "") -> int:
    """Report an error that nobody foresaw, in a line that says where its traceback is.

    The traceback is added to the end of `log`. Returns exit code 1; an error in a user's own file
    is one of his.
    """
    if (own := own_code.explain(error)) is not None:
        return complain(own)
    where = "it could not be recorded"
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
        where = f"its traceback is in {log}"
    said = " ".join(str(error).split())[:200]
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    show = "" if os.environ.get(TRACEBACK) else f"; {TRACEBACK}=1 in the environment shows it here"
    return complain(SkiplabError(f"unforeseen, {what}; {where}{show}{advice}"))


def show_traceback() -> None:
    """Print the traceback of the exception at hand if the environment asks for it."""
    if os.environ.get(TRACEBACK):
        traceback.print_exc()


def error_log() -> Path:
    """Return the file for tracebacks outside a run, which is in the cache folder."""
    return cache_folder() / "errors.log"
