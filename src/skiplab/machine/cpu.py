"""The processor: how many cores this process may use, and its instructions. Imports no torch."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

# The names of the flags of vector instructions begin so.
VECTOR_FLAGS = ("avx", "fma", "amx", "sse4", "f16c", "asimd", "sve", "bf16", "i8mm")
# Variables that limit the instructions that oneDNN, ATen and MKL choose.
LIMITS = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_CPU_ISA_HINTS",
    "DNNL_CPU_ISA_HINTS",
    "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
)


def num_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use, at least 1.

    Its affinity and the CPU quotas of its control groups limit them; a quota is rounded up.
    """
    return min([affinity(), *map(math.ceil, cpu_quotas(root))])


def affinity() -> int:
    """Return how many cores the process may run on, whatever its quota."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quotas(root: Path) -> list[float]:
    """Return the CPU quotas, in cores, of this process's control group and those above it.

    Groups without a limit are left out.
    """
    quotas: list[float] = []
    for group, version in cgroups(root, "cpu"):
        names = ["cpu.max"] if version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join((group / name).read_text() for name in names).split()
            # -1 and "max" stand for no limit.
            if float(quota) > 0:
                quotas.append(float(quota) / float(period))
    return quotas


def cgroups(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Yield folder and version (1 or 2) of each control group that may limit this process.

    Its own comes first, then each one above it.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    # Other systems have no such file, or other things in it.
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
    """Return the vector instructions that this process may use, on which numbers depend.

    They are the processor's flags, and the limits that the environment sets.
    """
    try:
        lines = (root / "proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    flags: list[str] = []
    for line in lines:
        if line.startswith(("flags", "Features")):
            flags = line.partition(":")[2].split()
            break
    vector = sorted(flag for flag in flags if flag.startswith(VECTOR_FLAGS))
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)]
    return " ".join([*vector, *limits])


def has_bf16(root: Path = Path("/")) -> bool:
    """Tell whether the processor multiplies bfloat16 in hardware: AVX512-BF16, AMX or Arm's BF16.

    False where /proc/cpuinfo does not say.
    """
    try:
        flags = set((root / "proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
