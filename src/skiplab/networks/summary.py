"""What a network costs: parameters, multiply-accumulates, and the shape of each stage."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Summary:
    """What a network is and costs.

    MACs and FLOPs are those of the forward pass of one image, and FLOPs = 2 MACs.
    """

    parameters: int
    macs: int
    flops: int
    # Name -> (shape of the output for one image, without the batch; parameters).
    stages: dict[str, tuple[tuple[int, ...], int]]


def macs_of(module: nn.Module, output: Tensor) -> int:
    """Return a layer's multiply-accumulates for one image, from its output for a batch."""
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        return output[0].numel() * module.in_channels * height * width
    if isinstance(module, nn.Linear):
        return output[0].numel() * module.in_features
    return 0


def summarize(model: nn.Sequential, *, channels: int, size: tuple[int, int]) -> Summary:
    """Count parameters, and the multiply-accumulates of convolutions and linear layers.

    The images have `channels` planes of `size` (height, width) pixels. The model is left as it was.
    """
    macs = 0
    shapes: dict[str, tuple[int, ...]] = {}

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        macs += macs_of(module, output)

    def shape_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _module, _inputs, output: shapes.__setitem__(name, tuple(output.shape[1:]))

    hooks = [m.register_forward_hook(count) for m in model.modules()]
    hooks += [m.register_forward_hook(shape_of(name)) for name, m in model.named_children()]
    parameter = next(model.parameters())
    was_training = model.training
    with torch.inference_mode():
        image = torch.zeros(1, channels, *size, device=parameter.device, dtype=parameter.dtype)
        # A call would have a compiled model compiled again, for a batch of one.
        model.eval().forward(image)
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    counts = {name: sum(p.numel() for p in m.parameters()) for name, m in model.named_children()}
    return Summary(
        parameters=sum(counts.values()),
        macs=macs,
        flops=2 * macs,
        stages={name: (shape, counts[name]) for name, shape in shapes.items()},
    )
