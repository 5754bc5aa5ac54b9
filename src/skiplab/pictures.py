"""The four pictures of a finished run: curves, confusion, mistakes and samples."""

import shlex
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from skiplab import build, provenance, regular, trust
from skiplab.config.schema import Config
from skiplab.data.batches import Batches
from skiplab.data.splits import Split
from skiplab.describe import describe_network
from skiplab.errors import NotDrawn, UsageError, in_words
from skiplab.evaluate import SPLITS, open_test_set
from skiplab.runs import contents, folders, report, result
from skiplab.runs.log import Log
from skiplab.training.trainer import Trainer


@dataclass(frozen=True)
class End:
    """The split that a finished run reports on, and the network's predictions there."""

    split: Split
    tested: report.Predictions


def draw_finished(config: Config, trainer: Trainer, folder: Path, log: Log, end: End) -> None:
    """Draw the pictures of a run that has just ended; log those that cannot be drawn."""
    try:
        best_step = trainer.progress.best_step
        draw(config, folder, trainer.step.batches, end, best_step=best_step)
    except NotDrawn as error:
        log.line(
            f"warning: {error}; the run is finished all the same, "
            f"and skiplab draw {shlex.quote(str(folder))} draws them"
        )


def draw_run(folder: Path, *, trust_code: bool = False) -> None:
    """Draw the pictures of a finished run, from its folder and the data.

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
    draw(config, folder, batches, End(held, tested), best_step=best_step)


def draw(
    config: Config,
    folder: Path,
    batches: Batches,
    end: End,
    *,
    best_step: int,
) -> None:
    """Draw the four pictures of a run, whose predictions on `end.split` are `end.tested`.

    Raises NotDrawn for those that fail, once the others are there.
    """
    title = f"{config.dataset.name}, {describe_network(config)}"
    split = end.split
    tested = end.tested
    makers: dict[str, Callable[[Path], None]] = {
        "curves.png": lambda path: draw_curves(
            config, folder, path, title=title, best_step=best_step
        ),
        "confusion.png": lambda path: draw_confusion(config, tested, path, title=title),
        "mistakes.png": lambda path: draw_mistakes(config, split, tested, path, title=title),
        "samples.png": lambda path: draw_samples(config, batches, path, title=title),
    }
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


# matplotlib takes half a second to import, and may fail. So each function imports plots when it
# draws.


def draw_curves(config: Config, folder: Path, path: Path, *, title: str, best_step: int) -> None:
    """Draw curves.png: the losses and accuracies over the steps."""
    from skiplab.runs import plots

    kinds = ["label-smoothed"] if config.trainer.label_smoothing else []
    if config.trainer.class_weights != "none":
        kinds.append("class-weighted")
    kind = " and ".join(kinds)
    plots.curves(folder / "metrics.jsonl", path, title=title, tested=best_step, kind=kind)


def draw_confusion(config: Config, tested: report.Predictions, path: Path, *, title: str) -> None:
    """Draw confusion.png: the confusion matrix."""
    from skiplab.runs import plots

    accuracy = 100 * float((tested.predicted == tested.labels).mean())
    heading = f"{title}\n{accuracy:.2f} % on the {SPLITS[config.evaluator.split]}"
    plots.confusion(tested.confusion, config.dataset.classes, path, title=heading)


def draw_mistakes(
    config: Config, split: Split, tested: report.Predictions, path: Path, *, title: str
) -> None:
    """Draw mistakes.png: the 32 most confident mistakes."""
    from skiplab.runs import plots

    classes = config.dataset.classes
    confidence = tested.confidence
    wrong = np.flatnonzero(tested.predicted != tested.labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:32]
    captions = [
        f"{classes[tested.labels[i]]} as {classes[tested.predicted[i]]}\n"
        f"{100 * confidence[i]:.1f} %"
        for i in worst
    ]
    pictures = split.images[torch.from_numpy(worst)].numpy()
    heading = f"{title}: most confident mistakes, TRUE as PREDICTED"
    plots.images(pictures, captions, path, title=heading)


def draw_samples(config: Config, batches: Batches, path: Path, *, title: str) -> None:
    """Draw samples.png: 32 images of the first batch, as the network is fed them."""
    from skiplab.runs import plots

    fed, labels = batches.at(0)
    std = torch.tensor(config.dataset.std)
    mean = torch.tensor(config.dataset.mean)
    fed = fed[:32].float().cpu().permute(0, 2, 3, 1) * std + mean
    pictures = (255 * fed).round().clamp(0, 255).byte().numpy()
    captions = [config.dataset.classes[i] for i in labels[:32].tolist()]
    plots.images(pictures, captions, path, title=f"{title}: the first batch, as it is fed")
