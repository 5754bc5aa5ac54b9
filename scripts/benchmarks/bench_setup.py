"""What the parts of scripts/bench share.

These are the models, the images, our trainer as `train` builds it, and measurements in fresh
processes.
"""

import contextlib
import importlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import torch

    from skiplab.config.schema import Config
    from skiplab.data.splits import Split
    from skiplab.training.trainer import Trainer

COMMAND = Path(__file__).resolve().parents[1] / "bench"


@dataclass(frozen=True)
class Pace:
    """How much of a model is timed at once."""

    # Steps per block, and pairs of blocks per repeat.
    block: int
    pairs: int
    # Images of a training pass and of an evaluation.
    images: int
    evaluated: int


@dataclass(frozen=True)
class Model:
    """A network and its recipe, as `train` takes it."""

    title: str
    overrides: tuple[str, ...]
    on_cpu: Pace
    # Steps before a clock starts, on a CPU.
    warmup: int = 3


MODELS = {
    "deepcnn": Model(
        "Deep_CNN, batch 256",
        ("experiment=deepcnn_cifar10", "block=residual"),
        Pace(5, 16, 9216, 4000),
    ),
    "resnet": Model(
        "the notebook's ResNet, batch 256",
        ("experiment=resnet_mnist", "batch_size=256"),
        Pace(1, 16, 2048, 1000),
        1,
    ),
    "resnet20": Model(
        "ResNet-20, batch 128", ("model=resnet20", "dataset=cifar10"), Pace(3, 16, 4096, 2000)
    ),
    "resnet18": Model(
        "ResNet-18, batch 128", ("model=resnet18", "dataset=cifar10"), Pace(1, 8, 512, 500), 1
    ),
}
ON_CUDA, WARMUP_ON_CUDA = Pace(50, 16, 40_000, 10_000), 20
# Arguments of ours where the other side does the same.
FAST_ON_CUDA = ("trainer.amp=bf16", "trainer.compile=true")


@dataclass(frozen=True)
class Setting:
    """What every measurement needs to know."""

    threads: int
    device: str
    root: str
    repeats: int
    # Paths of published scripts for speedrun.
    airbench: tuple[str, ...] = ()

    @property
    def is_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def pace(self, model: str) -> Pace:
        """Return how much of the model is timed at once on this device."""
        return ON_CUDA if self.is_cuda else MODELS[model].on_cpu

    def warmup(self, model: str) -> int:
        """Return the number of steps before a clock starts."""
        return WARMUP_ON_CUDA if self.is_cuda else MODELS[model].warmup


class MeasurementError(Exception):
    """A measurement's process failed, and has printed why. `exit_code` is for the shell."""

    def __init__(self, message: str, *, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


# --------------------------------------------------------------------------------------------------
# Fresh processes


def in_process(function: str, setting: Setting, **arguments: str) -> dict[str, Any]:
    """Call `MODULE:FUNCTION(setting, **arguments)` in a fresh process.

    Returns its result and its peak memory: `peak_mib`, `cuda_peak_mib`.
    """
    from skiplab.machine import threads

    job = {"function": function, "setting": asdict(setting), "arguments": arguments}
    # The profiler prints much.
    environment = os.environ | {"OMP_NUM_THREADS": str(setting.threads), "KINETO_LOG_LEVEL": "99"}
    # Threads wait as `train` has them wait.
    threads.wait_asleep(environment)
    tell(f"measuring {function} {' '.join(map(str, arguments.values()))}")
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--measure", json.dumps(job)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    tell("")
    if done.returncode != 0:
        raise MeasurementError(
            f"{function} {' '.join(map(str, arguments.values()))}: the measurement failed",
            exit_code=done.returncode,
        )
    return json.loads(done.stdout.splitlines()[-1])


def tell(text: str) -> None:
    """Show what is going on, only on a terminal, in place of the last such text."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def in_turns(
    functions: dict[str, str], setting: Setting, **arguments: str
) -> dict[str, list[dict[str, Any]]]:
    """Return each contender's results, one per repeat, each from a fresh process.

    The contenders take turns, and their order is swapped each time.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in functions}
    for repeat in range(setting.repeats):
        for name in list(functions)[:: 1 if repeat % 2 == 0 else -1]:
            results[name].append(in_process(functions[name], setting, **arguments))
    return results


def measure(text: str) -> None:
    """Run the job that `in_process` describes, and print its result as JSON."""
    job = json.loads(text)
    module, _, name = job["function"].partition(":")
    setting = Setting(**job["setting"])
    with quiet_terminal():
        result = getattr(importlib.import_module(module), name)(setting, **job["arguments"])
    print(json.dumps(peaks() | result))


