"""Losses that are not finite, memory that does not suffice: found early, said in one line, nothing lost."""

import json
import re
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers import Cli, compose, on_cpu
from skiplab import build, capacity
from skiplab.errors import Diverged, Stopped
from skiplab.machine import memory
from skiplab.networks import models
from skiplab.run import prepare
from skiplab.runs import checkpoint, folders
from skiplab.runs.log import Log
from skiplab.training import rollback
from skiplab.training.rollback import MAX_ROLLBACKS
from skiplab.training.trainer import Trainer

# 18 steps; a save and an evaluation every sixth
SMALL = (
    "depth=1",
    "width=8",
    "batch_size=256",
    "epochs=3",
    "trainer.threads=1",
    "trainer.log_every=3",
    "scheduler=constant",
)


def trainer_in(folder: Path, *texts: str) -> Trainer:
    folder.mkdir(exist_ok=True)
    with closing(Log(folder, console=False)) as log:
        trainer, _ = prepare(compose(*SMALL, *texts), on_cpu(folder, log))
        poisoned = trainer.step.update

        def update(step: int, **options: float) -> None:
            poisoned(step, **options)
            # twice, then it is well
            if step == 8 and trainer.progress.rollbacks < 2:
                with torch.no_grad():
                    trainer.step.parameters[0].fill_(torch.nan)

        trainer.step.update = update
        rollback.fit(trainer)
    return trainer


def test_a_loss_that_is_not_finite_stops_the_run_and_names_what_is_not(tmp_path: Path) -> None:
    with pytest.raises(Diverged) as caught:
        trainer_in(tmp_path / "run")
    message = str(caught.value)
    assert re.fullmatch(
        r"the loss is nan at step 10 \(learning rate 0\.05; not finite: [\w.]+, [\w.]+, [\w.]+ and \d+ more of \d+\)",
        message,
    )
    tensors, facts = checkpoint.load(tmp_path / "run" / folders.LAST)
    assert facts["progress"]["step"] == 6
    assert checkpoint.not_finite(tensors) == ""
    # nothing of the steps that went wrong
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 9 + 1


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """Poisoned after the last step, when no loss tells any more."""
    (tmp_path / "run").mkdir()
    with closing(Log(tmp_path / "run", console=False)) as log:
        trainer, _ = prepare(compose(*SMALL, "val_fraction=0"), on_cpu(tmp_path / "run", log))
        last = trainer.settings.num_steps - 1
        healthy = trainer.step.update

        def update(step: int, **options: float) -> None:
            healthy(step, **options)
            if step == last:
                with torch.no_grad():
                    trainer.step.parameters[0].fill_(torch.inf)

        trainer.step.update = update
        with pytest.raises(
            Diverged, match=rf"the state cannot be saved at step {last + 1} \(not finite: model/"
        ):
            trainer.fit()
    for name in (folders.LAST, folders.BEST):
        tensors, _ = checkpoint.load(tmp_path / "run" / name)
        assert checkpoint.not_finite(tensors) == ""


def test_the_message_names_the_loss_scale(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"loss scale \d"):
        trainer_in(tmp_path / "run", "trainer.amp=fp16")


def test_rollback_goes_back_and_lowers_the_rate(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path / "run", "trainer.on_nonfinite=rollback")
    assert trainer.progress.step == 18
    assert trainer.progress.rollbacks == 2
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["lr"] for row in rows if "lr" in row}
    # each step once
    assert list(rates) == list(range(1, 19))
    assert [rates[step] for step in (1, 6, 7, 18)] == [0.05, 0.05, 0.0125, 0.0125]
    said = (tmp_path / "run/run.log").read_text()
    assert (
        "going back to step 6, from there with 0.5 of the learning rate (rollback 1 of at most 5)"
        in said
    )
    assert "with 0.25 of the learning rate (rollback 2 of at most 5)" in said
    # what it ended with is what a run resumed from its last save ends with
    assert checkpoint.peek(tmp_path / "run" / folders.LAST)["progress"]["rollbacks"] == 2


