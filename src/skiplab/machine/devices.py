"""The machine under a run: device, threads, allocator, determinism; and what `result.json` and `skiplab info` say of it."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from skiplab.errors import UsageError
from skiplab.locations import cache_folder, temporary_folder
from skiplab.machine.cpu import instructions, num_cores
from skiplab.machine.threads import limit
from skiplab.machine.torchrun import Place
from skiplab.words import counted

# mallopt's names in glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# characters of both, to be shown whole
LONGEST_FACTS = 120
# on a CPU, even where it has fewer cores: enough to try things
FEW_PROCESSES = 4
# Kinds of arguments that a function is compiled for.
MOST_COMPILED = 64
# bytes; above, holes in the heap cost more memory than the page faults cost time
LARGEST_KEPT = 128 * 2**20


def pick_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda`, `cuda:N` or `mps` means here. Raises UsageError if this machine has none such."""
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(name.partition(":")[2] or 0)
        if count == 0:
            raise UsageError(
                f"device={name}: this machine has no CUDA device that torch {torch.__version__} can use; take auto or cpu"
            )
        if index >= count:
            raise UsageError(
                f"device={name}: this machine has {count} CUDA device(s), so cuda:0 to cuda:{count - 1}"
            )
        return torch.device("cuda", index)
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError(
            "device=mps: this machine has no Apple GPU that torch can use; take auto or cpu"
        )
    return torch.device(name)


def num_devices(name: str, wanted: int | str, *, started: Place | None, sync_bn: bool) -> int:
    """How many processes `wanted`, a number or auto, means on device `name`; `started`: torchrun has started them already.

    Raises UsageError where there are not so many devices, or where `sync_bn` asks for what they
    cannot do.
    """
    device = pick_device(name)
    if sync_bn and device.type != "cuda":
        raise UsageError(
            f"trainer.sync_bn=true: torch has it for CUDA devices alone, this is {device.type}; leave it out"
        )
    if started is not None and wanted not in (1, "auto", started.size):
        raise UsageError(
            f"trainer.devices={wanted}: torchrun has started {started.size} process(es); leave it out"
        )
    # cuda:1 names one
    is_one = ":" in name or device.type == "mps"
    there = torch.cuda.device_count() if device.type == "cuda" else 1
    if wanted == "auto":
        wanted = 1 if is_one else there
    number, here = (
        (started.size, started.local_size) if started is not None else (int(wanted), int(wanted))
    )
    if number > 1 and is_one:
        raise UsageError(
            f"trainer.devices={number}: device={device} is one device; take device=cuda or device=cpu"
        )
    if number > 1 and not torch.distributed.is_available():
        raise UsageError(
            f"trainer.devices={number}: torch {torch.__version__} is built without torch.distributed here; take 1"
        )
    most = there if device.type == "cuda" else max(FEW_PROCESSES, num_cores())
    if here > most:
        has = (
            f"{there} CUDA device(s);"
            if device.type == "cuda"
            else f"{counted(num_cores(), 'core')}; on device=cpu"
        )
        raise UsageError(f"trainer.devices={here}: this machine has {has} take at most {most}")
    return number


def set_up(
    *, threads: int | None, deterministic: bool, keep_allocator: bool, processes: int = 1
) -> list[str]:
    """Set the process's threads, algorithms and allocator; returns what could not be done here, a line each.

    `threads` are shared among so many `processes`; None: what the process is given, see
    threads.limit.
    """
    torch.set_num_threads(threads_for(threads, processes=processes))
    torch.backends.cudnn.benchmark = not deterministic
    torch.set_float32_matmul_precision("highest" if deterministic else "high")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # to ask for what is so already imports torch._inductor
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)
    if keep_allocator and not keep_freed_memory():
        return [
            "trainer.keep_allocator: only glibc on Linux can; training runs without, slower on a CPU"
        ]
    return []


def threads_for(threads: int | None, *, processes: int = 1) -> int:
    """How many threads each process has when `threads` are shared among all; None: what the process is given."""
    return max(1, threads // processes) if threads is not None else limit(processes=processes)[0]


def compile_in_place(networks: Iterable[nn.Module], *, mode: str, device: torch.device) -> None:
    """Have torch compile these networks at their first call, with static shapes; what it makes is kept for later runs.

    `mode` is for CUDA: on a CPU there are no graphs to record.
    """
    for folder in (cache_folder(), temporary_folder()):
        with suppress(OSError):
            (folder / "inductor").mkdir(parents=True, exist_ok=True)
            if os.access(folder / "inductor", os.W_OK):
                os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    allow_recompiling()
    for network in networks:
        network.compile(mode=mode if device.type == "cuda" else "default", dynamic=False)


def allow_recompiling() -> None:
    """Let torch compile a function for 64 kinds of arguments. Past its own limit of 8 it runs the rest uncompiled.

    A network that freezes a parameter, or Muon with its filters of many shapes, needs more than 8.
    """
    from torch._dynamo import config

    # Called cache_size_limit before torch 2.6.
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, MOST_COMPILED)


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep freed activations instead of giving them back: 1.4x for Deep_CNN on a CPU, 7 % more memory."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(
        libc.mallopt(M_TRIM_THRESHOLD, -1)
    )


def describe(device: torch.device, *, processes: int = 1) -> str:
    """The device in words, or the devices of so many processes."""
    if processes > 1:
        return f"{processes} x {describe(device)}"
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return (
        f"{cpu_name()} ({counted(torch.get_num_threads(), 'thread')})"
        if device.type == "cpu"
        else "Apple GPU"
    )


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers."""
    from skiplab import __version__

    return {
        "skiplab": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "system": platform.platform(),
    }


def comparable(device: torch.device, *, processes: int = 1) -> dict[str, str]:
    """What must not change on the way for two runs to be equal to the bit."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {torch.get_num_threads()} threads"
    )
    name = name if processes == 1 else f"{processes} x {name}"
    return {
        "device": name,
        "torch": str(torch.__version__),
        "processor": cpu_name(),
        "instructions": instructions(),
    }


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield, for each fact of `comparable` that is not as it was, how it was and is; of long ones the words that come or go."""
    for name, was in before.items():
        current = now.get(name, "nothing")
        if was != current:
            gone, come = (
                " ".join(word for word in one.split() if word not in other.split())
                for one, other in ((was, current), (current, was))
            )
            is_long = len(was) + len(current) > LONGEST_FACTS
            yield (
                f"{name} now with {come or 'nothing more'}, without {gone or 'nothing'}"
                if is_long
                else f"{name} was {was}, is {current}"
            )


def facts(device: torch.device, *, processes: int = 1) -> dict[str, Any]:
    """What result.json says of the machine; the threads are those of one process."""
    words = describe(device, processes=processes)
    threads = torch.get_num_threads()
    machine = {"hardware": words, "threads": threads, "instructions": instructions()}
    return {"device": str(device), "devices": processes} | machine | {"versions": versions()}
