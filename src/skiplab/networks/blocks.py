"""The blocks of the lab *Residual and Skip Connections*, the notebook *Residual Blocks*, He et al.

Every block has one signature, `Block(in_channels, out_channels, stride, style)`, and maps
(B, in, H, W) to (B, out, H/stride, W/stride). Odd sides are rounded up. `conv`, `residual`,
`residual_down` and `skip` are the lab's blocks, `basic` is the notebook's. Where the two keep the
shape and a network here changes it, `conv` and `skip` stride their first convolution, `residual`
and `preact` project the shortcut by 1x1, and `residual_down` strides its side convolution.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiplab import families


@dataclass(frozen=True, kw_only=True)
class Style:
    """What all blocks of a network have in common."""

    # batch | none
    norm: str
    # False gives the plain twin: the same layers without the sum or the concatenation.
    shortcut: bool
    # Whether convolutions have a bias.
    bias: bool
    # How a shortcut changes shape: conv | conv_bn (a 1x1 convolution) | pad (He et al.'s option A).
    projection: str


def make_norm(channels: int, norm: str) -> nn.Module:
    """Return BatchNorm2d for norm=batch, and the identity for norm=none."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


def conv(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool
) -> nn.Conv2d:
    """Return a convolution that keeps height and width at stride 1."""
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=bias
    )


class PadShortcut(nn.Module):
    """He et al.'s option A: every stride-th pixel, new channels zero, no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.missing = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        before = self.missing // 2
        strided = x[:, :, :: self.stride, :: self.stride]
        return F.pad(strided, (0, 0, 0, 0, before, self.missing - before))


def make_shortcut(
    in_channels: int, out_channels: int, stride: int, style: Style
) -> nn.Module | None:
    """Return the identity, or the style's projection where the shape changes.

    Returns None for a plain twin, which has no shortcut.
    """
    if not style.shortcut:
        return None
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    if style.projection == "pad":
        return PadShortcut(in_channels, out_channels, stride)
    project = conv(in_channels, out_channels, 1, stride=stride, bias=style.bias)
    if style.projection == "conv_bn":
        return nn.Sequential(project, make_norm(out_channels, style.norm))
    return project


class Block(nn.Module, ABC):
    """What a network needs to know of a block besides its signature and its rules (families.py)."""

    # The block's name, as in block=NAME.
    name: ClassVar[str]
    # The block takes and gives raw sums, so the network ends with the activation instead.
    preactivation: ClassVar[bool]
    # The block begins with a norm, so a stem ends without one.
    normalizes_input: ClassVar[bool] = False

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
        # The first block of a network leaves out its first relu, which would lose half an image.
        self.raw_image = raw_image
        self.build(in_channels, out_channels, stride, style)

    @abstractmethod
    def build(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        """Make the layers. Raises ValueError for channels that the block cannot have."""

    @classmethod
    def inner_channels(cls, out_channels: int) -> int:
        """Return the channels of the inner convolutions: out_channels / n, n by the rules.

        Raises ValueError if n does not divide out_channels.
        """
        if problem := families.width_problem(cls.name, out_channels):
            raise ValueError(problem)
        return out_channels // families.block_rules(cls.name).inner


class ConvBlock(Block):
    """Plain block: f(x), f = relu-conv-bn-relu-conv through half the width."""

    name = "conv"
    preactivation = True

    def build(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        inner = self.inner_channels(out_channels)
        self.conv1 = conv(in_channels, inner, 3, stride=stride, bias=style.bias)
        self.bn1 = make_norm(inner, style.norm)
        self.conv2 = conv(inner, out_channels, 3, bias=style.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.raw_image else F.relu(x)
        return self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True))


class ResidualBlock(ConvBlock):
    """Residual block: x + f(x), f = relu-conv-bn-relu-conv through half the width."""

    name = "residual"

    def build(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        super().build(in_channels, out_channels, stride, style)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, style)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if self.shortcut is None else out.add_(self.shortcut(x))


class ResidualDownBlock(Block):
    """Residual block with a side layer: side(relu(x)) + f(relu(x)).

    f = conv-bn-relu-conv, side = 3x3 conv.
    """

    name = "residual_down"
    preactivation = True

    def build(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, bias=style.bias)
        self.bn1 = make_norm(out_channels, style.norm)
        self.conv2 = conv(out_channels, out_channels, 3, bias=style.bias)
        self.conv3: nn.Conv2d | None = None
        if style.shortcut:
            self.conv3 = conv(in_channels, out_channels, 3, stride=stride, bias=style.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.raw_image else F.relu(x)
        out = self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return out if self.conv3 is None else out.add_(self.conv3(x))


class SkipBlock(Block):
    """Skip block: cat(x1, conv(relu(bn(x1)))), x1 = conv(relu(x)); each half of the width."""

    name = "skip"
    preactivation = True

    def build(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        half = self.inner_channels(out_channels)
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

    name = "basic"
    preactivation = False

    def build(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, bias=style.bias)
        self.bn1 = make_norm(out_channels, style.norm)
        self.conv2 = conv(out_channels, out_channels, 3, bias=style.bias)
        self.bn2 = make_norm(out_channels, style.norm)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, style)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(out if self.shortcut is None else out.add_(self.shortcut(x)), inplace=True)


class PreactBlock(Block):
    """Pre-activation residual block (He et al. 2016): x + f(x), f = bn-relu-conv-bn-relu-conv."""

    name = "preact"
    preactivation = True
    normalizes_input = True

    def build(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        self.bn1 = nn.Identity() if self.raw_image else make_norm(in_channels, style.norm)
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, bias=style.bias)
        self.bn2 = make_norm(out_channels, style.norm)
        self.conv2 = conv(out_channels, out_channels, 3, bias=style.bias)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, style)

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.raw_image else F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(out)), inplace=True))
        return out if self.shortcut is None else out.add_(self.shortcut(x))


class BottleneckBlock(Block):
    """Bottleneck residual block: relu(x + f(x)), through a quarter of the width.

    f = 1x1-bn-relu-3x3-bn-relu-1x1-bn. The 3x3 convolution takes the stride, as in torchvision.
    """

    name = "bottleneck"
    preactivation = False

    def build(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        inner = self.inner_channels(out_channels)
        self.conv1 = conv(in_channels, inner, 1, bias=style.bias)
        self.bn1 = make_norm(inner, style.norm)
        self.conv2 = conv(inner, inner, 3, stride=stride, bias=style.bias)
        self.bn2 = make_norm(inner, style.norm)
        self.conv3 = conv(inner, out_channels, 1, bias=style.bias)
        self.bn3 = make_norm(out_channels, style.norm)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, style)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out if self.shortcut is None else out.add_(self.shortcut(x)), inplace=True)
