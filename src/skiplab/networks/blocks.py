"""Every block, one signature: `Block(in_channels, out_channels, stride, style)`, (B, in, H, W) -> (B, out, H/stride, W/stride).

`conv`, `residual`, `residual_down` and `skip` are document 1's blocks, `basic` is document 2's;
where the documents keep the shape and a network here changes it, `conv` and `skip` stride their
first convolution, `residual` and `preact` project the shortcut by 1x1, `residual_down` strides its
side convolution. Odd sides are rounded up, by `airbench`, which pools, down.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Style:
    """What all blocks of a network have in common."""

    # batch | none
    norm: str
    # False gives the plain twin: the same layers without the sum or the concatenation
    shortcut: bool
    # of the convolutions
    bias: bool
    # of a shortcut whose shape changes: conv | conv_bn (1x1 convolution) | pad (He et al.'s option
    # A)
    projection: str


def make_norm(channels: int, norm: str) -> nn.Module:
    """BatchNorm2d, or nothing; `norm` is batch or none."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


def conv(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool
) -> nn.Conv2d:
    """A convolution that keeps height and width at stride 1."""
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=bias
    )


class PadShortcut(nn.Module):
    """He et al.'s option A: every stride-th pixel, missing channels filled with zeros; no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride, self.missing = stride, out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        before = self.missing // 2
        return F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before)
        )


def make_shortcut(in_channels: int, out_channels: int, stride: int, style: Style) -> nn.Module:
    """The identity, or where the shape changes the style's projection."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    if style.projection == "pad":
        return PadShortcut(in_channels, out_channels, stride)
    project = conv(in_channels, out_channels, 1, stride=stride, bias=style.bias)
    return (
        nn.Sequential(project, make_norm(out_channels, style.norm))
        if style.projection == "conv_bn"
        else project
    )


def part_of(channels: int, divisor: int, block: "type[Block]") -> int:
    """channels / divisor, which must be whole."""
    if channels % divisor:
        name = next(name for name, known in BLOCKS.items() if known is block)
        raise ValueError(
            f"width={channels} does not suit block={name}: its inner width is 1/{divisor}, so take a multiple of {divisor}"
        )
    return channels // divisor


class Block(nn.Module):
    """What a network needs to know of a block besides its signature."""

    # takes raw sums and gives raw sums: the network ends with the activation instead
    preactivation: ClassVar[bool]
    # begins with a norm, so a stem ends without one
    normalizes_input: ClassVar[bool] = False
    # on the main path, for networks that count layers
    num_convs: ClassVar[int] = 2
    # output width over the nominal width in He et al.'s networks
    expansion: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        style: Style,
        *,
        raw_image: bool = False,
    ):
        super().__init__()
        # no activation of the input: relu of an image would lose half of it
        self.raw_image = raw_image


class ConvBlock(Block):
    """Plain block: f(x), f = relu-conv-bn-relu-conv through half the width."""

    preactivation = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        style: Style,
        *,
        raw_image: bool = False,
    ):
        super().__init__(in_channels, out_channels, stride, style, raw_image=raw_image)
        inner = part_of(out_channels, 2, type(self))
        self.conv1 = conv(in_channels, inner, 3, stride=stride, bias=style.bias)
        self.bn1 = make_norm(inner, style.norm)
        self.conv2 = conv(inner, out_channels, 3, bias=style.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.raw_image else F.relu(x)
        return self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True))


