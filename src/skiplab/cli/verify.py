"""`skiplab verify`: proves that kills change nothing.

A shortened run is trained straight, and again through kills -9. All that the two leave is compared
bit by bit.
"""

import argparse
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
from typing import Any

from skiplab.cli.answer import Answer
from skiplab.cli.options import config_dir_option, number, path, trust_option
from skiplab.config.schema import Config
from skiplab.errors import SkiplabError
from skiplab.exits import guard
from skiplab.launch import launch, resolve_machine
from skiplab.machine import streams
from skiplab.machine.signals import StopSignal, let_through
from skiplab.runs import atomic, checkpoint, folders, status
from skiplab.runs.folders import BEST, LAST
from skiplab.study import workers
from skiplab.words import counted, duration

COMPARED = (LAST, BEST, "metrics.jsonl", "report.txt", "predictions.npz")
# Saves of a shortened run, which is evaluated as often.
NUM_SAVES = 6
# The runs are forked from one process, which imports these modules once.
PRELOADED = ["skiplab.cli.verify", "skiplab.run", "skiplab.runs.plots"]


class Unfinished(SkiplabError):
    """A run of a verification ended badly by itself."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab verify`."""
    parser.add_argument(
        "what",
        nargs="*",
        metavar="RUN | KEY=VALUE",
        help="a run folder, or overrides as train takes them",
    )
    parser.add_argument(
        "--kills",
        type=number("--kills", least=0),
        default=4,
        help="how often (4); every second one while a checkpoint is written",
    )
    parser.add_argument(
        "--steps",
        type=number("--steps", least=1),
        default=60,
        help="optimizer steps of the shortened run (60)",
    )
    trust_option(parser)
    config_dir_option(parser)


def command(options: argparse.Namespace) -> Answer:
    """Return the proof. Its code is 0 if the runs are bit for bit identical, else 1."""
    from skiplab import paths, provenance, trust
    from skiplab.config import compose, grid, overrides, rules

    paths.choose_own(options.config_dir)
    what = [grid.for_hydra(text) for text in options.what]
    if len(what) == 1 and "=" not in what[0]:
        folder = folders.of_path(path(what[0]))
        config = provenance.load(folder)
        trust.admit_run(folder, config, trust_code=options.trust_code, say="--trust-code")
        config = trust.at_copies(folder, config)
    else:
        overrides.check(what, multirun=False, several="a proof is of one run")
        config = compose.compose_config(what)
    config = resolve_machine(config)
    print(
        f"{options.steps} steps straight, then through {options.kills} kills; "
        "for a large network this takes minutes",
        flush=True,
    )
    steps_per_epoch = rules.steps_per_epoch(config)
    short = shorten(config, steps=options.steps, steps_per_epoch=steps_per_epoch)
    verdict = verify(short, kills=options.kills)
    document = {"steps": options.steps} | as_json(verdict)
    return Answer(document, describe(verdict), 1 if verdict.different else 0)


@dataclass
class Killed:
    """What happened to a run on its way to the end."""

    # Step of the last checkpoint at each kill; -1 if none was saved.
    steps: list[int] = field(default_factory=list)
    # Kills while a checkpoint was being written.
    inside_save: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Killed") -> "Killed":
        return Killed(
            self.steps + other.steps,
            self.inside_save + other.inside_save,
            self.seconds + other.seconds,
        )


def shorten(config: Config, *, steps: int, steps_per_epoch: int) -> Config:
    """Cut a config off after `steps` optimizer steps, with several saves and evaluations.

    The learning rate schedule stays as it is.
    """
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
    """Start a run in its own process. All that it prints goes to FOLDER.log.

    Where the system can, the process is forked from one that has imported torch.
    """
    process = workers.context(PRELOADED).Process(
        target=run_in, args=(replace(config, out=str(folder)), f"{folder}.log")
    )
    process.start()
    return process


def run_in(config: Config, log: str) -> None:
    """Run a config that is checked already, as `train` does, and exit with its code."""
    # The process that forks may have served a study before, which blocks signals in it.
    let_through()
    streams.to_log(log)

    def run() -> int:
        with StopSignal() as stop_signal:
            return launch(config, stop_signal)

    sys.exit(guard(run))


