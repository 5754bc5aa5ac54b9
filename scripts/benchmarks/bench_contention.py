"""`scripts/bench contention`: a run on the CPU next to busy processes.

Also what threads that wait asleep cost where nothing is busy.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench_setup import MeasurementError, Setting, lies_there
from bench_start import train_command
from bench_steps import process, seconds
from bench_table import Table
from skiplab.machine.threads import WAITING
from skiplab.words import counted

# Processes that compute without an end.
BUSY = 2
FOR_EVER = [sys.executable, "-c", "while True: pass"]
# libgomp's default.
SPINNING = {"GOMP_SPINCOUNT": "300000"}
ONE = ("trainer.threads=1",)
# Blocks of steps of each contender in a repeat.
TURNS = 10
DIGITS = ("epochs=10",)
# Each model's title, what is run, and how many steps of it.
CASES = {
    "deepcnn": (
        "Deep_CNN on CIFAR-10, batch 256",
        ("experiment=deepcnn_cifar10", "block=residual", "batch_size=256"),
        40,
    ),
    "resnet20": (
        "ResNet-20 on CIFAR-10, batch 128",
        ("model=resnet20", "dataset=cifar10", "batch_size=128"),
        12,
    ),
}


def tables(setting: Setting, models: list[str]) -> Iterator[Table]:
    """Yield figures of a run with nothing else, then next to busy processes.

    Nothing is measured on a GPU: runs there need only one thread of the CPU.
    """
    if setting.is_cuda:
        return
    cases = {
        name: CASES[name]
        for name in models
        if name in CASES and lies_there("cifar10", Path(setting.root))
    }
    yield alone(setting, cases)
    yield beside_others(setting, cases)


def arguments_of(setting: Setting, overrides: Sequence[str], steps: int) -> tuple[str, ...]:
    """Return arguments of `train` for some steps of a case, with almost nothing to evaluate."""
    return (
        *overrides,
        f"trainer.limit_steps={steps}",
        "val_fraction=0.001",
        "evaluator.split=val",
        f"dataset.root={setting.root}",
    )


def beside_others(setting: Setting, cases: dict[str, tuple[str, tuple[str, ...], int]]) -> Table:
    """Measure seconds of training next to busy processes.

    Digits are compared with one thread there, the larger cases with themselves alone.
    """
    table = Table(
        "contention", f"training beside {BUSY} busy processes", ("beside them", "see the case")
    )
    digits: tuple[list[float], list[float]] = ([], [])
    larger: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in cases}
    for _ in range(setting.repeats):
        with busy():
            digits[0].append(trained(DIGITS))
            digits[1].append(trained((*DIGITS, *ONE)))
        for name, (_, overrides, steps) in cases.items():
            with busy():
                larger[name][0].append(trained(arguments_of(setting, overrides, steps)))
            larger[name][1].append(trained(arguments_of(setting, overrides, steps)))
    table.add(
        "train epochs=10 (digits), against trainer.threads=1 beside them",
        "s of training",
        *digits,
        digits=1,
    )
    for name, values in larger.items():
        table.add(f"{cases[name][0]}, against the same alone", "s of training", *values, digits=1)
    table.note(
        "at most 2.5 is aimed at: of as many busy processes as cores, "
        "half the machine is a run's fair share"
    )
    return table


def alone(setting: Setting, cases: dict[str, tuple[str, tuple[str, ...], int]]) -> Table:
    """Measure seconds of steps where nothing else runs, in short turns.

    Threads that wait as `train` has them are compared with threads that spin, one per core.
    """
    table = Table(
        "contention",
        f"{TURNS} blocks of steps in turns, alone: as train waits, or spinning",
        ("as train does it", "spinning"),
    )
    whole: tuple[list[float], list[float]] = ([], [])
    # Runs so short are timed whole.
    for repeat in range(setting.repeats):
        for which in (0, 1) if repeat % 2 else (1, 0):
            if which == 0:
                seconds_of_run = trained(DIGITS)
            else:
                threads = f"trainer.threads={setting.threads}"
                seconds_of_run = trained((*DIGITS, threads), SPINNING)
            whole[which].append(seconds_of_run)
    table.add("train epochs=10 (digits), whole", "s of training", *whole, digits=2, ratio_digits=3)
    for case, (title, _, steps) in cases.items():
        steps = max(1, steps // 12)
        found: tuple[list[float], list[float]] = ([], [])
        with (
            process(setting, case, threads=setting.threads, environment=dict(WAITING)) as ours,
            process(setting, case, threads=setting.threads, environment=SPINNING) as spinning,
        ):
            for repeat in range(setting.repeats):
                sums = [0.0, 0.0]
                for turn in range(TURNS):
                    for which in (0, 1) if (repeat + turn) % 2 else (1, 0):
                        sums[which] += seconds((ours, spinning)[which], steps)
                found[0].append(sums[0])
                found[1].append(sums[1])
        table.add(
            f"{title}, {TURNS} x {counted(steps, 'step')}", "s", *found, digits=2, ratio_digits=3
        )
    table.note(
        "digits take one thread by the work of a step, the spinning contender has one a core"
    )
    return table


@contextmanager
def busy() -> Iterator[None]:
    """Have busy processes run inside the `with`."""
    with ExitStack() as stack:
        for _ in range(BUSY):
            process = subprocess.Popen(FOR_EVER)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def trained(overrides: Sequence[str], environment: dict[str, str] | None = None) -> float:
    """Return the seconds of training in the result.json of a `train` command.

    Raises MeasurementError if the command fails.
    """
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "GOMP_", "KMP_"))
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *train_command(),
            *overrides,
            "pictures=never",
            "device=cpu",
            "out=run",
            "resume=never",
        ]
        done = subprocess.run(
            command,
            cwd=folder,
            env=variables | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise MeasurementError(
                f"contention: {' '.join(overrides)}: exit code {done.returncode}, it said: {said}",
                exit_code=1,
            )
        return float(json.loads(Path(folder, "run/result.json").read_text())["train_seconds"])
