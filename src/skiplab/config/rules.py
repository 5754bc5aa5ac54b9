"""What must hold between keys that are right one by one, and what follows from several of them."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from skiplab import families
from skiplab.config import code
from skiplab.config.options import Multistep, Muon, Sgd
from skiplab.config.schema import Config

# Data sets that come with a package: dataset.root means nothing to them.
BUNDLED = ("digits",)
# Rows of the report that are not a class's.
ROWS = ("accuracy", "macro avg", "weighted avg")


def image_size(config: Config) -> int:
    """Return the height and width of what the network sees, in pixels."""
    return config.dataset.resize or config.dataset.size


def steps_per_epoch(config: Config) -> int:
    """Return the optimizer steps of an epoch, by the counts that the data set's config states."""
    images = config.dataset.train_images - round(config.val_fraction * config.dataset.train_images)
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
    key = "dataset.resize" if config.dataset.resize else "dataset.size"
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
        yield "trainer.ema_warmup=true: there is no average to warm up; set trainer.ema above 0"
    if trainer.early_stop is not None and config.val_fraction == 0:
        yield (
            f"trainer.early_stop={trainer.early_stop}: there is no validation set to stop by; "
            "set val_fraction above 0"
        )
    if config.evaluator.split == "val" and config.val_fraction == 0:
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
    validation = round(config.val_fraction * dataset.train_images)
    training = dataset.train_images - validation
    if config.val_fraction > 0 and validation < 1:
        least = 1 / dataset.train_images
        yield (
            f"val_fraction={config.val_fraction}: holds out none of {dataset.train_images} images; "
            f"take 0 or at least {least:.2g}"
        )
    if config.batch_size > training:
        yield (
            f"batch_size={config.batch_size}: larger than the training set, "
            f"{training} images of {dataset.name}"
        )
    if config.batch_size == 1 and config.norm == "batch":
        yield ("batch_size=1: norm=batch cannot normalise one value; take at least 2, or norm=none")
    yield from _augment_problems(config)


def _augment_problems(config: Config) -> Iterable[str]:
    dataset, augment, size = config.dataset, config.augment, image_size(config)
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
        elif not name or not given.isprintable():
            yield (
                f"dataset.classes: {given!r} cannot be read in a report; "
                "a name of printable characters is expected"
            )
