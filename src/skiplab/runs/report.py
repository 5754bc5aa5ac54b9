"""The end of a run in words and numbers: the classification report as scikit-learn writes it, calibration, interval, result.json.

All of it comes from one pass over the predictions and the confusion matrix; tests hold it to
scikit-learn on the raw predictions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# of the expected calibration error
NUM_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """What the network said of one split: labels int64 (N,), probabilities float32 (N, K)."""

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image, int64 (N,)."""
        return self.probabilities.argmax(1)

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """The probability of that class, float32 (N,)."""
        return self.probabilities[np.arange(len(self.labels)), self.predicted]

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts, int64 (K, K): rows true classes, columns predictions."""
        num_classes = self.probabilities.shape[1]
        return np.bincount(
            self.labels * num_classes + self.predicted, minlength=num_classes**2
        ).reshape(num_classes, num_classes)


def metrics(predictions: Predictions, classes: Sequence[str], *, loss: float) -> dict[str, Any]:
    """Every figure of the report: accuracy with its 95 % interval, loss, calibration, F1, top-5 above ten classes, per class.

    `loss`: the mean cross-entropy, which probabilities in float32 are too coarse for.

    A class that the split does not hold, or that is never predicted, scores 0 with a support that
    says so.
    """
    labels, confusion = predictions.labels, predictions.confusion
    hits, support, chosen = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision, recall, f1 = (
        ratio(hits, chosen),
        ratio(hits, support),
        ratio(2 * hits, support + chosen),
    )
    correct = int(hits.sum())
    low, high = wilson_interval(correct, len(labels))
    found = {
        "images": len(labels),
        "accuracy": correct / len(labels),
        "accuracy_95": [low, high],
        "loss": loss,
        "expected_calibration_error": calibration_error(predictions),
        "f1_macro": float(f1.mean()),
        "f1_weighted": float(np.average(f1, weights=support)),
    }
    if len(classes) > 10:
        found["top5_accuracy"] = top_accuracy(labels, predictions.probabilities, k=5)
    columns = (precision.tolist(), recall.tolist(), f1.tolist(), support.tolist())
    names = ("precision", "recall", "f1", "support")
    return found | {
        "classes": {
            name: dict(zip(names, row, strict=True))
            for name, *row in zip(classes, *columns, strict=True)
        }
    }


def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, and 0 where there is nothing to be a part of."""
    return part / np.maximum(whole, 1)


def text(found: dict[str, Any], *, heading: str) -> str:
    """report.txt: the classification report and the figures below it; nothing of clock, machine or history."""
    low, high = found["accuracy_95"]
    lines = [
        heading,
        "",
        table(found),
        f"accuracy {100 * found['accuracy']:.2f} %, 95 % interval {100 * low:.2f} to {100 * high:.2f} % ({found['images']} images)",
        f"loss {found['loss']:.4f}, expected calibration error {100 * found['expected_calibration_error']:.2f} %, "
        f"F1 macro {found['f1_macro']:.4f}, weighted {found['f1_weighted']:.4f}",
    ]
    if "top5_accuracy" in found:
        lines.append(f"top-5 accuracy {100 * found['top5_accuracy']:.2f} %")
    return "\n".join(lines) + "\n"


def table(found: dict[str, Any]) -> str:
    """scikit-learn's classification_report of these figures with four digits, to the character, without importing it."""
    rows: dict[str, dict[str, Any]] = found["classes"]
    width = max(map(len, [*rows, "weighted avg"]))
    lines = [f"{'':>{width}}  {'precision':>9} {'recall':>9} {'f1-score':>9} {'support':>9}", ""]
    lines += [
        f"{name:>{width}}  {row['precision']:>9.4f} {row['recall']:>9.4f} {row['f1']:>9.4f} {row['support']:>9}"
        for name, row in rows.items()
    ]
    lines += [
        "",
        f"{'accuracy':>{width}}  {'':>9} {'':>9} {found['accuracy']:>9.4f} {found['images']:>9}",
    ]
    support = [row["support"] for row in rows.values()]
    for name, weights in (("macro avg", None), ("weighted avg", support)):
        means = [
            np.average([row[key] for row in rows.values()], weights=weights)
            for key in ("precision", "recall", "f1")
        ]
        lines.append(
            f"{name:>{width}}  {' '.join(f'{mean:>9.4f}' for mean in means)} {found['images']:>9}"
        )
    return "\n".join(lines) + "\n"


def calibration_error(predictions: Predictions) -> float:
    """Expected calibration error: sum over bins of (n / N) |accuracy - confidence| (Guo et al. 2017), 15 bins of equal width."""
    confidence = predictions.confidence.astype(np.float64)
    correct = predictions.predicted == predictions.labels
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, correct, NUM_BINS) - np.bincount(bins, confidence, NUM_BINS)
    return float(np.abs(gaps).sum() / len(predictions.labels))


def top_accuracy(labels: NDArray[np.int64], probabilities: NDArray[np.float32], *, k: int) -> float:
    """Share of the images whose true class is among the k most probable; of equal ones the later counts first, as in scikit-learn."""
    truth = probabilities[np.arange(len(labels)), labels][:, np.newaxis]
    is_later = np.arange(probabilities.shape[1]) > labels[:, np.newaxis]
    ahead = (probabilities > truth) | ((probabilities == truth) & is_later)
    return float((ahead.sum(1) < k).mean())


def wilson_interval(
    successes: int, trials: int, *, z: float = 1.959963984540054
) -> tuple[float, float]:
    """The interval that holds the true rate with 95 % confidence (Wilson 1927), defined at 0 and at all successes too."""
    rate, shrink = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    margin = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / shrink
    # rounding must not exclude the rate
    return max(0.0, min(rate, centre - margin)), min(1.0, max(rate, centre + margin))
