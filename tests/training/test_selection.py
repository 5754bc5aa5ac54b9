"""Selection by proxy, against loops by hand.

What the small network chooses, and that the run trains on that only.
"""

import copy
import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import Cli, compose, on_cpu
from sessions import assert_same_run, sit, sit_until
from skiplab import build
from skiplab.errors import Diverged
from skiplab.machine.decisions import stop_with
from skiplab.run import prepare
from skiplab.runs import checkpoint, folders
from skiplab.runs.log import Log
from skiplab.training.losses import Loss
from skiplab.training.selection import EVERY
from skiplab.training.trainer import Trainer

CPU = torch.device("cpu")
SMALL = (
    "depth=1",
    "width=8",
    "batch_size=256",
    "epochs=3",
    "model.dropout=0.0",
    "augment=standard",
    "augment.crop=2",
    "trainer.threads=1",
)
SELECT = (
    "trainer.select=0.25",
    "trainer.select_width=4",
    "trainer.drop_last=true",
    "trainer.label_smoothing=0.1",
)
# 1,293 images in whole batches of 256, three epochs
STEPS = 15


def trainer_of(folder: Path, log: Log, *texts: str) -> Trainer:
    folder.mkdir()
    return prepare(compose(*SMALL, *SELECT, *texts), on_cpu(folder, log))[0]


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    with closing(Log(tmp_path, console=False)) as log:
        yield trainer_of(tmp_path / "run", log)


def by_hand(model: nn.Module, trainer: Trainer, step: int) -> Tensor:
    """The losses of a step's batch in training mode, one per image."""
    images, labels = trainer.step.batches.at(step)
    return F.cross_entropy(model.train()(images), labels, label_smoothing=0.1, reduction="none")


def test_the_proxy_is_trained_in_every_fourth_step_on_the_hardest_images_and_chooses_them_in_all(
    trainer: Trainer,
) -> None:
    """By torch's own SGD, from the definition."""
    proxy = trainer.step.selection.proxy
    assert proxy is not None
    model = copy.deepcopy(proxy.model)
    groups = [
        {"params": [p for p in model.parameters() if (p.ndim > 1) == is_weight]}
        for is_weight in (True, False)
    ]
    sgd = torch.optim.SGD(
        [groups[0] | {"weight_decay": 5e-4}, groups[1]], lr=1.0, momentum=0.9, nesterov=True
    )
    expected = []
    for step in range(STEPS):
        losses = by_hand(model, trainer, step)
        hardest = losses.detach().argsort(descending=True)[:64]
        expected.append(hardest.sort().values)
        if step % EVERY == 0:
            for group in sgd.param_groups:
                group["lr"] = trainer.step.learning_rate(step)
            sgd.zero_grad()
            losses[hardest].mean().backward()
            sgd.step()
    assert trainer.step.selection.prepare(lambda: None) is not None
    assert trainer.step.selection.chosen is not None
    assert torch.equal(trainer.step.selection.chosen.long(), torch.stack(expected))
    for ours, plain in zip(proxy.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, plain)
    assert sum(p.numel() for p in model.parameters()) < sum(
        p.numel() for p in trainer.step.model.parameters()
    )


def test_the_run_trains_on_the_chosen_images_only(trainer: Trainer) -> None:
    trainer.step.selection.prepare(lambda: None)
    assert trainer.step.selection.chosen is not None
    model = copy.deepcopy(trainer.step.model)
    images, labels = trainer.step.batches.at(7)
    chosen = trainer.step.selection.chosen[7].long()
    F.cross_entropy(model.train()(images[chosen]), labels[chosen], label_smoothing=0.1).backward()
    trainer.step.model.train()
    assert trainer.step.add_gradients(7) == 64
    for ours, plain in zip(trainer.step.model.parameters(), model.parameters(), strict=True):
        assert ours.grad is not None
        assert plain.grad is not None
        torch.testing.assert_close(ours.grad, plain.grad)


def test_the_parts_of_several_ranks_are_the_chosen_images(trainer: Trainer) -> None:
    chosen = torch.tensor([0, 3, 4, 90, 255], dtype=torch.int32)
    images, labels = trainer.step.batches.at(2, chosen=chosen)
    of_all, labels_of_all = trainer.step.batches.at(2)
    assert torch.equal(images, of_all[chosen.long()])
    assert torch.equal(labels, labels_of_all[chosen.long()])
    of_ranks = [trainer.step.batches.at(2, chosen=chosen, rank=rank, ranks=2) for rank in (0, 1)]
    assert [len(part[0]) for part in of_ranks] == [2, 3]
    assert torch.equal(torch.cat([part[0] for part in of_ranks]), images)
    assert torch.equal(torch.cat([part[1] for part in of_ranks]), labels)


