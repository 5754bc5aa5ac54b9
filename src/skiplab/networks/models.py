"""Every block and every network by its name, and `build`, which makes a network from plain values.

A network is a function from a plan to named stages: stem, stages of blocks, ending, head. So its
summary, its state dict and its forward pass read alike.
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from skiplab import families
from skiplab.errors import UsageError
from skiplab.networks import airbench, blocks
from skiplab.networks.blocks import Block, conv, make_norm
from skiplab.networks.plan import Plan, Stages

BLOCKS: dict[str, type[Block]] = {
    block.name: block
    for block in (
        blocks.ConvBlock,
        blocks.ResidualBlock,
        blocks.ResidualDownBlock,
        blocks.SkipBlock,
        blocks.BasicBlock,
        blocks.PreactBlock,
        blocks.BottleneckBlock,
        airbench.AirbenchBlock,
        airbench.AirbenchResidualBlock,
    )
}


def deepcnn(plan: Plan) -> Stages:
    """Return the lab's Deep_CNN: `depth` blocks of `width` channels behind a stem that pools twice.

    The stem makes 8x8 of 32x32. The head has dropout and a linear layer.
    """
    width, bias, norm = plan.width, plan.style.bias, plan.style.norm
    height, breadth = (side // 2 // 2 // 2 for side in plan.size)
    # The stem pools before relu. Both are monotone, so outputs and gradients are bit for bit
    # identical, and relu has a quarter of the work.
    stem = nn.Sequential(
        conv(plan.channels, width, 3, bias=bias),
        make_norm(width, norm),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
        conv(width, width, 3, bias=bias),
        make_norm(width, norm),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
        conv(width, width, 3, bias=bias),
    )
    middle = plan.stage(width, width, plan.depth, stride=1) if plan.depth else nn.Identity()
    activation = plan.ending(width) if plan.depth else nn.ReLU(inplace=True)
    linear = nn.Linear(width * height * breadth, plan.num_classes)
    return OrderedDict(
        stem=stem,
        blocks=middle,
        ending=nn.Sequential(activation, nn.MaxPool2d(2)),
        head=nn.Sequential(nn.Flatten(1), nn.Dropout(plan.dropout), linear),
    )


def resnet(plan: Plan) -> Stages:
    """Return the notebook's ResNet: stages of `width`, 2 `width` and 4 `width` channels.

    Each has `depth` blocks, and the last one is strided. There is no stem.
    """
    width = plan.width
    return OrderedDict(
        stage1=plan.stage(plan.channels, width, plan.depth, stride=1, raw_image=True),
        stage2=plan.stage(width, 2 * width, plan.depth, stride=1),
        stage3=plan.stage(2 * width, 4 * width, plan.depth, stride=2),
        ending=plan.ending(4 * width),
        head=plan.pooled_head(4 * width),
    )


def cifar_resnet(plan: Plan) -> Stages:
    """Return He et al. 2015's network for CIFAR-10, section 4.2: three stages of n blocks.

    `depth` counts layers: 6n+2, or 9n+2 with bottlenecks.
    """
    num_blocks = families.cifar_blocks(plan.block.name, plan.depth)
    width = plan.width
    wide = width * families.block_rules(plan.block.name).expansion
    return OrderedDict(
        stem=plan.stem(width),
        stage1=plan.stage(width, wide, num_blocks, stride=1),
        stage2=plan.stage(wide, 2 * wide, num_blocks, stride=2),
        stage3=plan.stage(2 * wide, 4 * wide, num_blocks, stride=2),
        ending=plan.ending(4 * wide),
        head=plan.pooled_head(4 * wide),
    )


def imagenet_resnet(plan: Plan) -> Stages:
    """Return He et al. 2015's network for ImageNet, table 1, as used on 32x32 images.

    The stem is 3x3 and does not pool. `depth` picks the blocks of each stage.
    """
    stages: Stages = OrderedDict(stem=plan.stem(plan.width))
    expansion = families.block_rules(plan.block.name).expansion
    channels = plan.width
    for i, num_blocks in enumerate(families.IMAGENET_STAGES[plan.depth]):
        out_channels = plan.width * expansion * 2**i
        stride = 1 if i == 0 else 2
        stages[f"stage{i + 1}"] = plan.stage(channels, out_channels, num_blocks, stride=stride)
        channels = out_channels
    stages["ending"] = plan.ending(channels)
    stages["head"] = plan.pooled_head(channels)
    return stages


MODELS: dict[str, Callable[[Plan], Stages]] = {
    "deepcnn": deepcnn,
    "resnet": resnet,
    "cifar_resnet": cifar_resnet,
    "imagenet_resnet": imagenet_resnet,
    "airbench": airbench.airbench,
    "airbench96": airbench.airbench96,
}


class Network(nn.Sequential):
    """A network as a sequence of named stages: (B, C, H, W) -> (B, K).

    The loop stands here because torch.compile skips the frames of torch's own classes.
    """

    def forward(self, input: Tensor) -> Tensor:
        for stage in self:
            input = stage(input)
        return input


def build(
    name: str, plan: Plan, *, init: str, make: Callable[[Plan], Stages] | None = None
) -> Network:
    """Build the network `name` for images (B, channels, *size): logits (B, num_classes).

    `make` is the function of a network of the user's own, whose name is `name`. Draws the initial
    weights from torch's default generator; `init` is torch or he. Raises UsageError, in one line,
    for what cannot be built: a depth that the network does not have, a width that does not suit the
    block, or images that are too small.
    """
    block = plan.block.name
    problem = (
        families.width_problem(block, plan.width, network=name)
        or families.depth_problem(name, block, plan.depth)
        or families.size_problem(name, plan.size)
    )
    if problem is not None:
        raise UsageError(problem)
    stages = MODELS[name](plan) if make is None else make(plan)
    if not isinstance(stages, dict) or not stages or not all(map(is_stage, stages.items())):
        raise UsageError(
            f"model={name}: gives {type(stages).__name__}; "
            "an OrderedDict of named modules, the stages, is expected"
        )
    model = Network(OrderedDict(stages))
    initialize(model, init)
    return model


def is_stage(pair: tuple[object, object]) -> bool:
    """Return whether a pair is a name without dots and a module."""
    name, module = pair
    return (
        isinstance(name, str) and bool(name) and "." not in name and isinstance(module, nn.Module)
    )


def initialize(model: nn.Module, init: str) -> None:
    """Draw the initial weights, in place: `torch` keeps each layer's default.

    `he` draws convolutions from N(0, 2 / fan_out), and zeroes their biases and the linear layer's.
    """
    # Weights on the meta device have no values. Drawing them would import torch's compiler, which
    # takes seconds.
    if init == "torch" or any(parameter.is_meta for parameter in model.parameters()):
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def wants_images(model: nn.Module) -> bool:
    """Return whether the network has layers that `fit_to_images` sets."""
    return any(isinstance(module, airbench.Whitening) for module in model.modules())


def fit_to_images(model: nn.Module, images: Tensor) -> None:
    """Set the layers whose initial weights come from the data, which whiten, in place.

    The images (N, C, H, W) are normalised, as the network sees them.
    """
    for module in model.modules():
        if isinstance(module, airbench.Whitening):
            module.fit(images)
