"""How long a study would take, before it is run: from the cost of its network and the speed of this machine."""

import time

import torch

from skiplab import parts
from skiplab.cores import num_cores
from skiplab.schema import Config

SIZE, TIMES = 1024, 5  # of the matrix product that the machine is measured by, and how often
REACHED = 0.3  # of its rate in training: measured, 0.2 to 0.6 on a CPU for the networks here
TRAINING = 3  # a step costs three forward passes
OVERHEAD = 2.0  # seconds of a run beside training: its start, its report


def in_words(config: Config, number: int) -> str:
    """The hours of `number` runs like this one, one a core or GPU at a time."""
    return f"{hours(config, number):,.1f} hours here, by an estimate from the first one"


def hours(config: Config, number: int) -> float:
    """Hours of `number` runs like this one on this machine, one a core or GPU at a time."""
    flops = parts.summary_of(config, parts.network(config, torch.device("cpu"))).flops
    images = config.steps * config.batch_size if config.steps else config.epochs * config.dataset.train_images
    device = torch.device("cuda") if torch.cuda.is_available() and config.device != "cpu" else torch.device("cpu")
    at_once = torch.cuda.device_count() if device.type == "cuda" else num_cores()
    seconds = TRAINING * flops * images / (REACHED * rate(device)) + OVERHEAD
    return number * seconds / at_once / 3600


def rate(device: torch.device) -> float:
    """FLOP/s of a matrix product, on one core or GPU."""
    torch.set_num_threads(1)
    a = torch.ones(SIZE, SIZE, device=device)
    (a @ a)[0, 0].item()
    began = time.perf_counter()
    for _ in range(TIMES):
        (a @ a)[0, 0].item()
    return TIMES * 2 * SIZE**3 / (time.perf_counter() - began)
