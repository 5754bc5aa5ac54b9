"""What a probe records, by hand; it changes no number, and its rows survive a kill."""

import copy
import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import Cli, compose, on_cpu
from sessions import assert_same_run, sit, sit_until
from skiplab.run import prepare
from skiplab.runs import checkpoint, folders
from skiplab.runs.log import Log, Silence
from skiplab.training.probe import KINDS, norm_of

SMALL = (
    "depth=1",
    "width=8",
    "batch_size=256",
    "epochs=3",
    "model.dropout=0.0",
    "trainer.threads=1",
    "trainer.log_every=4",
)
PROBE = ("trainer.probe=gradients,activations,updates", "trainer.probe_every=5")
TEXTS = (*SMALL, "trainer.probe='gradients,activations,updates'", "trainer.probe_every=5")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [
        row
        for line in (folder / "metrics.jsonl").read_text().splitlines()
        if "gradient_norm" in (row := json.loads(line))
    ]


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1.0, 1e25])
def test_a_norm_neither_vanishes_nor_overflows_with_the_squares(size: float) -> None:
    gradient = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * size
    assert norm_of(gradient, like=gradient).item() == pytest.approx(
        gradient.double().norm().item(), rel=1e-5
    )


def test_the_figures_of_the_first_step_are_those_by_hand(tmp_path: Path) -> None:
    with closing(Log(tmp_path, console=False)) as log:
        (tmp_path / "run").mkdir()
        trainer, _ = prepare(compose(*TEXTS), on_cpu(tmp_path / "run", log))
        model = copy.deepcopy(trainer.step.model).train()
        trainer.step.model.train()
        layers = {
            name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))
        }
        deviations: dict[str, float] = {}

        def note(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            # Later an activation may change the output in place.
            deviations[next(name for name, m in layers.items() if m is layer)] = output.std().item()

        for layer in layers.values():
            layer.register_forward_hook(note)
        images, labels = trainer.step.batches.at(0)
        F.cross_entropy(model(images), labels).backward()
        before = {name: p.detach().clone() for name, p in trainer.step.model.named_parameters()}
        trainer.step.update(0)
        after = dict(trainer.step.model.named_parameters())
        (row,) = trainer.step.probe.take_rows()
    assert row["step"] == 1
    assert list(row["gradient_norm"]) == list(layers)
    for name, layer in layers.items():
        assert layer.weight.grad is not None
        weight = f"{name}.weight"
        assert row["gradient_norm"][name] == pytest.approx(
            layer.weight.grad.norm().item(), rel=1e-4
        )
        assert row["activation_deviation"][name] == pytest.approx(deviations[name], rel=1e-4)
        ratio = ((after[weight] - before[weight]).norm() / before[weight].norm()).item()
        assert row["update_ratio"][name] == pytest.approx(ratio, rel=1e-4)


def test_a_probe_changes_no_number_and_its_rows_survive_stops(tmp_path: Path) -> None:
    plain, probed = compose(*SMALL), compose(*TEXTS)
    sit(plain, tmp_path / "plain")
    sit(probed, tmp_path / "straight")
    for step in (1, 4, 7, 12):
        sit_until(probed, tmp_path / "cut", step)
    sit(probed, tmp_path / "cut")
    assert_same_run(tmp_path / "straight", tmp_path / "cut")
    assert [row["step"] for row in rows(tmp_path / "straight")] == [1, 6, 11, 16]
    weights, others = (
        checkpoint.load(tmp_path / name / folders.LAST)[0] for name in ("plain", "straight")
    )
    assert all(torch.equal(tensor, others[name]) for name, tensor in weights.items())


def test_a_rank_that_records_nothing_keeps_no_figures(tmp_path: Path) -> None:
    """Its log does not even look at the rows."""
    with closing(Silence()) as log:
        trainer, _ = prepare(compose(*TEXTS), on_cpu(tmp_path, log))
        trainer.step.model.train()
        trainer.step.update(0)
        trainer.progress.step = 1
        assert len(trainer.step.probe.pending) == 1
        trainer.report_losses()
    assert trainer.step.probe.pending == []


def test_under_a_scaler_gradients_are_taken_back_to_their_scale(tmp_path: Path) -> None:
    sit(compose(*TEXTS), tmp_path / "full")
    sit(compose(*TEXTS, "trainer.amp=fp16"), tmp_path / "half")
    first, other = (rows(tmp_path / name)[0]["gradient_norm"] for name in ("full", "half"))
    for name, norm in first.items():
        assert other[name] == pytest.approx(norm, rel=0.1)


def test_a_probe_is_written_as_a_list_with_commas(call: Cli) -> None:
    assert call(*SMALL, *PROBE, "out=run", "trainer.limit_steps=2")[0] == 0
    assert set(rows(Path("run"))[0]) == {"step", *KINDS.values()}
    assert all(math.isfinite(value) for value in rows(Path("run"))[0]["update_ratio"].values())
    code, _, err = call(*SMALL, "trainer.probe=gradient")
    assert code == 2
    assert err.startswith(
        "error: trainer.probe=gradient: none, or some of gradients, activations, updates "
        "with commas between is expected"
    )
    code, _, err = call(*SMALL, "trainer.probe=activations", "trainer.compile=true")
    assert code == 2
    assert "activations cannot be seen in compiled code" in err
