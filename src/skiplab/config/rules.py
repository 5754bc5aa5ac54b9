"""What must hold between keys that are right one by one, and what follows from several of them."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from skiplab import families
from skiplab.config import code
from skiplab.config.options import Folder, Multistep, Muon, Sgd
from skiplab.config.schema import Config

# Data sets that come with a package: dataset.root means nothing to them.
BUNDLED = ("digits",)
# Rows of the report that are not a class's.
ROWS = ("accuracy", "macro avg", "weighted avg")


def image_size(config: Config) -> tuple[int, int]:
    """Return the height and width of what the network sees, in pixels."""
    dataset = config.dataset
    if isinstance(dataset, Folder):
        height, _, width = dataset.size.partition("x")
        return int(height), int(width or height)
    side = dataset.resize or dataset.size
    return side, side


def channels(config: Config) -> int:
    """Return the colour planes of an image. Those of a folder are known once it was read."""
    return len(config.dataset.mean)


def is_unread(config: Config) -> bool:
    """Tell whether classes, counts and mean are still to be read from the images themselves."""
    return isinstance(config.dataset, Folder) and config.dataset.sha256 is None


def has_own_validation(config: Config) -> bool:
    """Tell whether the data bring a validation set, so that val_fraction holds out nothing."""
    return isinstance(config.dataset, Folder) and config.dataset.val_images > 0


def num_held_out(config: Config) -> int:
    """Return the number of training images that val_fraction holds out for validation."""
    if has_own_validation(config):
        return 0
    return round(config.val_fraction * config.dataset.train_images)


def training_images(config: Config) -> int:
    """Return the number of images that are trained on, by the counts that the data set states."""
    dataset = config.dataset
    if dataset.per_class is not None:
        return dataset.per_class * len(dataset.classes)
    return round(dataset.fraction * (dataset.train_images - num_held_out(config)))


def part_of_training(config: Config) -> str:
    """Return the key that chooses a part of the training images, with its value; empty for all."""
    dataset = config.dataset
    if dataset.per_class is not None:
        return f"dataset.per_class={dataset.per_class}"
    return f"dataset.fraction={dataset.fraction:g}" if dataset.fraction != 1 else ""


def steps_per_epoch(config: Config) -> int:
    """Return the optimizer steps of an epoch, by the counts that the data set's config states."""
    images = training_images(config)
    if config.trainer.drop_last:
        return max(1, images // config.batch_size)
    return max(1, -(-images // config.batch_size))


def num_selected(config: Config) -> int:
    """Return the number of images of a batch that are trained on (trainer.select)."""
    return round(config.trainer.select * config.batch_size)


def width_divisor(config: Config) -> int:
    """Return what a width must be a multiple of."""
    return families.width_divisor(config.block.name, network=config.model.name)


def across(config: Config) -> Iterable[str]:
    """Yield what is wrong between keys that are right one by one."""
    names = {group: getattr(config, group).name for group in code.BASES if group != "augment"}
    yield from code.across(config.code, names)
    yield from _network_problems(config)
    yield from _data_problems(config)
    yield from _batch_problems(config)
    yield from _run_problems(config)
    yield from _optimizer_problems(config)


def _network_problems(config: Config) -> Iterable[str]:
    network, block = config.model.name, config.block.name
    widths = {"width": config.width}
    # match= chooses the width, so the one that is given does not count.
    if config.match != "none":
        del widths["width"]
    selecting = config.trainer.select_width
    if selecting is not None and selecting != config.width:
        widths["trainer.select_width"] = selecting
    for key, width in widths.items():
        if problem := families.width_problem(block, width, network=network, key=key):
            yield problem
    if problem := families.depth_problem(network, block, config.depth):
        yield problem
    is_resized = not isinstance(config.dataset, Folder) and config.dataset.resize
    key = "dataset.resize" if is_resized else "dataset.size"
    if problem := families.size_problem(network, image_size(config), key=key):
        yield problem


def _batch_problems(config: Config) -> Iterable[str]:
    """Yield why a batch cannot be divided as trainer.devices, accumulate and select ask for."""
    trainer, batch_size = config.trainer, config.batch_size
    least, need = 1, "one image {}"
    if config.norm == "batch":
        least, need = 2, "two images {}, since norm=batch cannot normalise one value"
    devices = trainer.devices if isinstance(trainer.devices, int) else 1
    parts = trainer.accumulate if isinstance(trainer.accumulate, int) else 1
    leaves = f"batch_size={batch_size} leaves less than"
    if devices > 1 and batch_size // devices < least:
        most = max(1, batch_size // least)
        words = need.format("a device")
        yield f"trainer.devices={devices}: {leaves} {words}; take at most {most}"
    elif parts > 1 and batch_size // (parts * devices) < least:
        most = max(1, batch_size // (least * devices))
        words = need.format("a part")
        yield f"trainer.accumulate={parts}: {leaves} {words}; take at most {most}"
    if trainer.select < 1 and not trainer.drop_last:
        yield (
            f"trainer.select={trainer.select}: chooses from batches of one size; "
            "set trainer.drop_last=true"
        )
    if trainer.select < 1 and num_selected(config) < least * devices:
        yield f"trainer.select={trainer.select}: of {leaves} {need.format('a device')}"


def _run_problems(config: Config) -> Iterable[str]:
    """Yield options of a run that exclude or need each other."""
    trainer = config.trainer
    if trainer.compile and "activations" in trainer.probe:
        yield (
            f"trainer.probe={trainer.probe}: activations cannot be seen in compiled code; "
            "set trainer.compile=false"
        )
    if (config.match == "none") != (config.target is None):
        given = f"target={config.target}" if config.match == "none" else f"match={config.match}"
        yield (
            f"{given}: a budget takes both, match=params or match=macs and target=NUMBER, "
            "which then choose the width"
        )
    if trainer.ema_warmup and trainer.ema == 0:
        yield (
            "trainer.ema_warmup=true: there is no average to warm up; "
            "set trainer.ema above 0, or trainer=default"
        )
    has_validation = config.val_fraction > 0 or has_own_validation(config) or is_unread(config)
    if trainer.early_stop is not None and not has_validation:
        yield (
            f"trainer.early_stop={trainer.early_stop}: there is no validation set to stop by; "
            "set val_fraction above 0"
        )
    if config.evaluator.split == "val" and not has_validation:
        yield (
            "evaluator.split=val: there is no validation set to report on; set val_fraction above 0"
        )
    if config.init_from is not None and config.resume not in ("auto", "never"):
        yield (
            f"init_from={config.init_from}: starts a fresh run, resume={config.resume} "
            "goes on with an old one; take one of them"
        )


def _optimizer_problems(config: Config) -> Iterable[str]:
    optimizer, scheduler = config.optimizer, config.scheduler
    if isinstance(optimizer, (Sgd, Muon)) and optimizer.nesterov and optimizer.momentum == 0:
        yield "optimizer.nesterov=true: needs optimizer.momentum above 0"
    if isinstance(scheduler, Multistep):
        milestones = list(scheduler.milestones)
        if milestones != sorted(set(milestones)):
            yield f"scheduler.milestones={milestones}: must increase"


def _data_problems(config: Config) -> Iterable[str]:
    """Yield what the data set does not allow."""
    dataset = config.dataset
    if isinstance(dataset, Folder):
        yield from _folder_problems(dataset)
    if not is_unread(config):
        yield from _content_problems(config)
    if config.batch_size == 1 and config.norm == "batch":
        yield ("batch_size=1: norm=batch cannot normalise one value; take at least 2, or norm=none")
    yield from _augment_problems(config)


def _folder_problems(dataset: Folder) -> Iterable[str]:
    """Yield what is wrong with the keys of dataset=folder, whatever the images are."""
    if dataset.root is None and dataset.list is None:
        yield (
            "dataset.root=null: dataset=folder reads images of your own; "
            "take dataset.root=FOLDER, or dataset.list=FILE (CSV, JSON lines or npz)"
        )
    if dataset.root is not None and dataset.list is not None:
        yield (
            f"dataset.list={dataset.list}: its paths are relative to the list itself, "
            "so dataset.root says nothing; leave one of them out"
        )
    if dataset.channels not in ("auto", 1, 3):
        yield f"dataset.channels={dataset.channels}: take 1 (grey), 3 (colour) or auto"


def _content_problems(config: Config) -> Iterable[str]:
    """Yield what is wrong with what the data set's images are said to be."""
    dataset = config.dataset
    for name in ("mean", "std"):
        values = list(getattr(dataset, name))
        if len(values) != dataset.channels:
            yield (
                f"dataset.{name}={values}: {dataset.channels} values are expected, "
                "one for each of dataset.channels"
            )
    if len(dataset.classes) < 2:
        yield f"dataset.classes={list(dataset.classes)}: at least 2 classes are expected"
    yield from _class_problems(dataset.classes)
    validation, training = num_held_out(config), training_images(config)
    part = part_of_training(config)
    if config.val_fraction > 0 and validation < 1 and not has_own_validation(config):
        least = 1 / dataset.train_images
        yield (
            f"val_fraction={config.val_fraction}: holds out none of {dataset.train_images} images; "
            f"take 0 or at least {least:.2g}"
        )
    if config.batch_size > training:
        yield (
            f"batch_size={config.batch_size}: larger than the training set, "
            f"{training} images of {dataset.name}{f' ({part})' if part else ''}"
        )
    yield from _part_problems(config)


def _part_problems(config: Config) -> Iterable[str]:
    """Yield what is wrong with the part of the training images that is asked for."""
    dataset = config.dataset
    left = dataset.train_images - num_held_out(config)
    if dataset.per_class is None:
        return
    given = f"dataset.per_class={dataset.per_class}"
    if dataset.fraction != 1:
        yield (
            f"{given}: dataset.fraction={dataset.fraction:g} chooses a part too; take one of them"
        )
    elif training_images(config) > left:
        most = left // len(dataset.classes)
        yield (
            f"{given}: {len(dataset.classes)} classes have {left:,} training images in all, "
            f"without those held out for validation; take at most {most}"
        )


def _augment_problems(config: Config) -> Iterable[str]:
    dataset, augment, size = config.dataset, config.augment, min(image_size(config))
    mirrored = f"a mirrored image of {dataset.name} does not keep its label"
    if augment.flip in ("random", "alternating") and not dataset.flip_keeps_label:
        yield f"augment.flip={augment.flip}: {mirrored}; take auto or none"
    if config.evaluator.tta != "none" and not dataset.flip_keeps_label:
        yield f"evaluator.tta={config.evaluator.tta}: {mirrored}; take none"
    for name in ("crop", "cutout"):
        value = getattr(augment, name)
        if value >= size:
            yield f"augment.{name}={value}: must be below the size of the image, {size}"


def unread_root(names: Iterable[str]) -> str:
    """Return the rule that dataset.root breaks where no data set reads it, and what to do."""
    return (
        f"dataset={', '.join(names)} comes with a package and reads no folder; leave it out, "
        "or choose a dataset= whose files lie there"
    )


def _class_problems(classes: Sequence[str]) -> Iterable[str]:
    """Yield names that make two rows of a report one, or one that looks like another."""
    shown = [unicodedata.normalize("NFC", " ".join(name.split())) for name in classes]
    for name, number in Counter(shown).items():
        if number > 1:
            labels = ", ".join(str(label) for label, other in enumerate(shown) if other == name)
            yield (
                f"dataset.classes: {name!r} stands for the labels {labels}; "
                f"each class needs a name of its own, as {name}1, {name}2"
            )
    for name, given in zip(shown, classes, strict=True):
        if name in ROWS:
            other = f"{name.replace(' ', '_')}_class"
            yield (
                f"dataset.classes: {given!r} is another row of the report; "
                f"take another name, such as {other}"
            )
        elif "${" in name:
            yield f"dataset.classes: {given!r} holds ${{, as no config may; take another"
        elif not name or not given.isprintable():
            yield (
                f"dataset.classes: {given!r} cannot be read in a report; "
                "a name of printable characters is expected"
            )
