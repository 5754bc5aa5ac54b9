"""What a run states of itself is true: its history, its identity, and its best weights.

It takes no other run's checkpoints.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import Cli, compose
from skiplab import provenance
from skiplab.config.stored import dump, flat, identity
from skiplab.errors import CheckpointError, UsageError
from skiplab.runs import checkpoint, folders

# 6 steps per epoch, with an evaluation and a save in each.
TINY = ("depth=1", "width=8", "batch_size=256", "trainer.threads=1", "pictures=never")
CHANGES = {
    "optimizer.lr": 0.01,
    "trainer.label_smoothing": 0.1,
    "trainer.accumulate": 2,
    "trainer.amp": "bf16",
    "trainer.clip": 1.0,
    "trainer.devices": 2,
    "trainer.early_stop": 3,
    "trainer.limit_steps": 40,
    "scheduler.warmup": 0.5,
    "optimizer.weight_decay": 0.0,
    "epochs": 40,
    "steps": 100,
}


def with_value(config: Any, key: str, value: Any) -> Any:
    group, _, leaf = key.rpartition(".")
    return replace(
        config,
        **({group: replace(getattr(config, group), **{leaf: value})} if group else {leaf: value}),
    )


def result(folder: str | Path) -> dict[str, Any]:
    return json.loads((Path(folder) / folders.RESULT).read_text())


def edit(path: str | Path, **values: Any) -> None:
    """Set values in a stored config.yaml as one does by hand; the first line stays."""
    path = Path(path)
    first, _, _ = path.read_text().partition("\n")
    tree = yaml.safe_load(path.read_text())
    path.write_text(f"{first}\n{yaml.safe_dump(tree | values, sort_keys=False)}")


# --------------------------------------------------------------------------------------------------
# History


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_on_the_way_is_history_and_another_identity(key: str, tmp_path: Path) -> None:
    before = compose()
    after = with_value(before, key, CHANGES[key])
    made = provenance.record_changes(before, after, step=18)
    assert [change.as_dict() for change in made.changed] == [
        {"step": 18, "key": key, "from": flat(before)[key], "to": CHANGES[key]}
    ]
    identities = {identity(config) for config in (before, after, made)}
    assert len(identities) == 3, "neither the run as it was nor a straight one with the new value"
    (tmp_path / folders.CONFIG).write_text(dump(made))
    assert provenance.load(tmp_path) == made
    assert list(provenance.lineage(made)) == [identity(made), identity(before)]


def test_what_changes_no_training_is_no_history() -> None:
    before = compose()
    for key, value in (
        ("name", "x"),
        ("trainer.threads", 1),
        ("trainer.log_every", 3),
        ("evaluator.split", "val"),
    ):
        assert (
            provenance.record_changes(before, with_value(before, key, value), step=18).changed == ()
        )


def test_before_the_first_step_a_changed_run_is_a_straight_one() -> None:
    before = compose()
    after = with_value(before, "epochs", 40)
    assert provenance.record_changes(before, after, step=0) == after


def test_what_is_taken_back_at_the_same_step_leaves_no_trace() -> None:
    before = compose()
    there = provenance.record_changes(before, with_value(before, "epochs", 40), step=18)
    assert (
        provenance.record_changes(there, with_value(there, "epochs", before.epochs), step=18)
        == before
    )
    further = provenance.record_changes(there, with_value(there, "epochs", 50), step=18)
    assert provenance.in_words(further.changed) == f"epochs {before.epochs} -> 50 at step 18"
    later = provenance.record_changes(there, with_value(there, "epochs", before.epochs), step=20)
    assert (
        provenance.in_words(later.changed)
        == f"epochs {before.epochs} -> 40 at step 18, epochs 40 -> {before.epochs} at step 20"
    )


def test_changed_is_no_key_of_the_command_line(call: Cli) -> None:
    for text in (
        "changed=[]",
        "+changed=[]",
        "init_sha256=0",
        "changed=[{step:1,key:epochs,from:1,to:2}]",
    ):
        code, _, err = call(text)
        assert (code, err.count("\n")) == (2, 1), err


@pytest.mark.slow
def test_a_stretched_run_is_neither_adopted_nor_averaged(call: Cli) -> None:
    """The stretched run and the straight one of the same values are told apart by every reader."""
    study = ("-m", *TINY, "study=x")
    assert call(*study, "seed=0,1", "epochs=1")[0] == 0
    (first,) = Path("outputs/studies/x").glob("seed-0_*")
    code, out, err = call(f"resume={first}", "epochs=2")
    assert code == 0, err
    assert "changed on the way: epochs 1 -> 2 at step 6" in out
    assert "changed on the way: epochs 1 -> 2 at step 6" in (first / folders.LOG).read_text()
    assert (
        (first / "report.txt")
        .read_text()
        .splitlines()[0]
        .endswith("; changed on the way: epochs 1 -> 2 at step 6")
    )
    stretched, history = result(first), [{"step": 6, "key": "epochs", "from": 1, "to": 2}]
    assert stretched["changed"] == history
    assert yaml.safe_load((first / folders.CONFIG).read_text())["changed"] == history
    assert checkpoint.peek(first / folders.LAST)["run"]["config"]["changed"] == history
    assert stretched["identity"] == folders.identity_of(first)

    out = call("list", "study=x", command="skiplab")[1]
    listed = [line for line in out.splitlines() if "changed" in line]
    assert [line.partition("  (")[2] for line in listed] == ["changed: epochs 1 -> 2 at step 6)"]

    assert call(*study, "seed=0,1", "epochs=2")[0] == 0
    code, out, err = call("compare", "outputs/studies/x", "--by", "epochs", command="skiplab")
    assert code == 0, err
    assert (
        "left out, since changed on the way and so no run of these values: "
        f"{first} (epochs 1 -> 2 at step 6)" in out
    )
    counted = json.loads(Path("outputs/studies/x/compare.json").read_text())["groups"]
    straight = {
        run["folder"] for group in counted if group["key"] == {"epochs": 2} for run in group["runs"]
    }
    assert len(straight) == 2
    assert str(first) not in straight

    # The run that was taken away is run again from the start.
    code, out, err = call(*study, "seed=0,1", "epochs=1")
    assert code == 0, err
    assert "2 cells, 1 done before" in out
    assert result(f"{first}-2")["changed"] == []
    code, out, err = call(*study, "seed=0,1", "epochs=1")
    assert "2 cells, 2 done before" in out
    assert call("compare", str(first), command="skiplab")[0] == 0, (
        "a changed run alone can be looked at"
    )


def test_the_same_command_does_not_go_on_with_a_changed_run(call: Cli) -> None:
    assert call(*TINY, "epochs=3", "trainer.limit_steps=6")[0] == 0
    (run,) = Path("outputs").glob("*/*-digits-*")
    # The run stops before its end.
    assert call(f"resume={run}", "trainer.limit_steps=12", "trainer.max_time=1e-9")[0] == 7
    code, out, _ = call(*TINY, "epochs=3", "trainer.limit_steps=12")
    assert code == 0
    assert "going on with" not in out
    code, _, err = call(*TINY, "epochs=3", "trainer.limit_steps=12", f"out={run}")
    assert code == 4
    assert "changed on the way: trainer.limit_steps 6 -> 12 at step 6" in err


def test_a_change_counts_from_the_step_of_the_save_that_it_found(call: Cli) -> None:
    """The last checkpoint is damaged after the change was recorded.

    The run goes on from the one before, with the new value from there.
    """
    assert call(*TINY, "epochs=3", "trainer.limit_steps=12", "out=run")[0] == 0
    stored = provenance.load(Path("run"))
    made = provenance.record_changes(stored, with_value(stored, "optimizer.lr", 0.01), step=12)
    Path("run/config.yaml").write_text(dump(made))
    Path("run/result.json").unlink()
    Path("run/last.safetensors").write_bytes(b"cut off")
    before = checkpoint.peek(checkpoint.previous(Path("run/last.safetensors")))["progress"]["step"]
    assert before < 12
    code, _, err = call("resume=run")
    assert code == 0, err
    assert [change["step"] for change in result("run")["changed"]] == [before]
    assert folders.identity_of(Path("run")) == result("run")["identity"]


def test_a_rollback_is_a_change(call: Cli) -> None:
    code, _, err = call(
        *TINY,
        "epochs=2",
        "optimizer.lr=1e6",
        "trainer.on_nonfinite=rollback",
        "trainer.limit_steps=8",
        "out=run",
    )
    assert code in (0, 5), err
    facts = checkpoint.peek(Path("run/last.safetensors"))
    assert facts["progress"]["rollbacks"] == len(facts["rolled_back"]) > 0


def test_weights_to_start_from_are_part_of_the_identity(call: Cli) -> None:
    assert call(*TINY, "epochs=1", "out=source")[0] == 0
    assert call(*TINY, "epochs=1", "seed=1", "init_from=source", "out=one")[0] == 0
    assert provenance.load(Path("one")).init_sha256 == checkpoint.stated_digest(
        Path("source/best.safetensors")
    )
    assert call("resume=source", "epochs=2")[0] == 0
    assert call(*TINY, "epochs=1", "seed=1", "init_from=source", "out=two")[0] == 0
    assert result("one")["identity"] != result("two")["identity"]
    code, out, err = call("compare", "one", "two", command="skiplab")
    assert code == 0, err
    assert out.count("init_sha256=") >= 2, "two groups, not one run and its repeat"
    Path("one/result.json").unlink()
    for name in ("last.safetensors", "last.prev.safetensors"):
        Path("one", name).unlink()
    code, _, err = call("resume=one")
    assert (code, err.count("\n")) == (2, 1)
    assert "has changed since this run was begun" in err


# --------------------------------------------------------------------------------------------------
# Hand edits


@pytest.fixture
def run(call: Cli) -> Path:
    """A finished run of two epochs, with the best weights at the end and others before."""
    assert call(*TINY, "epochs=2", "out=run")[0] == 0
    return Path("run")


def test_a_config_that_was_edited_by_hand_is_refused_by_every_reader(run: Path, call: Cli) -> None:
    (run / folders.RESULT).rename("kept")
    edit(run / folders.CONFIG, seed=5, batch_size=128)
    for arguments in (
        (f"resume={run}",),
        (f"resume={run}", "trainer.log_every=3"),
        (*TINY, "epochs=2", f"out={run}"),
    ):
        code, _, err = call(*arguments)
        assert code == 2, arguments
        assert "edited by hand (batch_size=128, was 256; seed=5, was 0)" in err
    Path("kept").rename(run / folders.RESULT)
    for verb in ("evaluate", "draw", "compare", "verify"):
        code, _, err = call(verb, str(run), command="skiplab")
        assert (code, err.count("\n")) == (2, 1), verb
        assert "edited by hand (batch_size=128, was 256; seed=5, was 0)" in err
    code, _, err = call(*TINY, f"init_from={run}")
    assert code == 2
    assert err.startswith(f"error: init_from={run.absolute()}/config.yaml: edited by hand")
    assert f"{run}  (config.yaml was edited by hand)" in call("list", ".", command="skiplab")[1]


def test_an_edit_with_a_matching_first_line_is_found_by_the_checkpoint(
    run: Path, call: Cli
) -> None:
    (run / folders.RESULT).unlink()
    (run / folders.CONFIG).write_text(dump(replace(provenance.load(run), seed=5)))
    code, _, err = call(f"resume={run}")
    assert (code, err.count("\n")) == (2, 1)
    assert "last.safetensors: of another run than config.yaml (seed=5, was 0)" in err
    code, _, err = call("evaluate", str(run), "--split", "val", command="skiplab")
    assert (code, err.count("error")) == (3, 1), err


def test_a_checkpoint_of_another_run_is_not_taken_over(run: Path, call: Cli) -> None:
    assert call(*TINY, "epochs=2", "seed=1", "out=other")[0] == 0
    for path in run.glob("best*.safetensors"):
        shutil.copy("other/best.safetensors", path)
    code, _, err = call("evaluate", str(run), command="skiplab")
    assert (code, err.count("\n")) == (3, 1)
    assert "of another run" in err
    (run / folders.RESULT).unlink()
    for name in ("last.safetensors", "last.prev.safetensors"):
        shutil.copy(f"other/{name}", run / name)
    code, _, err = call(f"resume={run}")
    assert (code, err.count("\n")) == (2, 1)
    assert "seed=0, was 1" in err


def test_the_best_weights_are_those_or_none(run: Path, call: Cli) -> None:
    """An earlier generation in the place of the best is no best: exit 3, as on resume."""
    best = result(run)["best_step"]
    path = provenance.weights(run, "best", provenance.load(run))
    assert checkpoint.peek(path)["step"] == best
    (run / "best.safetensors").rename("kept")
    code, out, err = call("evaluate", str(run), command="skiplab")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert f"best weights are of step {best}" in err
    code, _, err = call(*TINY, f"init_from={run}")
    assert code == 3, err
    Path("kept").rename(run / "best.safetensors")
    assert call("evaluate", str(run), command="skiplab")[0] == 0
    shutil.copy(run / "last.prev.safetensors", run / "last.safetensors")
    code, _, err = call("evaluate", str(run), "--checkpoint", "last", command="skiplab")
    assert (code, err.count("\n")) == (3, 1)
    assert "last weights are of step 12" in err


def test_the_generation_that_is_the_best_is_found_where_it_lies(run: Path) -> None:
    """A kill between two saves leaves a later best in the first place."""
    (run / "best.safetensors").rename(run / "best.prev.safetensors")
    tensors, facts = checkpoint.load(run / "best.prev.safetensors")
    shutil.copy(run / "best.prev.safetensors", run / "best.safetensors")
    checkpoint.save(run / "best.safetensors", tensors, facts | {"step": facts["step"] + 6})
    config = provenance.load(run)
    assert provenance.weights(run, "best", config) == run / "best.prev.safetensors"
    (run / folders.RESULT).write_text("{}")
    with pytest.raises(CheckpointError, match="says which step is best"):
        provenance.weights(run, "best", config)


def test_history_that_nobody_wrote_is_refused(run: Path) -> None:
    edit(run / folders.CONFIG, changed=[{"step": "six", "key": "epochs", "from": 1, "to": 2}])
    with pytest.raises(UsageError, match="Skiplab writes this key itself"):
        provenance.load(run)
