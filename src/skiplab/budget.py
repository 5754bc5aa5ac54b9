"""Equal budgets: the width at which a network has a given number of parameters or MACs."""

from dataclasses import replace

import torch

from skiplab import build
from skiplab.config import rules
from skiplab.config.schema import Config
from skiplab.describe import describe_weights
from skiplab.errors import UsageError

# How far off the nearest width may be, as a share of the target.
TOLERANCE = 0.1
# In channels.
WIDEST = 2**14


def solve_width(config: Config) -> Config:
    """Return the config with the width that comes nearest to `target`; as it is under match=none.

    Raises UsageError if no width comes within a tenth.
    """
    if config.match == "none":
        return config
    assert config.target is not None
    target = config.target
    step = rules.width_divisor(config)
    # A run of a study comes with its width.
    if is_nearest(config, step=step):
        return config
    number = first_above(config, target, step=step)
    widths = [n * step for n in (number - 1, number) if n >= 1]
    width = min(widths, key=lambda w: abs(cost(config, w) - target))
    if abs(cost(config, width) / target - 1) > TOLERANCE:
        around = " and ".join(
            f"{cost(config, w):,} at width={w}"
            for w in sorted({width, max(step, width - step), width + step})
        )
        raise UsageError(
            f"target={target:,}: no width of {describe_weights(config)} comes within 10 % "
            f"({config.match}: {around})"
        )
    return replace(config, width=width)


def first_above(config: Config, target: int, *, step: int) -> int:
    """Return the first multiple of `step` whose cost reaches the target, by bisection.

    Cost grows with the width. The number is at most that of WIDEST.
    """
    low = 1
    high = WIDEST // step
    while low < high:
        middle = (low + high) // 2
        if cost(config, middle * step) < target:
            low = middle + 1
        else:
            high = middle
    return low


def is_nearest(config: Config, *, step: int) -> bool:
    """Tell whether the config's width is within a tenth and no other, a `step` away, is nearer."""
    assert config.target is not None
    if config.width % step or config.width < step:
        return False
    around = (config.width - step, config.width, config.width + step)
    off = {width: abs(cost(config, width) - config.target) for width in around if width >= step}
    is_near = off[config.width] <= TOLERANCE * config.target
    return is_near and min(off, key=lambda width: off[width]) == config.width


def describe(config: Config) -> str:
    """Describe what a solved config's width was chosen for, and how near it comes."""
    assert config.target is not None
    found = cost(config, config.width)
    percent = 100 * (found / config.target - 1)
    return f"width={config.width}: {found:,} {config.match}, {percent:+.1f} % of the target"


def cost(config: Config, width: int) -> int:
    """Count parameters or multiply-accumulates of the config's network at a width.

    No memory is taken for it.
    """
    with torch.device("meta"):
        model = build.network(replace(config, width=width), torch.device("meta"))
        summary = build.summary_of(config, model)
    return summary.parameters if config.match == "params" else summary.macs
