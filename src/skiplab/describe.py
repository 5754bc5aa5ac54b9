"""A run in words: its network, and what the log says before it trains."""

import os
from collections.abc import Iterator

from skiplab.config import rules
from skiplab.config.schema import Config
from skiplab.machine import devices
from skiplab.networks.summary import Summary
from skiplab.runs.log import Log
from skiplab.training.trainer import Trainer
from skiplab.words import WANTS_MORE, counted, with_millions

# The share of initial weights in the final average from which on a note warns of it.
NOTED_INITIAL_SHARE = 0.1
# The validation images per class below which a note warns of them.
FEW = 10


def name_network(config: Config) -> str:
    """Return the network's name and that of its blocks."""
    return f"{config.model.name} of {config.block.name} blocks"


def describe_network(config: Config) -> str:
    """Return the network's name, its blocks and its size."""
    return f"{name_network(config)}, depth {config.depth}, width {config.width}"


def describe_weights(config: Config) -> str:
    """Return what a checkpoint's weights fit: network, style and data set."""
    return f"{describe_network(config)}{describe_departures(config)}, on {config.dataset.name}"


def describe_departures(config: Config) -> str:
    """Return `, norm=none, shortcut=false` as far as the config has them; presets have neither."""
    norm = ", norm=none" if config.norm == "none" else ""
    shortcut = "" if config.shortcut else ", shortcut=false"
    return norm + shortcut


def describe_size(summary: Summary) -> str:
    """Return what a network costs: parameters, and multiply-accumulates of one image."""
    parameters = with_millions(summary.parameters, "parameter")
    return f"{parameters}, {summary.macs / 1e6:,.2f} million MACs an image"


def describe_stages(summary: Summary) -> Iterator[str]:
    """Yield a line per stage: its name, the shape that comes out of it, its parameters."""
    rows = [("stage", "output", "parameters")]
    for name, (shape, parameters) in summary.stages.items():
        rows.append((name, "x".join(map(str, shape)), f"{parameters:,}"))
    names, shapes, counts = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, shape, parameters in rows:
        yield f"  {name:<{names}}  {shape:<{shapes}}  {parameters:>{counts}}"


def log_start(config: Config, trainer: Trainer, summary: Summary, log: Log) -> None:
    """Log what is about to be trained, on what, with notes that a reader should know.

    `summary` has the parameters, costs and shapes of the config's network. The shapes go to
    run.log only, unless `train -v` asks for them.
    """
    training = trainer.evaluator.training
    log.line(f"{describe_network(config)}{describe_departures(config)}")
    log.line(describe_size(summary))
    for line in describe_stages(summary):
        (log.line if os.environ.get(WANTS_MORE) else log.record)(line)
    device = devices.describe(trainer.context.device, processes=trainer.context.ranks.size)
    log.line(
        f"{config.dataset.name}: {len(training):,} training, {num_held_out(trainer):,} validation, "
        f"{config.dataset.test_images:,} test images"
    )
    log.line(f"{describe_steps(config, trainer)} on {device}")
    for note in notes(config, trainer):
        log.line(f"note: {note}")
    if training.images.device != trainer.context.device:
        log.line(
            "the images do not fit the device beside the network: they stay in pinned host memory"
        )


def num_held_out(trainer: Trainer) -> int:
    """Return the number of validation images."""
    validation = trainer.evaluator.validation
    return 0 if validation is None else len(validation)


def describe_steps(config: Config, trainer: Trainer) -> str:
    """Return how many steps are trained, of how many images."""
    settings = trainer.settings
    steps = f"{settings.num_steps:,} steps"
    if settings.stop_at < settings.num_steps:
        steps = f"{settings.stop_at:,} of {steps} (trainer.limit_steps)"
    parts = f" in {settings.accumulate} parts" if settings.accumulate > 1 else ""
    return f"{steps} of {config.batch_size} images{parts}"


def notes(config: Config, trainer: Trainer) -> Iterator[str]:
    """Yield what a reader of the run's figures should know beforehand."""
    steps = trainer.settings.stop_at
    share = trainer.step.average.initial_share(steps) if config.trainer.ema else 0.0
    if share > NOTED_INITIAL_SHARE:
        yield (
            f"trainer.ema={config.trainer.ema:g}: after {counted(steps, 'step')} the average, "
            f"which is what is evaluated, is still {100 * share:.0f} % initial weights; "
            "take a smaller trainer.ema, or trainer.ema_warmup=true"
        )
    if part := rules.part_of_training(config):
        left = config.dataset.train_images - num_held_out(trainer)
        used = f"{len(trainer.evaluator.training):,} of {left:,} training images are used"
        yield f"{part}: {used}"
    if trainer.evaluator.validation is not None:
        few = note_few_images(num_held_out(trainer), len(config.dataset.classes))
        if few:
            yield f"val_fraction={config.val_fraction:g}: {few}"


def note_few_images(num_images: int, num_classes: int) -> str:
    """Return a note on a validation set of less than FEW images per class; empty for a larger."""
    if num_images >= FEW * num_classes:
        return ""
    return (
        f"validation has {counted(num_images, 'image')} for {num_classes} classes: "
        "the accuracy there, by which the best weights are chosen, says little"
    )