def test_rollback_gives_up(call: Cli) -> None:
    code, out, err = call(*SMALL, "optimizer.lr=1e30", "trainer.on_nonfinite=rollback", "out=run")
    assert code == 5
    assert out.count("going back to step 0") == MAX_ROLLBACKS
    assert "the loss is nan" in err
    assert "train resume=run optimizer.lr=SMALLER" in err
    code, _, err = call("resume=run", "optimizer.lr=0.05")
    assert code == 0, err
    result = json.loads(Path("run/result.json").read_text())
    assert (result["rollbacks"], result["lr_factor"]) == (MAX_ROLLBACKS, 0.5**MAX_ROLLBACKS)


# ---------------------------------------------------------------------------------------------------------------
# memory


def network(width: int = 16) -> nn.Sequential:
    return models.build(
        "resnet", block="basic", depth=1, width=width, channels=3, size=16, num_classes=10, norm="batch", shortcut=True,
        bias=True, projection="conv", init="torch", dropout=0.0,
    )  # fmt: skip


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, 16, 16), torch.arange(count) % 10


OFF = torch.autocast("cpu", enabled=False)


def test_the_estimate_is_what_autograd_keeps_and_grows_with_the_batch() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = {count: memory.step_bytes(model, *batch(count), autocast=OFF) for count in (2, 4, 64)}
    assert kept[64] == pytest.approx(kept[2] + (kept[4] - kept[2]) / 2 * 62, rel=0.02)
    model.load_state_dict(before)
    # the activation that every layer of the first stage keeps is float32 (B, 16, 16, 16)
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
        r"batch_size=1000: a step takes \d+ MiB or more, \d+ MiB are free; trainer\.accumulate=\d+ fits",
        err,
    ), err
    assert not Path("run/metrics.jsonl").exists() or Path("run/metrics.jsonl").read_bytes() == b""
    code, _, err = call(*SMALL, "out=run", "trainer.accumulate=1", "batch_size=1000")
    # the same again, not "exists and is not a run folder"
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
    # more memory later: the numbers must not change
    monkeypatch.setattr(memory, "available", lambda: 10 * needs)
    code, out, err = call("resume=run", "trainer.max_time=null")
    assert code == 0, err
    assert json.loads(Path("run/result.json").read_text())["accumulate"] == 4


# ------------------------------------------------------------------------------------------------------
# what resume tells


def test_another_network_or_data_set_is_refused_with_both_names(call: Cli) -> None:
    short = (*SMALL, "trainer.max_time=1e-9")
    assert call(*short, "out=one")[0] == 7
    assert call(*short, "out=other", "width=10", "block=conv")[0] == 7
    for name in ("last.ckpt", "last.prev.ckpt"):
        Path("one", name).write_bytes(Path("other", name).read_bytes())
    code, _, err = call("resume=one")
    assert code == 2
    assert (
        "one/last.ckpt: of another run than config.yaml (block.name=residual, was conv; width=8, was 10)"
        in err
    )
    assert call(*SMALL, "out=whole")[0] == 0
    code, _, err = call(*SMALL, "init_from=whole", "width=10")
    assert code == 2
    assert (
        "width 8, on digits, which does not fit this run's deepcnn of residual blocks, depth 1, width 10"
        in err
    )


def test_what_breaks_equality_is_said_once(call: Cli) -> None:
    assert call(*SMALL, "out=run", "trainer.max_time=1e-9")[0] == 7
    code, out, _ = call("resume=run", "trainer.threads=2", "trainer.max_time=1e-9")
    assert code == 7
    (line,) = [line for line in out.splitlines() if "equal to the bit" in line]
    assert (
        line
        == "device was cpu, 1 threads, is cpu, 2 threads: the end will not be equal to the bit to that of an uninterrupted run"
    )
    code, out, _ = call(
        "resume=run", "trainer.log_every=5", "trainer.save_every=0.5", "trainer.max_time=null"
    )
    assert code == 0


def test_max_time_is_of_one_sitting(call: Cli) -> None:
    """The same command again after exit 7 has its time again: under Slurm each requeue is a sitting."""
    command = (*SMALL, "epochs=4000", "trainer.max_time=0.01", "out=run")
    steps = []
    for _ in range(2):
        assert call(*command)[0] == 7
        steps.append(folders.standing(Path("run")).step or 0)
    # not one step and out
    assert steps[1] - steps[0] > 0.2 * steps[0] > 2


