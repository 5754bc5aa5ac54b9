"""`skiplab evaluate RUN --data`: a trained network's report on other images than its run's."""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from skiplab import build
from skiplab.config import compose
from skiplab.config.values import nearest
from skiplab.data import inputs, own
from skiplab.data.arrays import Bytes
from skiplab.data.catalog import DATASETS
from skiplab.data.folder import Item, listed
from skiplab.data.splits import Split
from skiplab.describe import name_network
from skiplab.errors import UsageError
from skiplab.evaluate import Evaluation, as_evaluated, predictions_on
from skiplab.machine import memory
from skiplab.runs import findings, report
from skiplab.trained import Trained
from skiplab.words import counted


def evaluate_on(
    source: Path, data: str, *, checkpoint_name: str, device_name: str, trust_code: bool = False
) -> Evaluation:
    """Evaluate a run folder's network, or weights alone, on the test images of other data.

    `data` is the name of a data set, or a folder, list or npz file as `dataset=folder` reads them:
    its test part, else all of it. Classes are matched by name. The run's own test set stays sealed.

    Raises UsageError if `data` is neither, is the run's own data set, or has classes that the
    network does not know.
    """
    trained = as_evaluated(
        source, checkpoint_name=checkpoint_name, device_name=device_name, trust_code=trust_code
    )
    if data in DATASETS:
        pixels, labels, classes = of_dataset(data, trained, source)
    else:
        pixels, labels, classes = of_files(Path(data), trained)
    numbers = matched(classes, trained.classes, data)
    found = np.array([numbers[classes[label]] for label in labels], np.int64)
    split = Split(torch.from_numpy(np.require(pixels, requirements="W")), torch.from_numpy(found))
    tested, loss = predictions_on(trained.config, trained.predictor, split, trained.device)
    figures = report.metrics(tested, trained.classes, loss=loss)
    network = f"{name_network(trained.config)} ({checkpoint_name}, step {trained.step:,})"
    text = report.text(figures, heading=f"{data}, {counted(len(labels), 'image')}, {network}")
    missing = [name for name in trained.classes if name not in {*map(plain, classes), *classes}]
    if missing:
        text += f"note: no images of {listed(missing)}\n"
    said = findings.of_split(figures, tested.confusion)
    return Evaluation(trained.step, str(trained.device), figures, text, said)


def of_dataset(
    name: str, trained: Trained, source: Path
) -> tuple[Bytes, Sequence[int], Sequence[str]]:
    """Return a data set's test images, resized as the network needs, their labels and classes."""
    if name == trained.config.dataset.name:
        raise UsageError(
            f"--data {name}: is the run's own data set, whose test set is sealed; "
            f"skiplab evaluate {source} reads it, and records that"
        )
    config = compose.compose_config([f"dataset={name}", "augment=none"])
    split, _checksum = build.open_split(config, "test")
    pixels = inputs.from_array(
        split.images.numpy(), size=trained.size, channels=trained.channels, name=name
    )
    return pixels, split.labels.tolist(), config.dataset.classes


def of_files(path: Path, trained: Trained) -> tuple[Bytes, Sequence[int], Sequence[str]]:
    """Return the images of a folder, list or npz file, their labels and the names of those."""
    if not path.exists():
        guess = nearest(str(path), DATASETS)
        raise UsageError(f"--data {path}: there is no such folder or file, nor data set; {guess}")
    found = own.find(path)
    tests = [item.part == "test" for item in found.items]
    chosen = np.flatnonzero(tests) if any(tests) else np.arange(len(tests))
    items: list[Item] = [found.items[i] for i in chosen.tolist()]
    size, channels = trained.size, trained.channels
    memory.check(
        len(items) * channels * size[0] * size[1],
        f"--data {path}: {counted(len(items), 'image')}",
        "take a part of them",
    )
    if found.pixels is not None:
        pixels = inputs.from_array(
            found.pixels[chosen], size=size, channels=channels, name=str(path)
        )
    else:
        pixels = decoded([item.path for item in items], size=size, channels=channels)
    names = [item.label for item in items]
    classes = sorted(set(names))
    numbers = {name: i for i, name in enumerate(classes)}
    return pixels, [numbers[name] for name in names], classes


def decoded(paths: Sequence[str], *, size: tuple[int, int], channels: int) -> Bytes:
    """Decode image files. Raises UsageError naming all that cannot be decoded."""
    pixels = np.empty((len(paths), *size, channels), np.uint8)
    problems: list[str] = []
    for i, path in enumerate(paths):
        try:
            ((_, pixels[i]),) = inputs.decode_file(path, size=size, channels=channels)
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))
    return pixels


def matched(classes: Sequence[str], known: Sequence[str], data: str) -> Mapping[str, int]:
    """Return the network's number of each class, by name; case does not matter if it need not.

    Raises UsageError for classes that the network does not know.
    """
    exact = {name: i for i, name in enumerate(known)}
    folded = {plain(name): i for i, name in enumerate(known)}
    lookup = exact if len(folded) < len(known) else folded
    unknown = [name for name in classes if name not in exact and plain(name) not in lookup]
    if unknown:
        raise UsageError(
            f"--data {data}: has classes that the network does not know: {listed(unknown)}; "
            f"it knows {listed(list(known), 10)}"
        )
    return {name: exact.get(name, lookup.get(plain(name), -1)) for name in classes}


def plain(name: str) -> str:
    """Return a class name in one form: composed characters, lower case."""
    return unicodedata.normalize("NFC", name).casefold()
