"""Divide the machine among the jobs of a study: to each its share of the cores, or a GPU.

Imports no torch.
"""

import ctypes
import importlib.util
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skiplab.config.schema import Config
from skiplab.errors import UsageError
from skiplab.machine.threads import SHARE, shared_cores


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time."""

    # None leaves the number to the config.
    threads: int | None
    # CUDA_VISIBLE_DEVICES is set to it; None leaves it as it is.
    device: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a job in this slot: its device, and its limit of threads."""
        found = {} if self.device is None else {"CUDA_VISIBLE_DEVICES": self.device}
        return found if self.threads is None else found | {SHARE: str(self.threads)}


def slots_for(configs: Sequence[Config], *, jobs: int | str) -> list[Slot]:
    """Return the slots of a study.

    `auto` means one slot per GPU, or on the CPU one per core (fewer where trainer.threads asks for
    more cores each). A number of jobs is spread over the GPUs, or divides the cores. Jobs that
    train on several devices run one at a time; raises UsageError if `jobs` says otherwise.
    """
    if any(config.trainer.devices != 1 for config in configs):
        if jobs not in ("auto", 1):
            raise UsageError(
                f"jobs={jobs}: a cell with trainer.devices other than 1 takes the whole machine; "
                "leave jobs out"
            )
        return [Slot(None)]
    cores, _ = shared_cores()
    may_use_gpu = any(each.device == "auto" or each.device.startswith("cuda") for each in configs)
    gpus = visible_gpus() if may_use_gpu else []
    wanted = {config.device for config in configs if ":" in config.device}
    if gpus and not wanted:
        number = len(gpus) if jobs == "auto" else int(jobs)
        return [Slot(max(1, cores // number), gpus[i % len(gpus)]) for i in range(number)]
    if wanted or any(config.device == "mps" for config in configs):
        # A device chosen by name runs one job at a time unless jobs= says more.
        number = 1 if jobs == "auto" else int(jobs)
        return [Slot(max(1, cores // number))] * number
    stated = {config.trainer.threads for config in configs}
    threads = max((each or 1 for each in stated), default=1)
    number = max(1, cores // threads) if jobs == "auto" else int(jobs)
    return [Slot(threads if None not in stated else max(1, cores // number))] * number


def visible_gpus() -> list[str]:
    """Return the GPUs that a job can be given, as CUDA_VISIBLE_DEVICES names them.

    They are counted through NVML, which makes no CUDA context. Empty where PyTorch is a build
    without CUDA.
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
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is None or not every:
        return every
    named = [name.strip() for name in stated.split(",")]
    # CUDA ignores what follows an empty or a negative entry.
    usable = itertools.takewhile(lambda name: name != "" and not name.startswith("-"), named)
    return [name for name in usable if not name.isdigit() or name in every]


def torch_has_cuda() -> bool:
    """Return whether the installed PyTorch is a CUDA build.

    Its file version.py says so; importing torch would take seconds.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^cuda\b[^=]*= *['\"]\d", text, re.MULTILINE) is not None