def test_metrics_that_were_cut_are_said(call: Cli) -> None:
    assert call(*SMALL, "out=run", "trainer.limit_steps=7")[0] == 0
    Path("run/metrics.jsonl").write_bytes(b"")
    code, out, _ = call("resume=run", "trainer.limit_steps=null")
    assert code == 0
    assert "warning: run/metrics.jsonl lacks rows" in out


def test_a_damaged_last_falls_back_and_ends_equal(tmp_path: Path) -> None:
    texts = ("trainer.save_every=0.34", "trainer.eval_every=0.34")

    def run(name: str, *more: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        with closing(Log(folder, console=False)) as log:
            trainer, _ = prepare(compose(*SMALL, *texts, *more), on_cpu(folder, log))
            trainer.fit()
        return folder

    straight = run("straight")
    chance = np.random.default_rng(0)
    for i, stop in enumerate((2, 6, 8, 12, 16)):
        folder = run(f"damaged-{i}", f"trainer.limit_steps={stop}")
        content = bytearray((folder / folders.LAST).read_bytes())
        content[chance.integers(len(content))] ^= 1
        (folder / folders.LAST).write_bytes(content)
        run(folder.name)
        assert "damaged: its SHA-256" in (folder / "run.log").read_text()
        assert (folder / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
        for name in (folders.LAST, folders.BEST):
            tensors, facts = checkpoint.load(folder / name)
            expected, expected_facts = checkpoint.load(straight / name)
            assert {**facts, "history": None} == {**expected_facts, "history": None}
            for key, tensor in tensors.items():
                assert torch.equal(tensor, expected[key]), key


# ------------------------------------------------------------------------------------------- what a
# resumed run must not do


def test_a_folder_of_other_things_is_never_taken_or_removed(call: Cli) -> None:
    Path("home/.git").mkdir(parents=True)
    Path("home/.git/HEAD").write_text("precious")
    code, _, err = call(*SMALL, "out=home", "init_from=nowhere")
    assert code in (2, 4), err
    code, _, err = call("dataset=mnist", "dataset.root=nowhere", "out=home")
    assert code == 4
    assert "home: exists and is not a run folder" in err
    assert Path("home/.git/HEAD").read_text() == "precious"


def test_rows_of_a_start_that_never_saved_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1, "lr": 0.1, "loss": 2.0}\n')
    with closing(Log(tmp_path / "run", console=False)) as log:
        trainer, _ = prepare(compose(*SMALL), on_cpu(tmp_path / "run", log))
        trainer.fit()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 19))


def test_a_refused_change_leaves_a_finished_run_as_it_was(call: Cli) -> None:
    assert call(*SMALL, "out=run")[0] == 0
    before = {
        name: Path("run", name).read_bytes()
        for name in ("result.json", "config.yaml", "last.ckpt", "best.ckpt")
    }
    code, _, err = call("resume=run", "epochs=4", f"device=cuda:{torch.cuda.device_count()}")
    assert code == 2
    assert {name: Path("run", name).read_bytes() for name in before} == before
    for name in ("last.ckpt", "last.prev.ckpt"):
        Path("run", name).unlink(missing_ok=True)
    code, _, err = call("resume=run", "epochs=9")
    assert code == 3
    assert "finished, and its last.ckpt is gone" in err
    assert Path("run/result.json").exists()


def test_after_a_fall_back_the_good_generation_stays(tmp_path: Path) -> None:
    with closing(Log(tmp_path, console=False)) as log:
        prepare(compose(*SMALL, "trainer.limit_steps=12"), on_cpu(tmp_path, log))[0].fit()
    last = tmp_path / folders.LAST
    last.write_bytes(last.read_bytes()[:-1])
    with closing(Log(tmp_path, console=False)) as log:
        prepare(compose(*SMALL), on_cpu(tmp_path, log))
    assert checkpoint.peek(last)["progress"]["step"] == 6
    # killed here, in the next save
    checkpoint.keep(last)
    assert checkpoint.peek_newest(last)["progress"]["step"] == 6


