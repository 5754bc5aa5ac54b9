"""Every network: stem, stages of blocks, head, initialisation. `build("resnet", block="skip", depth=2, ...)` is the entry.

A network is an `nn.Sequential` of named stages, so that its summary, its state dict and its forward
pass read alike.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiplab.networks.blocks import BLOCKS, Block, Style, conv, make_norm

Stages = OrderedDict[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every network is built from."""

    block: type[Block]
    style: Style
    depth: int
    width: int
    dropout: float
    # of the image
    channels: int
    # height and width of the image, in pixels
    size: int
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
        """`num_blocks` blocks; the first one changes the channels and takes the stride."""
        first = self.block(in_channels, out_channels, stride, self.style, raw_image=raw_image)
        rest = [
            self.block(out_channels, out_channels, 1, self.style) for _ in range(num_blocks - 1)
        ]
        return nn.Sequential(first, *rest)

    def ending(self, channels: int) -> nn.Module:
        """The activation that pre-activation blocks leave to the network."""
        if not self.block.preactivation:
            return nn.Identity()
        return (
            nn.Sequential(make_norm(channels, self.style.norm), nn.ReLU(inplace=True))
            if self.block.normalizes_input
            else nn.ReLU(inplace=True)
        )

    def stem(self, out_channels: int) -> nn.Sequential:
        """He et al.'s 3x3 stem, without the norm or the activation that the first block begins with."""
        norm = (
            nn.Identity()
            if self.block.normalizes_input
            else make_norm(out_channels, self.style.norm)
        )
        activation = nn.Identity() if self.block.preactivation else nn.ReLU(inplace=True)
        return nn.Sequential(
            conv(self.channels, out_channels, 3, bias=self.style.bias), norm, activation
        )

    def pooled_head(self, channels: int) -> nn.Sequential:
        """Global average pooling and a linear layer: (B, C, H, W) -> (B, K)."""
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
            nn.Dropout(self.dropout),
            nn.Linear(channels, self.num_classes),
        )


class Network(nn.Sequential):
    """Named stages, one after another: (B, C, H, W) -> (B, K).

    A class of its own, because torch.compile skips the frames of torch's own classes: it would
    compile each stage apart.
    """

    def forward(self, input: Tensor) -> Tensor:
        for stage in self:
            input = stage(input)
        return input


def deepcnn(plan: Plan) -> Stages:
    """Document 1's Deep_CNN: a stem that pools twice (32x32 -> 8x8), `depth` blocks of `width` channels, dropout, linear."""
    if plan.size < 8:
        raise ValueError(
            f"model=deepcnn pools three times: images of {plan.size}x{plan.size} are too small, 8x8 is the least"
        )
    if plan.depth < 0:
        raise ValueError(f"depth={plan.depth}: model=deepcnn takes 0 blocks or more")
    width, bias, norm = plan.width, plan.style.bias, plan.style.norm
    side = plan.size // 2 // 2 // 2
    # pooled before relu: both are monotone, so outputs and gradients are the same to the bit, for a
    # quarter of relu's work
    return OrderedDict(
        stem=nn.Sequential(
            conv(plan.channels, width, 3, bias=bias),
            make_norm(width, norm),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            conv(width, width, 3, bias=bias),
            make_norm(width, norm),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            conv(width, width, 3, bias=bias),
        ),
        blocks=plan.stage(width, width, plan.depth, stride=1) if plan.depth else nn.Identity(),
        ending=nn.Sequential(
            plan.ending(width) if plan.depth else nn.ReLU(inplace=True), nn.MaxPool2d(2)
        ),
        head=nn.Sequential(
            nn.Flatten(1),
            nn.Dropout(plan.dropout),
            nn.Linear(width * side * side, plan.num_classes),
        ),
    )


