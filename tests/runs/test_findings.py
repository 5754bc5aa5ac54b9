"""What stands out in a run: each sentence where its rule applies, silence where it does not."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import SMALL, Cli
from skiplab.runs import findings, report
from skiplab.runs.findings import Row


def curve(
    *shares: float, losses: tuple[float, ...] = (), train: tuple[float, ...] = ()
) -> list[Row]:
    """Rows of one evaluation per epoch, ten steps each."""
    return [
        {
            "step": 10 * (i + 1),
            "epoch": float(i + 1),
            "val_accuracy": share,
            "val_loss": losses[i] if losses else 1 - share,
            "train_accuracy": train[i] if train else share,
        }
        for i, share in enumerate(shares)
    ]


def of_curve(rows: list[Row], *, best: int, num_held: int = 1000) -> list[str]:
    return list(findings.on_training(rows, best_step=best, num_held=num_held))


def predicted(confusion: list[list[int]]) -> tuple[dict[str, Any], np.ndarray]:
    """The report's figures of predictions that make this confusion matrix, by way of the report."""
    counts = np.array(confusion)
    size = len(counts)
    labels = np.repeat(np.arange(size), counts.sum(1))
    said = np.concatenate([np.repeat(np.arange(size), row) for row in counts])
    predictions = report.Predictions(labels, np.eye(size, dtype=np.float32)[said])
    names = ["cat", "dog", "elk", "fox", "gnu"][:size]
    assert (predictions.confusion == counts).all()
    return report.metrics(predictions, names, loss=1.0), predictions.confusion


def on(confusion: list[list[int]]) -> list[str]:
    return findings.of_split(*predicted(confusion))


EVEN = [[90, 4, 4, 2], [4, 90, 3, 3], [4, 3, 90, 3], [3, 4, 3, 90]]


# --------------------------------------------------------------------------------------------------
# the chosen epoch


def test_the_chosen_epoch_is_told_with_what_the_end_would_have_given() -> None:
    assert of_curve(curve(0.5, 0.9, 0.8), best=20) == [
        "epoch 2 of 3 was the best on validation: 90.00 %, against 80.00 % at the end"
    ]
    assert of_curve(curve(0.5, 0.8, 0.9), best=30) == [
        "the last epoch, 3, was the best on validation: 90.00 %, against 80.00 % before"
    ]
    assert of_curve(curve(0.5, 0.8, 0.8), best=20) == [
        "epoch 2 of 3 was the best on validation: 80.00 %, as at the end, where the loss was larger"
    ]
    assert of_curve(curve(0.8, 0.7, 0.8), best=30) == [
        "the last epoch, 3, was the best on validation: 80.00 %, as before, where the loss was "
        "larger"
    ]
    assert of_curve(curve(0.5), best=10) == [
        "the only evaluation, at epoch 1, has 50.00 % on validation"
    ]


def test_without_validation_or_rows_the_curve_is_silent() -> None:
    assert of_curve([], best=10) == []
    assert of_curve(curve(0.5, 0.6), best=15) == []


# --------------------------------------------------------------------------------------------------
# improving to the end


def test_a_run_that_still_improves_says_by_how_much() -> None:
    said = of_curve(curve(0.3, 0.4, 0.5, 0.6, 0.7, 0.8), best=60)
    assert said[1] == (
        "validation was still improving: 75.00 % on average over the last 2 evaluations, "
        "55.00 % over those before; a longer run may gain more"
    )


def test_a_rise_within_chance_is_no_improvement() -> None:
    """One standard error decides: of 0.75 on 100 images, 4.3 points."""
    error = math.sqrt(0.75 * 0.25 / 100)
    for rise, is_told in ((0.9 * error, False), (1.2 * error, True)):
        rows = curve(0.7, 0.7, 0.75 - rise, 0.75 - rise, 0.75, 0.75)
        assert (len(of_curve(rows, best=50, num_held=100)) == 2) is is_told


def test_a_short_curve_and_a_rising_loss_are_no_improvement() -> None:
    assert len(of_curve(curve(0.3, 0.4, 0.5, 0.6, 0.7), best=50)) == 1
    losses = (0.9, 0.8, 0.5, 0.5, 0.52, 0.52)
    assert len(of_curve(curve(0.3, 0.4, 0.5, 0.6, 0.7, 0.8, losses=losses), best=60)) == 1


# --------------------------------------------------------------------------------------------------
# training above validation


def test_training_far_above_validation_is_told() -> None:
    shares, train = (0.7, 0.8, 0.8), (0.8, 0.99, 1.0)
    assert of_curve(curve(*shares, train=train), best=20)[1] == (
        "training was 19.0 points above validation at that epoch (99.00 %): "
        "the network fits its training images best"
    )


@pytest.mark.parametrize(("gap", "num_held"), [(0.04, 10_000), (0.07, 100), (-0.2, 1000)])
def test_a_small_gap_is_not_told(gap: float, num_held: int) -> None:
    """Less than five points, or than two standard errors (8 points of 0.8 on 100 images)."""
    rows = curve(0.7, 0.8, 0.8, train=(0.7, 0.8 + gap, 0.8))
    assert len(of_curve(rows, best=20, num_held=num_held)) == 1


