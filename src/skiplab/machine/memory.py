"""The memory that a training step needs and that the machine has left.

A run that does not fit ends in one line before its first step, not by the kernel's out-of-memory
killer.
"""

import copy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiplab import own_code
from skiplab.errors import OutOfMemory
from skiplab.machine.cpu import cgroups
from skiplab.words import in_bytes

# Copies of the weights, at least: themselves, their gradients and one moment of the optimizer.
COPIES = 3
# Two numbers of images, from which follow the bytes per image and those of a step without any.
PROBE_IMAGES = (2, 4)
MAX_PARTS = 2**10
# If activations of LAYERS layers take more than LARGE bytes, a probe on the real device could
# itself run out of memory.
LAYERS, LARGE = 30, 2**30
# Files of a control group, by version: its limits, its usage, and the key of the cache within that.
GROUP_FILES = {
    2: (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    1: (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}


def step_bytes(
    model: nn.Module, images: Tensor, labels: Tensor, *, autocast: torch.autocast
) -> int:
    """Return the bytes that autograd keeps for one step over these images, without the weights.

    It is a floor of the step's peak.
    """
    weights = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # `_cdata` is the storage's own address. On the meta device there are no data.
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        loss = F.cross_entropy(model(images).float(), labels)
        # Add up while the graph holds the tensors, so that no address is used twice.
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
    """Return the bytes that training takes at least with `num_images` at once.

    They are state and activations, extrapolated from two small batches: `batch(n)` returns n images
    (n, C, H, W) and their labels. Large images or wide layers are only counted, on torch's meta
    device, since already four such images may not fit.
    """
    images, _ = batch(1)
    height, width = images.shape[2:]
    floats = height * width * max(parameter.shape[0] for parameter in model.parameters())
    is_large = 4 * floats * LAYERS * PROBE_IMAGES[1] > LARGE
    # A copy, since a forward pass in training changes the model's statistics.
    probe = copy.deepcopy(model).train()
    if is_large:
        probe = probe.to("meta")

    def bytes_of(count: int) -> int:
        images, labels = batch(count)
        if is_large:
            images, labels = images.to("meta"), labels.to("meta")
        return step_bytes(probe, images, labels, autocast=autocast)

    few, more = map(bytes_of, PROBE_IMAGES)
    # Autocast halves activations on the host, but does not act on the meta device.
    if is_large and autocast._enabled:
        few, more = few // 2, more // 2
    per_image = (more - few) / (PROBE_IMAGES[1] - PROBE_IMAGES[0])
    return round(COPIES * weight_bytes(model) + few + per_image * (num_images - PROBE_IMAGES[0]))


def size_before(make: Callable[[], nn.Module], what: str) -> int:
    """Return the bytes of the weights of the network that `make` makes, before it takes memory.

    Code of a user's own may not run without memory; then it is 0. Raises OutOfMemory, beginning
    with `what`, if there are more elements than torch can count.
    """
    try:
        with torch.device("meta"):
            return weight_bytes(make())
    except RuntimeError as error:
        if own_code.where(error):
            return 0
        said = " ".join(str(error).split())[:100]
        raise OutOfMemory(
            f"{what}: the weights are too large to be counted ({said}); take a smaller width"
        ) from None


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers, on the meta device too."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def check(size: int, what: str, advice: str) -> None:
    """Raise OutOfMemory if `size` bytes are more than the host has left.

    `what` needs them, and `advice` says what to do.
    """
    left = available()
    if left is not None and size > left:
        raise OutOfMemory(
            f"{what} takes {in_words(size)} or more, {in_words(left)} are free; {advice}"
        )


def in_words(size: int) -> str:
    """Return a number of bytes as `1.4 GiB`; smaller sizes in MiB and KiB."""
    return in_bytes(size)


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes of host memory that this process may still take; None where nothing tells.

    It is the least of the free memory, of what each control group on the way to the root leaves
    (Linux, versions 1 and 2), and of what ulimit -v and -d leave.
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
            # "max" stands for no limit.
            with suppress(OSError, ValueError):
                used = int((folder / usage).read_text()) - file_cache(folder, cache)
                left.append(int((folder / limit).read_text()) - max(0, used))
    if root == Path("/"):
        left += rlimits_left()
    return max(0, min(left)) if left else None


def file_cache(folder: Path, key: str) -> int:
    """Return the bytes of cached files that a control group gives up when it needs memory."""
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return 0


def rlimits_left() -> list[int]:
    """Return the bytes that ulimit -v (address space) and -d (data) leave, where they are set."""
    left: list[int] = []
    # Windows has no such limits, and macOS no /proc.
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
    """Return the smallest power of two of parts with which a part of the batch fits.

    `fits(n)` tells whether n images fit. A part has at least `least` images. None if none fits.
    """
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
    """Try a step over these images on a copy of the model; tell whether it fits the GPU now."""
    try:
        probe = copy.deepcopy(model).train()
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
