"""What the jobs of a study run on: so many at once, each with its share of the cores, or a GPU of its own. Imports no torch."""

import ctypes
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skiplab.config.schema import Config
from skiplab.errors import UsageError
from skiplab.machine.threads import SHARE, given


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time."""

    # None: as the config says
    threads: int | None
    # what CUDA_VISIBLE_DEVICES is set to; None: left alone
    device: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a job in this slot finds in its environment: its device, and its share of the threads as its limit."""
        found = {} if self.device is None else {"CUDA_VISIBLE_DEVICES": self.device}
        return found if self.threads is None else found | {SHARE: str(self.threads)}


def slots_for(configs: Sequence[Config], *, jobs: int | str) -> list[Slot]:
    """The slots of a study. `auto`: one a GPU, or on the CPU one a core (or as many as trainer.threads leaves room for).

    A number of jobs is spread over the GPUs, or divides the cores; jobs that train on several
    devices come one at a time.
    """
    if any(config.trainer.devices != 1 for config in configs):
        if jobs not in ("auto", 1):
            raise UsageError(
                f"jobs={jobs}: a cell with trainer.devices other than 1 takes the whole machine; leave jobs out"
            )
        return [Slot(None)]
    cores, _ = given()
    gpus = (
        visible_gpus()
        if any(config.device == "auto" or config.device.startswith("cuda") for config in configs)
        else []
    )
    wanted = {config.device for config in configs if ":" in config.device}
    if gpus and not wanted:
        number = len(gpus) if jobs == "auto" else int(jobs)
        return [Slot(max(1, cores // number), gpus[i % len(gpus)]) for i in range(number)]
    if wanted or any(
        config.device == "mps" for config in configs
    ):  # one device by name: one run at a time there, unless more are asked for
        number = 1 if jobs == "auto" else int(jobs)
        return [Slot(max(1, cores // number))] * number
    stated = {config.trainer.threads for config in configs}
    threads = max((each or 1 for each in stated), default=1)
    number = max(1, cores // threads) if jobs == "auto" else int(jobs)
    return [Slot(threads if None not in stated else max(1, cores // number))] * number


def visible_gpus() -> list[str]:
    """The GPUs that a job can be given, as CUDA_VISIBLE_DEVICES names them, counted through NVML: no CUDA context is made.

    None where PyTorch is a build without CUDA.
    """
    if not torch_has_cuda():
        return []
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1" if os.name == "posix" else "nvml.dll")
        count = ctypes.c_uint()
        there = nvml.nvmlInit_v2() == 0 and nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return []
    every = [str(i) for i in range(count.value)] if there else []
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is None or not every:
        return every
    named = [name.strip() for name in told.split(",")]
    usable = named[
        : next(
            (i for i, name in enumerate(named) if name == "" or name.startswith("-")), len(named)
        )
    ]
    return [name for name in usable if not name.isdigit() or name in every]


def torch_has_cuda() -> bool:
    """Whether the installed PyTorch is a CUDA build, by the file that says so: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^cuda\b[^=]*= *['\"]\d", text, re.MULTILINE) is not None
