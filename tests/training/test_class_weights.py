"""Class weights: the loss is torch's weighted mean over the whole batch, however it is cut."""

import copy
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F

from datafiles import refusal
from helpers import Cli, compose, on_cpu
from sessions import assert_same_run, sit, sit_until
from skiplab.machine.ranks import Ranks
from skiplab.run import prepare
from skiplab.runs.log import Log
from skiplab.training.losses import Loss, balanced_weights
from skiplab.training.trainer import Trainer

SMALL = (
    "depth=1",
    "width=8",
    "norm=none",
    "model.dropout=0.0",
    "batch_size=250",
    "trainer.threads=1",
    "pictures=never",
)
# Far from equal, so that a mean of means would differ.
WEIGHTS = torch.linspace(0.1, 4, 10)


@contextmanager
def trainer_of(folder: Path, *texts: str, loss: Loss | None = None) -> Iterator[Trainer]:
    """Prepare a run, and let it minimise `loss`."""
    folder.mkdir(parents=True)
    with closing(Log(folder, console=False)) as log:
        trainer, _ = prepare(compose(*SMALL, *texts), on_cpu(folder, log))
        trainer.step.loss = loss or trainer.step.loss
        if trainer.step.selection.proxy is not None:
            trainer.step.selection.proxy.loss = trainer.step.loss
        trainer.step.model.train()
        yield trainer


def gradients_of(model: nn.Module) -> list[Tensor]:
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) == len(list(model.parameters()))
    return found


def by_torch(trainer: Trainer, loss: Loss, step: int) -> tuple[Tensor, list[Tensor]]:
    """The loss of a step's whole batch by torch's own words, and its gradients."""
    images, labels = trainer.step.batches.at(step, chosen=trainer.step.selection.at(step))
    model = copy.deepcopy(trainer.step.model)
    found = F.cross_entropy(
        model(images),
        labels,
        weight=loss.class_weights,
        label_smoothing=loss.smoothing,
        reduction="mean",
    )
    found.backward()
    return found.detach(), gradients_of(model)


# --------------------------------------------------------------------------------------------------
# The weights


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_balanced_weights_are_scikit_learns(counts: list[int], order: Any) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    order.shuffle(labels)
    classes = np.arange(len(counts))
    expected = compute_class_weight("balanced", classes=classes, y=np.array(labels))
    found = balanced_weights(torch.tensor(labels), tuple(map(str, classes)))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    # An image has weight 1 on average.
    assert found[torch.tensor(labels)].mean().item() == pytest.approx(1, rel=1e-5)


def test_a_class_without_training_images_has_no_weight() -> None:
    assert refusal(lambda: balanced_weights(torch.tensor([0, 0, 2]), ("a", "b", "c"))) == (
        "trainer.class_weights=balanced: class 'b' has no training image; "
        "take trainer.class_weights=none"
    )


def test_the_weights_are_of_the_images_that_are_used(tmp_path: Path) -> None:
    with trainer_of(tmp_path / "run", "trainer.class_weights=balanced") as trainer:
        labels = trainer.evaluator.training.labels
        expected = compute_class_weight("balanced", classes=np.arange(10), y=labels.numpy())
        weights = trainer.step.loss.class_weights
        assert weights is not None
        np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)
    texts = ("trainer.class_weights=balanced", "dataset.per_class=30")
    with trainer_of(tmp_path / "part", *texts) as trainer:
        assert trainer.step.loss.class_weights is not None
        assert torch.equal(trainer.step.loss.class_weights, torch.ones(10))


# --------------------------------------------------------------------------------------------------
# The step


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_minimises_torchs_weighted_mean_over_the_whole_batch(
    accumulate: int, smoothing: float, tmp_path: Path
) -> None:
    loss = Loss(smoothing, WEIGHTS)
    texts = (f"trainer.accumulate={accumulate}", "trainer.log_every=9")
    with trainer_of(tmp_path / "run", *texts, loss=loss) as trainer:
        trainer.step.losses.is_plain = False
        expected, gradients = by_torch(trainer, loss, 2)
        plain, _ = by_torch(trainer, Loss(), 2)
        trainer.step.losses.begin(counts=True)
        trainer.step.losses.end(lr=0.1, num_images=trainer.step.add_gradients(2))
        (step,) = trainer.step.losses.read(trainer.context.ranks)
        for ours, theirs in zip(gradients_of(trainer.step.model), gradients, strict=True):
            torch.testing.assert_close(ours, theirs)
        assert step.loss == pytest.approx(expected.item(), rel=1e-5)
        assert step.plain_loss == pytest.approx(plain.item(), rel=1e-5)


class OneOfTwo(Ranks):
    """One of two ranks, alone: its gradients and losses still wait for the mean."""

    def __init__(self, rank: int):
        self.rank = rank

    def part_of(self, num_images: int) -> tuple[int, int, int]:
        return self.rank, 2, 2


