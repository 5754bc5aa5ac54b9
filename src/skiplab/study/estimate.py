"""How long a study would take, before it is run: from the cost of its network and the speed of this machine."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from skiplab import build
from skiplab.config.schema import Config
from skiplab.machine.cpu import num_cores

# of the matrix product that the machine is measured by, and how often
SIZE, TIMES = 1024, 5
# of its rate in training: measured, 0.2 to 0.6 on a CPU for the networks here
REACHED = 0.3
# a step costs three forward passes
TRAINING = 3
# seconds of a run beside training: its start, its report
OVERHEAD = 2.0


def in_words(
    configs: Sequence[Config], *, number: int | None = None, jobs: int | str = "auto"
) -> str:
    """How long these runs take here, `jobs` (auto: one a core or GPU) at a time: `3.4 hours here, by an estimate`.

    `number`: so many runs like the first one.
    """
    alike = Counter(replace(config, seed=0, out=None) for config in configs)
    if number is not None:
        alike = Counter({configs[0]: number})
    device = (
        torch.device("cuda")
        if torch.cuda.is_available() and configs[0].device != "cpu"
        else torch.device("cpu")
    )
    places = torch.cuda.device_count() if device.type == "cuda" else num_cores()
    at_once = min(sum(alike.values()), places if jobs == "auto" else int(jobs), places)
    speed = REACHED * rate(device)
    took = (
        sum(
            count * (TRAINING * flops_of(config) / speed + OVERHEAD)
            for config, count in alike.items()
        )
        / at_once
    )
    how = "by an estimate" if number is None else "by an estimate from the first one"
    told = (
        f"{took / 3600:,.1f} hours"
        if took >= 3600
        else f"{took / 60:.0f} minutes"
        if took >= 90
        else f"{took:.0f} s"
    )
    return f"{told} here, {how}"


def flops_of(config: Config) -> float:
    """What a run's forward passes in training cost."""
    images = (
        config.steps * config.batch_size
        if config.steps
        else config.epochs * config.dataset.train_images
    )
    images = min(images, (config.trainer.limit_steps or images) * config.batch_size)
    return images * build.summary_of(config, build.network(config, torch.device("cpu"))).flops


def rate(device: torch.device) -> float:
    """FLOP/s of a matrix product, on one core or GPU."""
    torch.set_num_threads(1)
    a = torch.ones(SIZE, SIZE, device=device)
    (a @ a)[0, 0].item()
    began = time.perf_counter()
    for _ in range(TIMES):
        (a @ a)[0, 0].item()
    return TIMES * 2 * SIZE**3 / (time.perf_counter() - began)
