"""The end of a run: its best weights on the sealed test set, the report, predictions, and result.json; then the pictures."""

import io
import json
import shlex
import subprocess
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from skiplab import build, provenance, regular
from skiplab.config import stored
from skiplab.config.schema import Config
from skiplab.data.batches import Batches
from skiplab.data.splits import Split
from skiplab.errors import CheckpointError, FolderError, NotDrawn, UsageError, in_words
from skiplab.machine import devices
from skiplab.runs import checkpoint, contents, folders, report
from skiplab.runs.log import Log
from skiplab.training.evaluation import Predictor, predict
from skiplab.training.rollback import as_changes
from skiplab.training.trainer import Trainer
from skiplab.words import counted, duration, now

# bytes that report.txt, result.json and the end of run.log take, at most about
REPORTS = 2**17
# images of validation a class, below which it is told
FEW = 10
SPLITS = {"test": "test set", "val": "validation set"}


@dataclass(frozen=True)
class End:
    """What a finished run's pictures are of: the split that was reported, and what the network says of it."""

    split: Split
    tested: report.Predictions


def check_room(folder: Path, *, num_images: int, num_classes: int) -> None:
    """Raise FolderError if the disk has no room for what the end writes: before the test set is read, for that is done once."""
    path = folder / f".end-room{checkpoint.TEMPORARY}"
    # of predictions.npz as it is before it is compressed, and the rest
    size = num_images * (4 * num_classes + 16) + REPORTS
    try:
        checkpoint.write_atomically(path, bytes(size))
    except FolderError as error:
        said = str(error).replace(path.name, "its report and predictions")
        raise FolderError(f"{said}; go on with: train resume={shlex.quote(str(folder))}") from None
    path.unlink()


def few_images(num_images: int, num_classes: int) -> str:
    """What to know of a validation set with less than FEW images a class; nothing of a larger one."""
    if num_images >= FEW * num_classes:
        return ""
    images = counted(num_images, "image")
    return f"validation has {images} for {num_classes} classes: the accuracy there, by which the best weights are chosen, says little"


def finish(
    config: Config, trainer: Trainer, folder: Path, log: Log, checksum: str
) -> tuple[dict[str, Any], End]:
    """Test the best weights, write report, predictions and result.json, and say it. Pictures are for afterwards: they may fail.

    With evaluator.split=val all of it is of the validation set, and the test set is not read.
    """
    progress, classes, device = trainer.progress, config.dataset.classes, trainer.context.device
    model = trainer.step.average.model
    # again, since hours have passed: before the test set is read
    contents.check(folder)
    facts = build.load_weights(folder / folders.BEST, model, config)
    if not provenance.is_of(config, facts):
        raise CheckpointError(f"{folder / folders.BEST}: of another run than {folders.CONFIG}")
    if facts.get("step") != progress.best_step:
        raise CheckpointError(
            f"{folder / folders.BEST}: of step {facts.get('step')}, but step {progress.best_step:,} was best"
        )
    held = trainer.evaluator.validation
    num_images = config.dataset.test_images + (len(held) if held is not None else 0)
    check_room(folder, num_images=num_images, num_classes=len(classes))
    splits: dict[str, Split] = {}
    if config.evaluator.split == "test":
        splits["test"] = open_test_set(
            config, folder, checkpoint_name="best", step=progress.best_step, reader="train"
        )
    if held is not None:
        splits["val"] = Split(held.images.cpu(), held.labels.cpu())
    predictions: dict[str, report.Predictions] = {}
    losses: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for name, split in splits.items():
        began = time.monotonic()
        predictions[name], losses[name] = predictions_on(
            config, trainer.evaluator.predictor, split, device
        )
        seconds[name] = time.monotonic() - began
    reported = config.evaluator.split
    found = report.metrics(predictions[reported], classes, loss=losses[reported])
    chosen = f"best validation accuracy {100 * progress.best_accuracy:.2f} %, step {progress.best_step:,}"
    if held is None:
        chosen = f"no validation set: best is last, step {progress.best_step:,}"
    text = report.text(found, heading=heading_of(config, reported, chosen))
    if held is not None and (few := few_images(len(held), len(classes))):
        text += f"note: {few}\n"
    checkpoint.write_atomically(folder / "report.txt", text.encode(errors="backslashreplace"))
    buffer = io.BytesIO()
    # Before NumPy 2.2, savez takes allow_pickle= for the name of an array, so it is not given. None
    # of these arrays holds objects.
    arrays = arrays_of(predictions)
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    checkpoint.write_atomically(folder / "predictions.npz", buffer.getvalue())
    test = found if reported == "test" else None
    result = result_of(
        config, trainer, test=test, data_sha256=checksum, test_seconds=seconds.get("test")
    )
    checkpoint.write_atomically(
        folder / folders.RESULT, json.dumps(result, indent=1).encode() + b"\n"
    )
    log.line("\n" + text)
    log.line(
        f"{chosen}; training time {duration(trainer.seconds)}, {result['images_per_second']:,.0f} img/s"
    )
    again = f"again from the folder alone: skiplab evaluate {shlex.quote(str(folder))}"
    if reported == "val":
        again = f"the test set was not read; into this run's result it comes by: train resume={shlex.quote(str(folder))} evaluator.split=test"
    log.line(f"run folder {folder}\n{again}")
    return result, End(splits[reported], predictions[reported])


