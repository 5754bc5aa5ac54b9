"""Networks as formulas, written without skiplab, for the tests to compare with.

They are those of the lab *Residual and Skip Connections*, of the notebook *Residual Blocks*, of
He et al., and of airbench. Every function takes a `Tape`, which hands out a network's tensors in
the order in which its layers were made. A rendering that needs another number or shape fails.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiplab.networks.blocks import Style


class Tape:
    """The parameters and buffers of `model` in order, and the layers that use them up.

    `statistics` are BatchNorm's after the pass.
    """

    def __init__(self, model: nn.Module, *, bias: bool = True):
        self.tensors = list(model.state_dict(keep_vars=True).values())
        self.bias, self.training = bias, model.training
        self.has_norm = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        self.statistics: list[Tensor] = []

    def take(self) -> Tensor:
        return self.tensors.pop(0)

    def conv(self, x: Tensor, kernel: int, stride: int = 1) -> Tensor:
        weight = self.take()
        assert weight.shape[1:] == (x.shape[1], kernel, kernel)
        return F.conv2d(
            x, weight, self.take() if self.bias else None, stride, padding=(kernel - 1) // 2
        )

    def norm(self, x: Tensor, *, momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
        if not self.has_norm:
            return x
        scale, shift, mean, variance, count = (self.take() for _ in range(5))
        if self.training:
            old_mean, old_variance, num_values = mean, variance, x.numel() / x.shape[1]
            mean = x.mean((0, 2, 3))
            variance = ((x - mean[:, None, None]) ** 2).mean((0, 2, 3))
            unbiased = variance * num_values / (num_values - 1)
            kept, fresh = (1 - momentum) * old_mean, momentum * mean.detach()
            self.statistics += [
                kept + fresh,
                (1 - momentum) * old_variance + momentum * unbiased.detach(),
                count + 1,
            ]
        else:
            self.statistics += [mean, variance, count]
        return (x - mean[:, None, None]) / (variance[:, None, None] + eps) ** 0.5 * scale[
            :, None, None
        ] + shift[:, None, None]

    def linear(self, x: Tensor) -> Tensor:
        return x @ self.take().T + self.take()


# A rendering is a function (tape, x, stride) -> y.
Rendering = Callable[..., Tensor]


# --------------------------------------------------------------------------------------------------
# The lab


def conv_block(tape: Tape, x: Tensor, stride: int = 1) -> Tensor:
    return tape.conv(tape.norm(tape.conv(x.relu(), 3, stride)).relu(), 3)


def res_block(tape: Tape, x: Tensor, stride: int = 1) -> Tensor:
    out = conv_block(tape, x, stride)
    return out + (x if out.shape == x.shape else tape.conv(x, 1, stride))


def res_down_block(tape: Tape, x: Tensor, stride: int = 1) -> Tensor:
    out = conv_block(tape, x, stride)
    return out + tape.conv(x.relu(), 3, stride)


def skip_block(tape: Tape, x: Tensor, stride: int = 1) -> Tensor:
    first = tape.conv(x.relu(), 3, stride)
    second = tape.conv(tape.norm(first).relu(), 3)
    return torch.cat([first, second], dim=1)


def deep_cnn(tape: Tape, x: Tensor, *, block: Rendering, num_blocks: int) -> Tensor:
    for _ in range(2):
        x = F.max_pool2d(tape.norm(tape.conv(x, 3)).relu(), 2)
    x = tape.conv(x, 3)
    for _ in range(num_blocks):
        x = block(tape, x)
    x = F.max_pool2d(x.relu(), 2)
    return tape.linear(x.reshape(len(x), -1))


# --------------------------------------------------------------------------------------------------
# The notebook


def mnist_block(tape: Tape, x: Tensor, stride: int = 1) -> Tensor:
    out = tape.norm(tape.conv(x, 3, stride)).relu()
    out = tape.norm(tape.conv(out, 3))
    return (out + (x if out.shape == x.shape else tape.conv(x, 1, stride))).relu()


def mnist_resnet(tape: Tape, x: Tensor, *, depth: int = 1) -> Tensor:
    for stride in (1, 1, 2):
        for i in range(depth):
            x = mnist_block(tape, x, stride if i == 0 else 1)
    return tape.linear(x.mean((2, 3)))


# --------------------------------------------------------------------------------------------------
# He et al.


def option_a(x: Tensor, out_channels: int, stride: int) -> Tensor:
    """The shortcut without parameters, pixel by pixel: half of the zeros before the channels."""
    batch, channels, height, width = x.shape
    out = torch.zeros(batch, out_channels, -(-height // stride), -(-width // stride), dtype=x.dtype)
    before = (out_channels - channels) // 2
    for channel in range(channels):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                out[:, before + channel, i, j] = x[:, channel, i * stride, j * stride]
    return out


def cifar_block(tape: Tape, x: Tensor, stride: int = 1) -> Tensor:
    out = tape.norm(tape.conv(x, 3, stride)).relu()
    out = tape.norm(tape.conv(out, 3))
    return (out + (x if out.shape == x.shape else option_a(x, out.shape[1], stride))).relu()


def cifar_resnet(tape: Tape, x: Tensor, *, depth: int) -> Tensor:
    """Section 4.2 of He et al. 2015."""
    x = tape.norm(tape.conv(x, 3)).relu()
    for stride in (1, 2, 2):
        for i in range((depth - 2) // 6):
            x = cifar_block(tape, x, stride if i == 0 else 1)
    return tape.linear(x.mean((2, 3)))


def preact_block(tape: Tape, x: Tensor, stride: int = 1) -> Tensor:
    """Figure 1 (b) of He et al. 2016."""
    out = tape.conv(tape.norm(x).relu(), 3, stride)
    out = tape.conv(tape.norm(out).relu(), 3)
    return out + (x if out.shape == x.shape else tape.conv(x, 1, stride))


def preact_resnet(tape: Tape, x: Tensor, *, depth: int) -> Tensor:
    """Section 4 of He et al. 2016.

    Neither norm nor activation follows the first convolution; both follow the last sum.
    """
    x = tape.conv(x, 3)
    for stride in (1, 2, 2):
        for i in range((depth - 2) // 6):
            x = preact_block(tape, x, stride if i == 0 else 1)
    return tape.linear(tape.norm(x).relu().mean((2, 3)))


def bottleneck_block(tape: Tape, x: Tensor, stride: int = 1) -> Tensor:
    out = tape.norm(tape.conv(x, 1)).relu()
    out = tape.norm(tape.conv(out, 3, stride)).relu()
    out = tape.norm(tape.conv(out, 1))
    return (out + (x if out.shape == x.shape else tape.conv(x, 1, stride))).relu()


# --------------------------------------------------------------------------------------------------
# Airbench


def airbench_block(tape: Tape, x: Tensor, stride: int = 1) -> Tensor:
    x = F.gelu(tape.norm(F.max_pool2d(tape.conv(x, 3), stride), momentum=0.4, eps=1e-12))
    return F.gelu(tape.norm(tape.conv(x, 3), momentum=0.4, eps=1e-12))


def airbench_residual_block(tape: Tape, x: Tensor, stride: int = 1) -> Tensor:
    x = F.gelu(tape.norm(F.max_pool2d(tape.conv(x, 3), stride), eps=1e-12))
    out = F.gelu(tape.norm(tape.conv(x, 3), eps=1e-12))
    return F.gelu(tape.norm(tape.conv(out, 3), eps=1e-12) + x)


BLOCKS: dict[str, Rendering] = {
    "conv": conv_block,
    "residual": res_block,
    "residual_down": res_down_block,
    "skip": skip_block,
    "basic": mnist_block,
    "preact": preact_block,
    "bottleneck": bottleneck_block,
    "airbench": airbench_block,
    "airbench_residual": airbench_residual_block,
}


# --------------------------------------------------------------------------------------------------
# Comparing


def shake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Make the model float64 and every norm's weights and statistics random, in place.

    At their initial 1 and 0 a mix-up would not show.
    """
    generator = torch.Generator().manual_seed(seed)
    model.double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)
    return model


