"""The map of a run: config -> data -> model -> optimizer -> trainer -> evaluation -> report, top to bottom."""

import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skiplab import build, finish, provenance
from skiplab.config import stored, validate
from skiplab.config.schema import Config
from skiplab.errors import Diverged, OutOfMemory, RankFailed, UsageError
from skiplab.machine import devices, memory, processes
from skiplab.machine.ranks import Ranks
from skiplab.machine.signals import StopSignal
from skiplab.runs import checkpoint, folders
from skiplab.runs.log import Log, Silence
from skiplab.training import rollback
from skiplab.training.context import Context
from skiplab.training.dry_run import dry_run
from skiplab.training.trainer import Trainer
from skiplab.words import counted

# part of the average that the initial weights are at the end, above which it is told
INITIAL = 0.1


def run(config: Config, folder: Path, stop_signal: StopSignal) -> dict[str, Any]:
    """Train `config` in `folder`, from its last checkpoint if it has one, and write the report; returns result.json's content.

    The caller holds the folder's lock. On several devices this process is the first rank, and the
    others `follow`.
    """
    device = devices.pick_device(config.device)
    go_on = f"train resume={shlex.quote(str(folder))}"
    stop_signal.advice = f"stopped; go on with: {go_on}"
    assert isinstance(config.trainer.devices, int)
    told = {"config": stored.tree(config), "folder": str(folder.absolute()), "device": device.type}
    with closing(Log(folder)) as log:
        log.line(f"run folder {folder}")
        try:
            with processes.leading(
                config.trainer.devices, follow, told, advice=f"go on with: {go_on}"
            ) as ranks:
                context = Context(
                    folder=folder, device=device, log=log, stop_signal=stop_signal, ranks=ranks
                )
                trainer, checksum = prepare(config, context)
                with stop_signal.heeded():
                    fit(config, trainer, go_on)
        except RankFailed as error:
            log.record(f"{error}\n{error.trace}".strip())
            raise
        result, end = finish.finish(config, trainer, folder, log, checksum)
        if config.pictures != "never":
            stop_signal.advice = (
                f"the run is finished; its pictures: skiplab draw {shlex.quote(str(folder))}"
            )
            finish.draw_finished(config, trainer, folder, log, end)
        return result


def follow(ranks: Ranks, told: processes.Told) -> None:
    """What each process but the first does in a run: the same steps, on its parts of the batches. It writes and says nothing."""
    config, folder = validate.check(told["config"], is_stored=True), Path(told["folder"])
    context = Context(
        folder=folder, device=processes.device_of(told, ranks.place), log=Silence(), ranks=ranks
    )
    trainer, _ = prepare(config, context)
    fit(config, trainer, "train resume=RUN")


def fit(config: Config, trainer: Trainer, go_on: str) -> None:
    """Train to the last step; what can go wrong there, with what to do about it."""
    try:
        dry_run(trainer)
        rollback.fit(trainer)
    except torch.OutOfMemoryError:
        name = devices.describe(trainer.context.device)
        raise OutOfMemory(
            f"{name} is full at batch_size={config.batch_size}: set trainer.accumulate=auto"
        ) from None
    except Diverged as error:
        advice = "lower optimizer.lr, lengthen scheduler.warmup, set trainer.clip=1 or trainer.on_nonfinite=rollback"
        raise Diverged(
            f"{error}: {advice}; the last save is from before, {go_on} optimizer.lr=SMALLER goes on from it"
        ) from None


