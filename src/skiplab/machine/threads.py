"""How many CPU threads a run computes with, and how they wait for each other. Imports no torch.

A run's numbers depend on its threads. So their number follows from what the process is given and
from the work of a step, never from a clock or the load of the machine. A resumed run keeps the
number that it began with.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path

from skiplab.machine.cpu import affinity, cpu_quotas, num_cores
from skiplab.words import counted

# Variables of launchers and batch systems. Some are meant for each process, others for all
# processes of a task.
PER_PROCESS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")
# A study gives each of its runs a share of the cores.
SHARE = "SKIPLAB_THREADS"
PER_TASK = ("SLURM_CPUS_PER_TASK", SHARE)
# FLOPs of a step per thread. With fewer, one more thread costs what it gains
# (docs/performance.md).
LEAST_WORK = 1.0e9
# A device in the words of `devices.comparable`.
MACHINE = re.compile(r"(?:\d+ x )?cpu, (\d+) threads")

# How long a thread that waits for the others keeps its core before it sleeps. By default libgomp's
# threads spin 300,000 times, about a millisecond, at each of the hundreds of barriers of a step.
# Where other work runs, that takes the core from the thread that is waited for. No spinning at all
# costs 2 to 4 % where nothing else runs (docs/performance.md).
WAITING = {"GOMP_SPINCOUNT": "30000", "KMP_BLOCKTIME": "0"}
# Variables by which a user chooses how threads wait.
WISHES = ("OMP_WAIT_POLICY", *WAITING)


def wait_asleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have OpenMP's threads sleep at barriers instead of spinning, unless the environment says how.

    Call it before OpenMP is loaded.
    """
    if not any(environment.get(name) for name in WISHES):
        environment.update(WAITING)


def shared_cores(
    *, environment: Mapping[str, str] | None = None, root: Path = Path("/")
) -> tuple[int, str]:
    """Return how many cores this process and its children share, at least 1, and what says so."""
    cores, where = num_cores(root), "cores for this process"
    if cpu_quotas(root) and cores < affinity():
        where = "CPU quota of its control group"
    variables = os.environ if environment is None else environment
    return least([(cores, where), *stated(PER_TASK, variables)])


def limit(
    *, processes: int = 1, environment: Mapping[str, str] | None = None, root: Path = Path("/")
) -> tuple[int, str]:
    """Return how many threads each of `processes` may use, at least 1, and what says so.

    The cores, a CPU quota or the environment may be the limit.
    """
    number, where = shared_cores(environment=environment, root=root)
    variables = os.environ if environment is None else environment
    return least([(number // processes, where), *stated(PER_PROCESS, variables)])


def stated(names: Iterable[str], environment: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Yield the numbers above 0 that these variables state, each with its `NAME=value`."""
    for name in names:
        # OMP_NUM_THREADS may be a list, 4,2, for nested regions: the first counts.
        match = re.match(r"\s*(\d+)", environment.get(name, ""))
        if match and int(match[1]) > 0:
            yield int(match[1]), f"{name}={environment[name].strip()}"


def least(found: Sequence[tuple[int, str]]) -> tuple[int, str]:
    """Return the smallest number, at least 1, and what says so."""
    number, where = min(found, key=lambda each: each[0])
    return max(1, number), where


def for_work(flops: float, *, most: int) -> int:
    """Return how many threads a step of `flops` FLOPs is worth, from 1 to `most`."""
    return max(1, min(most, int(flops / LEAST_WORK)))


def of_device(text: str) -> int | None:
    """Return the threads of a process from its device in the words of `devices.comparable`.

    None if the device is no CPU.
    """
    match = MACHINE.fullmatch(text)
    return int(match[1]) if match else None


def in_words() -> str:
    """Return the threads of this process and where their number comes from, for `skiplab info`."""
    number, where = limit()
    return (
        f"{counted(number, 'thread')} at most ({where}); small steps take fewer; "
        "trainer.threads=N sets them"
    )
