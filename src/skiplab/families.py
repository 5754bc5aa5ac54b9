"""What the networks ask of depth, width and image size, as one table.

The config's check (config/rules.py) and the builders (networks/) both read it, so each rule and
its message exist once. Imports no torch.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BlockRules:
    """What a network needs to know of a block before it is built."""

    # The inner convolutions have 1/inner of the block's output channels.
    inner: int = 1
    # Convolutions on the main path, for networks that count layers.
    num_convs: int = 2
    # Output channels over the nominal width in He et al.'s networks.
    expansion: int = 1


@dataclass(frozen=True, kw_only=True)
class NetworkRules:
    """What a network asks of its depth and its images."""

    # The least number of blocks, where `depth` counts blocks.
    least_depth: int = 0
    # The least height and width of an image, in pixels.
    least_size: int = 1
    # What the network does to an image, for the message about its size.
    shrinks: str = ""
    # A stage has `expansion` times its nominal width, as in He et al.'s networks.
    expands: bool = False


# A block without a row has the default rules.
BLOCKS = {
    "conv": BlockRules(inner=2),
    "residual": BlockRules(inner=2),
    "skip": BlockRules(inner=2),
    "bottleneck": BlockRules(inner=4, num_convs=3, expansion=4),
    "airbench_residual": BlockRules(num_convs=3),
}
# A network without a row has the default rules.
NETWORKS = {
    "deepcnn": NetworkRules(least_size=8, shrinks="pools three times"),
    "resnet": NetworkRules(least_depth=1),
    "cifar_resnet": NetworkRules(expands=True),
    "imagenet_resnet": NetworkRules(expands=True),
    "airbench": NetworkRules(least_depth=1, least_size=9, shrinks="halves the image three times"),
    "airbench96": NetworkRules(least_depth=1, least_size=9, shrinks="halves the image three times"),
}
# Depth -> blocks of each stage (He et al. 2015, table 1).
IMAGENET_STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def block_rules(block: str) -> BlockRules:
    """Return the rules of a block by its name."""
    return BLOCKS.get(block, BlockRules())


def network_rules(network: str) -> NetworkRules:
    """Return the rules of a network by its name."""
    return NETWORKS.get(network, NetworkRules())


def width_divisor(block: str, *, network: str | None = None) -> int:
    """Return what the width of a network of these blocks must be a multiple of.

    Without a network it is what the output channels of the block alone must be a multiple of.
    """
    rules = block_rules(block)
    if network is not None and network_rules(network).expands:
        # The block's output channels are a multiple of the expansion already.
        return rules.inner // math.gcd(rules.inner, rules.expansion)
    return rules.inner


def width_problem(
    block: str, width: int, *, network: str | None = None, key: str = "width"
) -> str | None:
    """Return why a width does not suit the blocks, in one line that names `key`, or None."""
    divisor = width_divisor(block, network=network)
    if width % divisor == 0:
        return None
    below = width // divisor * divisor
    near = f"{below} or {below + divisor}" if below else f"{divisor}"
    return (
        f"{key}={width}: block={block} works at 1/{divisor} of its width, "
        f"so take a multiple of {divisor}: {near}"
    )


def depth_problem(network: str, block: str, depth: int) -> str | None:
    """Return why a network of these blocks does not have this depth, in one line, or None."""
    if network == "cifar_resnet":
        return _cifar_problem(block, depth)
    if network == "imagenet_resnet":
        return _imagenet_problem(depth)
    if depth >= (least := network_rules(network).least_depth):
        return None
    if least == 0:
        return f"depth={depth}: model={network} takes 0 blocks or more"
    return (
        f"depth={depth}: model={network} needs at least {least} block a stage "
        "(depth=0 is for model=deepcnn)"
    )


def size_problem(network: str, size: tuple[int, int], *, key: str = "size") -> str | None:
    """Return why images of this height and width are too small, naming `key`, or None."""
    rules = network_rules(network)
    if min(size) >= rules.least_size:
        return None
    least = f"{rules.least_size}x{rules.least_size}"
    shown = size_in_words(size)
    return f"{key}={shown}: model={network} {rules.shrinks}; take images of at least {least}"


def size_in_words(size: tuple[int, int]) -> str:
    """Return height and width as a config states them: `32` for a square, else `24x32`."""
    height, width = size
    return f"{height}" if height == width else f"{height}x{width}"


def cifar_blocks(block: str, depth: int) -> int:
    """Return n, the blocks of each stage of a CIFAR ResNet: 6n+2 layers, 9n+2 with bottlenecks."""
    return (depth - 2) // _cifar_layers(block)


def _cifar_layers(block: str) -> int:
    """Return the layers that one more block in each of the three stages adds."""
    return 3 * block_rules(block).num_convs


def _cifar_problem(block: str, depth: int) -> str | None:
    layers, num_blocks = _cifar_layers(block), cifar_blocks(block, depth)
    if num_blocks >= 1 and depth == num_blocks * layers + 2:
        return None
    below = max(1, num_blocks) * layers + 2
    return (
        f"depth={depth} is no CIFAR ResNet: {layers}n+2 layers with block={block}, "
        f"so {below} or {below + layers}"
    )


def _imagenet_problem(depth: int) -> str | None:
    if depth in IMAGENET_STAGES:
        return None
    near = min(IMAGENET_STAGES, key=lambda known: abs(known - depth))
    every = ", ".join(map(str, IMAGENET_STAGES))
    return f"depth={depth} is no ImageNet ResNet: take {near} (of {every})"
