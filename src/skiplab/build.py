"""From a config to the parts of a run: data, network, trainer. The modules below take plain values; this one reads the keys."""

import functools
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skiplab import provenance, registry
from skiplab.config import rules
from skiplab.config.schema import Airbench, Config
from skiplab.data import splits
from skiplab.data.augment import Augment
from skiplab.data.batches import Batches, Normalize
from skiplab.data.splits import Split
from skiplab.errors import OutOfMemory, UsageError
from skiplab.locations import data_root
from skiplab.machine import devices, memory, threads
from skiplab.machine.ranks import ALONE
from skiplab.machine.torchrun import Place
from skiplab.networks import models, summary
from skiplab.networks.blocks import Style
from skiplab.networks.plan import Plan
from skiplab.randomness import seed_default
from skiplab.runs import checkpoint
from skiplab.training import averages, optimizers, schedules
from skiplab.training.context import Context
from skiplab.training.evaluation import Evaluator, Predictor, largest_batch
from skiplab.training.pace import Pace
from skiplab.training.probe import Probe
from skiplab.training.progress import Settings
from skiplab.training.saving import Saver
from skiplab.training.selection import Proxy, Selection
from skiplab.training.step import Step
from skiplab.training.trainer import Trainer

# images from which layers that whiten take their weights
WHITENED = 5000
# bytes; and by how much the stem of ImageNet's networks shrinks an image
LARGEST_ACTIVATION, STEM_STRIDE = 2**32, 4
# pixels of height and width; beyond, memory follows the number of pixels and not that of images
LARGE_IMAGE = 128
# forward passes that a training step costs
TRAINING = 3
# of the memory that accumulate=auto leaves between its estimate, a floor, and what is free
HOST_MARGIN = 1.5


def open_split(config: Config, split: str) -> tuple[Split, str]:
    """Split train or test of the config's data set, on the host, and its checksum."""
    dataset = config.dataset
    expected = splits.Expected(
        channels=dataset.channels,
        size=dataset.size,
        num_classes=len(dataset.classes),
        num_images=dataset.train_images if split == "train" else dataset.test_images,
    )
    return splits.load(
        dataset.name, split, root=root_of(config), expected=expected, resize=dataset.resize
    )


def root_of(config: Config) -> Path:
    """Where the data set's files lie. Raises UsageError if nothing can lie there; a data set that is bundled needs no root."""
    return Path() if config.dataset.name in rules.BUNDLED else data_root(config.dataset.root)


def trusted(config: Config) -> str | None:
    """A line on the data files that are read without a checksum; None if there are none."""
    if not (found := splits.find_unverified(config.dataset.name, root=root_of(config))):
        return None
    archive = "their archive's checksum is published, not theirs: beside the archive, or unpacked by Skiplab, they are verified"
    return f"note: {', '.join(map(str, found))} read unverified; only {archive}"


def training_data(config: Config, device: torch.device) -> tuple[Split, Split | None, str]:
    """Training and validation part of the training set, on the device. The test set is only seen to be there."""
    registry.check_names(config)
    splits.find(config.dataset.name, "test", root=root_of(config))
    whole, checksum = open_split(config, "train")
    training, validation = splits.hold_out(whole, fraction=config.val_fraction, seed=config.seed)
    return training.to(device), validation and validation.to(device), checksum


def network(config: Config, device: torch.device, *, copies: int = 1) -> nn.Sequential:
    """The network with its initial weights, which depend on the seed alone, on the device.

    Raises OutOfMemory, before any memory is taken, if the host has no room for so many copies of
    the weights.
    """
    if device.type != "meta":
        try:
            with torch.device("meta"):
                size = memory.weight_bytes(built(config))
        # more elements than torch can count
        except RuntimeError as error:
            said = " ".join(str(error).split())[:100]
            raise OutOfMemory(
                f"width={config.width}: the weights are too large to be counted ({said}); take a smaller width"
            ) from None
        memory.check(
            copies * size, f"width={config.width}: the network", "take a smaller width or depth"
        )
    seed_default(config.seed, "init", device=torch.device("cpu"))
    model = built(config)
    memory_format = torch.channels_last if config.trainer.channels_last else torch.contiguous_format
    return model.to(device, memory_format=memory_format)  # pyright: ignore[reportCallIssue]


