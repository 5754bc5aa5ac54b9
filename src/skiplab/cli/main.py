"""The entry points of `train` and `skiplab`."""

import gc
import sys
from collections.abc import Callable

from skiplab.exits import run_and_exit
from skiplab.machine import streams, threads, torchrun


def train() -> None:
    """Run `train` and exit with a code that docs/runs.md lists."""
    streams.prepare()
    threads.wait_asleep()
    # What a start makes stays, and looking for garbage in it takes a tenth of the start. The
    # collector is switched on again before a network trains.
    gc.disable()
    from skiplab.cli.train import train_command

    run_and_exit(lambda: lead_or_follow(lambda: train_command(sys.argv[1:])))


def skiplab() -> None:
    """Run `skiplab` and exit with a code that docs/runs.md lists."""
    streams.prepare()
    threads.wait_asleep()
    from skiplab.cli.skiplab import skiplab_command, words_of_train

    if words_of_train(sys.argv[1:]) is None:
        run_and_exit(lambda: skiplab_command(sys.argv[1:]))
    gc.disable()
    run_and_exit(lambda: lead_or_follow(lambda: skiplab_command(sys.argv[1:])))


def lead_or_follow(command: Callable[[], int]) -> int:
    """Run a command and return its exit code.

    Where torchrun has started several processes with it, the first runs the command, and the others
    take part in its runs.
    """
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
