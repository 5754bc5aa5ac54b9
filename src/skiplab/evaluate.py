"""The report of a run's weights on a split, and the seal of the test set."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skiplab import build, provenance, regular
from skiplab.config import rules
from skiplab.config.schema import Config
from skiplab.data.splits import Split
from skiplab.describe import name_network, note_few_images
from skiplab.errors import FolderError, UsageError
from skiplab.machine import devices
from skiplab.runs import contents, findings, report
from skiplab.trained import Trained, open_trained
from skiplab.training.evaluation import Predictor, predict
from skiplab.words import now

SPLITS = {"test": "test set", "val": "validation set"}


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint of a run does on a split."""

    step: int
    # The device computed on, as torch names it.
    device: str
    # The figures of `report.metrics`.
    figures: dict[str, Any]
    # The report, with line ends.
    text: str
    # What stands out, in sentences.
    findings: list[str]


def evaluate_run(
    folder: Path,
    *,
    split: str,
    checkpoint_name: str,
    device_name: str,
    trust_code: bool = False,
) -> Evaluation:
    """Evaluate a run folder's checkpoint, from the folder and the data alone.

    `split` is val or test. Raises UsageError if there is no validation set, and as `open_trained`
    does.
    """
    network = as_evaluated(
        folder, checkpoint_name=checkpoint_name, device_name=device_name, trust_code=trust_code
    )
    config, device, step = network.config, network.device, network.step
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
    tested, loss = predictions_on(config, network.predictor, chosen, device)
    found = report.metrics(tested, config.dataset.classes, loss=loss)
    heading = heading_of(config, split, f"{checkpoint_name}, step {step:,}")
    text = report.text(found, heading=heading)
    if split == "val":
        few = note_few_images(len(chosen), len(config.dataset.classes))
        text += f"note: {few}\n" if few else ""
    if checkpoint_name == "best":
        said = findings.of_run(
            findings.evaluations(folder),
            found,
            tested.confusion,
            best_step=step,
            num_held=rules.num_held_out(config),
        )
    else:
        said = findings.of_split(found, tested.confusion)
    return Evaluation(step, str(device), found, text, said)


def as_evaluated(
    source: Path, *, checkpoint_name: str, device_name: str, trust_code: bool = False
) -> Trained:
    """Open a trained network, with this process set up as its run was: threads, determinism.

    Then the same images give the same bits as in the run's predictions.npz, on the same machine.
    """
    network = open_trained(
        source,
        checkpoint_name=checkpoint_name,
        device_name=device_name,
        trust_code=trust_code,
    )
    options, folder = network.config.trainer, network.folder
    before = None if folder is None else provenance.threads_before(folder)
    devices.set_up(
        threads=options.threads or before,
        deterministic=options.deterministic,
        keep_allocator=options.keep_allocator,
    )
    return network


def open_test_set(
    config: Config, folder: Path, *, checkpoint_name: str, step: int, reader: str
) -> Split:
    """Read the sealed test set, and record that in the folder's test_reads.jsonl.

    `reader` is the command that reads, `checkpoint_name` and `step` say which weights are tested.
    Raises FolderError, and reads nothing, if the reading cannot be recorded.
    """
    path = folder / contents.READS
    try:
        # No reading may go unrecorded, so the file is opened first.
        ledger = regular.appended(path)
    except OSError as error:
        raise FolderError(
            f"{path}: the reading cannot be recorded ({regular.why(path, error)}), "
            "so the test set stays closed"
        ) from None
    with ledger:
        split, _checksum = build.open_split(config, "test")
        entry = {"time": now(), "by": reader, "checkpoint": checkpoint_name, "step": step}
        ledger.write(json.dumps(entry).encode() + b"\n")
    return split


def predictions_on(
    config: Config, predictor: Predictor, split: Split, device: torch.device
) -> tuple[report.Predictions, float]:
    """Return the network's predictions on a split, and its mean cross-entropy there."""
    probabilities, losses = predict(predictor, split.to(device), build.normalizer(config, device))
    return report.Predictions(split.labels.numpy(), probabilities.numpy()), losses.mean().item()


def heading_of(config: Config, split: str, chosen: str) -> str:
    """Compose a report's first line: the label if there is one, the split, and which weights."""
    label = ""
    if config.name is not None:
        label = f"{' '.join(config.name.split())}: "
    changed = ""
    if config.changed:
        changed = f"; changed on the way: {provenance.in_words(config.changed)}"
    return (
        f"{label}{config.dataset.name} {SPLITS[split]}, {name_network(config)} ({chosen}){changed}"
    )