class ResidualBlock(ConvBlock):
    """Residual block: x + f(x), f = relu-conv-bn-relu-conv through half the width."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        style: Style,
        *,
        raw_image: bool = False,
    ):
        super().__init__(in_channels, out_channels, stride, style, raw_image=raw_image)
        self.shortcut = (
            make_shortcut(in_channels, out_channels, stride, style) if style.shortcut else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if self.shortcut is None else out.add_(self.shortcut(x))


class ResidualDownBlock(Block):
    """Residual block with a side layer: side(relu(x)) + f(relu(x)), f = conv-bn-relu-conv, side = 3x3 conv."""

    preactivation = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        style: Style,
        *,
        raw_image: bool = False,
    ):
        super().__init__(in_channels, out_channels, stride, style, raw_image=raw_image)
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, bias=style.bias)
        self.bn1 = make_norm(out_channels, style.norm)
        self.conv2 = conv(out_channels, out_channels, 3, bias=style.bias)
        self.conv3 = (
            conv(in_channels, out_channels, 3, stride=stride, bias=style.bias)
            if style.shortcut
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.raw_image else F.relu(x)
        out = self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return out if self.conv3 is None else out.add_(self.conv3(x))


class SkipBlock(Block):
    """Skip block: cat(x1, conv(relu(bn(x1)))), x1 = conv(relu(x)); each half of the width."""

    preactivation = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        style: Style,
        *,
        raw_image: bool = False,
    ):
        super().__init__(in_channels, out_channels, stride, style, raw_image=raw_image)
        half = part_of(out_channels, 2, type(self))
        self.concatenate = style.shortcut
        self.conv1 = conv(in_channels, half, 3, stride=stride, bias=style.bias)
        self.bn1 = make_norm(half, style.norm)
        self.conv2 = conv(half, half if style.shortcut else out_channels, 3, bias=style.bias)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.conv1(x if self.raw_image else F.relu(x))
        x3 = self.conv2(F.relu(self.bn1(x1)))
        # (B, C/2, H, W) twice -> (B, C, H, W)
        return torch.cat((x1, x3), 1) if self.concatenate else x3


class BasicBlock(Block):
    """Post-activation residual block: relu(x + f(x)), f = conv-bn-relu-conv-bn."""

    preactivation = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        style: Style,
        *,
        raw_image: bool = False,
    ):
        super().__init__(in_channels, out_channels, stride, style, raw_image=raw_image)
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, bias=style.bias)
        self.bn1 = make_norm(out_channels, style.norm)
        self.conv2 = conv(out_channels, out_channels, 3, bias=style.bias)
        self.bn2 = make_norm(out_channels, style.norm)
        self.shortcut = (
            make_shortcut(in_channels, out_channels, stride, style) if style.shortcut else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(out if self.shortcut is None else out.add_(self.shortcut(x)), inplace=True)


class PreactBlock(Block):
    """Pre-activation residual block (He et al. 2016): x + f(x), f = bn-relu-conv-bn-relu-conv."""

    preactivation = True
    normalizes_input = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        style: Style,
        *,
        raw_image: bool = False,
    ):
        super().__init__(in_channels, out_channels, stride, style, raw_image=raw_image)
        self.bn1 = nn.Identity() if raw_image else make_norm(in_channels, style.norm)
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, bias=style.bias)
        self.bn2 = make_norm(out_channels, style.norm)
        self.conv2 = conv(out_channels, out_channels, 3, bias=style.bias)
        self.shortcut = (
            make_shortcut(in_channels, out_channels, stride, style) if style.shortcut else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.raw_image else F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(out)), inplace=True))
        return out if self.shortcut is None else out.add_(self.shortcut(x))


class BottleneckBlock(Block):
    """Bottleneck residual block: relu(x + f(x)), f = 1x1-bn-relu-3x3-bn-relu-1x1-bn through a quarter of the width."""

    preactivation = False
    num_convs = 3
    expansion = 4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        style: Style,
        *,
        raw_image: bool = False,
    ):
        super().__init__(in_channels, out_channels, stride, style, raw_image=raw_image)
        inner = part_of(out_channels, 4, type(self))
        self.conv1 = conv(in_channels, inner, 1, bias=style.bias)
        self.bn1 = make_norm(inner, style.norm)
        # the stride on the 3x3, as torchvision has it
        self.conv2 = conv(inner, inner, 3, stride=stride, bias=style.bias)
        self.bn2 = make_norm(inner, style.norm)
        self.conv3 = conv(inner, out_channels, 1, bias=style.bias)
        self.bn3 = make_norm(out_channels, style.norm)
        self.shortcut = (
            make_shortcut(in_channels, out_channels, stride, style) if style.shortcut else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out if self.shortcut is None else out.add_(self.shortcut(x)), inplace=True)


class DiracConv2d(nn.Conv2d):
    """A 3x3 convolution whose first filters begin as the identity: each passes one channel on (Jordan 2024)."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.dirac_(self.weight.data[: self.in_channels])


class AirbenchBlock(Block):
    """Plain block of airbench94 (Jordan 2024): f = conv-pool-bn-gelu-conv-bn-gelu, the norms without a scale to learn."""

    preactivation = False
    norm_momentum: ClassVar[float] = 0.4

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        style: Style,
        *,
        raw_image: bool = False,
    ):
        super().__init__(in_channels, out_channels, stride, style, raw_image=raw_image)
        self.conv1 = DiracConv2d(in_channels, out_channels, bias=style.bias)
        self.pool = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.bn1 = self.norm(out_channels, style)
        self.conv2 = DiracConv2d(out_channels, out_channels, bias=style.bias)
        self.bn2 = self.norm(out_channels, style)

    def norm(self, channels: int, style: Style) -> nn.Module:
        """BatchNorm2d with a bias and a fixed scale of one, or nothing."""
        if style.norm == "none":
            return nn.Identity()
        norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=self.norm_momentum)
        norm.weight.requires_grad_(False)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.bn1(self.pool(self.conv1(x))))
        return F.gelu(self.bn2(self.conv2(x)))


class AirbenchResidualBlock(AirbenchBlock):
    """Residual block of airbench96 (Jordan 2024): gelu(x0 + f(x0)), x0 = conv-pool-bn-gelu, f = conv-bn-gelu-conv-bn."""

    num_convs = 3
    norm_momentum = 0.1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        style: Style,
        *,
        raw_image: bool = False,
    ):
        super().__init__(in_channels, out_channels, stride, style, raw_image=raw_image)
        self.conv3 = DiracConv2d(out_channels, out_channels, bias=style.bias)
        self.bn3 = self.norm(out_channels, style)
        self.has_shortcut = style.shortcut

    def forward(self, x: Tensor) -> Tensor:
        x0 = F.gelu(self.bn1(self.pool(self.conv1(x))))
        out = self.bn3(self.conv3(F.gelu(self.bn2(self.conv2(x0)))))
        return F.gelu(out + x0 if self.has_shortcut else out)


BLOCKS: dict[str, type[Block]] = {
    "conv": ConvBlock,
    "residual": ResidualBlock,
    "residual_down": ResidualDownBlock,
    "skip": SkipBlock,
    "basic": BasicBlock,
    "preact": PreactBlock,
    "bottleneck": BottleneckBlock,
    "airbench": AirbenchBlock,
    "airbench_residual": AirbenchResidualBlock,
}
