"""Evaluation and report against plain loops, scikit-learn and SciPy on the raw predictions."""

import getpass
import math
import platform
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn import metrics as sk
from torch import Tensor, nn
from torch.nn import functional as F

from skiplab.data.batches import Normalize
from skiplab.data.splits import Split
from skiplab.runs import report
from skiplab.runs.report import Predictions
from skiplab.training.evaluation import BATCH_SIZE, Predictor, Scores, evaluate, predict

CPU = torch.device("cpu")
SIZE, CLASSES = 4, 5
NORMALIZE = Normalize(
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), size=(SIZE, SIZE), channels_last=False, device=CPU
)


# --------------------------------------------------------------------------------------------------
# Evaluation


def split_of(num_images: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        0, 256, (num_images, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8
    )
    return Split(images, torch.randint(0, CLASSES, (num_images,), generator=generator))


def network() -> nn.Module:
    """Has all that differs between training and evaluation: BatchNorm and dropout."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(1),
        nn.Dropout(0.5),
        nn.Linear(24, CLASSES),
    )
    # The pass gives BatchNorm statistics of its own.
    body(torch.randn(16, 3, SIZE, SIZE))
    return body


def predictor_of(model: nn.Module, tta: str = "none") -> Predictor:
    return Predictor(model, autocast=torch.autocast("cpu", torch.bfloat16, enabled=False), tta=tta)


def by_hand(model: nn.Module, split: Split, tta: str) -> Tensor:
    """The logits, image by image, each normalised pixel by pixel: float32 (N, K)."""
    mean, std = (
        torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1),
        torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1),
    )
    rows = []
    with torch.no_grad():
        for image in split.images:
            # (H, W, C) -> (1, C, H, W)
            x = ((image.permute(2, 0, 1).float() / 255 - mean) / std).unsqueeze(0)
            logits = model(x)
            if tta == "flip":
                mirrored = torch.stack(
                    [x[..., SIZE - 1 - column] for column in range(SIZE)], dim=-1
                )
                logits = (logits + model(mirrored)) / 2
            rows.append(logits[0])
    return torch.stack(rows)


@pytest.mark.parametrize("tta", ["none", "flip"])
@pytest.mark.parametrize("num_images", [1, 7, BATCH_SIZE, BATCH_SIZE + 203])
def test_evaluation_is_the_plain_loop(num_images: int, tta: str):
    model, split = network(), split_of(num_images)
    scores = evaluate(predictor_of(model, tta), split, NORMALIZE, num_classes=CLASSES)
    logits = by_hand(model.eval(), split, tta)
    confusion, loss = torch.zeros(CLASSES, CLASSES, dtype=torch.int64), 0.0
    for row, label in zip(logits, split.labels.tolist(), strict=True):
        confusion[label, row.argmax()] += 1
        loss -= (row[label] - row.logsumexp(0)).item()
    assert torch.equal(scores.confusion, confusion)
    assert scores.loss == pytest.approx(loss / num_images, rel=1e-5)
    predicted = logits.argmax(1).numpy()
    assert np.array_equal(
        scores.confusion.numpy(),
        sk.confusion_matrix(split.labels.numpy(), predicted, labels=range(CLASSES)),
    )
    assert scores.accuracy == pytest.approx(
        sk.accuracy_score(split.labels.numpy(), predicted), abs=1e-15
    )
    assert scores.confusion.dtype == torch.int64


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_probabilities_are_the_plain_loops(tta: str):
    model, split = network(), split_of(BATCH_SIZE + 3)
    probabilities, losses = predict(predictor_of(model, tta), split, NORMALIZE)
    assert (probabilities.dtype, probabilities.shape) == (torch.float32, (BATCH_SIZE + 3, CLASSES))
    logits = by_hand(model.eval(), split, tta)
    torch.testing.assert_close(probabilities, logits.softmax(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        losses,
        F.cross_entropy(logits.double(), split.labels, reduction="none"),
        rtol=1e-4,
        atol=1e-6,
    )


def test_flip_is_the_mean_of_both_logits():
    model = network().eval()
    x = torch.randn(9, 3, SIZE, SIZE)
    with torch.inference_mode():
        straight, mirrored = predictor_of(model)(x), predictor_of(model)(x.flip(-1))
        assert not torch.allclose(straight, mirrored)
        assert torch.equal(predictor_of(model, "flip")(x), (straight + mirrored) / 2)
        assert torch.equal(predictor_of(model, "flip")(x), predictor_of(model, "flip")(x.flip(-1)))


def test_logits_are_float32_under_autocast():
    model = network().eval()
    x = torch.randn(9, 3, SIZE, SIZE)
    half = Predictor(
        model, autocast=torch.autocast("cpu", torch.bfloat16, enabled=True), tta="none"
    )
    with torch.inference_mode():
        logits = half(x)
        assert logits.dtype == torch.float32
        assert not torch.equal(logits, model(x))
        torch.testing.assert_close(logits, model(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_evaluation_leaves_mode_and_weights(training: bool):
    model = network().train(training)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    split = split_of(50)
    first = evaluate(predictor_of(model), split, NORMALIZE, num_classes=CLASSES)
    assert all(module.training == training for module in model.modules())
    predict(predictor_of(model), split, NORMALIZE)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    again = evaluate(predictor_of(model), split, NORMALIZE, num_classes=CLASSES)
    assert torch.equal(first.confusion, again.confusion)
    assert first.loss == again.loss


def test_accuracy_of_a_confusion_matrix():
    assert Scores(torch.tensor([[3, 1], [2, 4]]), 0.0).accuracy == 0.7


# --------------------------------------------------------------------------------------------------
# Metrics


def predictions_of(
    num_images: int, num_classes: int, *, seed: int = 0, skill: float = 2.0
) -> Predictions:
    """Random labels and softmaxed logits that lean towards them by `skill`."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, num_images)
    logits = random.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), labels] += skill
    return Predictions(labels, F.softmax(torch.from_numpy(logits), 1).float().numpy())