def draw_finished(config: Config, trainer: Trainer, folder: Path, log: Log, end: End) -> None:
    """The pictures of a run that has ended; one that cannot be drawn is a line."""
    try:
        draw(
            config,
            folder,
            trainer.step.batches,
            end.split,
            end.tested,
            best_step=trainer.progress.best_step,
        )
    except NotDrawn as error:
        log.line(
            f"warning: {error}; the run is finished all the same, and skiplab draw {shlex.quote(str(folder))} draws them"
        )


def heading_of(config: Config, split: str, chosen: str) -> str:
    """The first line of a report: its label if it has one, what was tested, and which weights."""
    label = f"{' '.join(config.name.split())}: " if config.name is not None else ""
    changed = (
        f"; changed on the way: {provenance.in_words(config.changed)}" if config.changed else ""
    )
    return f"{label}{config.dataset.name} {SPLITS[split]}, {config.model.name} of {config.block.name} blocks ({chosen}){changed}"


def arrays_of(predictions: dict[str, report.Predictions]) -> dict[str, np.ndarray]:
    """What predictions.npz holds: labels, predictions and probabilities of each split."""
    return {
        f"{name}_{kind}": array
        for name, found in predictions.items()
        for kind, array in (
            ("labels", found.labels),
            ("predictions", found.predicted),
            ("probabilities", found.probabilities),
        )
    }


def result_of(
    config: Config, trainer: Trainer, *, test: dict[str, Any] | None, **more: Any
) -> dict[str, Any]:
    """The content of result.json: what was run on what, and what came out; `test` is the report on the test set."""
    progress, model = trainer.progress, trainer.step.average.model
    assert isinstance(model, nn.Sequential)
    summary = build.summary_of(config, model)
    return (
        {
            "state": "finished",
            "name": config.name,
            "dataset": config.dataset.name,
            "model": config.model.name,
            "block": config.block.name,
            "depth": config.depth,
            "width": config.width,
            "seed": config.seed,
            "identity": stored.identity(config),
            "changed": [change.as_dict() for change in config.changed]
            + as_changes(trainer.rolled_back, lr=config.optimizer.lr),
            "steps": progress.step,
            "epochs": progress.step / trainer.step.batches.steps_per_epoch,
            "best_step": progress.best_step,
            "accumulate": trainer.settings.accumulate,
            "moved": trainer.moved,
            "rollbacks": progress.rollbacks,
            "lr_factor": progress.lr_factor,
            "best_val_accuracy": progress.best_accuracy
            if trainer.evaluator.validation is not None
            else None,
            "best_val_loss": progress.best_loss
            if trainer.evaluator.validation is not None
            else None,
            "test": test,
            "summary": asdict(summary),
            "train_seconds": trainer.seconds,
            "images_per_second": trainer.images / max(trainer.seconds, 1e-9),
            "git_commit": git_commit(),
            "finished": now(),
        }
        | more
        | devices.facts(trainer.context.device, processes=trainer.context.ranks.size)
    )


