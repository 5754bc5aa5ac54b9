"""`scripts/bench start`: the seconds of commands and of starts, against `import torch`.

A start goes from a command to its first optimizer step.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench_setup import MeasurementError, Setting, lies_there
from bench_table import Table

IMPORT_TORCH = [sys.executable, "-c", "import torch"]
FIRST_STEP = Path(__file__).resolve().with_name("first_step.py")
# This argument changes nothing before the first step.
STEPS = "trainer.limit_steps=2"


@dataclass(frozen=True)
class Command:
    """A command: the name of its row, what is typed, and the exit code that it must end with."""

    title: str
    arguments: tuple[str, ...]
    exit_code: int = 0
    environment: tuple[tuple[str, str], ...] = ()


COMPLETION = (("COMP_LINE", "train mod"), ("COMP_POINT", "9"), ("COMP_TYPE", "9"))
SHORT = (
    Command("train --help", ("--help",)),
    Command("train --version", ("--version",)),
    Command("train epochs=three", ("epochs=three",), exit_code=2),
    Command("one TAB after `train mod`", ("-sc", "query=bash"), environment=COMPLETION),
)


def tables(setting: Setting, models: list[str]) -> Iterator[Table]:
    """Yield the short commands, then the first steps; neither depends on the models."""
    yield short_commands(setting)
    yield first_steps(setting)


def train_command() -> list[str]:
    """Return `train` as this environment has it."""
    script = Path(sys.executable).with_name("train")
    if script.is_file():
        return [sys.executable, str(script)]
    return [sys.executable, "-c", "from skiplab.cli.main import train; train()"]


def spent(
    command: list[str],
    folder: str,
    *,
    exit_code: int = 0,
    environment: tuple[tuple[str, str], ...] = (),
) -> tuple[float, float]:
    """Measure CPU and wall seconds of a command, from before its start to its end.

    CPU seconds are user and system, of all threads and children.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    variables = os.environ | dict(environment)
    done = subprocess.run(
        command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != exit_code:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise MeasurementError(
            f"start: {' '.join(command[1:])}: exit code {done.returncode}, it said: {said}",
            exit_code=1,
        )
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def short_commands(setting: Setting) -> Table:
    """Measure CPU and wall seconds of commands that train nothing."""
    table = Table(
        "start",
        "commands that train nothing, against `python -c 'import torch'`",
        ("command", "import torch"),
    )
    found: dict[str, list[tuple[float, float]]] = {command.title: [] for command in SHORT}
    torch: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(setting.repeats + 1):
            this = [spent(IMPORT_TORCH, folder)]
            for command in SHORT:
                this.append(
                    spent(
                        [*train_command(), *command.arguments],
                        folder,
                        exit_code=command.exit_code,
                        environment=command.environment,
                    )
                )
            # The first time, files come from the disk, so it is not counted.
            if repeat:
                torch.append(this[0])
                for command, seconds in zip(SHORT, this[1:], strict=True):
                    found[command.title].append(seconds)
    for title, seconds in found.items():
        for i, figure in enumerate(("CPU s", "wall s")):
            table.add(
                title,
                figure,
                [each[i] for each in seconds],
                [each[i] for each in torch],
                digits=3,
                ratio_digits=3,
            )
    table.note("one `import torch` per turn; CPU: user and system, of the command and its children")
    return table


def first_steps(setting: Setting) -> Table:
    """Measure seconds to the first optimizer step, and from the last to the end of the process."""
    table = Table(
        "start",
        "from the command to the first optimizer step, against `python -c 'import torch'`",
        ("train", "import torch"),
    )
    cases: dict[str, tuple[str, ...]] = {"train": ()}
    if lies_there("cifar10", Path(setting.root)):
        cases["train model=resnet20 dataset=cifar10"] = (
            "model=resnet20",
            "dataset=cifar10",
            f"dataset.root={setting.root}",
        )
    else:
        table.note(f"CIFAR-10 is not under {setting.root}, so its command was not run")
    found: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    torch: list[tuple[float, float]] = []
    for repeat in range(setting.repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            this = {
                case: first_step(setting, folder, *arguments) for case, arguments in cases.items()
            }
            seconds = spent(IMPORT_TORCH, folder)
        if repeat:
            torch.append(seconds)
            for case, moments in this.items():
                found[case].append(moments)
    for case, moments in found.items():
        for key, figure, i in (
            ("cpu", "CPU s to the first step", 0),
            ("wall", "wall s to the first step", 1),
            ("end_cpu", "CPU s after the last step", 0),
            ("end", "wall s after the last step", 1),
        ):
            table.add(
                case,
                figure,
                [each[key] for each in moments],
                [each[i] for each in torch],
                digits=2,
                ratio_digits=3,
            )
    table.note(
        f"with {STEPS} device={setting.device} trainer.threads={setting.threads}; "
        "the first step included",
        "after the last step: evaluation on validation and test, report, predictions, "
        "pictures, the end of the interpreter",
    )
    return table


def first_step(setting: Setting, folder: str, *arguments: str) -> dict[str, float]:
    """Measure a run's seconds to its first step, and from its last step to its process's end."""
    file = Path(folder, "moments.json")
    overrides = (
        *arguments,
        STEPS,
        "resume=never",
        f"device={setting.device}",
        f"trainer.threads={setting.threads}",
    )
    began = time.monotonic()
    cpu, _ = spent([sys.executable, str(FIRST_STEP), str(file), *overrides], folder)
    ended = time.monotonic()
    moments = json.loads(file.read_text())
    if "first" not in moments:
        raise MeasurementError(
            "start: no optimizer step was seen: "
            "scripts/benchmarks/first_step.py watches Step.update",
            exit_code=1,
        )
    (first, first_cpu), (last, last_cpu) = moments["first"], moments["last"]
    return {"cpu": first_cpu, "wall": first - began, "end_cpu": cpu - last_cpu, "end": ended - last}
