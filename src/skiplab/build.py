"""Builds the parts of a run from its config: data, network, trainer.

The modules below take plain values. This one reads the keys.
"""

import math
from dataclasses import asdict, replace

import torch
from torch import nn

from skiplab import data_files, provenance, registry
from skiplab.config import rules
from skiplab.config.options import Airbench, Folder
from skiplab.config.schema import Config
from skiplab.data import splits, subset
from skiplab.data.augment import Augment
from skiplab.data.batches import Batches, Normalize
from skiplab.data.splits import Split
from skiplab.describe import describe_weights
from skiplab.machine import devices, memory
from skiplab.networks import models, summary
from skiplab.networks.blocks import Style
from skiplab.networks.plan import Plan
from skiplab.randomness import seed_default
from skiplab.runs.facts import ImageFacts
from skiplab.training import averages, optimizers, schedules, torch_optimizer
from skiplab.training.context import Context
from skiplab.training.evaluation import Evaluator, Predictor, largest_batch
from skiplab.training.losses import Loss, balanced_weights
from skiplab.training.pace import Pace
from skiplab.training.probe import Probe
from skiplab.training.progress import Settings
from skiplab.training.saving import Saver
from skiplab.training.selection import Proxy, Selection
from skiplab.training.step import Step
from skiplab.training.trainer import Trainer

# Layers that whiten take their weights from so many images.
WHITENED = 5000
# In pixels of height and width. Beyond, memory follows the number of pixels, not that of images.
LARGE_IMAGE = 128
# An evaluation's largest activation, in bytes.
LARGEST_ACTIVATION = 2**32


def open_split(config: Config, split: str) -> tuple[Split, str]:
    """Read split train or test of the config's data set, on the host. Returns its checksum too.

    Images of one's own may have a split val too.
    """
    dataset = config.dataset
    if isinstance(dataset, Folder):
        # Pillow takes long to import, and other data sets do without it.
        from skiplab import own_images

        return own_images.open_part(config, split), dataset.sha256 or ""
    expected = splits.Expected(
        channels=dataset.channels,
        size=dataset.size,
        num_classes=len(dataset.classes),
        num_images=dataset.train_images if split == "train" else dataset.test_images,
    )
    return splits.load(
        dataset.name,
        split,
        root=data_files.root_of(config),
        expected=expected,
        resize=dataset.resize,
    )


def training_data(config: Config, device: torch.device) -> tuple[Split, Split | None, str]:
    """Read the training set, on the device: its training part, validation part and checksum.

    The test set is only checked to be there.
    """
    registry.check_names(config)
    data_files.find(config, "test")
    whole, checksum = open_split(config, "train")
    if rules.has_own_validation(config):
        training, validation = whole, open_split(config, "val")[0]
    else:
        training, validation = splits.hold_out(
            whole, fraction=config.val_fraction, seed=config.seed
        )
    part = config.dataset
    training = subset.take(
        training,
        fraction=part.fraction,
        per_class=part.per_class,
        classes=part.classes,
        seed=config.seed,
    )
    return training.to(device), validation and validation.to(device), checksum