def assert_same(model: nn.Module, rendering: Rendering, x: Tensor, *, bias: bool = True) -> None:
    """Assert that `model` is `rendering(tape, x)`, in the model's present mode.

    Outputs, gradients and BatchNorm statistics are compared.
    """
    tape = Tape(model, bias=bias)
    x = x.clone().requires_grad_()
    inputs = [x, *(p for p in model.parameters() if p.requires_grad)]
    expected = rendering(tape, x)
    # Every tensor was used.
    assert not tape.tensors
    out = model(x)
    assert out.shape == expected.shape
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    gradients = torch.autograd.grad((out * direction).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * direction).sum(), inputs)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)
    buffers = list(model.buffers())
    for found, wanted in zip(buffers, tape.statistics, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def assert_has_a_plain_twin(block: Callable[..., nn.Module], *, has_shortcut: bool) -> None:
    """Assert that `shortcut=False` changes a block that has a shortcut, and leaves a plain one.

    All that the plain twin gives has gone through its convolutions.
    """
    for in_channels, stride in ((8, 1), (8, 2), (4, 1), (4, 2)):
        x = torch.randn(
            (3, in_channels, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        whole, twin = (
            shake(
                block(
                    in_channels,
                    8,
                    stride,
                    Style(norm="batch", shortcut=shortcut, bias=True, projection="conv"),
                )
            ).eval()
            for shortcut in (True, False)
        )
        there = twin.state_dict()
        shared = {
            name: tensor
            for name, tensor in whole.state_dict().items()
            if name in there and tensor.shape == there[name].shape
        }
        twin.load_state_dict(there | shared)
        ignores = torch.equal(whole(x), twin(x))
        assert ignores != has_shortcut, (
            f"{block}: ignores shortcut=false" if ignores else f"{block}: has a shortcut"
        )
        for module in twin.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data.zero_()
        out = twin(x)
        assert torch.equal(out, twin(torch.zeros_like(x))), (
            f"{block}: without shortcut, something still goes around its convolutions"
        )