def test_the_mean_over_two_ranks_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    loss, found = Loss(0.1, WEIGHTS), []
    for rank in (0, 1):
        with trainer_of(tmp_path / f"{rank}", "trainer.accumulate=3", loss=loss) as trainer:
            expected, gradients = by_torch(trainer, loss, 1)
            trainer.step.ranks = OneOfTwo(rank)
            trainer.step.add_gradients(1)
            found.append((trainer.step.losses.losses[0], gradients_of(trainer.step.model)))
    (one, ours), (two, others) = found
    torch.testing.assert_close((one + two) / 2, expected)
    for left, right, whole in zip(ours, others, gradients, strict=True):
        torch.testing.assert_close((left + right) / 2, whole)


def test_bf16_weights_the_loss_in_float32(tmp_path: Path) -> None:
    loss = Loss(0.0, WEIGHTS)
    with trainer_of(tmp_path / "run", "trainer.amp=bf16", loss=loss) as trainer:
        images, labels = trainer.step.batches.at(0)
        with trainer.step.autocast:
            logits = trainer.step.model(images)
        assert logits.dtype == torch.bfloat16
        expected = F.cross_entropy(logits.float(), labels, weight=WEIGHTS)
        trainer.step.add_gradients(0)
        torch.testing.assert_close(trainer.step.losses.losses[0], expected.detach())


SELECT = ("trainer.select=0.2", "trainer.drop_last=true")


def test_selection_chooses_by_the_weighted_loss_and_its_mean_is_over_the_chosen(
    tmp_path: Path,
) -> None:
    loss = Loss(0.1, WEIGHTS)
    with trainer_of(tmp_path / "run", *SELECT, loss=loss) as trainer:
        proxy = trainer.step.selection.proxy
        assert proxy is not None
        proxy.optimizer.zero_grad = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
        model = copy.deepcopy(proxy.model)
        images, labels = trainer.step.batches.at(0)
        losses = F.cross_entropy(
            model(images), labels, weight=WEIGHTS, label_smoothing=0.1, reduction="none"
        )
        hardest = losses.argsort(descending=True)[:50]
        assert set(proxy.hardest(0).tolist()) == set(hardest.tolist())
        F.cross_entropy(
            model(images)[hardest], labels[hardest], weight=WEIGHTS, label_smoothing=0.1
        ).backward()
        for ours, theirs in zip(gradients_of(proxy.model), gradients_of(model), strict=True):
            torch.testing.assert_close(ours, theirs)
        trainer.step.selection.prepare(lambda: None)
        _, gradients = by_torch(trainer, loss, 3)
        assert trainer.step.add_gradients(3) == 50
        for ours, theirs in zip(gradients_of(trainer.step.model), gradients, strict=True):
            torch.testing.assert_close(ours, theirs)


# --------------------------------------------------------------------------------------------------
# The run


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_what_a_run_records(tmp_path: Path, call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train_loss` is what is minimised; `train_plain_loss` and `val_loss` are unweighted."""
    # A wide terminal has a column of either.
    monkeypatch.setenv("COLUMNS", "120")
    texts = (*SMALL, "trainer.class_weights=balanced", "trainer.limit_steps=1")
    code, out, err = call(*texts, "out=run")
    assert (code, err) == (0, "")
    row = rows_of(Path("run"))[-1]
    with trainer_of(tmp_path / "again", "trainer.class_weights=balanced") as trainer:
        loss = trainer.step.loss
        weighted, _ = by_torch(trainer, loss, 0)
        plain, _ = by_torch(trainer, Loss(), 0)
        assert row["train_loss"] == pytest.approx(weighted.item(), rel=1e-5)
        assert row["train_plain_loss"] == pytest.approx(plain.item(), rel=1e-5)
        heading, line = out.partition("\nepoch ")[2].splitlines()[:2]
        assert "train loss  weighted accuracy" in heading
        assert f"{plain:.4f}    {weighted:.4f}" in line
        trainer.step.update(0)
        held = trainer.evaluator.validation
        assert held is not None
        images = trainer.step.batches.normalize(held.images)
        validation = F.cross_entropy(trainer.step.model.eval()(images), held.labels)
        assert row["val_loss"] == pytest.approx(validation.item(), rel=1e-4)


def test_resumed_equals_straight(tmp_path: Path) -> None:
    config = compose(
        *SMALL,
        "epochs=2",
        "trainer.class_weights=balanced",
        "trainer.label_smoothing=0.1",
        "trainer.accumulate=3",
        *SELECT,
    )
    sit(config, tmp_path / "straight")
    for step in (3, 6):
        sit_until(config, tmp_path / "cut", step)
    sit(config, tmp_path / "cut")
    assert_same_run(tmp_path / "straight", tmp_path / "cut")


@pytest.mark.slow
def test_a_compiled_run_weights_as_an_eager_one(tmp_path: Path) -> None:
    """The same run to rounding, and equal to itself to the bit after a stop."""
    texts = (*SMALL, "epochs=1", "trainer.class_weights=balanced")
    compiled = compose(*texts, "trainer.compile=true")
    sit(compiled, tmp_path / "straight")
    sit_until(compiled, tmp_path / "cut", 3)
    sit(compiled, tmp_path / "cut")
    assert_same_run(tmp_path / "straight", tmp_path / "cut")
    sit(compose(*texts), tmp_path / "eager")
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("straight", "eager")
    )
    assert [row["loss"] for row in ours if "loss" in row] == pytest.approx(
        [row["loss"] for row in theirs if "loss" in row], rel=1e-4
    )
