"""Equal budgets: the width at which a network has a given number of parameters or multiply-accumulates."""

from dataclasses import replace

import torch

from skiplab import build
from skiplab.config import rules
from skiplab.config.schema import Config
from skiplab.errors import UsageError

# of the target: how far off the nearest width may be
NEAR = 0.1
# channels
WIDEST = 2**14


def solved(config: Config) -> Config:
    """The config with the width that comes nearest to `target`, or as it is under match=none. UsageError if none is within a tenth."""
    if config.match == "none":
        return config
    assert config.target is not None
    step = rules.width_divisor(config)
    # a cell of a study comes with its width
    if is_nearest(config, step=step):
        return config
    # in multiples of `step`; cost grows with the width
    low, high = 1, WIDEST // step
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (middle + 1, high) if cost(config, middle * step) < config.target else (low, middle)
        )
    target = config.target
    width = min(
        (w * step for w in (low - 1, low) if w >= 1), key=lambda w: abs(cost(config, w) - target)
    )
    if abs(cost(config, width) / config.target - 1) > NEAR:
        around = " and ".join(
            f"{cost(config, w):,} at width={w}"
            for w in sorted({width, max(step, width - step), width + step})
        )
        raise UsageError(
            f"target={config.target:,}: no width of {build.describe(config)} comes within 10 % ({config.match}: {around})"
        )
    return replace(config, width=width)


def is_nearest(config: Config, *, step: int) -> bool:
    """Whether the config's own width is within a tenth, and no other comes nearer; cost grows with the width."""
    assert config.target is not None
    if config.width % step or config.width < step:
        return False
    widths = [
        width for width in (config.width - step, config.width, config.width + step) if width >= step
    ]
    off = {width: abs(cost(config, width) - config.target) for width in widths}
    return (
        off[config.width] <= NEAR * config.target
        and min(widths, key=lambda width: off[width]) == config.width
    )


def in_words(config: Config) -> str:
    """What a solved config's width was chosen for, and how near it comes."""
    assert config.target is not None
    found = cost(config, config.width)
    return f"width={config.width}: {found:,} {config.match}, {100 * (found / config.target - 1):+.1f} % of the target"


def cost(config: Config, width: int) -> int:
    """Parameters or multiply-accumulates of the config's network at a width; no memory is taken for it."""
    with torch.device("meta"):
        summary = build.summary_of(
            config, build.network(replace(config, width=width), torch.device("meta"))
        )
    return summary.parameters if config.match == "params" else summary.macs
