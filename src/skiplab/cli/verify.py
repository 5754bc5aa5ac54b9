"""`skiplab verify`: trains a shortened run straight and another through kills -9, and compares all that they leave, bit by bit."""

import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

from skiplab import placement
from skiplab.config.schema import Config
from skiplab.errors import SkiplabError
from skiplab.launch import guarded, launch
from skiplab.machine import streams
from skiplab.machine.signals import StopSignal, let_through
from skiplab.runs import atomic, checkpoint, folders, status
from skiplab.study import workers
from skiplab.words import counted

COMPARED = (folders.LAST, folders.BEST, "metrics.jsonl", "report.txt", "predictions.npz")
# of a shortened run, and as many evaluations
NUM_SAVES = 6
# imported once, in the process that the runs are forked from
PRELOADED = ["skiplab.cli.verify", "skiplab.run", "skiplab.runs.plots"]


class Unfinished(SkiplabError):
    """A run of a verification ended badly by itself."""


@dataclass
class Killed:
    """What happened to a run on its way to the end."""

    # that its last checkpoint stood at when it was killed; -1: there was none
    steps: list[int] = field(default_factory=list)
    # kills while a checkpoint was being written
    inside_save: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Killed") -> "Killed":
        return Killed(
            self.steps + other.steps,
            self.inside_save + other.inside_save,
            self.seconds + other.seconds,
        )


