"""What happened in a run, in sentences: which epoch was chosen, and what stands out. No torch.

Each sentence has its number, and a threshold keeps it back where chance alone would say it.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from skiplab import regular
from skiplab.runs import contents, report, result
from skiplab.runs.report import wilson_interval
from skiplab.words import counted, percent

# A row of metrics.jsonl that an evaluation wrote.
Row = Mapping[str, Any]
# The most sentences on a run, since a reader remembers no more.
MOST = 3
# Evaluations below which a curve has no end that differs from its middle.
CURVE = 6
# The gap between training and validation, and the one between a class and all, that are told.
GAP = 0.05
CLASS_GAP = 0.1
# The rise of the validation loss over its least that is told.
RISE = 1.25
# The fewest images of a class whose recall is told.
FEW = 10
# The fewest images of a confusion that is told, and the least share of all errors.
CONFUSED = 5
SHARE = 0.1
# The numbers of a row.
KEYS = ("step", "epoch", "train_accuracy", "val_accuracy", "val_loss")
# Bytes that are read of metrics.jsonl.
LARGEST = 2**30
# Classes that are named in a sentence.
NAMED = 3


def of_run(
    rows: Sequence[Row],
    figures: Mapping[str, Any],
    confusion: NDArray[np.int64],
    *,
    best_step: int,
    num_held: int,
) -> list[str]:
    """Return at most three sentences on a run whose best weights were evaluated.

    `rows` are its evaluations in order, `best_step` the step whose weights were chosen, and
    `num_held` the number of validation images. `figures` and `confusion` are as in `of_split`.
    """
    split = list(on_split(figures, confusion))
    training = list(on_training(rows, best_step=best_step, num_held=num_held))
    return [*training[:1], *split[:1], *training[1:], *split[1:]][:MOST]


def of_folder(folder: Path, classes: Sequence[str], *, split: str) -> list[str]:
    """Return the sentences on a finished run, from what its folder holds; none if that is damaged.

    `split` is the one that it reports on, test or val.
    """
    try:
        with (
            regular.opened(folder / contents.PREDICTIONS) as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            found = report.Predictions(arrays[f"{split}_labels"], arrays[f"{split}_probabilities"])
            num_held = len(arrays["val_labels"]) if "val_labels" in arrays else 0
        ended = result.read(folder)
        figures = report.metrics(found, classes, loss=0.0)
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, BadZipFile, zlib.error):
        return []
    if ended is None or ended.best_step is None:
        return []
    rows = evaluations(folder)
    return of_run(rows, figures, found.confusion, best_step=ended.best_step, num_held=num_held)


def of_split(figures: Mapping[str, Any], confusion: NDArray[np.int64]) -> list[str]:
    """Return at most three sentences on predictions alone.

    `figures` are those of `report.metrics`; `confusion`, int64 (K, K), counts images by their class
    (row) and by what they were taken for (column).
    """
    return list(on_split(figures, confusion))[:MOST]


def on_training(rows: Sequence[Row], *, best_step: int, num_held: int) -> Iterator[str]:
    """Yield what the curves show, the chosen epoch first; nothing without a validation set."""
    chosen = next((row for row in rows if row["step"] == best_step), None)
    if chosen is None:
        return
    yield choice(rows, chosen)
    if said := rising(rows, num_held=num_held) or overfitting(rows, chosen, num_held=num_held):
        yield said


def choice(rows: Sequence[Row], chosen: Row) -> str:
    """Say which epoch was chosen, and what the last one would have given."""
    last, best = rows[-1], percent(chosen["val_accuracy"])
    epoch = f"{chosen['epoch']:.4g}"
    if len(rows) == 1:
        return f"the only evaluation, at epoch {epoch}, has {best} on validation"
    if chosen is last:
        said = f"the last epoch, {epoch}, was the best on validation: {best}"
        other, when = percent(max(row["val_accuracy"] for row in rows[:-1])), "before"
    else:
        said = f"epoch {epoch} of {last['epoch']:.4g} was the best on validation: {best}"
        other, when = percent(last["val_accuracy"]), "at the end"
    if other == best:
        return f"{said}, as {when}, where the loss was larger"
    return f"{said}, against {other} {when}"


def rising(rows: Sequence[Row], *, num_held: int) -> str:
    """Say that validation was still improving at the end; empty if it was not.

    The last third of the evaluations is held against the third before, so that one lucky epoch
    does not count. The rise must exceed one standard error of an accuracy on so many images: both
    thirds see the same images, so the true error of the difference is smaller. Below six
    evaluations a third is no curve.
    """
    third = len(rows) // 3
    if len(rows) < CURVE or num_held == 0:
        return ""
    late, before = rows[-third:], rows[-2 * third : -third]
    now, then = (sum(row["val_accuracy"] for row in part) / third for part in (late, before))
    error = math.sqrt(now * (1 - now) / num_held)
    is_falling = sum(row["val_loss"] for row in late) < sum(row["val_loss"] for row in before)
    if now - then <= error or not is_falling:
        return ""
    return (
        f"validation was still improving: {percent(now)} on average over the last "
        f"{counted(third, 'evaluation')}, {percent(then)} over those before; "
        "a longer run may gain more"
    )


def overfitting(rows: Sequence[Row], chosen: Row, *, num_held: int) -> str:
    """Say how far training was above validation, or that the validation loss rose; else empty.

    Training accuracy is measured while training, with dropout and augmentation, so it is rather too
    low: a gap of five points in spite of that is told, if it exceeds two standard errors too. The
    loss counts if it ends a quarter above its least, before the last third of the run: by then the
    learning rate of most schedules is small and the curve is calm.
    """
    gap = chosen["train_accuracy"] - chosen["val_accuracy"]
    share = chosen["val_accuracy"]
    error = math.sqrt(share * (1 - share) / max(num_held, 1))
    if gap > max(GAP, 2 * error):
        return (
            f"training was {100 * gap:.1f} points above validation at that epoch "
            f"({percent(chosen['train_accuracy'])}): the network fits its training images best"
        )
    least = min(rows, key=lambda row: row["val_loss"])
    third = len(rows) // 3
    end = sum(row["val_loss"] for row in rows[-third:]) / max(third, 1)
    if len(rows) < CURVE or least in rows[-third:] or end < RISE * least["val_loss"]:
        return ""
    # Below this the loss is of a few images.
    if end - least["val_loss"] < GAP:
        return ""
    return (
        f"the validation loss was least at epoch {least['epoch']:.4g}, {least['val_loss']:.4f}, "
        f"and {end:.4f} on average over the last {counted(third, 'evaluation')}"
    )


def on_split(figures: Mapping[str, Any], confusion: NDArray[np.int64]) -> Iterator[str]:
    """Yield what the predictions show, the most telling first."""
    names = list(figures["classes"])
    if said := no_better_than_one_class(figures, names) or never_said(names, confusion):
        yield said
        return
    if said := worst_class(figures):
        yield said
    if said := most_confused(names, confusion):
        yield said


def no_better_than_one_class(figures: Mapping[str, Any], names: Sequence[str]) -> str:
    """Say that always naming the most frequent class is not clearly worse; else empty.

    That is so if its accuracy lies within the 95 % interval, or above it.
    """
    support = [figures["classes"][name]["support"] for name in names]
    share = max(support) / sum(support)
    if len(names) < 2 or share < figures["accuracy_95"][0]:
        return ""
    common = f"{names[support.index(max(support))]}, the most frequent class"
    if min(support) == max(support):
        common = "the same class"
    return (
        f"an accuracy of {percent(figures['accuracy'])} is no better than always saying {common} "
        f"({percent(share)})"
    )


def never_said(names: Sequence[str], confusion: NDArray[np.int64]) -> str:
    """Name the classes that are there and are never predicted; empty if there are none.

    A class of fewer than five images may be missed by chance.
    """
    is_missing = (confusion.sum(0) == 0) & (confusion.sum(1) >= CONFUSED)
    missing = [name for name, is_so in zip(names, is_missing, strict=True) if is_so]
    if not missing:
        return ""
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    images = int(confusion.sum(1)[is_missing].sum())
    return f"never predicted: {', '.join(missing[:NAMED])}{more} ({counted(images, 'image')})"


def worst_class(figures: Mapping[str, Any]) -> str:
    """Name the class with the least recall if it is far below the others; else empty.

    Far is ten points below the accuracy on all images, and the upper end of the class's own 95 %
    interval below it too. Of many small classes one falls that far by chance, so a class has at
    least ten images.
    """
    found = {name: row for name, row in figures["classes"].items() if row["support"] >= FEW}
    if not found:
        return ""
    name, row = min(found.items(), key=lambda item: item[1]["recall"])
    _, high = wilson_interval(round(row["recall"] * row["support"]), row["support"])
    accuracy = figures["accuracy"]
    if row["recall"] > accuracy - CLASS_GAP or high >= accuracy:
        return ""
    return (
        f"{name} is found least: {percent(row['recall'])} of its "
        f"{counted(row['support'], 'image')}, against {percent(accuracy)} of all"
    )


def most_confused(names: Sequence[str], confusion: NDArray[np.int64]) -> str:
    """Name the two classes that are taken for one another most; empty if no pair stands out.

    The pair has at least five images and a tenth of all errors. Spread evenly, ten classes have 45
    pairs with a fiftieth each.
    """
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    both = np.triu(wrong + wrong.T)
    first, second = divmod(int(both.argmax()), len(names))
    number, errors = int(both[first, second]), int(wrong.sum())
    if number < CONFUSED or number < SHARE * errors or len(names) < 3:
        return ""
    there, back = int(wrong[first, second]), int(wrong[second, first])
    if there < back:
        first, second, there, back = second, first, back, there
    return (
        f"most confused: {names[first]} and {names[second]}, {number:,} of "
        f"{counted(errors, 'error')} ({there:,} times {names[first]} is taken for "
        f"{names[second]}, {back:,} times the other way round)"
    )


def evaluations(folder: Path) -> list[Row]:
    """Return a run's evaluations on validation from its metrics.jsonl; none if it is unreadable.

    Other rows and damaged ones are left out.
    """
    try:
        content = regular.read(f"{folder}/{contents.METRICS}", most=LARGEST)
    except OSError:
        return []
    rows: list[Row] = []
    for line in content.splitlines():
        # Most rows are of steps, which have no epoch.
        if b'"epoch"' in line:
            with suppress(ValueError, RecursionError):
                rows.append(json.loads(line))
    return [row for row in rows if is_whole(row)]


def is_whole(row: object) -> bool:
    """Tell whether a row has every number that a sentence needs."""
    return isinstance(row, dict) and all(isinstance(row.get(key), (int, float)) for key in KEYS)
