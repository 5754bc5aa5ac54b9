"""`scripts/bench speedrun`, CUDA only: `train experiment=speedrun94` (and 96) and published scripts, in turns, seconds and accuracy."""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench_setup import MeasurementError, Setting, lies_there
from bench_start import train_command
from bench_table import Table

# by the accuracy in a published script's name
EXPERIMENTS = {"94": "speedrun94", "96": "speedrun96"}
# what a published script says of its number of runs
PUBLISHED_RUNS = "range(200)"
# of each contender; each is a process, which compiles once and then runs its share of the seeds
TURNS = 2
# of the run that compiles, and is not counted
WARMUP_SEED = 1_000_000

# seconds and accuracy of each
Runs = list[dict[str, float]]


def tables(setting: Setting, models: list[str]) -> Iterator[Table]:
    """A table for each experiment that conf/ has; the models do not matter."""
    from skiplab.errors import UsageError
    from skiplab.paths import conf_folder

    known = {
        goal: name
        for goal, name in EXPERIMENTS.items()
        if (conf_folder() / f"experiment/{name}.yaml").is_file()
    }
    if not known:
        raise UsageError(
            f"speedrun: {conf_folder() / 'experiment'} holds neither {' nor '.join(EXPERIMENTS.values())}"
        )
    if not lies_there("cifar10", Path(setting.root)):
        raise UsageError(
            f"speedrun: needs the real CIFAR-10 under {setting.root}; train dataset=cifar10 fetches it"
        )
    for goal, experiment in known.items():
        published = next((Path(path) for path in setting.airbench if goal in Path(path).name), None)
        yield compare(setting, goal, experiment, published)


def compare(setting: Setting, goal: str, experiment: str, published: Path | None) -> Table:
    """Both contenders in turns."""
    table = Table(
        "speedrun", f"CIFAR-10 to {goal} %", ("ours", published.name if published else "(none)")
    )
    a: Runs = []
    b: Runs = []
    per_turn = -(-setting.repeats // TURNS)
    for turn in range(TURNS):
        for side in ("ours", "theirs")[:: 1 if turn % 2 == 0 else -1]:
            if side == "ours":
                a += ours(setting, experiment, range(turn * per_turn, (turn + 1) * per_turn))
            elif published is not None:
                b += theirs(setting, published, per_turn)
    note = "" if published else "no --airbench PATH was given: nothing to compare with"
    table.add(
        experiment,
        "s",
        *([run["seconds"] for run in runs] for runs in (a, b)),
        digits=3,
        ratio_digits=3,
        note=note,
    )
    accuracies = [[100 * run["accuracy"] for run in runs] for runs in (a, b)]
    table.add(
        experiment,
        "accuracy, %",
        *accuracies,
        digits=2,
        ratio_digits=4,
        note="; ".join(map(mean_and_spread, filter(None, accuracies))),
    )
    for key, figure in (("gpu_mib", "MiB, peak on the GPU"), ("peak_mib", "MiB, peak memory")):
        if all(run[key] for run in (*a, *b)):
            table.add(experiment, figure, *([run[key] for run in runs] for runs in (a, b)))
    table.note(
        f"ours: train_seconds + test_seconds (all views of the test set) and test accuracy of result.json, {TURNS} turns",
        f"{per_turn} seeds a process after a run that compiles",
        "published: its own time_seconds and tta_val_acc, without its first run, which compiles; only its number of runs is changed",
        "on the GPU: what the device has in use beyond what it had before, caches included",
    )
    return table


def mean_and_spread(values: Sequence[float]) -> str:
    """`mean 94.02 (standard deviation 0.12, n = 5)`."""
    deviation = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "unknown"
    return (
        f"mean {statistics.fmean(values):.2f} (standard deviation {deviation}, n = {len(values)})"
    )


def ours(setting: Setting, experiment: str, seeds: Sequence[int]) -> Runs:
    """`train -m` over a seed to warm up and the seeds to count."""
    texts = [f"experiment={experiment}", f"dataset.root={setting.root}", f"device={setting.device}"]
    with tempfile.TemporaryDirectory() as folder:
        _, memory = run(
            [*train_command(), "-m", *texts, f"seed={','.join(map(str, (WARMUP_SEED, *seeds)))}"],
            folder,
        )
        results = [
            json.loads(path.read_text()) for path in Path(folder).glob("outputs/**/result.json")
        ]
    counted = sorted(
        (result for result in results if result["seed"] in seeds), key=lambda result: result["seed"]
    )
    if len(counted) != len(seeds):
        raise MeasurementError(
            f"speedrun: {len(counted)} of {len(seeds)} runs of experiment={experiment} have finished",
            exit_code=1,
        )
    return [
        {
            "seconds": result["train_seconds"] + result["test_seconds"],
            "accuracy": result["test"]["accuracy"],
        }
        | memory
        for result in counted
    ]


def theirs(setting: Setting, script: Path, count: int) -> Runs:
    """The published script, as it is but for its number of runs, on our reader's CIFAR-10 in a folder of its own."""
    from skiplab.errors import UsageError

    text = script.read_text(encoding="utf-8")
    if text.count(PUBLISHED_RUNS) != 1:
        raise UsageError(
            f"--airbench {script}: {PUBLISHED_RUNS}, its number of runs, is expected in it once"
        )
    num_runs = count if '"warmup"' in text else count + 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        put_cifar10(Path(setting.root), folder / "cifar10")
        copy = folder / script.name
        copy.write_text(text.replace(PUBLISHED_RUNS, f"range({num_runs})"), encoding="utf-8")
        printed, memory = run([sys.executable, str(copy)], name)
    runs = counted_runs(printed)
    if len(runs) != count:
        raise MeasurementError(
            f"speedrun: {script.name} has printed {len(runs)} of {count} runs", exit_code=1
        )
    return [found | memory for found in runs]


def put_cifar10(root: Path, folder: Path) -> None:
    """train.pt and test.pt as the published scripts read them."""
    import torch

    from skiplab.data import cifar

    classes = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    folder.mkdir()
    for split in ("train", "test"):
        arrays = cifar.read_cifar10(root, split)
        images, labels = torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels).long()
        torch.save({"images": images, "labels": labels, "classes": classes}, folder / f"{split}.pt")