def run_to_end(config: Config, folder: Path) -> float:
    """Run to the end without a kill and return the seconds.

    Raises Unfinished with the last line of the run's log if it fails.
    """
    began = time.monotonic()
    process = start(config, folder)
    process.join()
    check_exit(process, folder)
    return time.monotonic() - began


def check_exit(process: BaseProcess, folder: Path) -> None:
    """Raise Unfinished if a run's process has ended with an error."""
    if process.exitcode != 0:
        raise Unfinished(
            f"{folder}: the run ended with exit code {process.exitcode}: {last_words(folder)}"
        )


def last_words(folder: Path) -> str:
    """Return the last line that a run has printed."""
    lines = Path(f"{folder}.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def run_through_kills(
    config: Config, folder: Path, *, kills: int, longest: float, chance: random.Random
) -> Killed:
    """Run to the end through at most `kills` kills -9.

    Every second kill comes while a checkpoint is being written, the others come at any moment of
    the first `longest` seconds. A run that ends before its kill is over. Raises Unfinished if a run
    fails by itself.
    """
    killed = Killed()
    began = time.monotonic()
    while not folders.is_finished(folder) and len(killed.steps) < kills:
        process = start(config, folder)
        if len(killed.steps) % 2:
            wait_for_save(process, folder, skip=chance.randrange(NUM_SAVES // 2))
        else:
            # The report at the end takes longer than a short training: most kills aim before it.
            process.join(chance.uniform(0, longest * chance.choice((0.2, 0.2, 1))))
        process.kill()
        process.join()
        # A killed process has a negative exit code.
        if process.exitcode is not None and process.exitcode >= 0:
            check_exit(process, folder)
        else:
            killed.inside_save += bool(unfinished_files(folder))
            killed.steps.append(step_of(folder))
    if not folders.is_finished(folder):
        run_to_end(config, folder)
    killed.seconds = time.monotonic() - began
    return killed


def wait_for_save(process: BaseProcess, folder: Path, *, skip: int) -> None:
    """Wait until a checkpoint is being written, after `skip` others, or the process has ended."""
    seen: set[str] = set()
    while process.is_alive():
        now = unfinished_files(folder)
        seen |= now
        if now and len(seen) > skip:
            return
        # A save takes some milliseconds, and the run needs the core.
        time.sleep(1e-4)


def unfinished_files(folder: Path) -> set[str]:
    """Return the checkpoints that are being written, or were when their writer was killed."""
    if not folder.is_dir():
        return set()
    return {
        name
        for name in os.listdir(folder)
        if name.endswith(atomic.TEMPORARY) and name.startswith((f".{LAST}-", f".{BEST}-"))
    }


def step_of(folder: Path) -> int:
    """Return the step of the folder's last checkpoint; -1 if there is none."""
    return status.of_last_save(folder).step or 0 if folders.has_state(folder) else -1


def digests(folder: Path) -> dict[str, str]:
    """Return a SHA-256 of each part of a run that must be identical.

    The parts are every tensor, a checkpoint's facts without `history`, metrics, report and
    predictions. A file that was left half written is a part too, so that it makes a difference.
    """
    import numpy as np
    import torch

    found: dict[str, str] = {}
    for name in COMPARED:
        if name in (LAST, BEST):
            # A run of an earlier release has them under other names.
            newest = next(iter(checkpoint.generations(folder / name)), folder / name)
            tensors, facts = checkpoint.load(newest)
            name = newest.name
            for key, tensor in tensors.items():
                content = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                found[f"{name}: {key}"] = sha256(content)
            kept = {key: value for key, value in facts.items() if key != "run"} | {"history": None}
            found[f"{name}: facts"] = sha256(json.dumps(kept, sort_keys=True).encode())
        elif name.endswith(".npz"):
            with np.load(folder / name) as arrays:
                for key in arrays.files:
                    found[f"{name}: {key}"] = sha256(arrays[key].tobytes())
        else:
            found[name] = sha256((folder / name).read_bytes())
    for leftover in folder.glob(f".*{atomic.TEMPORARY}"):
        found[f"{leftover.name}: left behind"] = ""
    return found


def sha256(content: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return the names of the parts that are not the same in both."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


@dataclass
class Verdict:
    """What a verification found."""

    killed: Killed
    num_runs: int
    straight_seconds: float
    # Digests of the straight run.
    expected: dict[str, str]
    different: list[str]


def verify(config: Config, *, kills: int, per_run: int = 4, seed: int = 0) -> Verdict:
    """Run straight once, then through `kills` kills, and compare each end with the straight one.

    At most `per_run` kills hit one run. Stops at the first run that differs.
    """
    chance = random.Random(seed)
    total = Killed()
    num_runs = 0
    different: list[str] = []
    with tempfile.TemporaryDirectory(prefix="skiplab-verify-") as parent:
        warm_up()
        straight = Path(parent) / "straight"
        seconds = run_to_end(config, straight)
        expected = digests(straight)
        while not different and (len(total.steps) < kills or num_runs == 0):
            num_runs += 1
            folder = Path(parent) / str(num_runs)
            wanted = min(per_run, kills - len(total.steps))
            total += run_through_kills(config, folder, kills=wanted, longest=seconds, chance=chance)
            different = differences(expected, digests(folder))
            shutil.rmtree(folder)
    return Verdict(total, num_runs, seconds, expected, different)


def warm_up() -> None:
    """Do the imports that every run shares, so that they count as no run's time."""
    process = workers.context(PRELOADED).Process(target=int)
    process.start()
    process.join()


def files_of(verdict: Verdict) -> list[dict[str, Any]]:
    """Return each compared file's name, its parts, the SHA-256 of their digests, and the result."""
    found: list[dict[str, Any]] = []
    for name in COMPARED:
        parts = sorted(key for key in verdict.expected if key.startswith(name))
        digest = sha256("".join(verdict.expected[key] for key in parts).encode())
        is_equal = not any(key.startswith(name) for key in verdict.different)
        found.append({"name": name, "parts": len(parts), "sha256": digest, "is_equal": is_equal})
    return found


def as_json(verdict: Verdict) -> dict[str, object]:
    """Return the verdict as docs/json.md states it."""
    killed = verdict.killed
    return {
        "is_equal": not verdict.different,
        "different": verdict.different,
        "files": files_of(verdict),
        "straight_seconds": verdict.straight_seconds,
        "killed_seconds": killed.seconds,
        "killed_runs": verdict.num_runs,
        "kills": len(killed.steps),
        "kills_inside_save": killed.inside_save,
        "kills_at_step": [None if step < 0 else step for step in killed.steps],
    }


def describe(verdict: Verdict) -> str:
    """Describe the verdict: what was killed when, a digest of each file, and what differs."""
    killed, took = verdict.killed, duration(verdict.killed.seconds)
    different = verdict.different
    lines = [
        f"straight   {duration(verdict.straight_seconds)}",
        f"killed     {counted(len(killed.steps), 'time')}, {killed.inside_save} of them while a "
        f"checkpoint was written, in {counted(verdict.num_runs, 'run')}, {took}",
    ]
    if killed.steps:
        steps = ["none yet" if step < 0 else str(step) for step in killed.steps[:12]]
        more = " ..." if len(killed.steps) > 12 else ""
        lines.append(f"           {LAST} then stood at step {', '.join(steps)}{more}")
    for file in files_of(verdict):
        verb = "equal" if file["is_equal"] else "DIFFERENT"
        count = f"  ({file['parts']} parts)" if file["parts"] > 1 else ""
        lines.append(f"{file['name']:<16} {file['sha256'][:16]}  {verb}{count}")
    if different:
        more = " ..." if len(different) > 5 else ""
        lines.append(f"not equal: {', '.join(different[:5])}{more}")
    else:
        lines.append("equal to the bit")
    return "\n".join(lines)