def test_a_validation_loss_that_turned_is_told() -> None:
    losses = (0.9, 0.5, 0.4, 0.5, 0.6, 0.6, 0.7, 0.7, 0.7)
    assert of_curve(curve(*[0.8] * 9, losses=losses), best=30)[1] == (
        "the validation loss was least at epoch 3, 0.4000, "
        "and 0.7000 on average over the last 3 evaluations"
    )
    for calm in (
        (0.9, 0.5, 0.4, 0.4, 0.4, 0.4, 0.42, 0.42, 0.42),
        (0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.4, 0.7),
        (0.02, 0.01, 0.01, 0.01, 0.01, 0.01, 0.04, 0.04, 0.04),
    ):
        assert len(of_curve(curve(*[0.8] * 9, losses=calm), best=30)) == 1


# --------------------------------------------------------------------------------------------------
# predictions


def test_even_errors_are_not_told() -> None:
    assert on(EVEN) == [
        "most confused: cat and dog, 8 of 40 errors "
        "(4 times cat is taken for dog, 4 times the other way round)"
    ]
    few = [[99, 1, 0, 0], [0, 99, 1, 0], [0, 0, 99, 1], [1, 0, 0, 99]]
    assert on(few) == []


def test_a_class_that_fails_is_told() -> None:
    rows = [[95, 5, 0, 0], [5, 95, 0, 0], [0, 0, 100, 0], [20, 20, 10, 50]]
    assert on(rows)[0] == "fox is found least: 50.00 % of its 100 images, against 85.00 % of all"


def test_a_class_of_a_few_images_fails_by_chance() -> None:
    """Of 9 images none is told, and of 12 the interval decides: 8 of 12 reach up to 86 %."""
    for row in ([5, 0, 4], [2, 2, 8]):
        assert on([[85, 5, 10], [5, 85, 10], row])[0].startswith("most confused: ")


def test_the_pair_that_is_confused_most_is_told_with_both_directions() -> None:
    rows = [[88, 2, 5, 5], [12, 85, 2, 1], [2, 2, 90, 6], [3, 3, 2, 92]]
    assert on(rows) == [
        "most confused: dog and cat, 14 of 45 errors "
        "(12 times dog is taken for cat, 2 times the other way round)"
    ]


def test_two_classes_have_one_pair_only() -> None:
    assert on([[90, 10], [12, 88]]) == []


def test_a_network_that_says_one_class_is_told_so() -> None:
    assert on([[0, 20, 0], [0, 30, 0], [0, 20, 0]]) == [
        "an accuracy of 42.86 % is no better than always saying dog, the most frequent class "
        "(42.86 %)"
    ]
    assert on([[0, 20], [0, 20]]) == [
        "an accuracy of 50.00 % is no better than always saying the same class (50.00 %)"
    ]


def test_classes_that_are_never_predicted_are_told() -> None:
    rows = [[90, 5, 0, 0], [5, 90, 0, 0], [20, 10, 0, 0], [2, 1, 0, 0]]
    assert on(rows) == ["never predicted: elk (30 images)"]
    rows = [[900, 0, 0, 0, 0], *([50, 0, 0, 0, 0] for _ in range(4))]
    rows[1] = [0, 300, 0, 0, 0]
    rows[0][0] = 200
    assert on(rows) == ["never predicted: elk, fox, gnu (150 images)"]


def test_a_class_without_images_is_no_failure() -> None:
    assert on([[95, 1, 0], [1, 95, 0], [0, 0, 0]]) == []


# --------------------------------------------------------------------------------------------------
# a run


def test_a_run_has_three_sentences_at_most() -> None:
    rows = [[95, 5, 0, 0], [5, 95, 0, 0], [0, 0, 100, 0], [20, 20, 10, 50]]
    said = findings.of_run(
        curve(0.3, 0.4, 0.5, 0.6, 0.7, 0.8), *predicted(rows), best_step=60, num_held=1000
    )
    assert [line.split()[0] for line in said] == ["the", "fox", "validation"]


def test_rows_that_are_damaged_are_left_out(tmp_path: Path) -> None:
    rows = curve(0.5, 0.6)
    content = "\n".join(map(json.dumps, rows)) + '\n{"epoch": 3\n{"epoch": 4}\n["epoch"]\n'
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n' + content)
    assert findings.evaluations(tmp_path) == rows
    assert findings.evaluations(tmp_path / "none") == []


def test_the_run_and_evaluate_say_the_same(call: Cli) -> None:
    code, out, _ = call(*SMALL, "out=run")
    assert code == 0
    code, text, _ = call("evaluate", "run", "--json", command="skiplab")
    assert code == 0
    said = json.loads(text)["findings"]
    assert 1 <= len(said) <= findings.MOST
    assert "\n".join(["", "", *said, "", "training took "]) in out
    code, text, _ = call("evaluate", "run", command="skiplab")
    assert text.rstrip().endswith("\n\n" + "\n".join(said))
    # So does the command of a finished run, and a damaged folder says nothing.
    code, text, _ = call("resume=run")
    assert text.endswith("\n\n" + "\n".join(said) + "\n")
    Path("run/predictions.npz").write_bytes(Path("run/predictions.npz").read_bytes()[:-100])
    code, text, _ = call("resume=run")
    assert (code, said[0] in text) == (0, False)
    # What is said of the epoch is of the best weights only.
    code, text, _ = call("evaluate", "run", "--checkpoint", "last", command="skiplab")
    assert "on validation" not in text.partition("\nloss ")[2]
