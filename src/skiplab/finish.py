"""The end of a run: its best weights on the sealed test set, report, predictions, result.json."""

import io
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from skiplab import build, provenance
from skiplab.config import stored
from skiplab.config.schema import Config
from skiplab.data.splits import Split
from skiplab.describe import note_few_images, num_held_out
from skiplab.errors import CheckpointError, FolderError
from skiplab.evaluate import heading_of, open_test_set, predictions_on
from skiplab.machine import devices
from skiplab.pictures import End
from skiplab.runs import atomic, checkpoint, contents, findings, folders, report
from skiplab.runs.log import Log
from skiplab.runs.result import RunResult
from skiplab.training.rollback import as_changes
from skiplab.training.trainer import Trainer
from skiplab.weights import load_weights
from skiplab.words import duration, now

# The most that report.txt, result.json and the end of run.log take, in bytes, roughly.
REPORTS = 2**17


def finish(
    config: Config, trainer: Trainer, folder: Path, log: Log, checksum: str
) -> tuple[RunResult, End]:
    """Test the best weights, write report, predictions and result.json, and log the report.

    With evaluator.split=val all of it is of the validation set, and the test set is not read.
    `checksum` is the SHA-256 of the training data. Returns the content of result.json, and what the
    pictures are drawn of: they come afterwards, since they may fail. Raises CheckpointError if the
    best weights are not this run's, FolderError if the disk has no room.
    """
    # Hours have passed since the folder was checked, and the test set is read once.
    contents.check(folder)
    load_best(config, trainer, folder)
    classes = config.dataset.classes
    num_held = num_held_out(trainer)
    num_images = config.dataset.test_images + num_held
    check_room(folder, num_images=num_images, num_classes=len(classes))
    predictions: dict[str, report.Predictions] = {}
    losses: dict[str, float] = {}
    seconds: dict[str, float] = {}
    splits = splits_of(config, trainer, folder)
    for name, split in splits.items():
        began = time.monotonic()
        predictions[name], losses[name] = predictions_on(
            config, trainer.evaluator.predictor, split, trainer.context.device
        )
        seconds[name] = time.monotonic() - began
    reported = config.evaluator.split
    found = report.metrics(predictions[reported], classes, loss=losses[reported])
    chosen = describe_best(trainer)
    text = report.text(found, heading=heading_of(config, reported, chosen))
    if trainer.evaluator.validation is not None:
        few = note_few_images(num_held, len(classes))
        text += f"note: {few}\n" if few else ""
    atomic.write(folder / "report.txt", text.encode(errors="backslashreplace"))
    write_predictions(folder, predictions)
    test = found if reported == "test" else None
    result = result_of(
        config, trainer, test=test, data_sha256=checksum, test_seconds=seconds.get("test")
    )
    atomic.write(folder / folders.RESULT, result.dump())
    log.line(f"\n{text}")
    said = findings.of_run(
        findings.evaluations(folder),
        found,
        predictions[reported].confusion,
        best_step=trainer.progress.best_step,
        num_held=num_held,
    )
    log_end(trainer, said, log)
    log.line(f"run folder {folder}\n{describe_next(config, folder)}")
    return result, End(splits[reported], predictions[reported])


def log_end(trainer: Trainer, said: Sequence[str], log: Log) -> None:
    """Log what stands out in a run, and how long it took."""
    for line in said:
        log.line(line)
    if said:
        log.line("")
    speed = f"{images_per_second(trainer):,.0f} img/s"
    log.line(f"training took {duration(trainer.seconds)}, {speed}")


def load_best(config: Config, trainer: Trainer, folder: Path) -> None:
    """Load the best weights into the averaged model.

    Raises CheckpointError if they are of another run or another step than the best.
    """
    best = folder / folders.BEST
    # A run that an earlier release began may have its best weights in format 1.
    path = next(iter(checkpoint.generations(best)), best)
    best_step = trainer.progress.best_step
    facts = load_weights(path, trainer.step.average.model, config)
    if not provenance.is_of(config, facts):
        raise CheckpointError(f"{path}: of another run than {folders.CONFIG}")
    if facts.step != best_step:
        raise CheckpointError(f"{path}: of step {facts.step}, but step {best_step:,} was best")


