"""The processor: how many of its cores this process may use, and what it computes. Imports no torch."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

# how the names of such flags begin
VECTOR_FLAGS = ("avx", "fma", "amx", "sse4", "f16c", "asimd", "sve", "bf16", "i8mm")
# What limits the instructions that oneDNN, ATen and MKL choose.
LIMITS = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_CPU_ISA_HINTS",
    "DNNL_CPU_ISA_HINTS",
    "ATEN_CPU_CAPABILITY",
)
LIMITS = (
    *LIMITS,
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
)


def num_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least 1: its affinity, and its cgroup's CPU quota, of which a part of a core counts whole."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min([cores, *map(math.ceil, cpu_quotas(root))])


def cpu_quotas(root: Path) -> list[float]:
    """How many cores' time this process's cgroup and each one above it may take; those without a limit are left out."""
    quotas: list[float] = []
    for group, version in cgroups(root, "cpu"):
        names = ["cpu.max"] if version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join((group / name).read_text() for name in names).split()
            # -1 and "max": no limit
            if float(quota) > 0:
                quotas.append(float(quota) / float(period))
    return quotas


def cgroups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Yield the control groups that may limit this process, its own first, then each one above it: folder and version (1 or 2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    # no such file, or not what Linux writes into it
    except (OSError, ValueError):
        return
    for line in lines:
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts, version = [""], 2
        elif controller in controllers.split(","):
            mounts, version = list(dict.fromkeys([controllers, controller])), 1
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        for mount in mounts:
            for each in (own, *own.parents):
                yield root / "sys/fs/cgroup" / mount / each, version


def instructions(root: Path = Path("/")) -> str:
    """The vector instructions that this process may use, by the processor's flags and the environment's limits: numbers depend on them."""
    try:
        lines = (root / "proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next(
        (
            line.partition(":")[2].split()
            for line in lines
            if line.startswith(("flags", "Features"))
        ),
        [],
    )
    vector = sorted(flag for flag in flags if flag.startswith(VECTOR_FLAGS))
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)]
    return " ".join([*vector, *limits])


def has_bf16(root: Path = Path("/")) -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512-BF16, AMX or Arm's BF16), where Linux tells."""
    try:
        flags = set((root / "proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