def resnet(plan: Plan) -> Stages:
    """Document 2's ResNet: stages of `width`, 2 `width`, 4 `width` channels, `depth` blocks each, the last one strided; no stem."""
    if plan.depth < 1:
        raise ValueError(f"depth={plan.depth}: model=resnet needs at least 1 block a stage")
    width = plan.width
    return OrderedDict(
        stage1=plan.stage(plan.channels, width, plan.depth, stride=1, raw_image=True),
        stage2=plan.stage(width, 2 * width, plan.depth, stride=1),
        stage3=plan.stage(2 * width, 4 * width, plan.depth, stride=2),
        ending=plan.ending(4 * width),
        head=plan.pooled_head(4 * width),
    )


def cifar_resnet(plan: Plan) -> Stages:
    """He et al. 2015, section 4.2: three stages of n blocks, `depth` = 6n+2 layers (9n+2 with bottlenecks)."""
    layers_per_n = 3 * plan.block.num_convs
    num_blocks, rest = divmod(plan.depth - 2, layers_per_n)
    if rest or num_blocks < 1:
        below = max(1, num_blocks) * layers_per_n + 2
        raise ValueError(
            f"depth={plan.depth} is no CIFAR ResNet: {layers_per_n}n+2 layers, so {below} or {below + layers_per_n}"
        )
    width, wide = plan.width, plan.width * plan.block.expansion
    return OrderedDict(
        stem=plan.stem(width),
        stage1=plan.stage(width, wide, num_blocks, stride=1),
        stage2=plan.stage(wide, 2 * wide, num_blocks, stride=2),
        stage3=plan.stage(2 * wide, 4 * wide, num_blocks, stride=2),
        ending=plan.ending(4 * wide),
        head=plan.pooled_head(4 * wide),
    )


IMAGENET_STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def imagenet_resnet(plan: Plan) -> Stages:
    """He et al. 2015, table 1, with a 3x3 stem and no pooling, as used on 32x32 images: `depth` picks the blocks per stage."""
    if plan.depth not in IMAGENET_STAGES:
        raise ValueError(
            f"depth={plan.depth} is no ImageNet ResNet: take one of {', '.join(map(str, IMAGENET_STAGES))}"
        )
    stages: Stages = OrderedDict(stem=plan.stem(plan.width))
    channels = plan.width
    for i, num_blocks in enumerate(IMAGENET_STAGES[plan.depth]):
        out_channels = plan.width * plan.block.expansion * 2**i
        stages[f"stage{i + 1}"] = plan.stage(
            channels, out_channels, num_blocks, stride=1 if i == 0 else 2
        )
        channels = out_channels
    stages["ending"] = plan.ending(channels)
    stages["head"] = plan.pooled_head(channels)
    return stages


class Whitening(nn.Conv2d):
    """2x2 filters that decorrelate an image's patches, and their negatives; fixed, only the bias is trained (Page 2018).

    (B, C, H, W) -> (B, 8 C, H - 1, W - 1). Zero until `fit` has seen images.
    """

    def __init__(self, channels: int):
        super().__init__(channels, 2 * channels * 4, 2)
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def fit(self, images: Tensor, *, eps: float = 5e-4) -> None:
        """Filters v_i / sqrt(lambda_i + eps) from the eigenvectors of the patches' second moments; images (N, C, H, W), normalised."""
        # (N * (H-1) * (W-1), 4 C)
        patches = (
            F.unfold(images.float().contiguous(), 2)
            .transpose(1, 2)
            .reshape(-1, self.weight[0].numel())
        )
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + eps).sqrt()).T.reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat((filters, -filters)))