def built(config: Config) -> nn.Sequential:
    """The config's network with initial weights from torch's default generator, on torch's default device."""
    registry.check_names(config)
    return models.build(
        config.model.name,
        Plan(
            block=models.BLOCKS[config.block.name],
            style=Style(
                norm=config.norm,
                shortcut=config.shortcut,
                bias=config.block.bias,
                projection=config.block.projection,
            ),
            depth=config.depth,
            width=config.width,
            dropout=config.model.dropout,
            channels=config.dataset.channels,
            size=rules.image_size(config),
            num_classes=len(config.dataset.classes),
        ),
        init=config.init,
    )


def fit_to_images(config: Config, model: nn.Module, training: Split, device: torch.device) -> None:
    """In place: the initial weights that come from the training images, where the network has such."""
    if models.wants_images(model):
        pixels = rules.image_size(config) ** 2
        # of large images fewer: each has as many patches
        count = min(WHITENED, max(1, WHITENED * LARGE_IMAGE**2 // pixels))
        models.fit_to_images(model, normalizer(config, device)(training.images[:count]))


def set_threads(
    config: Config, model: nn.Sequential, folder: Path, device: torch.device, *, processes: int
) -> None:
    """Set the threads of a run on the CPU where its config leaves them open: as it was begun with, else by the work of a step."""
    if config.trainer.threads is not None or device.type != "cpu":
        return
    accumulate = config.trainer.accumulate if isinstance(config.trainer.accumulate, int) else 1
    images = config.batch_size / accumulate / processes
    flops = TRAINING * summary_of(config, model).flops * images
    most, _ = threads.limit(processes=processes)
    torch.set_num_threads(provenance.threads_before(folder) or threads.for_work(flops, most=most))


def describe(config: Config) -> str:
    """What a checkpoint's weights fit, in words: network and data set."""
    style = (", norm=none" if config.norm == "none" else "") + (
        "" if config.shortcut else ", shortcut=false"
    )
    return f"{config.model.name} of {config.block.name} blocks, depth {config.depth}, width {config.width}{style}, on {config.dataset.name}"


def summary_of(config: Config, model: nn.Sequential) -> summary.Summary:
    """Parameters, MACs, FLOPs and shapes of the config's network."""
    return summary.summarize(model, channels=config.dataset.channels, size=rules.image_size(config))


def normalizer(config: Config, device: torch.device) -> Normalize:
    """Pixels to network input, on the device."""
    return Normalize(
        mean=config.dataset.mean,
        std=config.dataset.std,
        size=rules.image_size(config),
        channels_last=config.trainer.channels_last,
        device=device,
    )


def predictor_of(config: Config, model: nn.Module, device: torch.device) -> Predictor:
    """The model in evaluation under the config's precision."""
    dtype = torch.float16 if config.trainer.amp == "fp16" else torch.bfloat16
    return Predictor(
        model,
        autocast=torch.autocast(device.type, dtype, enabled=config.trainer.amp != "off"),
        tta=config.evaluator.tta,
        batch_size=images_at_once(config, device),
    )


def images_at_once(config: Config, device: torch.device) -> int:
    """How many images an evaluation takes at once: its usual number, or so few that the first stage's activations fit 4 GiB."""
    pixels = (
        rules.image_size(config) // (STEM_STRIDE if config.model.name == "imagenet_resnet" else 1)
    ) ** 2
    # bytes an image
    largest = 4 * max(1, pixels) * max(config.width, config.dataset.channels)
    return max(1, min(largest_batch(device), LARGEST_ACTIVATION // largest))


def batches_of(config: Config, training: Split, device: torch.device) -> Batches:
    """The training images as batches, augmented and normalised as the config says."""
    options, augment, dataset = config.trainer, config.augment, config.dataset
    automatic = "random" if dataset.flip_keeps_label else "none"
    mean_colour = torch.tensor(
        [round(255 * m) for m in dataset.mean], dtype=torch.uint8, device=training.images.device
    )
    return Batches(
        training,
        batch_size=config.batch_size,
        seed=config.seed,
        shuffle=options.shuffle,
        drop_last=options.drop_last,
        augment=Augment(
            **asdict(augment)
            | {"flip": automatic if augment.flip == "auto" else augment.flip, "fill": mean_colour}
        ),
        normalize=normalizer(config, device),
    )


def make_trainer(
    config: Config,
    model: nn.Sequential,
    training: Split,
    validation: Split | None,
    context: Context,
    *,
    accumulate: int,
) -> Trainer:
    """Batches, optimizer, schedule and average around the model, as a trainer at step 0."""
    options, device, ranks = config.trainer, context.device, context.ranks
    batches = batches_of(config, training, device)
    num_steps = config.steps or config.epochs * batches.steps_per_epoch
    average = averages.Average(model, decay=options.ema, warmup=options.ema_warmup)
    if options.compile:
        devices.compile_in_place({model, average.model}, mode=options.compile_mode, device=device)
    settings = settings_of(
        config, num_steps=num_steps, steps_per_epoch=batches.steps_per_epoch, accumulate=accumulate
    )
    step = Step(
        settings=settings,
        model=model,
        average=average,
        lookahead=averages.Lookahead(
            model, every=options.lookahead, decay=options.lookahead_decay, num_steps=num_steps
        ),
        optimizer=optimizer_of(config, model, num_steps=num_steps),
        learning_rate=schedule_of(config, num_steps=num_steps),
        batches=batches,
        selection=selection_of(config, batches, device, num_steps=num_steps),
        probe=Probe(
            model,
            kinds=() if options.probe == "none" else tuple(options.probe.split(",")),
            every=options.probe_every,
        ),
        ranks=ranks,
        sync_bn=options.sync_bn,
    )
    evaluator = Evaluator(
        predictor=predictor_of(config, average.model, device),
        training=training,
        validation=validation,
        normalize=batches.normalize,
        num_classes=settings.num_classes,
        ranks=ranks,
    )
    saver = Saver(
        folder=context.folder,
        log=context.log,
        network=describe(config),
        run=provenance.facts(config),
        machine=devices.comparable(device, processes=ranks.size),
    )
    pace = Pace(
        context.log,
        steps_per_epoch=batches.steps_per_epoch,
        epochs=config.epochs if config.steps is None else None,
        stop_at=settings.stop_at,
        threads=torch.get_num_threads() if device.type == "cpu" else 0,
    )
    return Trainer(settings, step, evaluator, saver, pace, context)


def optimizer_of(config: Config, model: nn.Module, *, num_steps: int) -> optimizers.Optimizer:
    """The config's optimizer over a network's parameters."""
    options = asdict(config.optimizer)
    ends = (
        {"stem.0.bias": round(config.model.whiten_bias * num_steps)}
        if isinstance(config.model, Airbench)
        else {}
    )
    return optimizers.build(
        options.pop("name"),
        model,
        ends=ends,
        compiled=config.trainer.compile,
        **options,
    )


def schedule_of(config: Config, *, num_steps: int) -> schedules.Schedule:
    """The config's learning rate as a function of the step."""
    options = asdict(config.scheduler)
    return schedules.learning_rate(
        options.pop("name"), lr=config.optimizer.lr, num_steps=num_steps, **options
    )


def selection_of(
    config: Config, batches: Batches, device: torch.device, *, num_steps: int
) -> Selection:
    """Which images of each batch are trained on, as a network of the run's kind and trainer.select_width chooses; by default all."""
    options = config.trainer
    if options.select == 1:
        return Selection(None)
    small = replace(config, width=options.select_width or config.width)
    model = network(small, device)
    fit_to_images(small, model, batches.split, device)
    predictor = predictor_of(small, model, device)
    if options.compile:
        devices.compile_in_place([model], mode=options.compile_mode, device=device)
    return Selection(
        Proxy(
            model,
            optimizer=optimizer_of(small, model, num_steps=num_steps),
            learning_rate=schedule_of(small, num_steps=num_steps),
            batches=batches,
            autocast=predictor.autocast,
            scaler=torch.amp.GradScaler(device.type, enabled=options.amp == "fp16"),  # pyright: ignore[reportPrivateImportUsage]
            label_smoothing=options.label_smoothing,
            count=rules.num_selected(config),
            num_steps=num_steps,
        )
    )


def accumulation(
    config: Config,
    model: nn.Module,
    training: Split,
    device: torch.device,
    *,
    saved: Path | None = None,
    place: Place = ALONE.place,
) -> int:
    """How many parts a batch is computed in; `auto` keeps what the checkpoint `saved` says. Raises OutOfMemory where a step cannot fit.

    Of several processes each computes its share of the batch in so many parts; those on one host
    share its memory.
    """
    batch_size = -(-config.batch_size // place.size)
    wanted, least = config.trainer.accumulate, 2 if config.norm == "batch" else 1
    if saved is not None and wanted == "auto":
        before = checkpoint.peek_newest(saved).get("accumulate")
        if isinstance(before, int) and before > 0:
            return before
    normalize, autocast = normalizer(config, device), predictor_of(config, model, device).autocast

    def batch(count: int) -> tuple[Tensor, Tensor]:
        index = torch.arange(count, device=training.images.device) % len(training)
        return normalize(training.images[index]), training.labels[index].to(device)

    if device.type == "cuda":
        if isinstance(wanted, int):
            # a step that does not fit says so itself
            return wanted
        parts = memory.fewest_parts(
            batch_size,
            least=least,
            fits=lambda n: memory.fits_on_cuda(model, *batch(n), autocast=autocast),
        )
        if parts is None:
            raise OutOfMemory(
                f"{devices.describe(device)}: not even {least} images of batch_size={config.batch_size} fit at once"
            )
        return parts
    left = memory.available()
    # neither the system nor a cgroup tells
    if left is None:
        return wanted if isinstance(wanted, int) else 1
    left //= place.local_size
    takes = functools.cache(lambda n: memory.needed(model, batch, num_images=n, autocast=autocast))
    if isinstance(wanted, int) and takes(-(-batch_size // wanted)) <= left:
        return wanted
    parts = memory.fewest_parts(
        batch_size, least=least, fits=lambda n: HOST_MARGIN * takes(n) <= left
    )
    if isinstance(wanted, int) or parts is None:
        size = takes(batch_size // wanted if isinstance(wanted, int) else least)
        advice = f"trainer.accumulate={parts} fits" if parts else "take a smaller network"
        raise OutOfMemory(
            f"batch_size={config.batch_size}: a step takes {memory.in_words(size)} or more, {memory.in_words(left)} are free; {advice}"
        )
    return parts


def settings_of(
    config: Config, *, num_steps: int, steps_per_epoch: int, accumulate: int
) -> Settings:
    """The loop's plain values; what counts epochs in the config counts steps in them."""
    options = config.trainer
    return Settings(
        seed=config.seed,
        num_steps=num_steps,
        stop_at=min(num_steps, options.limit_steps or num_steps),
        num_classes=len(config.dataset.classes),
        accumulate=accumulate,
        compiled=options.compile,
        amp=options.amp,
        clip=options.clip or float("inf"),
        label_smoothing=options.label_smoothing,
        early_stop=options.early_stop or float("inf"),
        eval_every=max(1, round(options.eval_every * steps_per_epoch)),
        eval_train=options.eval_train,
        save_every=max(1, round(options.save_every * steps_per_epoch)),
        log_every=options.log_every,
        max_time=options.max_time or float("inf"),
        on_nonfinite=options.on_nonfinite,
    )


def load_weights(path: Path, model: nn.Module, config: Config) -> dict[str, Any]:
    """The weights that count in a checkpoint (the average where there is one) into the model; returns its facts."""
    tensors, facts = checkpoint.load(path)
    prefix = "average/" if any(name.startswith("average/") for name in tensors) else "model/"
    try:
        model.load_state_dict(
            {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        )
    except RuntimeError:
        raise UsageError(
            f"{path}: of {facts.get('network')}, which does not fit this run's {describe(config)}"
        ) from None
    return facts