def counted_runs(printed: str) -> Runs:
    """Seconds and accuracy of each run in a published script's table, without the run that warms up: the one called so, else the first."""
    names: list[str] = []
    runs: dict[str, dict[str, float]] = {}
    current = ""
    for line in printed.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "tta_val_acc" in cells:
            names = cells
        elif names and len(cells) == len(names):
            row = dict(zip(names, cells, strict=True))
            current = row["run"] or current
            if row["epoch"] == "eval":
                seconds = next(
                    value for name, value in row.items() if name.endswith("time_seconds")
                )
                runs[current] = {"seconds": float(seconds), "accuracy": float(row["tta_val_acc"])}
    warmup = "warmup" if "warmup" in runs else next(iter(runs), "")
    return [found for name, found in runs.items() if name != warmup]


def run(command: list[str], folder: str) -> tuple[str, dict[str, float]]:
    """What a command prints, and its peak memory on the host and on the GPU. Raises MeasurementError if it fails."""
    with DeviceMemory() as device, open(Path(folder, "stderr"), "w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = re.sub(r"\s+", " ", errors.read()[-300:])
    if process.returncode != 0:
        raise MeasurementError(
            f"speedrun: {' '.join(command[1:3])}: exit code {process.returncode}, it said: {said}",
            exit_code=1,
        )
    return printed, {"peak_mib": usage.ru_maxrss / 1024, "gpu_mib": device.peak / 2**20}


class DeviceMemory:
    """While entered, watches how many bytes the GPU has in use; `peak` is the most, beyond what it had in use before."""

    def __enter__(self) -> "DeviceMemory":
        self.peak, self.before, self.done = 0, self.used(), threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.done.set()
        self.thread.join()

    def used(self) -> int:
        import torch

        free, total = torch.cuda.mem_get_info()
        return total - free

    def watch(self) -> None:
        while not self.done.wait(0.1):
            self.peak = max(self.peak, self.used() - self.before)