def shortened(config: Config, *, steps: int, steps_per_epoch: int) -> Config:
    """`config` cut off after `steps` optimizer steps, its schedule unchanged, with several saves and evaluations on the way."""
    every = max(1, steps // NUM_SAVES) / steps_per_epoch
    trainer = replace(
        config.trainer,
        limit_steps=steps,
        save_every=every,
        eval_every=every,
        max_time=None,
        early_stop=None,
    )
    return replace(config, trainer=trainer, resume="auto", name=None, changed=())


def start(config: Config, folder: Path) -> BaseProcess:
    """The run in a process of its own, forked where that can be from one that has imported torch; its words go to FOLDER.log."""
    process = workers.context(PRELOADED).Process(
        target=run_in, args=(replace(config, out=str(folder)), f"{folder}.log")
    )
    process.start()
    return process


def run_in(config: Config, log: str) -> None:
    """What the process does: `train` with a config that is checked already."""
    # where the server that forks has served a study, which keeps signals from it
    let_through()
    streams.to_log(log)

    def run() -> int:
        with StopSignal() as stop_signal, placement.held(config, Path(), "") as (folder, _):
            return launch(config, folder, stop_signal)

    sys.exit(guarded(run))


def to_the_end(config: Config, folder: Path) -> float:
    """Run to the end without a kill; seconds. Raises Unfinished with the run's own words if it fails."""
    began = time.monotonic()
    process = start(config, folder)
    process.join()
    if process.exitcode != 0:
        raise Unfinished(
            f"{folder}: the run ended with exit code {process.exitcode}: {last_words(folder)}"
        )
    return time.monotonic() - began


def last_words(folder: Path) -> str:
    """The last line that a run has said."""
    lines = Path(f"{folder}.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def through_kills(
    config: Config, folder: Path, *, kills: int, longest: float, chance: random.Random
) -> Killed:
    """Run to the end through at most so many kills -9: every second one while a checkpoint is written, the others at any moment.

    `longest`: seconds that a run may live before a kill at any moment; a run that ends before its
    kill is over.
    """
    killed, began = Killed(), time.monotonic()
    while not folders.is_finished(folder) and len(killed.steps) < kills:
        process = start(config, folder)
        if len(killed.steps) % 2:
            wait_for_save(process, folder, skip=chance.randrange(NUM_SAVES // 2))
        # the report at the end takes longer than a short training, so most of these aim before it
        else:
            process.join(chance.uniform(0, longest * chance.choice((0.2, 0.2, 1))))
        process.kill()
        process.join()
        if process.exitcode is not None and process.exitcode > 0:
            raise Unfinished(
                f"{folder}: the run ended with exit code {process.exitcode}: {last_words(folder)}"
            )
        if process.exitcode != 0:
            killed.inside_save += bool(unfinished_files(folder))
            killed.steps.append(step_of(folder))
    if not folders.is_finished(folder):
        to_the_end(config, folder)
    killed.seconds = time.monotonic() - began
    return killed


def wait_for_save(process: BaseProcess, folder: Path, *, skip: int) -> None:
    """Return while a checkpoint is being written, after `skip` others, or when the process has ended."""
    seen: set[str] = set()
    while process.is_alive():
        seen |= (now := unfinished_files(folder))
        if now and len(seen) > skip:
            return
        # a save takes some ms; the run wants the core
        time.sleep(1e-4)


def unfinished_files(folder: Path) -> set[str]:
    """Checkpoints that are being written, or were when their writer was killed."""
    if not folder.is_dir():
        return set()
    return {
        name for name in os.listdir(folder) if name.endswith(atomic.TEMPORARY) and ".ckpt-" in name
    }


def step_of(folder: Path) -> int:
    """Where the folder's last checkpoint stands; -1: there is none."""
    return status.of_last_save(folder).step or 0 if folders.has_state(folder) else -1


def digests(folder: Path) -> dict[str, str]:
    """A SHA-256 of each thing that must be equal: every tensor, facts without `history`, metrics, report, predictions."""
    found: dict[str, str] = {}
    for name in COMPARED:
        if name.endswith(".ckpt"):
            tensors, facts = checkpoint.load(folder / name)
            found |= {
                f"{name}: {key}": sha256(
                    tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                )
                for key, tensor in tensors.items()
            }
            told = {key: value for key, value in facts.items() if key != "run"} | {"history": None}
            found[f"{name}: facts"] = sha256(json.dumps(told, sort_keys=True).encode())
        elif name.endswith(".npz"):
            with np.load(folder / name) as arrays:
                found |= {f"{name}: {key}": sha256(arrays[key].tobytes()) for key in arrays.files}
        else:
            found[name] = sha256((folder / name).read_bytes())
    return found | {
        f"{path.name}: left behind": "" for path in folder.glob(f".*{atomic.TEMPORARY}")
    }


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """What is not the same in both."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


@dataclass
class Verdict:
    """What a verification found."""

    killed: Killed
    num_runs: int
    straight_seconds: float
    # digests of the straight run
    expected: dict[str, str]
    different: list[str]


def verify(config: Config, *, kills: int, per_run: int = 4, seed: int = 0) -> Verdict:
    """Run `config` straight once, then through so many kills, at most `per_run` in one run, and compare each end with the straight one.

    Stops at the first run that differs.
    """
    chance, total, num_runs, different = random.Random(seed), Killed(), 0, []
    with tempfile.TemporaryDirectory(prefix="skiplab-verify-") as parent:
        warm_up()
        straight = Path(parent) / "straight"
        seconds = to_the_end(config, straight)
        expected = digests(straight)
        while not different and (len(total.steps) < kills or num_runs == 0):
            num_runs += 1
            folder = Path(parent) / str(num_runs)
            wanted = min(per_run, kills - len(total.steps))
            total += through_kills(config, folder, kills=wanted, longest=seconds, chance=chance)
            different = differences(expected, digests(folder))
            shutil.rmtree(folder)
    return Verdict(total, num_runs, seconds, expected, different)


def warm_up() -> None:
    """Have the imports done that every run shares, so that they count as no run's time."""
    process = workers.context(PRELOADED).Process(target=int)
    process.start()
    process.join()


def in_words(verdict: Verdict) -> str:
    """The verdict, with what was killed when, and a digest of each file."""
    killed, different = verdict.killed, verdict.different
    stood = ", ".join("none yet" if step < 0 else str(step) for step in killed.steps[:12]) + (
        " ..." if len(killed.steps) > 12 else ""
    )
    lines = [
        f"straight   {verdict.straight_seconds:.1f} s",
        f"killed     {counted(len(killed.steps), 'time')}, {killed.inside_save} of them while a checkpoint was written, in "
        f"{counted(verdict.num_runs, 'run')}, {killed.seconds:.1f} s",
        f"           last.ckpt then stood at step {stood}" if stood else "",
    ]
    for name in COMPARED:
        parts = sorted(key for key in verdict.expected if key.startswith(name))
        digest = sha256("".join(verdict.expected[key] for key in parts).encode())[:16]
        verb = "DIFFERENT" if any(key.startswith(name) for key in different) else "equal"
        lines.append(
            f"{name:<16} {digest}  {verb}" + (f"  ({len(parts)} parts)" if len(parts) > 1 else "")
        )
    lines.append(
        "not equal: " + ", ".join(different[:5]) + (" ..." if len(different) > 5 else "")
        if different
        else "equal to the bit"
    )
    return "\n".join(line for line in lines if line)
