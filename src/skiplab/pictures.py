"""The pictures of a run: samples when it begins; curves, confusion and mistakes at its end."""

import functools
import shlex
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skiplab import build, provenance, regular, trust
from skiplab.config.schema import Config
from skiplab.data.batches import Batches
from skiplab.data.splits import Split
from skiplab.describe import describe_network
from skiplab.errors import NotDrawn, UsageError, in_words
from skiplab.evaluate import SPLITS, open_test_set
from skiplab.runs import contents, folders, report, result
from skiplab.runs.log import Log
from skiplab.training.probe import KINDS
from skiplab.training.trainer import Trainer
from skiplab.words import counted

# Images on a sheet, at most, and mistakes of one pair of true and predicted class there.
ON_A_SHEET, MOST_OF_A_PAIR = 32, 4
SAMPLES = "samples.png"


@dataclass(frozen=True)
class End:
    """The split that a finished run reports on, and the network's predictions there."""

    split: Split
    tested: report.Predictions


def draw_start(config: Config, batches: Batches, folder: Path, log: Log) -> None:
    """Draw samples.png before a run trains, and log where it is, or why it could not be drawn."""
    try:
        fed, labels = first_images(batches)
    # An augmentation of one's own may fail: the first step raises that again, with advice.
    except Exception:
        return
    path = folder / SAMPLES
    try:
        draw_samples(config, fed, labels, path)
    # A library, a font or a disk may fail. Training does not depend on them.
    except Exception as error:
        log.line(f"warning: {SAMPLES} not drawn ({in_words(error)})")
    else:
        log.line(f"the first images, as the network is fed them: {path}")


def draw_finished(config: Config, trainer: Trainer, folder: Path, log: Log, end: End) -> None:
    """Draw the pictures of a run that has just ended; log those that cannot be drawn."""
    try:
        best_step = trainer.progress.best_step
        batches = trainer.step.batches
        has_samples = (folder / SAMPLES).is_file()
        draw(config, folder, batches, end, best_step=best_step, has_samples=has_samples)
    except NotDrawn as error:
        log.line(
            f"warning: {error}; the run is finished all the same, "
            f"and skiplab draw {shlex.quote(str(folder))} draws them"
        )


