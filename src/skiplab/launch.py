"""A run as a command: what goes wrong in it becomes one line and an exit code. Imports torch only to run."""

import errno
import gc
import shlex
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from skiplab import torchrun
from skiplab.errors import FolderError, SkiplabError, Stopped, UsageError
from skiplab.signals import StopSignal

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # a disk that takes no more


def leave(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code."""
    try:
        sys.exit(guarded(command))
    finally:
        # Python would look for garbage in all that torch has made, which takes a second; it ends with the process anyway.
        if "triton" not in sys.modules:  # a compiler's binding, which reports what is never freed
            gc.freeze()


def guarded(command: Callable[[], int]) -> int:
    """Run a command; an error of ours becomes its lines on stderr and its exit code."""
    try:
        return command()
    except SkiplabError as error:
        return complain(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `skiplab list | head`: nobody reads on, so there is nothing to say
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno not in (*FULL, errno.EACCES, errno.EPERM) or error.filename is None:
            raise
        return complain(FolderError(f"{error.filename}: cannot be written or read ({error.strerror})"))


def as_one(command: Callable[[], int]) -> int:
    """Run a command. Where torchrun has started several processes with it, the first runs it and the others take part in its runs."""
    place = torchrun.place()
    if place is None or place.size == 1:
        return command()
    if place.rank > 0:
        from skiplab import processes, run

        processes.follow_torchrun(place, run.follow)
        return 0
    try:
        return command()
    finally:
        from skiplab import processes

        processes.tell_torchrun_over()


def settled(config: Any) -> Any:
    """Resolve what depends on this machine and its files: the number of devices, the width that a budget asks for, init_from's weights.

    Imports torch. Raises UsageError if this machine lacks the devices, no width meets the budget, or init_from names no run: before a
    folder is made or data are read.
    """
    from skiplab import budget, hardware, provenance

    config = provenance.pinned(config)
    if config.match != "none":
        config = budget.solved(config)
        print(budget.in_words(config))
    options = config.trainer
    devices = hardware.num_devices(config.device, options.devices, started=torchrun.place(), sync_bn=options.sync_bn)
    return config if devices == options.devices else replace(config, trainer=replace(options, devices=devices))


def complain(error: SkiplabError) -> int:
    """An error of ours on stderr, one line each; returns its exit code. A stop that was asked for is no error, so it is not called one."""
    prefix = "" if isinstance(error, Stopped) else "error: "
    with suppress(OSError):  # of a terminal that was closed
        for line in str(error).split("\n"):
            print(f"{prefix}{line}", file=sys.stderr)
    return error.exit_code


def launch(config: Any, folder: Path, stop_signal: StopSignal) -> int:
    """Run `config` in `folder`, whose lock is held; a finished run prints its report."""
    from skiplab import folders

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

        gc.enable()  # whoever started this process may have put it off
        run(config, folder, stop_signal)
    except Stopped as error:
        raise Stopped(f"{error}; go on with: {go_on}", exit_code=error.exit_code) from None
    except SkiplabError:
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise FolderError(f"{folder}: cannot be written ({error.strerror}); with room again: {go_on}") from None
    except Exception:
        with (folder / "run.log").open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        traceback.print_exc()
        print(f"error: unforeseen, recorded in {folder / 'run.log'}; go on with: {go_on}", file=sys.stderr)
        return 1
    return 0