def test_early_stop_saves_where_it_stops(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    texts = (
        "epochs=60",
        "trainer.early_stop=1",
        "trainer.eval_every=0.34",
        "trainer.save_every=50",
        "optimizer.lr=0.5",
    )
    with closing(Log(tmp_path / "run", console=False)) as log:
        trainer, _ = prepare(compose(*SMALL, *texts), on_cpu(tmp_path / "run", log))
        trainer.fit()
        assert trainer.progress.step < 360
        assert (
            checkpoint.peek(tmp_path / "run" / folders.LAST)["progress"]["step"]
            == trainer.progress.step
        )
        rows = [
            json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
        ]
        assert max(row["step"] for row in rows) == trainer.progress.step


def test_precision_and_length_may_change_on_resume(call: Cli) -> None:
    assert call(*SMALL, "out=run", "trainer.max_time=1e-9")[0] == 7
    assert call("resume=run", "trainer.amp=fp16")[0] == 7
    step = folders.standing(Path("run")).step
    assert step == 2
    code, _, err = call("resume=run", "trainer.limit_steps=1", "trainer.max_time=null")
    assert code == 2
    assert "stands at step 2, beyond the 1 steps" in err
    code, _, err = call("resume=run", "trainer.limit_steps=2", "trainer.max_time=null")
    # evaluated where it stands
    assert code == 0, err
    assert json.loads(Path("run/result.json").read_text())["best_step"] == 2


def test_a_stop_that_meets_a_rollback_is_not_forgotten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    asked = iter([0, 0, 0, 0, 0, 0, 0, 0, 143, *[0] * 100])
    with closing(Log(tmp_path / "run", console=False)) as log:
        config = compose(*SMALL, "trainer.on_nonfinite=rollback", "trainer.log_every=50")
        trainer, _ = prepare(config, on_cpu(tmp_path / "run", log, lambda: next(asked)))
        healthy = trainer.step.update

        def update(step: int, **options: float) -> None:
            healthy(step, **options)
            if step == 8 and not trainer.progress.rollbacks:
                trainer.step.losses.losses[len(trainer.step.losses) - 1] = torch.nan

        trainer.step.update = update
        with pytest.raises(Stopped) as stopped:
            rollback.fit(trainer)
    assert stopped.value.exit_code == 143
    # back to 6, then the step after which it stops
    assert trainer.progress.step == 7


def test_a_torn_row_of_metrics_is_no_obstacle(call: Cli) -> None:
    assert call(*SMALL, "out=run", "trainer.limit_steps=7")[0] == 0
    metrics = Path("run/metrics.jsonl")
    metrics.write_bytes(metrics.read_bytes()[:-20])
    code, out, err = call("resume=run", "trainer.limit_steps=null")
    assert code == 0, err
    assert "warning: run/metrics.jsonl lacks rows" in out
    assert all(json.loads(line) for line in metrics.read_text().splitlines())


@pytest.mark.parametrize(
    "change",
    [
        {"history": {"seconds": 0, "images": 0, "machine": None}},
        {"history": None},
        {"progress": {"step": "six"}},
        {"progress": {"metrics_size": -7}},
        {"progress": {"steps": 3}},
        {"progress": None},
        {"network": ["a"]},
        {"num_steps": "many"},
    ],
    ids=str,
)
def test_facts_of_other_types_are_refused_in_one_line(
    change: dict[str, object], call: Cli, tmp_path: Path
) -> None:
    """Their SHA-256 is right, so nothing but their reader can refuse them."""
    shutil.copytree(Path(__file__).parents[1] / "fixtures/format1", "run")
    Path("run/result.json").unlink()
    tensors, facts = checkpoint.load(Path("run/last.ckpt"))
    for name, value in change.items():
        facts[name] = (
            facts[name] | value if name == "progress" and isinstance(value, dict) else value
        )
    # both generations
    for _ in range(2):
        checkpoint.save(Path("run/last.ckpt"), tensors, facts)
    code, _, err = call("resume=run", "epochs=3")
    assert code in (2, 3), err
    assert err.count("\n") == 1
    assert "run/last.ckpt" in err
    assert call("list", "run", command="skiplab")[0] == 0
