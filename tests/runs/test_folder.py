"""What a resumed run may find: checkpoints and rows that are damaged, missing or not its own."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import Cli, compose, on_cpu
from skiplab.run import prepare
from skiplab.runs import checkpoint, folders, status
from skiplab.runs.log import Log

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


def test_another_network_or_data_set_is_refused_with_both_names(call: Cli) -> None:
    short = (*SMALL, "trainer.max_time=1e-9")
    assert call(*short, "out=one")[0] == 7
    assert call(*short, "out=other", "width=10", "block=conv")[0] == 7
    for name in ("last.safetensors", "last.prev.safetensors"):
        Path("one", name).write_bytes(Path("other", name).read_bytes())
    code, _, err = call("resume=one")
    assert code == 2
    assert (
        "one/last.safetensors: of another run than config.yaml "
        "(block.name=residual, was conv; width=8, was 10)" in err
    )
    assert call(*SMALL, "out=whole")[0] == 0
    code, _, err = call(*SMALL, "init_from=whole", "width=10")
    assert code == 2
    assert (
        "width 8, on digits, which does not fit "
        "this run's deepcnn of residual blocks, depth 1, width 10" in err
    )


def test_what_breaks_equality_is_said_once(call: Cli) -> None:
    assert call(*SMALL, "out=run", "trainer.max_time=1e-9")[0] == 7
    code, out, _ = call("resume=run", "trainer.threads=2", "trainer.max_time=1e-9")
    assert code == 7
    (line,) = [line for line in out.splitlines() if "equal to the bit" in line]
    assert line == (
        "device was cpu, 1 threads, is cpu, 2 threads: "
        "the end will not be equal to the bit to that of an uninterrupted run"
    )
    code, out, _ = call(
        "resume=run", "trainer.log_every=5", "trainer.save_every=0.5", "trainer.max_time=null"
    )
    assert code == 0


def test_max_time_is_of_one_session(call: Cli) -> None:
    """The same command after exit 7 has its time again: each requeue of Slurm is a session."""
    command = (*SMALL, "epochs=4000", "trainer.max_time=0.01", "out=run")
    steps = []
    for _ in range(2):
        assert call(*command)[0] == 7
        steps.append(status.of_last_save(Path("run")).step or 0)
    # A session whose time is over ends after one step.
    assert steps[0] > 1
    assert steps[1] - steps[0] > 1


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
        for name in ("result.json", "config.yaml", "last.safetensors", "best.safetensors")
    }
    code, _, err = call("resume=run", "epochs=4", f"device=cuda:{torch.cuda.device_count()}")
    assert code == 2
    assert {name: Path("run", name).read_bytes() for name in before} == before
    for name in ("last.safetensors", "last.prev.safetensors"):
        Path("run", name).unlink(missing_ok=True)
    code, _, err = call("resume=run", "epochs=9")
    assert code == 3
    assert "finished, and its last.safetensors is gone" in err
    assert Path("run/result.json").exists()


def test_after_a_fall_back_the_good_generation_stays(tmp_path: Path) -> None:
    with closing(Log(tmp_path, console=False)) as log:
        prepare(compose(*SMALL, "trainer.limit_steps=12"), on_cpu(tmp_path, log))[0].fit()
    last = tmp_path / folders.LAST
    last.write_bytes(last.read_bytes()[:-1])
    with closing(Log(tmp_path, console=False)) as log:
        prepare(compose(*SMALL), on_cpu(tmp_path, log))
    assert checkpoint.peek(last)["progress"]["step"] == 6
    # The run is killed here, in the next save.
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
    step = status.of_last_save(Path("run")).step
    assert step == 2
    code, _, err = call("resume=run", "trainer.limit_steps=1", "trainer.max_time=null")
    assert code == 2
    assert "stands at step 2, beyond the 1 steps" in err
    code, _, err = call("resume=run", "trainer.limit_steps=2", "trainer.max_time=null")
    # It is evaluated where it stands.
    assert code == 0, err
    assert json.loads(Path("run/result.json").read_text())["best_step"] == 2


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
    shutil.copytree(Path(__file__).parents[1] / "fixtures/format2", "run")
    Path("run/result.json").unlink()
    tensors, facts = checkpoint.load(Path("run/last.safetensors"))
    for name, value in change.items():
        facts[name] = (
            facts[name] | value if name == "progress" and isinstance(value, dict) else value
        )
    # Both generations are changed.
    for _ in range(2):
        checkpoint.save(Path("run/last.safetensors"), tensors, facts)
    code, _, err = call("resume=run", "epochs=3")
    assert code in (2, 3), err
    assert err.count("\n") == 1
    assert "run/last.safetensors" in err
    assert call("list", "run", command="skiplab")[0] == 0
