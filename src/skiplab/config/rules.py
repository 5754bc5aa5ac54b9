"""What must hold between keys that are right one by one, and what follows from several of them."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from skiplab.config.schema import Config, Multistep, Muon, Sgd

# the block's inner width is 1/n of its width
INNER_WIDTH = {"conv": 2, "residual": 2, "skip": 2, "bottleneck": 4}
NUM_CONVS = {"bottleneck": 3, "airbench_residual": 3}
# data sets that come with a package: dataset.root means nothing to them
BUNDLED = ("digits",)
# of the report, beside those of the classes
ROWS = ("accuracy", "macro avg", "weighted avg")
STAGE_DEPTHS = (18, 34, 50, 101, 152)


def image_size(config: Config) -> int:
    """Height and width of what the network sees, in pixels."""
    return config.dataset.resize or config.dataset.size


def steps_per_epoch(config: Config) -> int:
    """Optimizer steps of a pass over the training set, by the counts that the data set's config states."""
    images = config.dataset.train_images - round(config.val_fraction * config.dataset.train_images)
    return max(
        1,
        images // config.batch_size
        if config.trainer.drop_last
        else -(-images // config.batch_size),
    )


def num_selected(config: Config) -> int:
    """Images of a batch that are trained on (trainer.select)."""
    return round(config.trainer.select * config.batch_size)


def width_divisor(config: Config) -> int:
    """What a width must be a multiple of."""
    block, model = config.block.name, config.model.name
    # there the width is the inner one
    expands = block == "bottleneck" and model in ("cifar_resnet", "imagenet_resnet")
    return 1 if expands else INNER_WIDTH.get(block, 1)


def across(config: Config) -> Iterable[str]:
    """What is wrong between keys that are right one by one."""
    yield from _network_problems(config)
    yield from _data_problems(config)
    trainer = config.trainer
    least = 2 if config.norm == "batch" else 1
    batch_size, devices = (
        config.batch_size,
        trainer.devices if isinstance(trainer.devices, int) else 1,
    )
    need = (
        "two images {}, since norm=batch cannot normalise one value"
        if least == 2
        else "one image {}"
    )
    if devices > 1 and batch_size // devices < least:
        most, words = max(1, batch_size // least), need.format("a device")
        yield f"trainer.devices={devices}: batch_size={batch_size} leaves less than {words}; take at most {most}"
    elif (
        isinstance(trainer.accumulate, int)
        and trainer.accumulate > 1
        and batch_size // (trainer.accumulate * devices) < least
    ):
        most, words = max(1, batch_size // (least * devices)), need.format("a part")
        yield f"trainer.accumulate={trainer.accumulate}: batch_size={batch_size} leaves less than {words}; take at most {most}"
    if trainer.select < 1 and not trainer.drop_last:
        yield f"trainer.select={trainer.select}: chooses from batches of one size; set trainer.drop_last=true"
    if trainer.select < 1 and num_selected(config) < least * devices:
        yield f"trainer.select={trainer.select}: of batch_size={batch_size} leaves less than {need.format('a device')}"
    if trainer.compile and "activations" in trainer.probe:
        yield f"trainer.probe={trainer.probe}: activations cannot be seen in compiled code; set trainer.compile=false"
    if (config.match == "none") != (config.target is None):
        given = f"target={config.target}" if config.match == "none" else f"match={config.match}"
        yield f"{given}: a budget takes both, match=params or match=macs and target=NUMBER, which then choose the width"
    if trainer.ema_warmup and trainer.ema == 0:
        yield "trainer.ema_warmup=true: there is no average to warm up; set trainer.ema above 0"
    if trainer.early_stop is not None and config.val_fraction == 0:
        yield f"trainer.early_stop={trainer.early_stop}: there is no validation set to stop by; set val_fraction above 0"
    if config.evaluator.split == "val" and config.val_fraction == 0:
        yield "evaluator.split=val: there is no validation set to report on; set val_fraction above 0"
    if config.init_from is not None and config.resume not in ("auto", "never"):
        yield f"init_from={config.init_from}: starts a fresh run, resume={config.resume} goes on with an old one; take one of them"
    if (
        isinstance(config.optimizer, (Sgd, Muon))
        and config.optimizer.nesterov
        and config.optimizer.momentum == 0
    ):
        yield "optimizer.nesterov=true: needs optimizer.momentum above 0"
    if isinstance(config.scheduler, Multistep) and list(config.scheduler.milestones) != sorted(
        set(config.scheduler.milestones)
    ):
        yield f"scheduler.milestones={list(config.scheduler.milestones)}: must increase"


def _network_problems(config: Config) -> Iterable[str]:
    model, block, depth = config.model.name, config.block.name, config.depth
    divisor = width_divisor(config)
    for key, width in (
        ("width", config.width),
        ("trainer.select_width", config.trainer.select_width or config.width),
    ):
        if (
            width % divisor
            and (key != "width" or config.match == "none")
            and (key == "width" or width != config.width)
        ):
            below, above = max(1, width // divisor) * divisor, (width // divisor + 1) * divisor
            near = f"{below} or {above}" if below < width else f"{above}"
            yield f"{key}={width}: block={block} works at 1/{divisor} of its width, so take a multiple of {divisor}: {near}"
    layers = 3 * NUM_CONVS.get(block, 2)
    if model == "cifar_resnet" and (depth < layers + 2 or (depth - 2) % layers):
        below = max(1, (depth - 2) // layers) * layers + 2
        yield f"depth={depth} is no CIFAR ResNet: {layers}n+2 layers with block={block}, so {below} or {below + layers}"
    if model == "imagenet_resnet" and depth not in STAGE_DEPTHS:
        near = min(STAGE_DEPTHS, key=lambda d: abs(d - depth))
        yield f"depth={depth} is no ImageNet ResNet: take {near} (of {', '.join(map(str, STAGE_DEPTHS))})"
    if model == "resnet" and depth < 1:
        yield f"depth={depth}: model=resnet needs at least 1 block a stage (depth=0 is for model=deepcnn)"
    if model in ("airbench", "airbench96"):
        if depth < 1:
            yield f"depth={depth}: model={model} needs at least 1 block a stage"
        if image_size(config) < 9:
            key = "resize" if config.dataset.resize else "size"
            yield f"dataset.{key}={image_size(config)}: model={model} halves the image three times; take images of at least 9x9"
    if model == "deepcnn" and image_size(config) < 8:
        key = "resize" if config.dataset.resize else "size"
        yield f"dataset.{key}={image_size(config)}: model=deepcnn pools three times, so images of at least 8x8"


def _data_problems(config: Config) -> Iterable[str]:
    dataset, augment, size = config.dataset, config.augment, image_size(config)
    for name in ("mean", "std"):
        values = list(getattr(dataset, name))
        if len(values) != dataset.channels:
            yield f"dataset.{name}={values}: {dataset.channels} values are expected, one for each of dataset.channels"
    if len(dataset.classes) < 2:
        yield f"dataset.classes={list(dataset.classes)}: at least 2 classes are expected"
    yield from _class_problems(dataset.classes)
    validation = round(config.val_fraction * dataset.train_images)
    if config.val_fraction > 0 and validation < 1:
        least = 1 / dataset.train_images
        yield f"val_fraction={config.val_fraction}: holds out none of {dataset.train_images} images; take 0 or at least {least:.2g}"
    if config.batch_size > dataset.train_images - validation:
        yield f"batch_size={config.batch_size}: larger than the training set, {dataset.train_images - validation} images of {dataset.name}"
    if config.batch_size == 1 and config.norm == "batch":
        yield "batch_size=1: norm=batch cannot normalise one value; take at least 2, or norm=none"
    if augment.flip in ("random", "alternating") and not dataset.flip_keeps_label:
        yield f"augment.flip={augment.flip}: a mirrored image of {dataset.name} does not keep its label; take auto or none"
    if config.evaluator.tta != "none" and not dataset.flip_keeps_label:
        yield f"evaluator.tta={config.evaluator.tta}: a mirrored image of {dataset.name} does not keep its label; take none"
    for name in ("crop", "cutout"):
        if getattr(augment, name) >= size:
            yield f"augment.{name}={getattr(augment, name)}: must be below the size of the image, {size}"


def unread_root(names: Iterable[str]) -> str:
    """The rule that dataset.root breaks where no data set reads it, and what to do."""
    return f"dataset={', '.join(names)} comes with a package and reads no folder; leave it out, or choose a dataset= whose files lie there"


def _class_problems(classes: Sequence[str]) -> Iterable[str]:
    """What makes two rows of a report one, or one that looks like another."""
    shown = [unicodedata.normalize("NFC", " ".join(name.split())) for name in classes]
    for name, number in Counter(shown).items():
        if number > 1:
            labels = ", ".join(str(label) for label, other in enumerate(shown) if other == name)
            yield f"dataset.classes: {name!r} stands for the labels {labels}; each class needs a name of its own, as {name}1, {name}2"
    for name, given in zip(shown, classes, strict=True):
        if name in ROWS:
            yield f"dataset.classes: {given!r} is another row of the report; take another name, such as {name.replace(' ', '_')}_class"
        elif not name or not given.isprintable():
            yield f"dataset.classes: {given!r} cannot be read in a report; a name of printable characters is expected"
