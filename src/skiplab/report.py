"""The end of a run in words and numbers: scikit-learn's classification report, calibration, interval, result.json."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15  # of the expected calibration error


@dataclass(frozen=True)
class Predictions:
    """What the network said of one split: labels int64 (N,), probabilities float32 (N, K)."""

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image, int64 (N,)."""
        return self.probabilities.argmax(1)


def classification(predictions: Predictions, classes: Sequence[str], **options: Any) -> Any:
    """scikit-learn's classification report over all classes, also those that the split lacks or that are never predicted."""
    from sklearn.metrics import classification_report  # 1.5 s to import: once, at the end of a run

    names: dict[str, Any] = {"labels": range(len(classes)), "target_names": list(classes), "zero_division": 0}
    return classification_report(predictions.labels, predictions.predicted, **names, **options)


def metrics(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Every figure of the report: accuracy with its 95 % interval, loss, calibration, F1, top-5 above ten classes, per class.

    A class that the split does not hold, or that is never predicted, scores 0 with a support that says so.
    """
    labels, probabilities, predicted = predictions.labels, predictions.probabilities, predictions.predicted
    rows: dict[str, Any] = classification(predictions, classes, output_dict=True)
    correct = int((predicted == labels).sum())
    low, high = wilson_interval(correct, len(labels))
    found = {
        "images": len(labels),
        "accuracy": correct / len(labels),
        "accuracy_95": [low, high],
        "loss": cross_entropy(labels, probabilities),
        "expected_calibration_error": calibration_error(labels, probabilities),
        "f1_macro": float(rows["macro avg"]["f1-score"]),
        "f1_weighted": float(rows["weighted avg"]["f1-score"]),
    }
    if len(classes) > 10:
        top5 = np.argpartition(probabilities, -5, axis=1)[:, -5:]
        found["top5_accuracy"] = float((top5 == labels[:, np.newaxis]).any(1).mean())
    per_class = {
        name: {
            "precision": float(rows[name]["precision"]),
            "recall": float(rows[name]["recall"]),
            "f1": float(rows[name]["f1-score"]),
            "support": int(rows[name]["support"]),
        }
        for name in classes
    }
    return found | {"classes": per_class}


def text(predictions: Predictions, classes: Sequence[str], found: dict[str, Any], *, heading: str) -> str:
    """report.txt: the classification report and the figures below it; nothing of clock, machine or history."""
    table: str = classification(predictions, classes, digits=4)
    low, high = found["accuracy_95"]
    lines = [
        heading,
        "",
        table,
        f"accuracy {100 * found['accuracy']:.2f} %, 95 % interval {100 * low:.2f} to {100 * high:.2f} % ({found['images']} images)",
        f"loss {found['loss']:.4f}, expected calibration error {100 * found['expected_calibration_error']:.2f} %, "
        f"F1 macro {found['f1_macro']:.4f}, weighted {found['f1_weighted']:.4f}",
    ]
    if "top5_accuracy" in found:
        lines.append(f"top-5 accuracy {100 * found['top5_accuracy']:.2f} %")
    return "\n".join(lines) + "\n"


def cross_entropy(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """Mean negative log probability of the true class, in nats."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean())


def calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """Expected calibration error: sum over bins of (n / N) |accuracy - confidence| (Guo et al. 2017), 15 bins of equal width."""
    confidence = probabilities.max(1).astype(np.float64)
    correct = (probabilities.argmax(1) == labels).astype(np.float64)
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, correct, NUM_BINS) - np.bincount(bins, confidence, NUM_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def wilson_interval(successes: int, trials: int, *, z: float = 1.959963984540054) -> tuple[float, float]:
    """The interval that holds the true rate with 95 % confidence (Wilson 1927), defined at 0 and at all successes too."""
    rate, shrink = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    margin = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / shrink
    return max(0.0, min(rate, centre - margin)), min(1.0, max(rate, centre + margin))  # rounding must not exclude the rate
