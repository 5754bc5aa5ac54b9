"""A run that is stopped or killed anywhere and resumed ends bit for bit as one that is not."""

import itertools
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import Cli, compose, on_cpu
from sessions import Killed, assert_same_run, sit, sit_until
from skiplab.cli import verify
from skiplab.config import stored
from skiplab.run import prepare
from skiplab.runs import checkpoint, folders
from skiplab.runs.log import Log
from skiplab.training.progress import Progress

# 1,293 images in batches of 256: five whole ones and one of 13 per epoch, so 18 steps in 3 epochs.
SMALL = (
    "depth=1",
    "width=8",
    "batch_size=256",
    "epochs=3",
    "trainer.log_every=4",
    "trainer.threads=1",
    "trainer=default",
)
STEPS = 18
# Stops after the first step, in an epoch, exactly at the end of one and of two, and in the last.
CUTS = (1, 4, 6, 12, 17)


FEATURES = {
    "plain": (),
    "dropout": ("model.dropout=0.5",),
    "augmentation": ("augment=cutout", "augment.crop=2", "augment.cutout=3"),
    "accumulation": ("trainer.accumulate=4",),
    "average": ("trainer.ema=0.9", "trainer.ema_warmup=true"),
    "clip": ("trainer.clip=0.5", "trainer.label_smoothing=0.3"),
    "bf16": ("trainer.amp=bf16",),
    "fp16": ("trainer.amp=fp16",),
    "all": (
        "augment=cutout",
        "augment.crop=2",
        "augment.cutout=3",
        "trainer.accumulate=4",
        "trainer.ema=0.9",
        "trainer.clip=0.5",
    ),
}


# By default each feature with one optimizer, and nothing and all with both; with -m slow all of it.
QUICK = {
    *((feature, "sgd", "true") for feature in FEATURES),
    ("plain", "adam", "false"),
    ("all", "adam", "false"),
}


@pytest.mark.parametrize(
    ("feature", "optimizer", "channels_last"),
    [
        pytest.param(*each, marks=() if each in QUICK else pytest.mark.slow)
        for each in itertools.product(FEATURES, ("sgd", "adam"), ("true", "false"))
    ],
)
def test_resumed_equals_straight(
    feature: str, optimizer: str, channels_last: str, tmp_path: Path
) -> None:
    dropout = () if feature in ("dropout", "all") else ("model.dropout=0.0",)
    config = compose(
        *SMALL,
        f"optimizer={optimizer}",
        f"trainer.channels_last={channels_last}",
        *dropout,
        *FEATURES[feature],
    )
    straight = sit(config, tmp_path / "straight")
    assert straight.progress.step == STEPS
    for step in CUTS:
        sit_until(config, tmp_path / "cut", step)
    sit(config, tmp_path / "cut")
    assert_same_run(tmp_path / "straight", tmp_path / "cut")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_loss_without_label_smoothing_is_recorded_next_to_the_one_with(
    accumulate: int, tmp_path: Path
) -> None:
    small = (
        *SMALL,
        "model.dropout=0.0",
        "norm=none",
        "trainer.limit_steps=1",
        f"trainer.accumulate={accumulate}",
    )
    for smoothing in (0.0, 0.3):
        sit(compose(*small, f"trainer.label_smoothing={smoothing}"), tmp_path / f"{smoothing}")
    plain, smoothed = (rows_of(tmp_path / f"{smoothing}")[-1] for smoothing in (0.0, 0.3))
    assert "train_plain_loss" not in plain
    # Both are of the same weights and the same batch.
    assert smoothed["train_plain_loss"] == pytest.approx(plain["train_loss"], rel=1e-6)
    config = compose(*small)
    with closing(Log(tmp_path / "0.0", console=False)) as log:
        trainer, _ = prepare(config, on_cpu(tmp_path / "fresh", log))
    images, labels = trainer.step.batches.at(0)
    log_probabilities = trainer.step.model(images).detach().double().log_softmax(1)
    by_hand = -log_probabilities[torch.arange(len(labels)), labels].mean().item()
    assert smoothed["train_plain_loss"] == pytest.approx(by_hand, rel=1e-5)
    assert smoothed["train_loss"] == pytest.approx(
        0.7 * by_hand - 0.3 * log_probabilities.mean().item(), rel=1e-5
    )


