"""What a training step needs and what the machine has left: said before the first step, not by the kernel's out-of-memory killer."""

import copy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiplab.errors import OutOfMemory
from skiplab.machine.cpu import cgroups

# of the weights, at least: themselves, gradients, a moment of the optimizer
COPIES = 3
# two sizes give what an image takes and what the step takes without any
PROBE_IMAGES = (2, 4)
MAX_PARTS = 2**10
# above so many bytes in so many layers, a probe of the real thing may be what takes the memory
LAYERS, LARGE = 30, 2**30
# of a control group, by version: its limits, what it uses, and what of that is cache
GROUP_FILES = {
    2: (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    1: (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}


def step_bytes(
    model: nn.Module, images: Tensor, labels: Tensor, *, autocast: torch.autocast
) -> int:
    """Bytes that autograd keeps for the backward pass of one step over these images, without the weights: a floor of its peak."""
    weights = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # the storage's own address: on the meta device there are no data
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        loss = F.cross_entropy(model(images).float(), labels)
        # while the graph holds them, so that no address is used twice
        total = sum(kept.values())
    del loss
    return total


def needed(
    model: nn.Module,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    *,
    num_images: int,
    autocast: torch.autocast,
) -> int:
    """Bytes that training takes at least with `num_images` at once: state and activations, from two small batches of the caller's.

    Large images or wide layers are only counted, on torch's meta device: already four such images
    may not fit.
    """
    images, _ = batch(1)
    floats = (
        images.shape[2]
        * images.shape[3]
        * max(parameter.shape[0] for parameter in model.parameters())
    )
    is_large = 4 * floats * LAYERS * PROBE_IMAGES[1] > LARGE
    # the model's own statistics stay as they are
    probe = copy.deepcopy(model).train()
    probe = probe.to("meta") if is_large else probe
    few, more = (
        step_bytes(probe, *(t.to("meta") if is_large else t for t in batch(n)), autocast=autocast)
        for n in PROBE_IMAGES
    )
    # which counts for the host's tensors, not for those of the meta device
    if is_large and autocast._enabled:
        few, more = few // 2, more // 2
    per_image = (more - few) / (PROBE_IMAGES[1] - PROBE_IMAGES[0])
    return round(COPIES * weight_bytes(model) + few + per_image * (num_images - PROBE_IMAGES[0]))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a network's parameters and buffers, whether they are in memory or on the meta device."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def check(size: int, what: str, advice: str) -> None:
    """Raise OutOfMemory if `size` bytes are more than the host has left; `what` needs them, and `advice` says what to do."""
    left = available()
    if left is not None and size > left:
        raise OutOfMemory(
            f"{what} takes {in_words(size)} or more, {in_words(left)} are free; {advice}"
        )


def in_words(size: int) -> str:
    """`1.4 GiB`; small sizes in MiB."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def available(root: Path = Path("/")) -> int | None:
    """Bytes of host memory that this process may still take; None where nobody tells.

    The least of what is free, what each control group on the way to the root leaves (Linux, version
    1 and 2), and ulimit -v and -d.
    """
    left: list[int] = []
    with suppress(OSError, ValueError, KeyError):
        fields = dict(
            line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines()
        )
        left.append(int(fields["MemAvailable"].split()[0]) * 1024)
    group = root / "sys/fs/cgroup"
    for folder, version in {(group, 2): None, (group / "memory", 1): None} | dict.fromkeys(
        cgroups(root, "memory")
    ):
        limits, usage, cache = GROUP_FILES[version]
        for limit in limits:
            # "max": no limit
            with suppress(OSError, ValueError):
                used = int((folder / usage).read_text()) - file_cache(folder, cache)
                left.append(int((folder / limit).read_text()) - max(0, used))
    if root == Path("/"):
        left += of_rlimits()
    return max(0, min(left)) if left else None


def file_cache(folder: Path, key: str) -> int:
    """Bytes of files that a control group holds and gives up as soon as it needs memory."""
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return 0


def of_rlimits() -> list[int]:
    """What ulimit -v (address space) and ulimit -d (data) leave to this process; none without such a limit."""
    left: list[int] = []
    # Windows has no such limits, and macOS no /proc
    with suppress(ImportError, OSError, ValueError, KeyError):
        import resource

        fields = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
            most, _ = resource.getrlimit(limit)
            if most != resource.RLIM_INFINITY:
                left.append(most - int(fields[used].split()[0]) * 1024)
    return left


def fewest_parts(batch_size: int, *, least: int, fits: Callable[[int], bool]) -> int | None:
    """The smallest power of two of parts with which a part of the batch fits; a part has at least `least` images. None: none fits."""
    parts = 1
    while parts == 1 or (batch_size // parts >= least and parts <= MAX_PARTS):
        if fits(-(-batch_size // parts)):
            return parts
        parts *= 2
    return None


def fits_on_cuda(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    autocast: torch.autocast,
    optimizer_copies: int = 3,
) -> bool:
    """Whether a step over these images runs on the GPU beside what is there, tried on a copy of the model."""
    try:
        probe: Any = copy.deepcopy(model).train()
        reserve = [torch.empty_like(p) for p in probe.parameters() for _ in range(optimizer_copies)]
        with autocast:
            loss = F.cross_entropy(probe(images).float(), labels)
        loss.backward()
        torch.cuda.synchronize(images.device)
        del reserve, loss, probe
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True
