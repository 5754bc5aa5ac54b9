"""What a training step needs and what the machine has left: said before the first step, not by the kernel's out-of-memory killer."""

import copy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COPIES = 3  # of the weights, at least: themselves, gradients, a moment of the optimizer
PROBE_IMAGES = (2, 4)  # two sizes give what an image takes and what the step takes without any
MAX_PARTS = 2**10


def step_bytes(model: nn.Module, images: Tensor, labels: Tensor, *, autocast: torch.autocast) -> int:
    """Bytes that autograd keeps for the backward pass of one step over these images, without the weights: a floor of its peak."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        loss = F.cross_entropy(model(images).float(), labels)
        total = sum(kept.values())  # while the graph holds them, so that no address is used twice
    del loss
    return total


def needed(model: nn.Module, batch: Callable[[int], tuple[Tensor, Tensor]], *, num_images: int, autocast: torch.autocast) -> int:
    """Bytes that training takes at least with `num_images` at once: state and activations, from two small batches of the caller's."""
    probe = copy.deepcopy(model).train()  # the model's own statistics stay as they are
    few, more = (step_bytes(probe, *batch(n), autocast=autocast) for n in PROBE_IMAGES)
    per_image = (more - few) / (PROBE_IMAGES[1] - PROBE_IMAGES[0])
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return round(COPIES * weights + few + per_image * (num_images - PROBE_IMAGES[0]))


def available(root: Path = Path("/")) -> int | None:
    """Bytes of host memory that this process may still take: what is free, or what its cgroup leaves; None where nobody tells."""
    left: list[int] = []
    with suppress(OSError, ValueError, KeyError):
        fields = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        left.append(int(fields["MemAvailable"].split()[0]) * 1024)
    group = root / "sys/fs/cgroup"
    for limit, usage in (
        (group / "memory.max", group / "memory.current"),
        (group / "memory/memory.limit_in_bytes", group / "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max": no limit
            left.append(int(limit.read_text()) - int(usage.read_text()))
    return max(0, min(left)) if left else None


def fewest_parts(batch_size: int, *, least: int, fits: Callable[[int], bool]) -> int | None:
    """The smallest power of two of parts with which a part of the batch fits; a part has at least `least` images. None: none fits."""
    parts = 1
    while parts == 1 or (batch_size // parts >= least and parts <= MAX_PARTS):
        if fits(-(-batch_size // parts)):
            return parts
        parts *= 2
    return None


def fits_on_cuda(model: nn.Module, images: Tensor, labels: Tensor, *, autocast: torch.autocast, optimizer_copies: int = 3) -> bool:
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