class GlobalMaxPool(nn.Module):
    """(B, C, H, W) -> (B, C), the largest value of each plane."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class Scale(nn.Module):
    """factor x."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def whitened(plan: Plan, widths: tuple[int, int, int], scale: float) -> Stages:
    """A whitening layer, three stages that halve the image, maximum pooling, a linear layer without bias, its logits scaled."""
    if plan.size < 9:
        raise ValueError(
            f"model=airbench halves the image three times: {plan.size}x{plan.size} is too small, 9x9 is the least"
        )
    if plan.depth < 1:
        raise ValueError(f"depth={plan.depth}: model=airbench needs at least 1 block a stage")
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
    """Jordan 2024's network of airbench94, with `depth` blocks a stage of `width`, 4 `width`, 4 `width` channels.

    His head has weights of deviation 1 and divides by its inputs; ours has the quotient as its
    weights, the same function.
    """
    stages = whitened(plan, (plan.width, 4 * plan.width, 4 * plan.width), 1.0)
    linear = next(m for m in stages["head"].modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        linear.weight.div_(linear.weight.std() * linear.in_features)
    return stages


def airbench96(plan: Plan) -> Stages:
    """Jordan 2024's network of airbench96: stages of `width`, 3 `width`, 4 `width` channels, logits over nine."""
    return whitened(plan, (plan.width, 3 * plan.width, 4 * plan.width), 1 / 9)


MODELS: dict[str, Callable[[Plan], Stages]] = {
    "deepcnn": deepcnn,
    "resnet": resnet,
    "cifar_resnet": cifar_resnet,
    "imagenet_resnet": imagenet_resnet,
    "airbench": airbench,
    "airbench96": airbench96,
}


def wants_images(model: nn.Module) -> bool:
    """Whether `fit_to_images` has anything to do here."""
    return any(isinstance(module, Whitening) for module in model.modules())


def fit_to_images(model: nn.Module, images: Tensor) -> None:
    """In place: layers whose initial weights come from the data, here whitening; images (N, C, H, W) as the network sees them."""
    for module in model.modules():
        if isinstance(module, Whitening):
            module.fit(images)


def initialize(model: nn.Module, init: str) -> None:
    """In place: `torch` keeps each layer's default; `he` draws convolutions from N(0, 2 / fan_out) and zeroes the linear bias."""
    if init == "torch":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def build(
    name: str,
    *,
    block: str,
    depth: int,
    width: int,
    channels: int,
    size: int,
    num_classes: int,
    norm: str,
    shortcut: bool,
    bias: bool,
    projection: str,
    init: str,
    dropout: float,
) -> nn.Sequential:
    """The network `name` for images (B, channels, size, size): logits (B, num_classes).

    Draws its initial weights from torch's default generator. Raises ValueError, in one line, for a
    combination that cannot be built (a depth the family does not have, a width that the block
    cannot divide, an image that is too small).
    """
    style = Style(norm=norm, shortcut=shortcut, bias=bias, projection=projection)
    plan = Plan(
        block=BLOCKS[block],
        style=style,
        depth=depth,
        width=width,
        dropout=dropout,
        channels=channels,
        size=size,
        num_classes=num_classes,
    )
    model = Network(MODELS[name](plan))
    initialize(model, init)
    return model


@dataclass(frozen=True)
class Summary:
    """What a network is and costs; MACs and FLOPs are of the forward pass of one image, FLOPs = 2 MACs."""

    parameters: int
    macs: int
    flops: int
    # name -> (output shape of one image, parameters)
    stages: dict[str, tuple[tuple[int, ...], int]]


def summarize(model: nn.Sequential, *, channels: int, size: int) -> Summary:
    """Count parameters and multiply-accumulates of convolutions and linear layers; the model is left as it was."""
    macs = 0
    shapes: dict[str, tuple[int, ...]] = {}

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            macs += (
                output[0].numel()
                * module.in_channels
                * module.kernel_size[0]
                * module.kernel_size[1]
            )
        elif isinstance(module, nn.Linear):
            macs += output[0].numel() * module.in_features

    def shape_of(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _module, _inputs, output: shapes.__setitem__(name, tuple(output.shape[1:]))

    hooks = [m.register_forward_hook(count) for m in model.modules()]
    hooks += [m.register_forward_hook(shape_of(name)) for name, m in model.named_children()]
    parameter = next(model.parameters())
    was_training = model.training
    with torch.inference_mode():
        image = torch.zeros(1, channels, size, size, device=parameter.device, dtype=parameter.dtype)
        # Its own forward: calling a compiled network would compile it for one image.
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