def test_sums_of_a_checkpoint_without_label_smoothing_are_as_they_were() -> None:
    progress = Progress()
    progress.count(5, loss=2.0, plain_loss=2.0, num_correct=3)
    before = progress.facts()
    # Format 1 did not have the field.
    assert "plain_loss_sum" not in before
    progress.count(5, loss=2.0, plain_loss=1.0, num_correct=3)
    assert progress.facts() == before | {
        "loss_sum": 20.0,
        "plain_loss_sum": 15.0,
        "num_correct": 6,
        "num_seen": 10,
    }
    for facts in (before, progress.facts()):
        again = Progress()
        again.load(facts)
        assert again.facts() == facts
    again.load(before)
    assert again.plain_loss_sum == again.loss_sum == 10.0


def test_killed_equals_straight(tmp_path: Path) -> None:
    """It is killed without a save, also before the first one, so that steps are run again."""
    config = compose(*SMALL, "augment=standard", "augment.crop=2", "trainer.ema=0.9")
    sit(config, tmp_path / "straight")
    for step in (3, 3, 7, 11, 17):
        sit_until(config, tmp_path / "killed", step, kill=True)
    sit(config, tmp_path / "killed")
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_killed_between_best_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(*SMALL)
    sit(config, tmp_path / "straight")
    save = checkpoint.save

    def killed_save(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        if path.name == folders.LAST and facts["progress"]["step"] == 12:
            raise Killed
        save(path, tensors, facts)

    monkeypatch.setattr(checkpoint, "save", killed_save)
    with pytest.raises(Killed):
        sit(config, tmp_path / "killed")
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "killed" / folders.BEST)[1]["step"] == 12
    assert checkpoint.load(tmp_path / "killed" / folders.LAST)[1]["progress"]["step"] == 6
    # The best of step 6 is put back.
    with closing(Log(tmp_path / "killed", console=False)) as log:
        prepare(config, on_cpu(tmp_path / "killed", log))
    assert checkpoint.load(tmp_path / "killed" / folders.BEST)[1]["step"] == 6
    sit(config, tmp_path / "killed")
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_step_zero_is_saved_before_the_first_step(tmp_path: Path) -> None:
    config = compose(*SMALL)
    sit_until(config, tmp_path / "run", 1, kill=True)
    tensors, facts = checkpoint.load(tmp_path / "run" / folders.LAST)
    assert facts["progress"]["step"] == 0
    straight = sit(config, tmp_path / "straight")
    assert not torch.equal(
        tensors["model/head.2.weight"], straight.step.model.state_dict()["head.2.weight"]
    )


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_accumulation_of_four_equals_one_without_batch_norm(amp: str, tmp_path: Path) -> None:
    small = (
        *SMALL,
        "norm=none",
        "model.dropout=0.0",
        f"trainer.amp={amp}",
        "optimizer.lr=0.01",
        "epochs=1",
    )
    one = sit(compose(*small), tmp_path / "one")
    four = sit(compose(*small, "trainer.accumulate=4"), tmp_path / "four")
    tolerance = 1e-5 if amp == "off" else 2e-2
    for (name, a), b in zip(
        one.step.model.state_dict().items(), four.step.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(
            a, b, atol=tolerance, rtol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_log_and_save_intervals_change_no_number(tmp_path: Path) -> None:
    sit(compose(*SMALL), tmp_path / "one")
    sit(compose(*SMALL, "trainer.log_every=1", "trainer.save_every=0.4"), tmp_path / "other")
    tensors, other = (
        checkpoint.load(tmp_path / "one" / folders.LAST)[0],
        checkpoint.load(tmp_path / "other" / folders.LAST)[0],
    )
    assert all(torch.equal(tensors[key], other[key]) for key in tensors)
    assert (tmp_path / "one/metrics.jsonl").read_bytes() == (
        tmp_path / "other/metrics.jsonl"
    ).read_bytes()


def test_metrics_hold_every_step_once_and_training_accuracy_counts_every_image(
    tmp_path: Path,
) -> None:
    trainer = sit(compose(*SMALL, "trainer.eval_train=true"), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "val_loss" in row]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert [row["step"] for row in evaluations] == [6, 12, 18]
    sizes = [256] * 5 + [13]
    weighted = sum(row["loss"] * n for row, n in zip(steps[:6], sizes, strict=True)) / 1293
    assert evaluations[0]["train_loss"] == pytest.approx(weighted)
    assert 0 < evaluations[0]["train_accuracy"] < 1
    # Chance is 0.1. How far above it is differs between releases of torch.
    assert evaluations[-1]["train_eval_accuracy"] > 0.15
    assert trainer.images == 3 * 1293
    assert evaluations[0]["train_accuracy"] * 1293 == pytest.approx(
        round(evaluations[0]["train_accuracy"] * 1293)
    )


def test_best_is_the_best_on_validation_and_loss_breaks_ties(tmp_path: Path) -> None:
    config = compose(*SMALL, "epochs=6")
    trainer = sit(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    best = max(
        (row for row in rows if "val_loss" in row),
        key=lambda row: (row["val_accuracy"], -row["val_loss"]),
    )
    assert trainer.progress.best_step == best["step"]
    assert checkpoint.load(tmp_path / "run" / folders.BEST)[1] == {
        "network": "deepcnn of residual blocks, depth 1, width 8, on digits",
        "run": {
            "identity": stored.identity(config),
            "config": json.loads(json.dumps(stored.identity_values(config))),
        },
        "step": best["step"],
        "accuracy": best["val_accuracy"],
        "loss": best["val_loss"],
        "classes": [str(digit) for digit in range(10)],
        "channels": 1,
        "size": [8, 8],
        "mean": [0.3053],
        "std": [0.3761],
    }


def test_early_stop_counts_evaluations_without_a_better_one(tmp_path: Path) -> None:
    config = compose(*SMALL, "epochs=30", "trainer.early_stop=2", "optimizer.lr=1e-12")
    trainer = sit(config, tmp_path / "run")
    assert trainer.progress.evaluations_since_best == 2
    assert trainer.progress.step < 30 * 6
    again = sit(config, tmp_path / "run")
    assert again.progress.step == trainer.progress.step


def test_without_validation_best_is_last(tmp_path: Path) -> None:
    sit(compose(*SMALL, "val_fraction=0"), tmp_path / "run")
    best, last = (
        checkpoint.load(tmp_path / "run" / folders.BEST),
        checkpoint.load(tmp_path / "run" / folders.LAST),
    )
    assert best[1]["step"] == last[1]["progress"]["step"]
    assert all(torch.equal(tensor, last[0][f"model/{key}"]) for key, tensor in best[0].items())


@pytest.mark.slow
def test_compiled_and_eager_checkpoints_are_the_same_kind(tmp_path: Path) -> None:
    config = compose(*SMALL, "model.dropout=0.0", "trainer.compile=true")
    sit(config, tmp_path / "straight")
    sit_until(config, tmp_path / "cut", 7)
    sit(config, tmp_path / "cut")
    assert_same_run(tmp_path / "straight", tmp_path / "cut")
    eager = sit(compose(*SMALL, "model.dropout=0.0"), tmp_path / "eager")
    tensors, _ = checkpoint.load(tmp_path / "straight" / folders.LAST)
    assert {key.removeprefix("model/") for key in tensors if key.startswith("model/")} == set(
        eager.step.model.state_dict()
    )


@pytest.mark.parametrize(
    "switches",
    [(), ("optimizer=adam", "trainer.ema=0.9", "trainer.lookahead=2", "trainer.amp=bf16")],
)
def test_a_dry_run_for_a_compiler_leaves_no_trace(
    call: Cli, monkeypatch: pytest.MonkeyPatch, switches: tuple[str, ...]
) -> None:
    """Nothing is compiled here, but the dry-run steps are done, and the state is restored."""
    compiled: list[object] = []
    monkeypatch.setattr(
        "skiplab.machine.devices.compile_in_place", lambda networks, **_: compiled.extend(networks)
    )
    assert call(*SMALL, *switches, "out=straight")[0] == 0
    code, out, _ = call(*SMALL, *switches, "trainer.compile=true", "out=dry")
    assert code == 0
    assert "which are not counted as training" in out
    # With an average, its network is compiled, too.
    assert len(compiled) == (2 if switches else 1)
    assert verify.digests(Path("straight")) == verify.digests(Path("dry"))