def open_test_set(
    config: Config, folder: Path, *, checkpoint_name: str, step: int, reader: str
) -> Split:
    """Read the sealed test set; each time is a line in the folder's test_reads.jsonl, before anything is made of it."""
    path = folder / contents.READS
    try:
        # before the set is read, which must not go unrecorded
        ledger = regular.appended(path)
    except OSError as error:
        raise FolderError(
            f"{path}: the reading cannot be recorded ({regular.why(path, error)}), so the test set stays closed"
        ) from None
    with ledger:
        split, _checksum = build.open_split(config, "test")
        told = {"time": now(), "by": reader, "checkpoint": checkpoint_name, "step": step}
        ledger.write(json.dumps(told).encode() + b"\n")
    return split


def predictions_on(
    config: Config, predictor: Predictor, split: Split, device: torch.device
) -> tuple[report.Predictions, float]:
    """What the network says of a split, and its mean cross-entropy there."""
    probabilities, losses = predict(predictor, split.to(device), build.normalizer(config, device))
    return report.Predictions(split.labels.numpy(), probabilities.numpy()), losses.mean().item()


def draw(
    config: Config,
    folder: Path,
    batches: Batches,
    split: Split,
    tested: report.Predictions,
    *,
    best_step: int,
) -> None:
    """The four pictures of a run; `tested` is what it says of `split`. Raises NotDrawn for those that fail, once the others are there."""
    title = f"{config.dataset.name}, {config.model.name} of {config.block.name} blocks, depth {config.depth}, width {config.width}"
    makers: dict[str, Callable[[Path], None]] = {
        "curves.png": lambda path: draw_curves(
            config, folder, path, title=title, best_step=best_step
        ),
        "confusion.png": lambda path: draw_confusion(config, tested, path, title=title),
        "mistakes.png": lambda path: draw_mistakes(config, split, tested, path, title=title),
        "samples.png": lambda path: draw_samples(config, batches, path, title=title),
    }
    # by reason
    failed: dict[str, list[str]] = {}
    for name, make in makers.items():
        try:
            make(folder / name)
        # of a library, a font, a disk: the run's figures do not depend on it
        except Exception as error:
            failed.setdefault(in_words(error), []).append(name)
    if failed:
        raise NotDrawn(
            "; ".join(
                f"{', '.join(names)} not drawn ({reason})" for reason, names in failed.items()
            )
        )


# matplotlib takes half a second to import, and may fail: so plots is imported where a picture is
# made


def draw_curves(config: Config, folder: Path, path: Path, *, title: str, best_step: int) -> None:
    """curves.png."""
    from skiplab.runs import plots

    smoothed = config.trainer.label_smoothing > 0
    plots.curves(folder / "metrics.jsonl", path, title=title, tested=best_step, smoothed=smoothed)


def draw_confusion(config: Config, tested: report.Predictions, path: Path, *, title: str) -> None:
    """confusion.png."""
    from skiplab.runs import plots

    accuracy = 100 * float((tested.predicted == tested.labels).mean())
    heading = f"{title}\n{accuracy:.2f} % on the {SPLITS[config.evaluator.split]}"
    plots.confusion(tested.confusion, config.dataset.classes, path, title=heading)


