"""A step that does not fit is found before it, and accumulate=auto takes the fewest parts."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import Cli, compose
from skiplab import build, capacity
from skiplab.machine import memory
from skiplab.networks import models
from skiplab.networks.blocks import Style
from skiplab.networks.plan import Plan

# 18 steps; a save and an evaluation every sixth.
SMALL = (
    "depth=1",
    "width=8",
    "batch_size=256",
    "epochs=3",
    "trainer.threads=1",
    "trainer.log_every=3",
    "scheduler=constant",
)


def network(width: int = 16) -> nn.Sequential:
    style = Style(norm="batch", shortcut=True, bias=True, projection="conv")
    plan = Plan(
        block=models.BLOCKS["basic"], style=style, depth=1, width=width, dropout=0.0,
        channels=3, size=(16, 16), num_classes=10,
    )  # fmt: skip
    return models.build("resnet", plan, init="torch")


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, 16, 16), torch.arange(count) % 10


OFF = torch.autocast("cpu", enabled=False)


def test_the_estimate_is_what_autograd_keeps_and_grows_with_the_batch() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = {count: memory.step_bytes(model, *batch(count), autocast=OFF) for count in (2, 4, 64)}
    assert kept[64] == pytest.approx(kept[2] + (kept[4] - kept[2]) / 2 * 62, rel=0.02)
    model.load_state_dict(before)
    # The activation that every layer of the first stage keeps is float32 (B, 16, 16, 16).
    assert kept[64] > 5 * 64 * 16 * 16 * 16 * 4
    weights = sum(tensor.numel() * tensor.element_size() for tensor in before.values())
    assert memory.needed(model, batch, num_images=64, autocast=OFF) == pytest.approx(
        kept[64] + 3 * weights, rel=0.03
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), "the model must stay as it was"


def test_available_memory_is_the_least_of_system_and_cgroup(tmp_path: Path) -> None:
    assert memory.available(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert memory.available(tmp_path) == 4000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5000\n")
    assert memory.available(tmp_path) == 4000 * 1024
    (group / "memory.max").write_text("1000000\n")
    assert memory.available(tmp_path) == 995_000
    (group / "memory").mkdir()
    (group / "memory/memory.limit_in_bytes").write_text("7000\n")
    (group / "memory/memory.usage_in_bytes").write_text("9000\n")
    assert memory.available(tmp_path) == 0


@pytest.mark.parametrize(
    ("batch_size", "least", "largest", "expected"),
    [
        (256, 2, 256, 1),
        (256, 2, 255, 2),
        (256, 2, 64, 4),
        (256, 2, 63, 8),
        (100, 2, 13, 8),
        (256, 2, 2, 128),
        (256, 2, 1, None),
        (4, 1, 1, 4),
    ],
)
def test_fewest_parts(batch_size: int, least: int, largest: int, expected: int | None) -> None:
    assert (
        memory.fewest_parts(batch_size, least=least, fits=lambda count: count <= largest)
        == expected
    )


def test_a_step_that_does_not_fit_the_host_is_found_before_it(
    call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2_000_000)
    code, _, err = call(*SMALL, "out=run", "trainer.accumulate=1", "batch_size=1000")
    assert code == 6
    assert re.search(
        r"batch_size=1000: a step takes \d+ MiB or more, \d+ MiB are free; "
        r"trainer\.accumulate=\d+ fits",
        err,
    ), err
    assert not Path("run/metrics.jsonl").exists() or Path("run/metrics.jsonl").read_bytes() == b""
    code, _, err = call(*SMALL, "out=run", "trainer.accumulate=1", "batch_size=1000")
    # The message is the same, not "exists and is not a run folder".
    assert code == 6


def test_accumulate_auto_is_recorded_and_kept(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(*SMALL, "trainer.accumulate=auto")
    training, _, _ = build.training_data(config, torch.device("cpu"))
    model = build.network(config, torch.device("cpu"))
    needs = memory.needed(
        model,
        lambda n: (torch.randn(n, 1, 8, 8), torch.zeros(n, dtype=torch.int64)),
        num_images=256,
        autocast=OFF,
    )
    for free, expected in ((10 * needs, 1), (needs, 2), (needs // 2, 4)):
        monkeypatch.setattr(memory, "available", lambda free=free: free)
        assert capacity.count_parts(config, model, training, torch.device("cpu")) == expected
    code, out, _ = call(*SMALL, "trainer.accumulate=auto", "out=run", "trainer.max_time=1e-9")
    assert code == 7
    assert "of 256 images in 4 parts" in out
    # With more memory later, the numbers must not change.
    monkeypatch.setattr(memory, "available", lambda: 10 * needs)
    code, out, err = call("resume=run", "trainer.max_time=null")
    assert code == 0, err
    assert json.loads(Path("run/result.json").read_text())["accumulate"] == 4