def certain(labels: Sequence[int], predicted: Sequence[int], num_classes: int) -> Predictions:
    """Predictions of given classes, at 0.8 each."""
    probabilities = np.full((len(labels), num_classes), 0.2 / (num_classes - 1), np.float32)
    probabilities[np.arange(len(labels)), np.asarray(predicted)] = 0.8
    return Predictions(np.asarray(labels, np.int64), probabilities)


def names(num_classes: int) -> list[str]:
    return [f"class {i}" for i in range(num_classes)]


def metrics(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """The report's figures, with the loss that float64 finds in the probabilities."""
    chosen = predictions.probabilities[
        np.arange(len(predictions.labels)), predictions.labels
    ].astype(np.float64)
    return report.metrics(predictions, classes, loss=-np.log(chosen).mean())


def check_against_sklearn(predictions: Predictions, num_classes: int) -> dict[str, Any]:
    labels, predicted, classes = (
        predictions.labels,
        predictions.probabilities.argmax(1),
        names(num_classes),
    )
    found = metrics(predictions, classes)
    close: dict[str, Any] = {"rel": 1e-12, "abs": 1e-12}
    assert found["images"] == len(labels)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted), **close)
    every: dict[str, Any] = {"labels": range(num_classes), "zero_division": 0.0}
    rows = np.array(sk.precision_recall_fscore_support(labels, predicted, average=None, **every)).T
    assert list(found["classes"]) == classes
    for name, row in zip(classes, rows, strict=True):
        assert list(found["classes"][name]) == ["precision", "recall", "f1", "support"]
        assert list(found["classes"][name].values()) == pytest.approx(row.tolist(), **close)
    assert found["f1_macro"] == pytest.approx(
        sk.f1_score(labels, predicted, average="macro", **every), **close
    )
    assert found["f1_weighted"] == pytest.approx(
        sk.f1_score(labels, predicted, average="weighted", **every), **close
    )
    probabilities = predictions.probabilities.astype(np.float64)
    assert found["loss"] == pytest.approx(
        sk.log_loss(
            labels, probabilities / probabilities.sum(1, keepdims=True), labels=range(num_classes)
        )
    )
    assert found["expected_calibration_error"] == pytest.approx(
        calibration_by_hand(labels, predictions.probabilities), **close
    )
    assert all(math.isfinite(value) for value in found.values() if isinstance(value, float))
    return found


@pytest.mark.parametrize(
    ("num_images", "num_classes"), [(1000, 2), (1000, 10), (2000, 11), (3000, 100), (40, 10)]
)
@pytest.mark.parametrize("skill", [-3.0, 0.0, 3.0])
def test_metrics_are_scikit_learns(num_images: int, num_classes: int, skill: float):
    check_against_sklearn(predictions_of(num_images, num_classes, skill=skill), num_classes)


