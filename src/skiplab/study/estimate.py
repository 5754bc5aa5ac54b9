"""Estimate how long a study takes, from its networks' cost and this machine's speed."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from skiplab import build
from skiplab.config import rules
from skiplab.config.schema import Config
from skiplab.machine.cpu import num_cores
from skiplab.words import estimated

# The machine is measured by a matrix product of this size, this many times.
SIZE, TIMES = 1024, 5
# Training reaches this share of that rate: 0.2 to 0.6 were measured on a CPU for the networks here.
EFFICIENCY = 0.3
# A step costs this many forward passes.
PASSES_PER_STEP = 3
# A run's start and its report take this many seconds.
OVERHEAD = 2.0


def in_words(
    configs: Sequence[Config], *, number: int | None = None, jobs: int | str = "auto"
) -> str:
    """Return how long these runs take here: `3 h 25 min here, by an estimate`.

    `jobs` run at a time (auto: one per core or GPU). With `number`, there are that many runs like
    the first one. Times a matrix product.
    """
    if number is None:
        alike = Counter(replace(config, seed=0, out=None) for config in configs)
        how = "by an estimate"
    else:
        alike = Counter({configs[0]: number})
        how = "by an estimate from the first one"
    has_gpu = torch.cuda.is_available() and configs[0].device != "cpu"
    device = torch.device("cuda" if has_gpu else "cpu")
    places = torch.cuda.device_count() if has_gpu else num_cores()
    at_once = min(sum(alike.values()), places if jobs == "auto" else int(jobs), places)
    speed = EFFICIENCY * rate(device)
    seconds = (
        sum(
            count * (PASSES_PER_STEP * flops_of(config) / speed + OVERHEAD)
            for config, count in alike.items()
        )
        / at_once
    )
    return f"{estimated(seconds)} here, {how}"


def flops_of(config: Config) -> float:
    """Return the FLOPs of a run's forward passes in training."""
    images = config.epochs * (rules.training_images(config) + rules.num_held_out(config))
    if config.steps:
        images = config.steps * config.batch_size
    images = min(images, (config.trainer.limit_steps or images) * config.batch_size)
    return images * build.summary_of(config, build.network(config, torch.device("cpu"))).flops


def rate(device: torch.device) -> float:
    """Measure the FLOP/s of a matrix product, on one core or GPU."""
    torch.set_num_threads(1)
    a = torch.ones(SIZE, SIZE, device=device)
    (a @ a)[0, 0].item()
    began = time.perf_counter()
    for _ in range(TIMES):
        (a @ a)[0, 0].item()
    return TIMES * 2 * SIZE**3 / (time.perf_counter() - began)
