"""The machine under a run: device, threads, allocator, determinism.

Also what checkpoints, `result.json` and `skiplab info` record of it.
"""

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

# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Characters: a difference between shorter facts is shown with both facts whole.
LONGEST_FACTS = 120
# Processes that any CPU may run, even with fewer cores: enough to try things.
FEW_PROCESSES = 4
# Kinds of arguments that a function is compiled for.
MOST_COMPILED = 64
# Bytes. Above, holes in the heap cost more memory than page faults cost time.
LARGEST_KEPT = 128 * 2**20


def pick_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda`, `cuda:N` or `mps` means on this machine.

    Raises UsageError if there is none.
    """
    if name == "auto":
        name = best_kind()
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(name.partition(":")[2] or 0)
        if count == 0:
            raise UsageError(
                f"device={name}: this machine has no CUDA device "
                f"that torch {torch.__version__} can use; take auto or cpu"
            )
        if index >= count:
            raise UsageError(
                f"device={name}: this machine has {count} CUDA device(s), "
                f"so cuda:0 to cuda:{count - 1}"
            )
        return torch.device("cuda", index)
    if name == "mps" and not torch.backends.mps.is_available():
        raise UsageError(
            "device=mps: this machine has no Apple GPU that torch can use; take auto or cpu"
        )
    return torch.device(name)


def best_kind() -> str:
    """Return the kind of device that `auto` stands for: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def num_devices(name: str, wanted: int | str, *, started: Place | None, sync_bn: bool) -> int:
    """Return how many processes `wanted`, a number or auto, means on device `name`.

    `started` is this process's place if torchrun has started them already.

    Raises UsageError if there are fewer devices, or if they cannot do what `sync_bn` asks for.
    """
    device = pick_device(name)
    if sync_bn and device.type != "cuda":
        raise UsageError(
            "trainer.sync_bn=true: torch has it for CUDA devices alone, "
            f"this is {device.type}; leave it out"
        )
    if started is not None and wanted not in (1, "auto", started.size):
        raise UsageError(
            f"trainer.devices={wanted}: torchrun has started {started.size} process(es); "
            "leave it out"
        )
    # `cuda:1` names one device.
    is_one = ":" in name or device.type == "mps"
    there = torch.cuda.device_count() if device.type == "cuda" else 1
    if wanted == "auto":
        wanted = 1 if is_one else there
    number = here = int(wanted)
    if started is not None:
        number, here = started.size, started.local_size
    if number > 1 and is_one:
        raise UsageError(
            f"trainer.devices={number}: device={device} is one device; "
            "take device=cuda or device=cpu"
        )
    if number > 1 and not torch.distributed.is_available():
        raise UsageError(
            f"trainer.devices={number}: torch {torch.__version__} is built "
            "without torch.distributed here; take 1"
        )
    most, has = there, f"{there} CUDA device(s);"
    if device.type != "cuda":
        most = max(FEW_PROCESSES, num_cores())
        has = f"{counted(num_cores(), 'core')}; on device=cpu"
    if here > most:
        raise UsageError(f"trainer.devices={here}: this machine has {has} take at most {most}")
    return number


def set_up(
    *, threads: int | None, deterministic: bool, keep_allocator: bool, processes: int = 1
) -> list[str]:
    """Set the process's threads, algorithms and allocator; return a line for each failure.

    `threads` are shared among `processes`. None stands for what the process is given, see
    `threads.limit`.
    """
    torch.set_num_threads(threads_for(threads, processes=processes))
    torch.backends.cudnn.benchmark = not deterministic
    torch.set_float32_matmul_precision("highest" if deterministic else "high")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The call imports torch._inductor, even if it changes nothing.
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)
    if keep_allocator and not keep_freed_memory():
        return [
            "trainer.keep_allocator: only glibc on Linux can; "
            "training runs without, slower on a CPU"
        ]
    return []


def threads_for(threads: int | None, *, processes: int = 1) -> int:
    """Return the threads of each process if `threads` are shared among all.

    None stands for what the process is given.
    """
    if threads is None:
        return limit(processes=processes)[0]
    return max(1, threads // processes)


def compile_in_place(networks: Iterable[nn.Module], *, mode: str, device: torch.device) -> None:
    """Have torch compile these networks at their first call, with static shapes.

    The compiled code is kept for later runs. `mode` is for CUDA: on a CPU there are no graphs to
    record.
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
    """Let torch compile a function for 64 kinds of arguments.

    Past its own limit of 8 it runs the rest uncompiled. A network that freezes a parameter, or Muon
    with its filters of many shapes, needs more.
    """
    from torch._dynamo import config

    # Called cache_size_limit before torch 2.6.
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, MOST_COMPILED)


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep freed activations; return False where it cannot.

    Training of Deep_CNN on a CPU is 1.4x as fast and takes 7 % more memory.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(
        libc.mallopt(M_TRIM_THRESHOLD, -1)
    )


def describe(device: torch.device, *, processes: int = 1) -> str:
    """Return the device in words, or the devices of `processes` processes."""
    if processes > 1:
        return f"{processes} x {describe(device)}"
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{cpu_name()} ({counted(torch.get_num_threads(), 'thread')})"
    return "Apple GPU"


def cpu_name() -> str:
    """Return the processor's own name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's numbers."""
    from skiplab import __version__

    return {
        "skiplab": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "system": platform.platform(),
    }


def comparable(device: torch.device, *, processes: int = 1) -> dict[str, str]:
    """Return the facts that must not change during a run for it to stay bit for bit the same."""
    name = f"{device.type}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    if processes > 1:
        name = f"{processes} x {name}"
    return {
        "device": name,
        "torch": str(torch.__version__),
        "processor": cpu_name(),
        "instructions": instructions(),
    }


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each fact of `comparable` that has changed.

    Of long facts it has the words that came or went.
    """
    for name, was in before.items():
        current = now.get(name, "nothing")
        if was == current:
            continue
        if len(was) + len(current) <= LONGEST_FACTS:
            yield f"{name} was {was}, is {current}"
            continue
        old, new = was.split(), current.split()
        gone = " ".join(word for word in old if word not in new)
        come = " ".join(word for word in new if word not in old)
        yield f"{name} now with {come or 'nothing more'}, without {gone or 'nothing'}"


def facts(device: torch.device, *, processes: int = 1) -> dict[str, Any]:
    """Return the machine as result.json records it, with the threads of one process."""
    words = describe(device, processes=processes)
    threads = torch.get_num_threads()
    machine = {"hardware": words, "threads": threads, "instructions": instructions()}
    return {"device": str(device), "devices": processes} | machine | {"versions": versions()}
