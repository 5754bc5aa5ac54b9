"""The names that torchvision's ResNet gives to the tensors of `imagenet_resnet`.

torchvision's stem is a 7x7 convolution of stride 2 and a pooling. The network here has He et al.'s
3x3 stem, so two lines put that into torchvision's module. All else is the same.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from skiplab.config.schema import Config
from skiplab.errors import UsageError

# torchvision's functions, by block and depth.
FUNCTIONS = {
    ("basic", 18): "resnet18",
    ("basic", 34): "resnet34",
    ("bottleneck", 50): "resnet50",
    ("bottleneck", 101): "resnet101",
    ("bottleneck", 152): "resnet152",
}
# Of torchvision's modules, whose stages cannot be of another width.
WIDTH = 64
PATTERNS = (
    (r"stem\.0\.", "conv1."),
    (r"stem\.1\.", "bn1."),
    (r"stage(\d)\.(\d+)\.shortcut\.", r"layer\1.\2.downsample."),
    (r"stage(\d)\.", r"layer\1."),
    (r"head\.\d+\.", "fc."),
)


def function_of(config: Config) -> str:
    """Return the name of torchvision's function that builds the run's network but for its stem.

    Raises UsageError, in one line, for a network whose weights no module of torchvision takes.
    """
    problem = None
    key = (config.block.name, config.depth)
    if config.model.name != "imagenet_resnet":
        problem = f"model.name={config.model.name}; only imagenet_resnet is torchvision's"
    elif key not in FUNCTIONS:
        problem = (
            f"block={config.block.name} depth={config.depth}; basic blocks have depth 18 or 34, "
            "bottlenecks 50, 101 or 152"
        )
    elif config.width != WIDTH:
        problem = f"width={config.width}; torchvision's width is {WIDTH}"
    elif config.norm != "batch":
        problem = f"norm={config.norm}; torchvision's modules have batch"
    elif not config.shortcut:
        problem = "shortcut=false; torchvision's modules have shortcuts"
    elif config.block.projection != "conv_bn" or config.block.bias:
        problem = (
            f"block.projection={config.block.projection} "
            f"block.bias={str(config.block.bias).lower()}; torchvision's are conv_bn and false"
        )
    if problem is not None:
        raise UsageError(f"--names torchvision: the run has {problem}; leave --names out")
    return FUNCTIONS[key]


def recipe(config: Config, channels: int) -> list[str]:
    """Return the lines of Python that build the module which takes the file's tensors."""
    classes = len(config.dataset.classes)
    return [
        f"network = torchvision.models.{function_of(config)}(num_classes={classes})",
        f"network.conv1 = torch.nn.Conv2d({channels}, {WIDTH}, 3, padding=1, bias=False)",
        "network.maxpool = torch.nn.Identity()",
    ]


def module_of(config: Config, channels: int) -> nn.Module:
    """Build the module of `recipe`."""
    import torchvision

    build = getattr(torchvision.models, function_of(config))
    network = build(num_classes=len(config.dataset.classes))
    network.conv1 = nn.Conv2d(channels, WIDTH, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under torchvision's names."""
    return {translate(name): tensor for name, tensor in tensors.items()}


def translate(name: str) -> str:
    """Return torchvision's name of a tensor."""
    for pattern, theirs in PATTERNS:
        if re.match(pattern, name):
            return re.sub(pattern, theirs, name, count=1)
    raise AssertionError(name)