def peaks() -> dict[str, float | None]:
    """Return the process's peak memory so far in MiB: on the host, and of tensors on the GPU."""
    import resource

    torch: Any = sys.modules.get("torch")
    on_cuda = bool(torch) and torch.cuda.is_initialized()
    # ru_maxrss counts bytes on macOS, KiB elsewhere.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
        "cuda_peak_mib": torch.cuda.max_memory_allocated() / 2**20 if on_cuda else None,
    }


class Nowhere(io.TextIOWrapper):
    """A terminal that nobody looks at: the bar is drawn, but no terminal's work is counted."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def quiet_terminal() -> Iterator[None]:
    """Drop what is printed inside the `with`, as if it went to a terminal."""
    with Nowhere(open(os.devnull, "wb")) as nowhere:
        stream: TextIO = nowhere
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield


# --------------------------------------------------------------------------------------------------
# Images and trainer


def config_of(setting: Setting, *overrides: str) -> "Config":
    """Compose and check a config as the command line does.

    It has no validation set, so that no evaluation is counted.
    """
    from skiplab.config import compose

    return compose.compose_config(
        [*overrides, "val_fraction=0", f"trainer.threads={setting.threads}"]
    )


def set_up(setting: Setting, config: "Config") -> "torch.device":
    """Set the process up as `train` does, and return the device."""
    from skiplab.machine import devices

    options = config.trainer
    device = devices.pick_device(setting.device)
    devices.set_up(
        threads=options.threads,
        deterministic=options.deterministic,
        keep_allocator=options.keep_allocator,
    )
    return device


def lies_there(dataset: str, root: Path) -> bool:
    """Tell whether the training files of cifar10 or mnist are under `root`."""
    from skiplab.data import official

    if dataset == "mnist":
        raw = root / "MNIST/raw"
        return all(
            (raw / name).is_file() or (raw / f"{name}.gz").is_file()
            for name in official.IDX_NAMES["train"]
        )
    cifar = official.CIFAR10
    versions = ((cifar.archive.folder, cifar.binary), (cifar.pickled_folder, cifar.pickled))
    return any(
        all((root / folder / name).is_file() for name in files["train"])
        for folder, files in versions
    )


def images_of(setting: Setting, config: "Config", count: int | None = None) -> tuple["Split", str]:
    """Return the first `count` training images, on the host, and where they come from.

    None stands for all whole batches.
    """
    import torch

    from skiplab.config import rules
    from skiplab.data.catalog import DATASETS
    from skiplab.data.splits import Split

    dataset = config.dataset
    if lies_there(dataset.name, Path(setting.root)):
        arrays = DATASETS[dataset.name].read(Path(setting.root), "train")
        split = Split(torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels).long())
        source = f"the real {dataset.name}"
    else:
        generator = torch.Generator().manual_seed(0)
        size, channels = rules.image_size(config), rules.channels(config)
        shape = (dataset.train_images, *size, channels)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        split = Split(images, torch.randint(0, 10, shape[:1], generator=generator))
        source = f"random images of {dataset.name}'s shape (it is not under {setting.root})"
    size = count or len(split) // config.batch_size * config.batch_size
    return Split(split.images[:size].clone(), split.labels[:size].clone()), source


@contextlib.contextmanager
def trainer_of(
    config: "Config", split: "Split", device: "torch.device", validation: "Split | None" = None
) -> "Iterator[Trainer]":
    """Yield our trainer as `train` builds it, at step 0, with a folder and a log of its own."""
    from skiplab import build, capacity
    from skiplab.runs.log import Log
    from skiplab.training.context import Context

    training, held = split.to(device), validation and validation.to(device)
    model = build.network(config, device)
    accumulate = capacity.count_parts(config, model, training, device)
    with tempfile.TemporaryDirectory() as name, contextlib.closing(Log(Path(name))) as log:
        context = Context(folder=Path(name), device=device, log=log)
        yield build.make_trainer(config, model, training, held, context, accumulate=accumulate)


@contextlib.contextmanager
def fitting(trainer: "Trainer") -> Iterator[Callable[[], None]]:
    """Do what `Trainer.fit` does before its first step and after its last.

    Yields `advance`, which the caller calls in between.
    """
    trainer.deadline, trainer.began = math.inf, time.monotonic()
    trainer.context.log.start_bar(step=trainer.progress.step, num_steps=trainer.settings.stop_at)
    trainer.step.model.train()
    with trainer.saver.writer:
        trainer.context.log.truncate_metrics(0)
        trainer.save()
        yield trainer.advance
    trainer.context.log.stop_bar()


def repeated(step: Callable[[], object], count: int) -> None:
    """Call `step` `count` times."""
    for _ in range(count):
        step()


def seconds_of(work: Callable[[], object], device: "torch.device") -> tuple[float, float]:
    """Measure wall and CPU seconds, of all threads, until `work` is done, on the device too."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    wait()
    return time.perf_counter() - began, time.process_time() - began_cpu
