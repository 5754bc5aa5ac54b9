"""What every network is built from: plain values, and the pieces that networks share."""

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from skiplab import own_code
from skiplab.errors import UsageError
from skiplab.networks.blocks import Block, Style, conv, make_norm

# The named children of a network, in order.
Stages = OrderedDict[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every network is built from."""

    block: type[Block]
    style: Style
    # Blocks, blocks a stage, or layers: each network says which.
    depth: int
    # Channels of the first stage.
    width: int
    # The probability of dropping a feature before the last layer.
    dropout: float
    # Colour planes of an image.
    channels: int
    # Height and width of an image, in pixels.
    size: tuple[int, int]
    num_classes: int

    def stage(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        *,
        stride: int,
        raw_image: bool = False,
    ) -> nn.Sequential:
        """Return `num_blocks` blocks; the first one changes the channels and takes the stride.

        Raises UsageError if the block's constructor raises ValueError: its channels follow from the
        width, so the width does not suit it.
        """
        try:
            first = self.block(in_channels, out_channels, stride, self.style, raw_image=raw_image)
            rest = [
                self.block(out_channels, out_channels, 1, self.style) for _ in range(num_blocks - 1)
            ]
        except ValueError as error:
            reason = " ".join(str(error).split())
            if place := own_code.where(error):
                reason += f", {place}"
            raise UsageError(
                f"width={self.width}: block={self.block.name} cannot turn {in_channels} channels "
                f"into {out_channels} ({reason})"
            ) from error
        return nn.Sequential(first, *rest)

    def ending(self, channels: int) -> nn.Module:
        """Return the activation that pre-activation blocks leave to the network."""
        if not self.block.preactivation:
            return nn.Identity()
        if self.block.normalizes_input:
            return nn.Sequential(make_norm(channels, self.style.norm), nn.ReLU(inplace=True))
        return nn.ReLU(inplace=True)

    def stem(self, out_channels: int) -> nn.Sequential:
        """Return He et al.'s 3x3 stem.

        It leaves out the norm or the activation that the first block begins with.
        """
        norm = "none" if self.block.normalizes_input else self.style.norm
        return nn.Sequential(
            conv(self.channels, out_channels, 3, bias=self.style.bias),
            make_norm(out_channels, norm),
            nn.Identity() if self.block.preactivation else nn.ReLU(inplace=True),
        )

    def pooled_head(self, channels: int) -> nn.Sequential:
        """Return global average pooling and a linear layer: (B, C, H, W) -> (B, K)."""
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
            nn.Dropout(self.dropout),
            nn.Linear(channels, self.num_classes),
        )
