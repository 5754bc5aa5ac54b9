"""What the machine holds: the parts in which a batch is computed, and the threads of a run."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from skiplab import build, provenance
from skiplab.config.schema import Config
from skiplab.data.splits import Split
from skiplab.errors import OutOfMemory
from skiplab.machine import devices, memory, threads
from skiplab.machine.ranks import ALONE
from skiplab.machine.torchrun import Place
from skiplab.runs.facts import newest_outline

# A training step costs as much as this many forward passes.
FORWARDS_PER_STEP = 3
# The estimate of a step's memory is a floor, so accumulate=auto leaves room for this multiple.
HOST_MARGIN = 1.5

# Makes the images and labels of a batch of a given number of images, on the device.
MakeBatch = Callable[[int], tuple[Tensor, Tensor]]


def set_threads(
    config: Config, model: nn.Sequential, folder: Path, device: torch.device, *, processes: int
) -> None:
    """Set the threads of a run on the CPU where its config leaves them open.

    A run goes on with those that it began with. A fresh one takes them by the work of a step.
    """
    if config.trainer.threads is not None or device.type != "cpu":
        return
    accumulate = config.trainer.accumulate if isinstance(config.trainer.accumulate, int) else 1
    images = config.batch_size / accumulate / processes
    flops = FORWARDS_PER_STEP * build.summary_of(config, model).flops * images
    most, _ = threads.limit(processes=processes)
    torch.set_num_threads(provenance.threads_before(folder) or threads.for_work(flops, most=most))


def count_parts(
    config: Config,
    model: nn.Module,
    training: Split,
    device: torch.device,
    *,
    saved: Path | None = None,
    place: Place = ALONE.place,
) -> int:
    """Return the number of parts that a batch is computed in.

    Under accumulate=auto it is the number that the checkpoint `saved` states, or the least that
    fits the memory. Of several processes each computes its share of the batch in so many parts, and
    those on one host share its memory. Raises OutOfMemory where a step cannot fit.
    """
    wanted = config.trainer.accumulate
    if saved is not None and wanted == "auto":
        before = newest_outline(saved).accumulate
        if before is not None and before > 0:
            return before
    normalize = build.normalizer(config, device)

    def make_batch(count: int) -> tuple[Tensor, Tensor]:
        index = torch.arange(count, device=training.images.device) % len(training)
        return normalize(training.images[index]), training.labels[index].to(device)

    if device.type != "cuda":
        return count_parts_on_host(config, model, make_batch, device, place)
    if isinstance(wanted, int):
        # A step that does not fit a GPU says so itself.
        return wanted
    return count_parts_on_cuda(config, model, make_batch, device, place)


def least_images(config: Config) -> int:
    """Return the fewest images that a part may have: batch norm needs two."""
    return 2 if config.norm == "batch" else 1


def count_parts_on_cuda(
    config: Config, model: nn.Module, make_batch: MakeBatch, device: torch.device, place: Place
) -> int:
    """Return the fewest parts that fit a GPU, by trying. Raises OutOfMemory if none do."""
    autocast = build.predictor_of(config, model, device).autocast
    least = least_images(config)
    parts = memory.fewest_parts(
        share_of_batch(config, place),
        least=least,
        fits=lambda n: memory.fits_on_cuda(model, *make_batch(n), autocast=autocast),
    )
    if parts is None:
        raise OutOfMemory(
            f"{devices.describe(device)}: not even {least} images of "
            f"batch_size={config.batch_size} fit at once"
        )
    return parts


def count_parts_on_host(
    config: Config, model: nn.Module, make_batch: MakeBatch, device: torch.device, place: Place
) -> int:
    """Return the number of parts that is wanted, or the fewest that the host's memory holds.

    Raises OutOfMemory if the wanted number does not fit, or none does.
    """
    wanted = config.trainer.accumulate
    left = memory.available()
    # Neither the system nor a cgroup states a limit.
    if left is None:
        return wanted if isinstance(wanted, int) else 1
    left //= place.local_size
    batch_size = share_of_batch(config, place)
    autocast = build.predictor_of(config, model, device).autocast
    needed = functools.cache(
        lambda n: memory.needed(model, make_batch, num_images=n, autocast=autocast)
    )
    if isinstance(wanted, int) and needed(-(-batch_size // wanted)) <= left:
        return wanted
    least = least_images(config)
    parts = memory.fewest_parts(
        batch_size, least=least, fits=lambda n: HOST_MARGIN * needed(n) <= left
    )
    if parts is not None and not isinstance(wanted, int):
        return parts
    size = needed(batch_size // wanted if isinstance(wanted, int) else least)
    advice = f"trainer.accumulate={parts} fits" if parts else "take a smaller network"
    raise OutOfMemory(
        f"batch_size={config.batch_size}: a step takes {memory.in_words(size)} or more, "
        f"{memory.in_words(left)} are free; {advice}"
    )


def share_of_batch(config: Config, place: Place) -> int:
    """Return the images of a batch that one process computes, at most."""
    return -(-config.batch_size // place.size)