def check_room(folder: Path, *, num_images: int, num_classes: int) -> None:
    """Raise FolderError if the disk has no room for what the end writes.

    This comes before the test set is read, since that is done once.
    """
    path = folder / f".end-room{atomic.TEMPORARY}"
    # The first term is predictions.npz before it is compressed.
    size = num_images * (4 * num_classes + 16) + REPORTS
    try:
        atomic.write(path, bytes(size))
    except FolderError as error:
        said = str(error).replace(path.name, "its report and predictions")
        raise FolderError(f"{said}; go on with: train resume={shlex.quote(str(folder))}") from None
    path.unlink()


def splits_of(config: Config, trainer: Trainer, folder: Path) -> dict[str, Split]:
    """Return the splits to evaluate, on the host: the test set unless it is sealed, validation."""
    splits: dict[str, Split] = {}
    if config.evaluator.split == "test":
        best_step = trainer.progress.best_step
        splits["test"] = open_test_set(
            config, folder, checkpoint_name="best", step=best_step, reader="train"
        )
    held = trainer.evaluator.validation
    if held is not None:
        splits["val"] = Split(held.images.cpu(), held.labels.cpu())
    return splits


def describe_best(trainer: Trainer) -> str:
    """Return which weights are tested, and why."""
    progress = trainer.progress
    if trainer.evaluator.validation is None:
        return f"no validation set: best is last, step {progress.best_step:,}"
    accuracy = 100 * progress.best_accuracy
    return f"best validation accuracy {accuracy:.2f} %, step {progress.best_step:,}"


def describe_next(config: Config, folder: Path) -> str:
    """Return the command that repeats the report, or reads the test set if that is sealed."""
    run = shlex.quote(str(folder))
    if config.evaluator.split == "test":
        return f"again from the folder alone: skiplab evaluate {run}"
    return (
        "the test set was not read; "
        f"to add the test result: train resume={run} evaluator.split=test"
    )


def write_predictions(folder: Path, predictions: dict[str, report.Predictions]) -> None:
    """Write predictions.npz: labels, predictions and probabilities of each split."""
    arrays: dict[str, np.ndarray] = {}
    for name, found in predictions.items():
        arrays[f"{name}_labels"] = found.labels
        arrays[f"{name}_predictions"] = found.predicted
        arrays[f"{name}_probabilities"] = found.probabilities
    buffer = io.BytesIO()
    # Before NumPy 2.2, savez takes allow_pickle= for the name of an array, so it is not given. None
    # of these arrays holds objects.
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    atomic.write(folder / contents.PREDICTIONS, buffer.getvalue())


def result_of(
    config: Config,
    trainer: Trainer,
    *,
    test: dict[str, Any] | None,
    data_sha256: str,
    test_seconds: float | None,
) -> RunResult:
    """Compose the content of result.json. `test` is the report on the test set."""
    progress, model = trainer.progress, trainer.step.average.model
    assert isinstance(model, nn.Sequential)
    has_validation = trainer.evaluator.validation is not None
    changes = [change.as_dict() for change in config.changed]
    return RunResult(
        state="finished",
        name=config.name,
        dataset=config.dataset.name,
        model=config.model.name,
        block=config.block.name,
        depth=config.depth,
        width=config.width,
        seed=config.seed,
        identity=stored.identity(config),
        changed=changes + as_changes(trainer.rolled_back, lr=config.optimizer.lr),
        steps=progress.step,
        epochs=progress.step / trainer.step.batches.steps_per_epoch,
        best_step=progress.best_step,
        accumulate=trainer.settings.accumulate,
        moved=trainer.moved,
        rollbacks=progress.rollbacks,
        lr_factor=progress.lr_factor,
        best_val_accuracy=progress.best_accuracy if has_validation else None,
        best_val_loss=progress.best_loss if has_validation else None,
        test=test,
        summary=asdict(build.summary_of(config, model)),
        train_seconds=trainer.seconds,
        images_per_second=images_per_second(trainer),
        git_commit=git_commit(),
        finished=now(),
        data_sha256=data_sha256,
        test_seconds=test_seconds,
        **devices.facts(trainer.context.device, processes=trainer.context.ranks.size),
    )


def images_per_second(trainer: Trainer) -> float:
    """Return the training images per second of training, over all sessions."""
    return trainer.images / max(trainer.seconds, 1e-9)


def git_commit() -> str | None:
    """Return the commit of the working folder; None if it is not one of git's."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