def prepare(config: Config, context: Context) -> tuple[Trainer, str]:
    """The run's trainer, at step 0 or where the folder's last checkpoint stands, and the SHA-256 of the training data."""
    folder, device, log, ranks = context.folder, context.device, context.log, context.ranks
    options, place = config.trainer, ranks.place
    for remark in devices.set_up(
        threads=options.threads,
        deterministic=options.deterministic,
        keep_allocator=options.keep_allocator,
        processes=place.local_size,
    ):
        log.line(remark)
    # which may have to fetch the files
    with ranks.main_first():
        training, validation, checksum = build.training_data(config, device)
    if (remark := build.trusted(config)) is not None:
        log.line(remark)
    model = build.network(config, device, copies=memory.COPIES if device.type == "cpu" else 1)
    resumed = folders.has_state(folder)
    build.set_threads(config, model, folder, device, processes=place.local_size)
    if not resumed:
        build.fit_to_images(config, model, training, device)
    if config.init_from is not None and not resumed:
        load_start(config, model)
    ranks.share(model.state_dict().values())
    saved = folder / folders.LAST if resumed else None
    accumulate = ranks.agreed(
        lambda: build.accumulation(config, model, training, device, saved=saved, place=place)
    )
    trainer = build.make_trainer(
        config, model, training, validation, context, accumulate=accumulate
    )
    describe(config, trainer, log)
    if config.changed:
        log.line(f"changed on the way: {provenance.in_words(config.changed)}")
    if resumed:
        trainer.resume()
        log.record(f"going on at step {trainer.progress.step:,} of {trainer.settings.num_steps:,}")
    return trainer, checksum


def describe(config: Config, trainer: Trainer, log: Log) -> None:
    """What is about to be trained, on what."""
    assert isinstance(trainer.step.model, nn.Sequential)
    summary = build.summary_of(config, trainer.step.model)
    settings, held, training = (
        trainer.settings,
        trainer.evaluator.validation,
        trainer.evaluator.training,
    )
    steps, cut = (
        f"{settings.num_steps:,} steps",
        f" in {settings.accumulate} parts" if settings.accumulate > 1 else "",
    )
    if settings.stop_at < settings.num_steps:
        steps = f"{settings.stop_at:,} of {steps} (trainer.limit_steps)"
    log.line(
        f"{config.model.name} of {config.block.name} blocks, depth {config.depth}, width {config.width}: "
        f"{summary.parameters:,} parameters, {summary.macs / 1e6:,.2f} M MACs = {summary.flops / 1e6:,.2f} MFLOPs an image"
    )
    log.line(
        "  ".join(
            f"{name} {'x'.join(map(str, shape))}" for name, (shape, _) in summary.stages.items()
        )
    )
    log.line(
        f"{config.dataset.name}: {len(training):,} training, {len(held) if held else 0:,} validation, "
        f"{config.dataset.test_images:,} test images; {steps} of {config.batch_size} images{cut} on "
        f"{devices.describe(trainer.context.device, processes=trainer.context.ranks.size)}"
    )
    for remark in remarks(config, trainer):
        log.line(f"note: {remark}")
    if training.images.device != trainer.context.device:
        log.line(
            "the images do not fit the device beside the network: they stay in pinned host memory"
        )


def load_start(config: Config, model: nn.Module) -> None:
    """Load the weights that init_from names. Raises UsageError if they are no longer those that the run was begun with."""
    assert config.init_from is not None
    source = provenance.start_weights(config.init_from)
    if config.init_sha256 not in (None, checkpoint.digest(source)):
        raise UsageError(
            f"init_from={config.init_from}: {source.name} has changed since this run was begun; resume=never starts afresh"
        )
    build.load_weights(source, model, config)


def remarks(config: Config, trainer: Trainer) -> Iterator[str]:
    """What a reader of the run's figures should know beforehand."""
    steps, held = trainer.settings.stop_at, trainer.evaluator.validation
    share = trainer.step.average.initial_share(steps) if config.trainer.ema else 0.0
    if share > INITIAL:
        yield (
            f"trainer.ema={config.trainer.ema:g}: after {counted(steps, 'step')} the average, which is what is evaluated, is "
            f"still {100 * share:.0f} % initial weights; take a smaller trainer.ema, or trainer.ema_warmup=true"
        )
    if held is not None and (few := finish.few_images(len(held), len(config.dataset.classes))):
        yield f"val_fraction={config.val_fraction:g}: {few}"