def draw_run(folder: Path, *, trust_code: bool = False) -> list[Path]:
    """Draw the pictures of a finished run, from its folder and the data; return their paths.

    Raises UsageError if it is not finished or its files are damaged, NotDrawn for pictures that
    fail.
    """
    if not folders.is_finished(folder):
        raise UsageError(
            f"{folder}: is not finished, and pictures are of the end; "
            f"go on with: train resume={shlex.quote(str(folder))}"
        )
    config, device = provenance.load(folder), torch.device("cpu")
    name = config.evaluator.split
    try:
        with (
            regular.opened(folder / contents.PREDICTIONS) as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            tested = report.Predictions(arrays[f"{name}_labels"], arrays[f"{name}_probabilities"])
        ended = result.read(folder)
        best_step = None if ended is None else ended.best_step
        if best_step is None:
            raise ValueError("no best_step")
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UsageError(
            f"{folder}: its predictions.npz or {folders.RESULT} is damaged "
            f"({' '.join(str(error).split())[:80]})"
        ) from None
    trust.admit_run(folder, config, trust_code=trust_code, say="--trust-code", groups=("augment",))
    training, held, _ = build.training_data(config, device)
    if name == "test":
        held = open_test_set(config, folder, checkpoint_name="best", step=best_step, reader="draw")
    # The check of a config refuses evaluator.split=val without a validation set.
    assert held is not None
    batches = build.batches_of(config, training, device)
    return draw(config, folder, batches, End(held, tested), best_step=best_step)


def draw(
    config: Config,
    folder: Path,
    batches: Batches,
    end: End,
    *,
    best_step: int,
    has_samples: bool = False,
) -> list[Path]:
    """Draw the pictures of a run, whose predictions on `end.split` are `end.tested`.

    With `has_samples`, samples.png stays as it was drawn when the run began. Returns the paths.
    Raises NotDrawn for pictures that fail, once the others are there.
    """
    title = title_of(config)
    split = end.split
    tested = end.tested
    makers: dict[str, Callable[[Path], None]] = {
        "curves.png": lambda path: draw_curves(
            config,
            folder,
            path,
            title=title,
            best_step=best_step,
            steps_per_epoch=batches.steps_per_epoch,
        ),
        "confusion.png": lambda path: draw_confusion(config, tested, path, title=title),
        "mistakes.png": lambda path: draw_mistakes(config, split, tested, path, title=title),
    }
    if not has_samples:
        makers[SAMPLES] = lambda path: draw_samples(config, *first_images(batches), path)
    for kind in probed_kinds(config):
        make_flow = functools.partial(draw_flow, folder, kind, title=title)
        makers[contents.FLOWS[kind]] = make_flow
    # The names of the pictures that failed, by reason.
    failed: dict[str, list[str]] = {}
    for name, make in makers.items():
        try:
            make(folder / name)
        # A library, a font or a disk may fail. The run's figures do not depend on them.
        except Exception as error:
            failed.setdefault(in_words(error), []).append(name)
    if failed:
        raise NotDrawn(
            "; ".join(
                f"{', '.join(names)} not drawn ({reason})" for reason, names in failed.items()
            )
        )
    # A run without a record of its probe has no picture of it.
    return [folder / name for name in makers if (folder / name).is_file()]


def probed_kinds(config: Config) -> list[str]:
    """Return what the run's probe records: kinds of FLOWS."""
    return [] if config.trainer.probe == "none" else config.trainer.probe.split(",")


# matplotlib takes half a second to import, and may fail. So each function imports plots when it
# draws.


def draw_curves(
    config: Config,
    folder: Path,
    path: Path,
    *,
    title: str,
    best_step: int,
    steps_per_epoch: int,
) -> None:
    """Draw curves.png: the losses and accuracies over the epochs."""
    from skiplab.runs import curves

    kinds = ["label-smoothed"] if config.trainer.label_smoothing else []
    if config.trainer.class_weights != "none":
        kinds.append("class-weighted")
    kind = " and ".join(kinds)
    curves.draw(
        folder / contents.METRICS,
        path,
        title=title,
        tested=best_step,
        steps_per_epoch=steps_per_epoch,
        kind=kind,
    )


def draw_confusion(config: Config, tested: report.Predictions, path: Path, *, title: str) -> None:
    """Draw confusion.png: the confusion matrix."""
    from skiplab.runs import plots

    accuracy = 100 * float((tested.predicted == tested.labels).mean())
    heading = f"{title}\n{accuracy:.2f} % on the {SPLITS[config.evaluator.split]}"
    plots.confusion(tested.confusion, config.dataset.classes, path, title=heading)


def draw_mistakes(
    config: Config, split: Split, tested: report.Predictions, path: Path, *, title: str
) -> None:
    """Draw mistakes.png: the most confident mistakes, few of each kind."""
    from skiplab.runs import sheet

    classes = config.dataset.classes
    confidence = tested.confidence
    worst = worst_mistakes(tested)
    captions = [
        f"{classes[tested.labels[i]]} as {classes[tested.predicted[i]]}\n"
        f"{100 * confidence[i]:.1f} %"
        for i in worst
    ]
    pictures = split.images[torch.from_numpy(worst)].numpy()
    number = int((tested.predicted != tested.labels).sum())
    heading = (
        f"{title}: most confident of {counted(number, 'mistake')}, TRUE as PREDICTED, "
        f"at most {MOST_OF_A_PAIR} of each pair"
    )
    sheet.draw(pictures, captions, path, title=heading)


def worst_mistakes(tested: report.Predictions) -> NDArray[np.int64]:
    """Return which images were mistaken most confidently, the worst first, int64 (n,).

    They are ON_A_SHEET at most, and MOST_OF_A_PAIR of each pair of true and predicted class.
    """
    wrong = np.flatnonzero(tested.predicted != tested.labels)
    ordered = wrong[np.argsort(-tested.confidence[wrong], kind="stable")]
    seen: Counter[tuple[int, int]] = Counter()
    chosen: list[int] = []
    for i in ordered.tolist():
        pair = int(tested.labels[i]), int(tested.predicted[i])
        seen[pair] += 1
        if seen[pair] <= MOST_OF_A_PAIR:
            chosen.append(i)
    return np.array(chosen[:ON_A_SHEET], np.int64)


def draw_flow(folder: Path, kind: str, path: Path, *, title: str) -> None:
    """Draw a picture of contents.FLOWS: what a probe has recorded over the layers."""
    from skiplab.runs import curves, layers

    key = KINDS[kind]
    found = layers.probed(curves.read_rows(folder / contents.METRICS))
    # A run that was given its probe at the end may have no record.
    if key in found:
        layers.draw_run(found[key], key, path, title=title)


def first_images(batches: Batches) -> tuple[Tensor, Tensor]:
    """Return the first images that are trained on, float (n, C, H, W), and their labels, (n,)."""
    images, labels = batches.at(0)
    return images[:ON_A_SHEET].float().cpu(), labels[:ON_A_SHEET].cpu()


def draw_samples(config: Config, fed: Tensor, labels: Tensor, path: Path) -> None:
    """Draw samples.png: images of the first batch, normalised as the network is fed them."""
    from skiplab.runs import sheet

    std = torch.tensor(config.dataset.std)
    mean = torch.tensor(config.dataset.mean)
    pictures = (255 * (fed.permute(0, 2, 3, 1) * std + mean)).round().clamp(0, 255)
    captions = [config.dataset.classes[i] for i in labels.tolist()]
    heading = f"{title_of(config)}: the first batch, as it is fed"
    sheet.draw(pictures.byte().numpy(), captions, path, title=heading)


def title_of(config: Config) -> str:
    """Return what a run's pictures are of."""
    return f"{config.dataset.name}, {describe_network(config)}"
