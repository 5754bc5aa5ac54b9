"""What test modules share: small configs, a command as a process, types of conftest's fixtures."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Set before torch is imported: tensors this small only wait for a second thread.
os.environ["OMP_NUM_THREADS"] = "1"
# Tests start hundreds of processes: without bytecode each would compile all modules once more.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""

import torch

from skiplab.config import compose as composition
from skiplab.config.schema import Config
from skiplab.locations import default_root
from skiplab.machine.decisions import GO_ON, Decision
from skiplab.runs.log import Log
from skiplab.training.context import Context

# The root of the checkout.
ROOT = Path(__file__).resolve().parents[1]
# Read before any test moves the cache.
REAL_ROOT = default_root()
HAS_REAL_DATA = (REAL_ROOT / "MNIST/raw/train-images-idx3-ubyte").is_file() and (
    REAL_ROOT / "cifar-10-batches-bin/data_batch_1.bin"
).is_file()

# 18 steps, with a save and an evaluation every second one.
SMALL = (
    "depth=1",
    "width=8",
    "batch_size=256",
    "epochs=3",
    "trainer.threads=1",
    "trainer.save_every=0.34",
    "trainer.eval_every=0.34",
)
# Pictures take a second per run. The weights that are tested are those that were trained.
SMALL = (*SMALL, "pictures=never", "trainer=default")


Train = Callable[..., subprocess.CompletedProcess[str]]
Cli = Callable[..., tuple[int, str, str]]


def last_of(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments with only the last value of each key.

    A test's own values so replace those of SMALL before them: a command line gives a key once.
    """
    keys = [
        text.partition("=")[0] if "=" in text and not text.startswith("-") else ""
        for text in arguments
    ]
    return tuple(
        text
        for i, (key, text) in enumerate(zip(keys, arguments, strict=True))
        if not key or key not in keys[i + 1 :]
    )


def compose(*texts: str) -> Config:
    """The checked config of a command line."""
    return composition.compose_config(texts)


def on_cpu(folder: Path, log: Log, stop_signal: Callable[[], Decision] = lambda: GO_ON) -> Context:
    """The surroundings of a run of one process on the CPU."""
    return Context(folder=folder, device=torch.device("cpu"), log=log, stop_signal=stop_signal)


def system(root: Path, membership: str, **files: object) -> Path:
    """A root folder with /proc/self/cgroup and files under /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def start(*arguments: str, cwd: Path, command: str = "train") -> subprocess.Popen[str]:
    """`train` (or `skiplab`) as a process of its own, one thread, without a terminal."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [str(Path(sys.executable).parent / command), *last_of(arguments)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
