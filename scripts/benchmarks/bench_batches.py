"""`scripts/bench batches`: what gathering, cropping and mirroring a batch of 128 takes.

It is measured on one core, and as a share of a ResNet-20 step.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import bench_setup
from bench_setup import MODELS, Setting, repeated, seconds_of
from bench_table import Table

# Batches and steps that are timed at once.
BATCHES = 200
STEPS = {"cpu": 2, "cuda": 50}


def tables(setting: Setting, models: list[str]) -> Iterator[Table]:
    """Yield the speed of batches, then their share of a step: of ResNet-20, whatever the models."""
    found = bench_setup.in_process("bench_batches:batches", dataclasses.replace(setting, threads=1))
    size, plain, augmented, step = (
        found[name] for name in ("batch_size", "plain", "augmented", "step")
    )
    table = Table(
        "batches", "Batches.at on CIFAR shapes, batch 128, one thread", ("crop and mirror", "plain")
    )
    table.add("a batch", "img/s", [size / s for s in augmented], [size / s for s in plain])
    table.note(
        f"{found['source']}; blocks of {BATCHES} batches in turns, "
        f"in one process of {found['peak_mib']:,.0f} MiB with the steps below"
    )
    yield table
    table = Table(
        "batches", "their share of a training step, one thread", ("batch", "ResNet-20 step")
    )
    table.add("plain", "ms", *milliseconds(plain, step), digits=2, ratio_digits=3, percent=True)
    table.add(
        "crop and mirror",
        "ms",
        *milliseconds(augmented, step),
        digits=2,
        ratio_digits=3,
        percent=True,
    )
    yield table


def milliseconds(*seconds: list[float]) -> list[list[float]]:
    """Convert seconds to milliseconds."""
    return [[1e3 * s for s in each] for each in seconds]


def batches(setting: Setting) -> dict[str, Any]:
    """Measure, in turns, seconds of a plain batch, an augmented one, and a ResNet-20 step."""
    config = bench_setup.config_of(setting, *MODELS["resnet20"].overrides, "epochs=1000")
    device = bench_setup.set_up(setting, config)
    split, source = bench_setup.images_of(setting, config)
    plain_config = dataclasses.replace(
        config, augment=dataclasses.replace(config.augment, flip="none", crop=0)
    )
    found: dict[str, list[float]] = {"plain": [], "augmented": [], "step": []}
    with (
        bench_setup.trainer_of(plain_config, split, device) as plain,
        bench_setup.trainer_of(config, split, device) as trainer,
        bench_setup.fitting(trainer) as advance,
    ):
        # The batches are of one epoch, whose order is made once.
        numbers = itertools.cycle(range(trainer.step.batches.steps_per_epoch))
        work = {
            "plain": (lambda: plain.step.batches.at(next(numbers)), BATCHES),
            "augmented": (lambda: trainer.step.batches.at(next(numbers)), BATCHES),
            "step": (advance, STEPS[device.type]),
        }
        for function, count in work.values():
            repeated(function, min(count, 20))
        for _ in range(setting.repeats):
            for name, (function, count) in work.items():
                found[name].append(
                    seconds_of(lambda f=function, n=count: repeated(f, n), device)[0] / count
                )
    return found | {"batch_size": config.batch_size, "source": source}
