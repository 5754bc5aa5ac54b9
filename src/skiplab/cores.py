"""The processor: how many of its cores this process may use, and what it computes. Imports no torch."""

import math
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath


def num_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least 1: its affinity, and its cgroup's CPU quota, of which a part of a core counts whole."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *map(math.ceil, cpu_quotas(root))])


def cpu_quotas(root: Path) -> list[float]:
    """How many cores' time this process's cgroup and each one above it may take; those without a limit are left out."""
    quotas: list[float] = []
    with suppress(OSError, ValueError):  # no such file, or not what Linux writes into it
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2
                mounts, names = [""], ["cpu.max"]
            elif "cpu" in controllers.split(","):
                mounts, names = [controllers, "cpu"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                continue
            own = PurePosixPath(path.lstrip("/"))
            for group in (root / "sys/fs/cgroup" / mount / each for mount in mounts for each in (own, *own.parents)):
                with suppress(OSError, ValueError, ZeroDivisionError):
                    quota, period = " ".join((group / name).read_text() for name in names).split()
                    if float(quota) > 0:  # -1 and "max": no limit
                        quotas.append(float(quota) / float(period))
    return quotas


def counted(number: int, noun: str) -> str:
    """`1 core`, `2 cores`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def has_bf16(root: Path = Path("/")) -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512-BF16, AMX or Arm's BF16), where Linux tells."""
    try:
        flags = set((root / "proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