@pytest.mark.parametrize(
    ("labels", "predicted"),
    [
        # Class 1 is absent and never predicted.
        ([0, 0, 2, 2, 0], [0, 2, 2, 2, 0]),
        # Class 1 is absent but predicted.
        ([0, 0, 2, 2, 0], [0, 1, 2, 1, 0]),
        # Class 1 is never predicted.
        ([0, 1, 2, 1], [0, 0, 2, 2]),
        # All are correct.
        ([0, 1, 2], [0, 1, 2]),
        # All are wrong.
        ([0, 1, 2], [1, 2, 0]),
        # There is one image.
        ([2], [2]),
        ([2], [0]),
    ],
)
def test_metrics_at_the_edges_are_scikit_learns(labels: list[int], predicted: list[int]):
    found = check_against_sklearn(certain(labels, predicted, 3), 3)
    supports = [found["classes"][name]["support"] for name in names(3)]
    assert supports == [labels.count(label) for label in range(3)]
    assert "top5_accuracy" not in found
    assert "class 1" in report.text(found, heading="edge")


@pytest.mark.parametrize("gap", [50.0, 87.0, 130.0, 5000.0])
def test_a_loss_is_that_of_the_logits_however_large(gap: float):
    """A probability of exp(-130) is 0 in float32.

    Its loss would be at most 87.3 nats, by the smallest number that float32 holds.
    """

    class Sure(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([gap, 0.0, 0.0]).expand(len(images), 3)

    split = Split(
        torch.zeros(BATCH_SIZE + 1, SIZE, SIZE, 3, dtype=torch.uint8),
        torch.tensor([1] * BATCH_SIZE + [0]),
    )
    probabilities, losses = predict(predictor_of(Sure()), split, NORMALIZE)
    assert losses.dtype == torch.float64
    expected = gap + math.log1p(2 * math.exp(-gap))
    assert losses[:-1].numpy() == pytest.approx(np.full(BATCH_SIZE, expected), rel=1e-12)
    assert losses.mean().item() == pytest.approx(
        evaluate(predictor_of(Sure()), split, NORMALIZE, num_classes=3).loss, rel=1e-6
    )
    found = report.metrics(
        Predictions(split.labels.numpy(), probabilities.numpy()),
        ["a", "b", "c"],
        loss=losses.mean().item(),
    )
    assert f"loss {expected * BATCH_SIZE / (BATCH_SIZE + 1):.4f}," in report.text(
        found, heading="a"
    )


@pytest.mark.parametrize("num_classes", [11, 100])
def test_top_5_is_scikit_learns_above_ten_classes(num_classes: int):
    predictions = predictions_of(500, num_classes, skill=1.0)
    found = metrics(predictions, names(num_classes))
    expected = sk.top_k_accuracy_score(
        predictions.labels, predictions.probabilities, k=5, labels=range(num_classes)
    )
    assert 0 < found["accuracy"] < expected < 1
    assert found["top5_accuracy"] == pytest.approx(expected, abs=1e-12)
    assert f"top-5 accuracy {100 * expected:.2f} %" in report.text(found, heading="a")
    assert "top5_accuracy" not in metrics(predictions_of(50, 10), names(10))


def test_top_5_of_equal_probabilities_is_scikit_learns_too():
    random = np.random.default_rng(0)
    probabilities = random.integers(0, 4, (400, 12)).astype(np.float32)
    labels = random.integers(0, 12, 400)
    expected = sk.top_k_accuracy_score(labels, probabilities, k=5, labels=range(12))
    assert report.top_accuracy(labels, probabilities, k=5) == pytest.approx(expected, abs=1e-12)


def calibration_by_hand(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    confidence, correct = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    total = 0.0
    for i in range(15):
        members = [
            j
            for j in range(len(labels))
            if i <= 15 * confidence[j] and (15 * confidence[j] < i + 1 or i == 14)
        ]
        if members:
            gap = sum(correct[j] for j in members) / len(members) - sum(
                confidence[j] for j in members
            ) / len(members)
            total += len(members) / len(labels) * abs(gap)
    return total


def test_calibration_by_hand():
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.3, 0.7]] * 2, np.float32)
    assert report.calibration_error(
        Predictions(np.array([0, 0, 0, 1, 1, 0]), probabilities)
    ) == pytest.approx((4 * 0.15 + 2 * 0.2) / 6, abs=1e-7)
    # The last bin holds 1.
    assert (
        report.calibration_error(
            Predictions(np.array([0, 0]), np.array([[1.0, 0.0]] * 2, np.float32))
        )
        == 0.0
    )


