"""The networks of Jordan's CIFAR-10 records, airbench94 and airbench96 (2024): blocks and layers.

The record recipe stands apart from the lesson's networks in models.py.
"""

from collections import OrderedDict
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiplab.networks.blocks import Block, Style
from skiplab.networks.plan import Plan, Stages


class DiracConv2d(nn.Conv2d):
    """A 3x3 convolution whose first filters begin as the identity (Jordan 2024).

    Each of them passes one channel on.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.dirac_(self.weight.data[: self.in_channels])


class AirbenchBlock(Block):
    """Plain block of airbench94 (Jordan 2024): conv-pool-bn-gelu-conv-bn-gelu.

    The norms learn no scale. Pooling rounds odd sides down.
    """

    name = "airbench"
    preactivation = False
    norm_momentum: ClassVar[float] = 0.4

    def build(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        self.conv1 = DiracConv2d(in_channels, out_channels, bias=style.bias)
        self.pool = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.bn1 = self.norm(out_channels, style)
        self.conv2 = DiracConv2d(out_channels, out_channels, bias=style.bias)
        self.bn2 = self.norm(out_channels, style)

    def norm(self, channels: int, style: Style) -> nn.Module:
        """Return BatchNorm2d with a bias and a fixed scale of one, or the identity."""
        if style.norm == "none":
            return nn.Identity()
        norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=self.norm_momentum)
        norm.weight.requires_grad_(False)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.bn1(self.pool(self.conv1(x))))
        return F.gelu(self.bn2(self.conv2(x)))


class AirbenchResidualBlock(AirbenchBlock):
    """Residual block of airbench96 (Jordan 2024): gelu(x0 + f(x0)).

    x0 = conv-pool-bn-gelu, f = conv-bn-gelu-conv-bn.
    """

    name = "airbench_residual"
    norm_momentum = 0.1

    def build(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        super().build(in_channels, out_channels, stride, style)
        self.conv3 = DiracConv2d(out_channels, out_channels, bias=style.bias)
        self.bn3 = self.norm(out_channels, style)
        self.has_shortcut = style.shortcut

    def forward(self, x: Tensor) -> Tensor:
        x0 = F.gelu(self.bn1(self.pool(self.conv1(x))))
        out = self.bn3(self.conv3(F.gelu(self.bn2(self.conv2(x0)))))
        return F.gelu(out + x0 if self.has_shortcut else out)


class Whitening(nn.Conv2d):
    """2x2 filters that decorrelate an image's patches, and their negatives (Page 2018).

    (B, C, H, W) -> (B, 8 C, H - 1, W - 1). The filters are fixed, and only the bias is trained.
    The filters are random until `fit` has seen images.
    """

    def __init__(self, channels: int):
        super().__init__(channels, 2 * channels * 4, 2)
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def fit(self, images: Tensor, *, eps: float = 5e-4) -> None:
        """Set the filters from normalised images (N, C, H, W).

        Filter i is v_i / sqrt(lambda_i + eps), from the eigenvectors and eigenvalues of the
        patches' second moments.
        """
        # (N, 4 C, (H-1) * (W-1)) -> (N * (H-1) * (W-1), 4 C)
        columns = F.unfold(images.float().contiguous(), 2)
        patches = columns.transpose(1, 2).reshape(-1, self.weight[0].numel())
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + eps).sqrt()).T.reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat((filters, -filters)))


class GlobalMaxPool(nn.Module):
    """The largest value of each plane: (B, C, H, W) -> (B, C).

    The gradient goes to one pixel, whose index is stored. `amax` would compare the plane with its
    largest value again. Compiled code computes the plane in float32 and rounds only the largest
    value to bfloat16, so it may find no pixel and divide by zero.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, x.shape[2:]).flatten(1)


class Scale(nn.Module):
    """Multiplication by a fixed factor."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def whitened(plan: Plan, widths: tuple[int, int, int], scale: float) -> Stages:
    """Return a whitening layer, three stages that halve the image, and a head with scaled logits.

    The head pools the maximum and has a linear layer without bias.
    """
    whitening = Whitening(plan.channels)
    stages: Stages = OrderedDict(stem=nn.Sequential(whitening, nn.GELU()))
    channels = whitening.out_channels
    for i, width in enumerate(widths):
        stages[f"stage{i + 1}"] = plan.stage(channels, width, plan.depth, stride=2)
        channels = width
    linear = nn.Linear(channels, plan.num_classes, bias=False)
    stages["ending"] = plan.ending(channels)
    stages["head"] = nn.Sequential(GlobalMaxPool(), nn.Dropout(plan.dropout), linear, Scale(scale))
    return stages


def airbench(plan: Plan) -> Stages:
    """Return Jordan 2024's network of airbench94.

    It has `depth` blocks a stage, in stages of `width`, 4 `width` and 4 `width` channels. His head
    has weights of deviation 1 and divides by the number of its inputs. Ours has the quotient as its
    weights, which is the same function.
    """
    stages = whitened(plan, (plan.width, 4 * plan.width, 4 * plan.width), 1.0)
    linear = next(m for m in stages["head"].modules() if isinstance(m, nn.Linear))
    # On the meta device there are no values, and the mean of none imports torch's compiler.
    if not linear.weight.is_meta:
        with torch.no_grad():
            linear.weight.div_(linear.weight.std() * linear.in_features)
    return stages


def airbench96(plan: Plan) -> Stages:
    """Return Jordan 2024's network of airbench96, whose logits are divided by nine.

    It has `depth` blocks a stage, in stages of `width`, 3 `width` and 4 `width` channels.
    """
    return whitened(plan, (plan.width, 3 * plan.width, 4 * plan.width), 1 / 9)
