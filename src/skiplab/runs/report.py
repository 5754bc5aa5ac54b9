"""The report of a run: the classification report as scikit-learn writes it, calibration, interval.

All of it comes from one pass over the predictions and the confusion matrix. Tests compare it with
scikit-learn on the raw predictions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bins of the expected calibration error.
NUM_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """The network's output on a split: labels int64 (N,), probabilities float32 (N, K)."""

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
    """Return every figure of the report, also per class.

    They are accuracy with its 95 % interval, loss, calibration, F1, and top-5 accuracy above ten
    classes. `loss` is the mean cross-entropy, for which probabilities in float32 are too coarse.

    A class that is not in the split, or that is never predicted, scores 0; its support tells why.
    """
    labels, confusion = predictions.labels, predictions.confusion
    hits = confusion.diagonal()
    support = confusion.sum(1)
    chosen = confusion.sum(0)
    precision, recall = ratio(hits, chosen), ratio(hits, support)
    f1 = ratio(2 * hits, support + chosen)
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
    """Return part / whole, and 0 where the whole is 0."""
    return part / np.maximum(whole, 1)


def text(found: dict[str, Any], *, heading: str) -> str:
    """Compose report.txt: the classification report, and figures below it.

    It holds nothing of clock, machine or history.
    """
    low, high = found["accuracy_95"]
    lines = [
        heading,
        "",
        table(found),
        f"accuracy {100 * found['accuracy']:.2f} %, "
        f"95 % interval {100 * low:.2f} to {100 * high:.2f} % ({found['images']} images)",
        f"loss {found['loss']:.4f}, "
        f"expected calibration error {100 * found['expected_calibration_error']:.2f} %, "
        f"F1 macro {found['f1_macro']:.4f}, weighted {found['f1_weighted']:.4f}",
    ]
    if "top5_accuracy" in found:
        lines.append(f"top-5 accuracy {100 * found['top5_accuracy']:.2f} %")
    return "\n".join(lines) + "\n"


def table(found: dict[str, Any]) -> str:
    """Compose scikit-learn's classification_report with four digits, to the character.

    It does not import scikit-learn.
    """
    rows: dict[str, dict[str, Any]] = found["classes"]
    width = max(map(len, [*rows, "weighted avg"]))
    lines = [f"{'':>{width}}  {'precision':>9} {'recall':>9} {'f1-score':>9} {'support':>9}", ""]
    lines += [
        f"{name:>{width}}  {row['precision']:>9.4f} {row['recall']:>9.4f} "
        f"{row['f1']:>9.4f} {row['support']:>9}"
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
    """Return the expected calibration error (Guo et al. 2017), with 15 bins of equal width.

    It is the sum over bins of (n / N) |accuracy - confidence|.
    """
    confidence = predictions.confidence.astype(np.float64)
    correct = predictions.predicted == predictions.labels
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, correct, NUM_BINS) - np.bincount(bins, confidence, NUM_BINS)
    return float(np.abs(gaps).sum() / len(predictions.labels))


def top_accuracy(labels: NDArray[np.int64], probabilities: NDArray[np.float32], *, k: int) -> float:
    """Return the share of images whose true class is among the k most probable.

    Of equally probable classes the later comes first, as in scikit-learn.
    """
    truth = probabilities[np.arange(len(labels)), labels][:, np.newaxis]
    is_later = np.arange(probabilities.shape[1]) > labels[:, np.newaxis]
    ahead = (probabilities > truth) | ((probabilities == truth) & is_later)
    return float((ahead.sum(1) < k).mean())


def wilson_interval(
    successes: int, trials: int, *, z: float = 1.959963984540054
) -> tuple[float, float]:
    """Return the 95 % confidence interval of a rate (Wilson 1927).

    It is defined at 0 and at all successes too.
    """
    rate, shrink = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    margin = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / shrink
    # Rounding must not exclude the rate.
    return max(0.0, min(rate, centre - margin)), min(1.0, max(rate, centre + margin))