@pytest.mark.parametrize("trials", [1, 2, 10, 360, 10_000])
def test_the_interval_is_scipys(trials: int):
    for successes in sorted({0, 1, trials // 3, trials - 1, trials}):
        expected = binomtest(successes, trials).proportion_ci(
            confidence_level=0.95, method="wilson"
        )
        low, high = report.wilson_interval(successes, trials)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert 0 <= low <= successes / trials <= high <= 1
    predictions = predictions_of(trials, 3)
    found = metrics(predictions, names(3))
    assert found["accuracy_95"] == list(
        report.wilson_interval(round(found["accuracy"] * trials), trials)
    )


# --------------------------------------------------------------------------------------------------
# Text

TEXT = """\
toys, test set

              precision    recall  f1-score   support

         cat     0.5000    1.0000    0.6667         2
         dog     0.0000    0.0000    0.0000         2
   steamboat     0.0000    0.0000    0.0000         0

    accuracy                         0.5000         4
   macro avg     0.1667    0.3333    0.2222         4
weighted avg     0.2500    0.5000    0.3333         4

accuracy 50.00 %, 95 % interval 15.00 to 85.00 % (4 images)
loss 1.2629, expected calibration error 30.00 %, F1 macro 0.2222, weighted 0.3333
"""


def test_the_text_byte_for_byte():
    predictions, classes = certain([0, 0, 1, 1], [0, 0, 0, 0], 3), ["cat", "dog", "steamboat"]
    for _ in range(2):
        assert report.text(metrics(predictions, classes), heading="toys, test set") == TEXT


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    num_classes=st.integers(2, 12),
    pairs=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=60),
    name=st.text(
        st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=20
    ),
)
def test_the_table_is_scikit_learns_to_the_character(
    num_classes: int, pairs: list[tuple[int, int]], name: str
):
    # Where nothing at all is right, scikit-learn writes its counts as 1.0.
    pairs = [*pairs, (0, 0)]
    labels, predicted = (np.array(side) % num_classes for side in zip(*pairs, strict=True))
    predictions, classes = (
        certain(labels.tolist(), predicted.tolist(), num_classes),
        [name, *names(num_classes)[1:]],
    )
    every: dict[str, Any] = {
        "labels": range(num_classes),
        "target_names": classes,
        "zero_division": 0,
        "digits": 4,
    }
    assert report.table(metrics(predictions, classes)) == sk.classification_report(
        labels, predicted, **every
    )


def test_a_report_on_10_000_images_takes_less_than_a_millisecond():
    """The limit is three times that, because machines are noisy.

    scikit-learn's own report takes 5 ms for any number of images.
    """
    predictions, classes = predictions_of(10_000, 10), names(10)
    taken = []
    for _ in range(20):
        fresh = Predictions(predictions.labels, predictions.probabilities)
        began = time.thread_time()
        report.text(metrics(fresh, classes), heading="a")
        taken.append(time.thread_time() - began)
    assert min(taken) < 3e-3


def test_the_text_names_the_classes_but_neither_clock_nor_machine():
    for num_classes in (2, 10, 100):
        predictions, classes = predictions_of(700, num_classes), names(num_classes)
        found = metrics(predictions, classes)
        text = report.text(found, heading="digits test set")
        assert all(re.search(rf"^ *{name} ", text, re.MULTILINE) for name in classes)
        assert text.startswith("digits test set\n\n")
        assert text.endswith("\n")
        assert not re.search(r"\d:\d\d|\d{4}-\d\d|second|img/s", text)
        words = set(re.split(r"[^\w.-]+", text))
        assert not words & {
            platform.node(),
            platform.system(),
            platform.machine(),
            getpass.getuser(),
            torch.__version__,
        }
        copy = Predictions(predictions.labels.copy(), predictions.probabilities.copy())
        assert report.text(metrics(copy, classes), heading="digits test set") == text