def test_a_dry_run_leaves_the_proxy_as_it_was(trainer: Trainer) -> None:
    selection = trainer.step.selection
    assert selection.proxy is not None
    before = copy.deepcopy(selection.proxy.model.state_dict())
    selection.dry_run(2)
    assert selection.chosen is not None
    assert selection.chosen.shape == (STEPS, 64)
    for name, tensor in selection.proxy.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert selection.proxy.optimizer.state == {}


def test_a_run_that_is_stopped_before_its_first_step_starts_afresh_and_says_so(call: Cli) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "decide", lambda _trainer: stop_with(143))
        code, _, err = call(*SMALL, *SELECT, "out=run")
    assert code == 143
    assert err.startswith("stopped before step 1 of 15; go on with: train resume=run")
    code, out, _ = call("resume=run")
    assert code == 0
    assert "has selected 64 of 256 images a step" in out
    assert folders.is_finished(Path("run"))


def test_a_resumed_run_ends_equal_to_the_bit_and_does_not_choose_again(tmp_path: Path) -> None:
    config = compose(*SMALL, *SELECT)
    sit(config, tmp_path / "straight")
    for step in (4, 11):
        sit_until(config, tmp_path / "cut", step)
    sit(config, tmp_path / "cut")
    assert "selection/chosen" in checkpoint.load(tmp_path / "cut" / folders.LAST)[0]
    assert_same_run(tmp_path / "straight", tmp_path / "cut")
    assert (tmp_path / "cut/run.log").read_text().count("has selected") == 1


def test_a_longer_run_is_chosen_for_again(call: Cli) -> None:
    assert call(*SMALL, *SELECT, "out=run")[0] == 0
    code, out, _ = call("resume=run", "epochs=4")
    assert code == 0
    assert "has selected" in out
    assert checkpoint.load(Path("run", folders.LAST))[0]["selection/chosen"].shape == (20, 64)


def test_a_proxy_that_diverges_is_said_before_anything_is_trained(trainer: Trainer) -> None:
    proxy = trainer.step.selection.proxy
    assert proxy is not None
    proxy.learning_rate = lambda step: float("inf")
    with pytest.raises(
        Diverged, match=r"the network that selects .* has diverged .*trainer.select=1"
    ):
        trainer.step.selection.prepare(lambda: None)


def test_without_selection_there_is_nothing_of_it() -> None:
    config = compose(*SMALL)
    assert (config.trainer.select, config.trainer.select_width) == (1.0, None)
    batches: Any = None
    selection = build.selection_of(config, batches, Loss(), num_steps=3)
    selection.dry_run(1)
    assert (selection.prepare(lambda: None), selection.at(2), selection.state()) == (None, None, {})


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (
            ("trainer.select=0.5",),
            "trainer.select=0.5: chooses from batches of one size; set trainer.drop_last=true",
        ),
        (
            ("trainer.select=0.001", "trainer.drop_last=true"),
            "trainer.select=0.001: of batch_size=256 leaves less than two images a device, "
            "since norm=batch cannot normalise one value",
        ),
        (
            ("trainer.select=0",),
            "trainer.select=0: must be above 0 (share of each batch that is trained on: the "
            "images that are hardest",
        ),
        (
            ("trainer.select=0.5", "trainer.drop_last=true", "trainer.select_width=5"),
            "trainer.select_width=5: block=residual works at 1/2 of its width, so take a "
            "multiple of 2: 4 or 6",
        ),
    ],
)
def test_what_cannot_be_selected(call: Cli, texts: tuple[str, ...], line: str) -> None:
    code, _, err = call(*SMALL, *texts)
    assert code == 2
    assert err.startswith(f"error: {line}")
    assert len(err.splitlines()) == 1


def test_the_96_percent_recipe_selects_half_of_each_batch() -> None:
    config = compose("experiment=speedrun96")
    assert (config.trainer.select, config.trainer.select_width, config.trainer.drop_last) == (
        0.5,
        24,
        True,
    )
    small = dataclasses.replace(config, width=24)
    sizes = [sum(p.numel() for p in build.network(c, CPU).parameters()) for c in (small, config)]
    assert sizes[0] < 0.05 * sizes[1]