def draw_mistakes(
    config: Config, split: Split, tested: report.Predictions, path: Path, *, title: str
) -> None:
    """mistakes.png."""
    from skiplab.runs import plots

    classes, confidence = config.dataset.classes, tested.confidence
    wrong = np.flatnonzero(tested.predicted != tested.labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:32]
    captions = [
        f"{classes[tested.labels[i]]} as {classes[tested.predicted[i]]}\n{100 * confidence[i]:.1f} %"
        for i in worst
    ]
    pictures, heading = (
        split.images[torch.from_numpy(worst)].numpy(),
        f"{title}: most confident mistakes, TRUE as PREDICTED",
    )
    plots.images(pictures, captions, path, title=heading)


def draw_samples(config: Config, batches: Batches, path: Path, *, title: str) -> None:
    """samples.png."""
    from skiplab.runs import plots

    fed, labels = batches.at(0)
    fed = fed[:32].float().cpu().permute(0, 2, 3, 1) * torch.tensor(
        config.dataset.std
    ) + torch.tensor(config.dataset.mean)
    pictures = (255 * fed).round().clamp(0, 255).byte().numpy()
    captions = [config.dataset.classes[i] for i in labels[:32].tolist()]
    plots.images(pictures, captions, path, title=f"{title}: the first batch, as it is fed")


def draw_run(folder: Path) -> None:
    """`skiplab draw`: the pictures of a finished run, from its folder and the data. Raises UsageError if it is not finished."""
    if not folders.is_finished(folder):
        raise UsageError(
            f"{folder}: is not finished, and pictures are of the end; go on with: train resume={shlex.quote(str(folder))}"
        )
    config, device = provenance.load(folder), torch.device("cpu")
    name = config.evaluator.split
    try:
        with (
            regular.opened(folder / contents.PREDICTIONS) as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            tested = report.Predictions(arrays[f"{name}_labels"], arrays[f"{name}_probabilities"])
        best_step = int((folders.result_of(folder) or {})["best_step"])
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
            f"{folder}: its predictions.npz or {folders.RESULT} is damaged ({' '.join(str(error).split())[:80]})"
        ) from None
    training, held, _ = build.training_data(config, device)
    if name == "test":
        held = open_test_set(config, folder, checkpoint_name="best", step=best_step, reader="draw")
    # evaluator.split=val needs a validation set
    assert held is not None
    draw(
        config,
        folder,
        build.batches_of(config, training, device),
        held,
        tested,
        best_step=best_step,
    )


def git_commit() -> str | None:
    """The commit of the working folder, if it is one of git's."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def evaluate_run(folder: Path, *, split: str, checkpoint_name: str, device_name: str) -> str:
    """`skiplab evaluate`: the report of a run folder's checkpoint on `val` or `test`, from the folder and the data alone."""
    config = provenance.load(folder)
    # before torch computes anything
    path = provenance.weights(folder, checkpoint_name, config)
    device = devices.pick_device(device_name)
    devices.set_up(
        threads=config.trainer.threads or provenance.threads_before(folder),
        deterministic=config.trainer.deterministic,
        keep_allocator=config.trainer.keep_allocator,
    )
    model = build.network(config, device)
    step = provenance.saved_step(build.load_weights(path, model, config)) or 0
    if split == "test":
        chosen = open_test_set(
            config, folder, checkpoint_name=checkpoint_name, step=step, reader="evaluate"
        )
    else:
        _training, held, _checksum = build.training_data(config, torch.device("cpu"))
        if held is None:
            raise UsageError(
                f"{folder}: the run has no validation set (val_fraction=0); take --split test"
            )
        chosen = held
    tested, loss = predictions_on(config, build.predictor_of(config, model, device), chosen, device)
    found = report.metrics(tested, config.dataset.classes, loss=loss)
    heading = heading_of(config, split, f"{checkpoint_name}, step {step:,}")
    few = few_images(len(chosen), len(config.dataset.classes)) if split == "val" else ""
    return report.text(found, heading=heading) + (f"note: {few}\n" if few else "")
