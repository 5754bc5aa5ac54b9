"""How many CPU threads a run computes with, and how they wait for each other. Imports no torch.

A run's numbers depend on its threads, so their number follows what the process is given and the
work of a step, never a clock or the load of the machine; a run that goes on keeps the number that
it was begun with.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skiplab.machine.cpu import cpu_quotas, num_cores
from skiplab.words import counted

# What launchers and batch systems tell a process, and whether it is meant for each process or for
# all of a task.
PER_PROCESS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")
# a study tells each of its runs its share of the cores
SHARE = "SKIPLAB_THREADS"
PER_TASK = ("SLURM_CPUS_PER_TASK", SHARE)
# FLOPs of a step for each thread, below which a thread more costs what it brings
# (docs/performance.md)
LEAST_WORK = 1.0e9
# as hardware.comparable writes it
MACHINE = re.compile(r"(?:\d+ x )?cpu, (\d+) threads")

# How long a thread that waits for the others keeps its core before it sleeps. Left alone, libgomp's
# spin 300,000 times, a millisecond or so, at each of the hundreds of barriers of a step: beside
# other work that takes the core from the thread that is waited for. Not to spin at all costs 2 to 4
# % where nothing else runs (docs/performance.md).
WAITING = {"GOMP_SPINCOUNT": "30000", "KMP_BLOCKTIME": "0"}
# by which a user says so himself
WISHES = ("OMP_WAIT_POLICY", *WAITING)


def wait_asleep(environment: Any = os.environ) -> None:
    """Have OpenMP's threads sleep at barriers instead of spinning; before OpenMP is loaded, unless the environment says how."""
    if not any(environment.get(name) for name in WISHES):
        environment.update(WAITING)


def given(
    *, environment: Mapping[str, str] | None = None, root: Path = Path("/")
) -> tuple[int, str]:
    """Return how many cores this process and those that it starts have together, at least 1, and what says so."""
    cores = num_cores(root)
    where = (
        "CPU quota of its control group"
        if cpu_quotas(root) and cores < affinity()
        else "cores for this process"
    )
    return least(
        [(cores, where), *stated(PER_TASK, os.environ if environment is None else environment)]
    )


def limit(
    *, processes: int = 1, environment: Mapping[str, str] | None = None, root: Path = Path("/")
) -> tuple[int, str]:
    """Return how many threads each of `processes` may use, at least 1, and what says so: the cores, a CPU quota, or the environment."""
    number, where = given(environment=environment, root=root)
    return least(
        [
            (number // processes, where),
            *stated(PER_PROCESS, os.environ if environment is None else environment),
        ]
    )


def stated(names: Iterable[str], environment: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Yield the numbers that these variables state, each with how it is written; what is no number above 0 is left out."""
    for name in names:
        # OMP_NUM_THREADS=4,2 is for nested regions
        match = re.match(r"\s*(\d+)", environment.get(name, ""))
        if match and int(match[1]) > 0:
            yield int(match[1]), f"{name}={environment[name].strip()}"


def least(found: Sequence[tuple[int, str]]) -> tuple[int, str]:
    """Return the smallest number, at least 1, and what says so."""
    number, where = min(found, key=lambda each: each[0])
    return max(1, number), where


def affinity() -> int:
    """Return how many cores the process may run on, whatever its quota."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def for_work(flops: float, *, most: int) -> int:
    """Return how many threads a step of so many FLOPs is worth, from 1 to `most`."""
    return max(1, min(most, int(flops / LEAST_WORK)))


def of_device(text: str) -> int | None:
    """Return how many threads a process had by the device of `devices.comparable`; None elsewhere than on a CPU."""
    match = MACHINE.fullmatch(text)
    return int(match[1]) if match else None


def in_words() -> str:
    """Return the threads of this process and where their number comes from, for `skiplab info`."""
    number, where = limit()
    return f"{counted(number, 'thread')} at most ({where}); small steps take fewer; trainer.threads=N sets them"