def network(config: Config, device: torch.device, *, copies: int = 1) -> nn.Sequential:
    """Build the network on the device. Its initial weights depend on the seed only.

    Raises OutOfMemory, before any memory is taken, if the host has no room for `copies` of the
    weights.
    """
    if device.type != "meta":
        what = f"width={config.width}"
        size = memory.size_before(lambda: build_network(config), what)
        memory.check(copies * size, f"{what}: the network", "take a smaller width or depth")
    seed_default(config.seed, "init", device=torch.device("cpu"))
    model = build_network(config)
    memory_format = torch.channels_last if config.trainer.channels_last else torch.contiguous_format
    model = model.to(device, memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    if device.type != "meta":
        registry.check_logits(config, model, device=device)
    return model


def build_network(config: Config) -> nn.Sequential:
    """Build the network with weights from torch's default generator, on torch's default device."""
    registry.check_names(config)
    own = any(code.group == "model" for code in config.code)
    return models.build(
        config.model.name,
        Plan(
            block=registry.block_of(config),
            style=Style(
                norm=config.norm,
                shortcut=config.shortcut,
                bias=config.block.bias,
                projection=config.block.projection,
            ),
            depth=config.depth,
            width=config.width,
            dropout=config.model.dropout,
            channels=rules.channels(config),
            size=rules.image_size(config),
            num_classes=len(config.dataset.classes),
        ),
        init=config.init,
        make=registry.model_of(config) if own else None,
    )


def fit_to_images(config: Config, model: nn.Module, training: Split, device: torch.device) -> None:
    """Set, in place, initial weights that come from training images, if the network has such."""
    if models.wants_images(model):
        pixels = math.prod(rules.image_size(config))
        # Large images have more patches, so fewer of them do.
        count = min(WHITENED, max(1, WHITENED * LARGE_IMAGE**2 // pixels))
        models.fit_to_images(model, normalizer(config, device)(training.images[:count]))


def summary_of(config: Config, model: nn.Sequential) -> summary.Summary:
    """Count parameters, MACs and FLOPs of the config's network, and its shapes."""
    size = rules.image_size(config)
    return summary.summarize(model, channels=rules.channels(config), size=size)


def normalizer(config: Config, device: torch.device) -> Normalize:
    """Make what converts pixels to the network's input, on the device."""
    return Normalize(
        mean=config.dataset.mean,
        std=config.dataset.std,
        size=rules.image_size(config),
        channels_last=config.trainer.channels_last,
        device=device,
    )


def predictor_of(config: Config, model: nn.Module, device: torch.device) -> Predictor:
    """Make what predicts with the model, in evaluation mode and the config's precision."""
    dtype = torch.float16 if config.trainer.amp == "fp16" else torch.bfloat16
    return Predictor(
        model,
        autocast=torch.autocast(device.type, dtype, enabled=config.trainer.amp != "off"),
        tta=config.evaluator.tta,
        batch_size=images_at_once(config, device),
    )


def images_at_once(config: Config, device: torch.device) -> int:
    """Return how many images an evaluation takes at once.

    It is the usual number, or so few that the first stage's activations fit LARGEST_ACTIVATION.
    """
    pixels = math.prod(rules.image_size(config))
    bytes_per_image = 4 * pixels * max(config.width, rules.channels(config))
    return max(1, min(largest_batch(device), LARGEST_ACTIVATION // bytes_per_image))


def batches_of(config: Config, training: Split, device: torch.device) -> Batches:
    """Make batches of the training images, augmented and normalised as the config says."""
    options, augment, dataset = config.trainer, config.augment, config.dataset
    flip = augment.flip
    if flip == "auto":
        flip = "random" if dataset.flip_keeps_label else "none"
    mean_colour = torch.tensor(
        [round(255 * m) for m in dataset.mean], dtype=torch.uint8, device=training.images.device
    )
    own = registry.augmentation_of(config)
    made = Augment(**asdict(augment) | {"flip": flip, "fill": mean_colour}, own=own)
    if own is not None:
        # Code that does not fit is found before the run has a state.
        made.apply_own(training.images[:2].clone(), torch.Generator(training.images.device))
    return Batches(
        training,
        batch_size=config.batch_size,
        seed=config.seed,
        shuffle=options.shuffle,
        drop_last=options.drop_last,
        augment=made,
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
    """Make a trainer at step 0: batches, optimizer, schedule and average around the model."""
    options, device, ranks = config.trainer, context.device, context.ranks
    batches = batches_of(config, training, device)
    loss = loss_of(config, training, device)
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
        loss=loss,
        selection=selection_of(config, batches, loss, num_steps=num_steps),
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
    pace = Pace(
        context.log,
        steps_per_epoch=batches.steps_per_epoch,
        epochs=config.epochs if config.steps is None else None,
        stop_at=settings.stop_at,
        threads=torch.get_num_threads() if device.type == "cpu" else 0,
    )
    return Trainer(settings, step, evaluator, make_saver(config, context), pace, context)


def make_saver(config: Config, context: Context) -> Saver:
    """Make what writes the run's checkpoints, each with the run that it is of."""
    return Saver(
        folder=context.folder,
        log=context.log,
        network=describe_weights(config),
        run=provenance.origin(config),
        images=ImageFacts(
            classes=config.dataset.classes,
            channels=rules.channels(config),
            size=rules.image_size(config),
            mean=config.dataset.mean,
            std=config.dataset.std,
        ),
        machine=devices.comparable(context.device, processes=context.ranks.size),
    )


def optimizer_of(config: Config, model: nn.Module, *, num_steps: int) -> optimizers.Optimizer:
    """Make the config's optimizer over a network's parameters."""
    options = asdict(config.optimizer)
    # The step up to which a parameter, by name, is trained.
    ends: dict[str, int] = {}
    if isinstance(config.model, Airbench):
        ends["stem.0.bias"] = round(config.model.whiten_bias * num_steps)
    del options["name"]
    row = registry.optimizer_row_of(config)
    if isinstance(row, torch_optimizer.Maker):
        return row.build(model, ends=ends, **options)
    return optimizers.build(
        row,
        model,
        ends=ends,
        compiled=config.trainer.compile,
        **options,
    )


def schedule_of(config: Config, *, num_steps: int) -> schedules.Schedule:
    """Make the config's learning rate, a function of the step."""
    options = asdict(config.scheduler)
    return schedules.learning_rate(
        options.pop("name"), lr=config.optimizer.lr, num_steps=num_steps, **options
    )


def loss_of(config: Config, training: Split, device: torch.device) -> Loss:
    """Make the loss that the config's run minimises over these training images."""
    weights = None
    if config.trainer.class_weights == "balanced":
        weights = balanced_weights(training.labels, config.dataset.classes).to(device)
    return Loss(config.trainer.label_smoothing, weights)


def selection_of(config: Config, batches: Batches, loss: Loss, *, num_steps: int) -> Selection:
    """Make what selects the images of each batch that are trained on; by default all.

    A network of the run's kind and of trainer.select_width channels chooses them.
    """
    options = config.trainer
    if options.select == 1:
        return Selection(None)
    device = batches.normalize.device
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
            loss=loss,
            count=rules.num_selected(config),
            num_steps=num_steps,
        )
    )


def settings_of(
    config: Config, *, num_steps: int, steps_per_epoch: int, accumulate: int
) -> Settings:
    """Convert the config to the loop's plain values, which count steps instead of epochs."""
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
        early_stop=options.early_stop or float("inf"),
        eval_every=max(1, round(options.eval_every * steps_per_epoch)),
        eval_train=options.eval_train,
        save_every=max(1, round(options.save_every * steps_per_epoch)),
        log_every=options.log_every,
        max_time=options.max_time or float("inf"),
        on_nonfinite=options.on_nonfinite,
    )
