"""A run as a command: what goes wrong in it becomes one line and an exit code. Imports torch only to run."""

import errno
import gc
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from skiplab.errors import FolderError, OutOfMemory, SkiplabError, Stopped, UsageError
from skiplab.machine import streams, torchrun
from skiplab.machine.signals import StopSignal

# a disk that takes no more
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# the environment's name for: show tracebacks too
TRACEBACK = "SKIPLAB_TRACEBACK"
# What torch, NumPy and the loader of shared libraries say where memory is out; MemoryError says it
# by its type.
OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|Storage size calculation overflowed|failed to map segment|Cannot allocate memory"
    r"|Unable to allocate|overflowed with sizes|invalid dimensions for convolution|numel: integer multiplication overflow"
)


def leave(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code."""
    try:
        try:
            code = guarded(command)
        # argparse's, after --help
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        sys.exit(streams.settled(code))
    finally:
        # Python would look for garbage in all that torch has made, which takes a second; it ends
        # with the process anyway. a compiler's binding, which reports what is never freed
        if "triton" not in sys.modules:
            gc.freeze()


def guarded(command: Callable[[], int]) -> int:
    """Run a command; what goes wrong in it becomes a line on stderr and an exit code, whoever's fault it is."""
    try:
        return command()
    except SkiplabError as error:
        return complain(error)
    except KeyboardInterrupt:
        with suppress(OSError):
            print("interrupted", file=sys.stderr)
        return 130
    # `skiplab list | head`: nobody reads on, so there is nothing to say
    except BrokenPipeError:
        with suppress(OSError):
            sys.stderr.close()
        # as one that SIGPIPE ends, which is what a shell expects
        return 141
    except OSError as error:
        show_traceback()
        return complain(of_system(error))
    except (MemoryError, RuntimeError, ImportError) as error:
        show_traceback()
        problem = out_of_memory(error)
        return complain(problem) if problem is not None else unforeseen(error, log=error_log())
    except Exception as error:
        show_traceback()
        return unforeseen(error, log=error_log())


def of_system(error: OSError) -> SkiplabError:
    """Return what the operating system refuses, as an error of ours: exit code 4, and 6 where memory is out."""
    if error.errno == errno.ENOMEM:
        return OutOfMemory(
            f"the system gives no more memory ({error.strerror}); take a smaller network, batch_size or dataset.resize"
        )
    what = " ".join(str(error.strerror or error).split())
    if error.filename is None:
        return FolderError(
            f"the system refuses an operation ({what}); {TRACEBACK}=1 in the environment shows where"
        )
    return FolderError(f"{os.fsdecode(error.filename)}: cannot be written or read ({what})")


def out_of_memory(error: BaseException) -> OutOfMemory | None:
    """Return the error of ours that memory is out if `error`, Python's or torch's, says so; None if it says something else."""
    said = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(said):
        return None
    asked = f" ({said[:160]})" if said else ""
    return OutOfMemory(
        f"memory is out{asked}; take a smaller network, batch_size or dataset.resize, or lift the limit (ulimit -v)"
    )


def unforeseen(error: Exception, *, log: Path | None, advice: str = "") -> int:
    """Say in a line what nobody foresaw, and where its traceback is; the traceback is written to the end of `log`. Exit code 1."""
    recorded = None
    if log is not None:
        with suppress(OSError):
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                traceback.print_exception(error, file=file)
            recorded = log
    said = " ".join(str(error).split())[:200]
    where = (
        f"its traceback is in {recorded}" if recorded is not None else "it could not be recorded"
    )
    show = "" if os.environ.get(TRACEBACK) else f"; {TRACEBACK}=1 in the environment shows it here"
    return complain(
        SkiplabError(
            f"unforeseen, {type(error).__name__}{': ' if said else ''}{said}; {where}{show}{advice}"
        )
    )


def show_traceback() -> None:
    """Print the traceback of the exception at hand if the environment asks for it."""
    if os.environ.get(TRACEBACK):
        traceback.print_exc()


def error_log() -> Path:
    """Return where tracebacks go of what is no run: a file in the cache folder."""
    from skiplab.locations import cache_folder

    return cache_folder() / "errors.log"


def as_one(command: Callable[[], int]) -> int:
    """Run a command. Where torchrun has started several processes with it, the first runs it and the others take part in its runs."""
    place = torchrun.place()
    if place is None or place.size == 1:
        return command()
    if place.rank > 0:
        from skiplab import run
        from skiplab.machine import processes

        processes.follow_torchrun(place, run.follow)
        return 0
    try:
        return command()
    finally:
        from skiplab.machine import processes

        processes.tell_torchrun_over()


def settled(config: Any) -> Any:
    """Resolve what depends on this machine and its files: the number of devices, the width that a budget asks for, init_from's weights.

    Imports torch. Raises UsageError if this machine lacks the devices, no width meets the budget,
    or init_from names no run: before a folder is made or data are read.
    """
    from skiplab import budget, provenance
    from skiplab.machine import devices as hardware

    config = provenance.pinned(config)
    if config.match != "none":
        config = budget.solved(config)
        print(budget.in_words(config))
    options = config.trainer
    devices = hardware.num_devices(
        config.device, options.devices, started=torchrun.place(), sync_bn=options.sync_bn
    )
    return (
        config
        if devices == options.devices
        else replace(config, trainer=replace(options, devices=devices))
    )


def complain(error: SkiplabError) -> int:
    """An error of ours on stderr, one line each; returns its exit code. A stop that was asked for is no error, so it is not called one."""
    prefix = "" if isinstance(error, Stopped) else "error: "
    # of a terminal that was closed
    with suppress(OSError):
        for line in str(error).split("\n"):
            print(f"{prefix}{line}", file=sys.stderr)
    return error.exit_code


def launch(config: Any, folder: Path, stop_signal: StopSignal) -> int:
    """Run `config` in `folder`, whose lock is held; a finished run prints its report."""
    from skiplab.runs import folders

    if folders.is_finished(folder):
        try:
            report = (folder / "report.txt").read_text(encoding="utf-8")
        except (OSError, ValueError):
            raise UsageError(
                f"{folder}: finished, and its report.txt cannot be read; skiplab evaluate {shlex.quote(str(folder))} makes it anew"
            ) from None
        print(f"{folder} is finished; its report:\n\n{report}")
        return 0
    go_on = f"train resume={shlex.quote(str(folder))}"
    try:
        from skiplab.run import run

        # whoever started this process may have put it off
        gc.enable()
        streams.spare()
        run(config, folder, stop_signal)
    except Stopped as error:
        raise Stopped(f"{error}; go on with: {go_on}", exit_code=error.exit_code) from None
    except SkiplabError:
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise FolderError(
            f"{folder}: cannot be written ({error.strerror}); with room again: {go_on}"
        ) from None
    except Exception as error:
        if (problem := out_of_memory(error)) is not None:
            raise problem from None
        show_traceback()
        return unforeseen(error, log=folder / folders.LOG, advice=f"; go on with: {go_on}")
    return 0
