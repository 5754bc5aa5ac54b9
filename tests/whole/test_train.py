"""The commands as a user types them: a run, its folder, resuming, changes, sweeps, bad ends."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import Cli, Train, compose, last_of, start
from skiplab import launch
from skiplab.cli.list import read_run
from skiplab.config import stored
from skiplab.runs import checkpoint, folders, lock, status
from skiplab.study import plan

SMALL = ("depth=1", "width=8", "batch_size=256", "epochs=2", "trainer.threads=1")


def run_folders() -> list[Path]:
    return folders.runs_under(Path("outputs"))


def test_the_test_set_stays_sealed_where_the_report_is_of_validation(call: Cli) -> None:
    """Until somebody asks for it: then the run's end is done again with it, and no step."""
    code, out, _ = call("epochs=1", "width=8", "evaluator.split=val", "out=run")
    assert code == 0
    assert "digits validation set" in out
    assert out.endswith(
        "the test set was not read; to add the test result: train resume=run evaluator.split=test\n"
    )
    folder = Path("run")
    assert not (folder / "test_reads.jsonl").exists()
    result = json.loads((folder / folders.RESULT).read_text())
    assert (result["test"], result["test_seconds"]) == (None, None)
    # The evaluation during training found the same.
    assert f"\nloss {result['best_val_loss']:.4f}, " in (folder / "report.txt").read_text()
    with np.load(folder / "predictions.npz") as predictions:
        assert sorted(predictions) == ["val_labels", "val_predictions", "val_probabilities"]
        assert (predictions["val_predictions"] == predictions["val_labels"]).mean() == result[
            "best_val_accuracy"
        ]
    assert status.read(folder).test_accuracy is None
    assert (
        "has no test.accuracy (evaluator.split=val): compare --metric val.accuracy"
        in call("compare", "run", command="skiplab")[2]
    )
    assert call("compare", "run", "--metric", "val.accuracy", command="skiplab")[0] == 0
    assert call("draw", "run", command="skiplab")[0] == 0
    assert not (folder / "test_reads.jsonl").exists()
    rows = (folder / "metrics.jsonl").read_bytes()
    code, out, err = call("evaluate", "run", "--split", "val", command="skiplab")
    assert (code, err, "digits validation set" in out) == (0, "", True)
    code, out, _ = call("resume=run", "evaluator.split=test")
    assert code == 0
    assert "digits test set" in out
    assert (folder / "metrics.jsonl").read_bytes() == rows
    assert len((folder / "test_reads.jsonl").read_text().splitlines()) == 1
    assert status.read(folder).test_accuracy is not None


def test_a_run_leaves_a_whole_folder_that_evaluates_itself(train: Train, call: Cli) -> None:
    done = train(*SMALL, "name=first")
    assert done.returncode == 0, done.stderr
    (folder,) = run_folders()
    lines = done.stdout.splitlines()
    assert lines[0] == f"run folder {folder}"
    assert f"run folder {folder}" in lines[-2]
    assert lines[-1] == f"again from the folder alone: skiplab evaluate {folder}"
    at = next(i for i, line in enumerate(lines) if line.startswith("epoch "))
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == ["1", "2"]
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""
    checkpoints = "last.safetensors last.prev.safetensors best.safetensors best.prev.safetensors"
    files = "config.yaml run.log metrics.jsonl timing.jsonl predictions.npz result.json "
    files += "report.txt test_reads.jsonl"
    pictures = "curves.png confusion.png mistakes.png samples.png"
    assert set(f"{checkpoints} {files} {pictures} .hydra .lock".split()) == {
        path.name for path in folder.iterdir()
    }
    assert {path.name for path in (folder / ".hydra").iterdir()} == {
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    }

    result = json.loads((folder / "result.json").read_text())
    assert result["name"] == "first"
    assert result["summary"]["flops"] == 2 * result["summary"]["macs"] > 0
    assert result["steps"] == 12
    assert result["identity"] == folders.identity_of(folder)
    assert result["test"]["images"] == 360
    for key in (
        "versions",
        "device",
        "threads",
        "seed",
        "train_seconds",
        "images_per_second",
        "data_sha256",
        "git_commit",
    ):
        assert key in result

    predictions = np.load(folder / "predictions.npz")
    assert (predictions["test_predictions"] == predictions["test_labels"]).mean() == result["test"][
        "accuracy"
    ]
    assert predictions["val_probabilities"].shape == (144, 10)
    assert (predictions["val_predictions"] == predictions["val_labels"]).mean() == result[
        "best_val_accuracy"
    ]

    report = (folder / "report.txt").read_text()
    assert report in done.stdout
    code, out, _ = call("evaluate", str(folder), command="skiplab")
    assert code == 0
    # Compare all but the heading.
    said = out.splitlines()[1 : len(report.splitlines())]
    assert said == report.splitlines()[1:]
    assert len((folder / "test_reads.jsonl").read_text().splitlines()) == 2
    code, out, _ = call(
        "evaluate", str(folder), "--split", "val", "--checkpoint", "last", command="skiplab"
    )
    assert code == 0
    assert "144" in out
    assert len((folder / "test_reads.jsonl").read_text().splitlines()) == 2
    code, out, _ = call("list", command="skiplab")
    assert code == 0
    assert "finished" in out
    assert str(folder) in out
    assert f"{100 * result['best_val_accuracy']:.2f} %" in out


def test_interrupted_then_the_same_command_goes_on_then_starts_anew(
    tmp_path: Path, call: Cli
) -> None:
    command = (*SMALL, "epochs=300", "trainer.eval_every=1000")
    process = start(*command, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    (folder,) = run_folders()
    while not (folder / folders.LAST).exists():
        time.sleep(0.05)
    time.sleep(0.3)
    code, out, _ = call("list", command="skiplab")
    assert "running" in out
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 5
    assert f"go on with: train resume={folder}" in err
    step = checkpoint.load(folder / folders.LAST)[1]["progress"]["step"]
    assert 0 < step < 1800
    code, out, _ = call("list", command="skiplab")
    assert re.search(rf"^stopped .* {step} of 1,800 .* {folder}$", out, re.MULTILINE)
    assert out.endswith("go on with a stopped run: train resume=RUN_FOLDER\n")

    code, out, err = call(*command, "trainer.max_time=1e-9")
    assert code == 7, err
    assert (
        out.splitlines()[0]
        == f"going on with {folder} at step {step} of 1,800; resume=never starts afresh"
    )
    assert out.count("going on") == 1
    assert checkpoint.load(folder / folders.LAST)[1]["progress"]["step"] == step + 1
    assert run_folders() == [folder]
    code, out, err = call(*command, "resume=never", "trainer.max_time=1e-9")
    assert code == 7
    assert len(run_folders()) == 2


def test_sigterm_in_a_background_job_with_sigint_ignored(tmp_path: Path) -> None:
    arguments = last_of((*SMALL, "epochs=3000", "trainer.eval_every=1000", "out=run"))
    script = f"trap '' INT; exec {Path(sys.executable).parent / 'train'} {' '.join(arguments)}"
    process = subprocess.Popen(
        ["sh", "-c", script],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "run" / folders.LAST).exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "train resume=run" in err


def test_a_finished_run_is_never_continued_but_resume_path_shows_its_report(call: Cli) -> None:
    assert call(*SMALL)[0] == 0
    code, out, _ = call(*SMALL)
    assert code == 0
    assert "going on" not in out
    first, second = run_folders()
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    assert (first / "report.txt").read_bytes() == (second / "report.txt").read_bytes()
    assert (first / "predictions.npz").read_bytes() == (second / "predictions.npz").read_bytes()
    for path in (first, first / "last.safetensors"):
        code, out, _ = call(f"resume={path}")
        assert code == 0
        assert (first / "report.txt").read_text() in out
    assert len(run_folders()) == 2


def test_more_epochs_on_resume_and_what_cannot_change(call: Cli) -> None:
    assert call(*SMALL, "out=run")[0] == 0
    code, out, err = call("resume=run", "epochs=3", "optimizer.lr=0.01")
    assert code == 0, err
    assert "epochs=3 (was 2): the schedule is stretched to the new length" in out
    assert "optimizer.lr=0.01 (was 0.05)" in out
    assert "going on with run at step 12\n" in out
    assert json.loads(Path("run/result.json").read_text())["steps"] == 18
    code, _, err = call("resume=run", "width=16", "dataset=mnist", "seed=3", "augment.crop=1")
    assert code == 2
    assert len(err.splitlines()) == 4
    for name in ("width", "dataset", "seed", "augment.crop"):
        assert name in err


def test_out_names_the_folder_and_protects_what_is_there(call: Cli) -> None:
    assert call(*SMALL, "out=a/b")[0] == 0
    code, out, _ = call(*SMALL, "out=a/b")
    assert code == 0
    assert "is finished" in out
    code, _, err = call(*SMALL, "out=a/b", "width=10")
    assert code == 4
    assert "width" in err
    code, _, err = call(*SMALL, "out=a/b", "resume=never")
    assert code == 4
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("mine")
    code, _, err = call(*SMALL, "out=mine")
    assert code == 4
    assert "not a run folder" in err
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


def test_two_runs_in_one_folder_the_second_is_refused(call: Cli) -> None:
    Path("run").mkdir()
    with lock.hold(Path("run")):
        code, _, err = call(*SMALL, "out=run")
    assert code == 4
    assert "in use by pid" in err


def test_init_from_takes_weights_alone(call: Cli) -> None:
    assert call(*SMALL, "out=first")[0] == 0
    code, _, err = call(
        *SMALL, "out=second", "init_from=first", "optimizer.lr=1e-12", "epochs=1", "trainer.ema=0.5"
    )
    assert code == 0, err
    first, second = (checkpoint.load(Path(name) / folders.BEST)[0] for name in ("first", "second"))
    torch.testing.assert_close(first["head.2.weight"], second["head.2.weight"])
    code, _, err = call(*SMALL, "out=third", "init_from=first", "width=10")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "first" in err
    code, _, err = call(*SMALL, "init_from=nowhere")
    assert code == 2


@pytest.mark.parametrize("log_every", [1, 5, 50])
def test_divergence_ends_with_5_and_never_reaches_best(log_every: int, call: Cli) -> None:
    code, _, err = call(
        *SMALL,
        "optimizer.lr=1e18",
        "scheduler=constant",
        "out=run",
        f"trainer.log_every={log_every}",
    )
    assert code == 5
    assert len(err.splitlines()) == 1
    assert "learning rate" in err
    for name in (folders.LAST, folders.BEST):
        if (Path("run") / name).exists():
            tensors, _ = checkpoint.load(Path("run") / name)
            assert all(torch.isfinite(tensor.double()).all() for tensor in tensors.values())


def test_a_sweep_runs_every_cell_and_a_bad_one_spares_the_others(call: Cli) -> None:
    code, out, err = call(
        "-m", *SMALL, "block=conv,skip", "optimizer.lr=0.05,1e18", "scheduler=constant"
    )
    assert (code, err) == (1, "")
    assert "sweep: 2 of 4 cells done, 2 failed" in out
    assert (
        sum("the loss is" in line for line in out.splitlines() if line.startswith("failed ")) == 2
    )
    names = sorted(folder.name.rsplit("_", 1)[0] for folder in run_folders())
    assert names == [
        f"block-{block}_lr-{lr}_seed-0" for block in ("conv", "skip") for lr in ("0.05", "1e_18")
    ]
    assert sum(folders.is_finished(folder) for folder in run_folders()) == 2
    # The table at the end has the failed cells, a column for each key.
    table = out[out.index("in outputs/studies/") : out.index("sweep: ")]
    for folder in run_folders():
        block = folder.name.split("_")[0].split("-")[1]
        row = rf"^failed +{block} +1e\+18 .* logs/{folder.name}\.log: exit code 5"
        is_finished = folders.is_finished(folder)
        assert bool(re.search(row, table, re.MULTILINE)) == (not is_finished)
        assert (folder.name in table) == (not is_finished)
    assert "each cell: train -v, or skiplab list study=" in out


def test_train_alone_is_a_run(tmp_path: Path) -> None:
    process = start(cwd=tmp_path)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert next(line for line in lines if line.startswith("epoch ")).split()[1] == "step"
    assert next(lines).split()[:2] == ["1", "21"]
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "digits-deepcnn-residual" in run_folders()[0].name


def test_a_time_limit_is_each_runs_own(call: Cli) -> None:
    code, out, err = call("-m", *SMALL, "block=conv,skip", "trainer.max_time=1e-9")
    assert (code, err) == (7, "")
    assert "sweep: 0 of 2 cells done, 2 stopped\n" in out
    assert "stopped  block=conv (trainer.max_time)" in out


def test_a_sweep_of_one_run_says_so(call: Cli) -> None:
    code, out, _ = call("-m", *SMALL, "trainer.limit_steps=1")
    assert code == 0
    assert "sweep: 1 of 1 cell done" in out
    assert "one run; several are written seed=0,1,2" in out


def test_no_usable_checkpoint_is_3_and_never_a_fresh_start(call: Cli) -> None:
    assert call(*SMALL, "out=run", "trainer.max_time=1e-9")[0] == 7
    for name in ("last.safetensors", "last.prev.safetensors"):
        content = bytearray(Path("run", name).read_bytes())
        content[len(content) // 2] ^= 1
        Path("run", name).write_bytes(content)
    code, _, err = call("resume=run")
    assert code == 3
    assert "run/last.safetensors: damaged" in err
    code, _, err = call("evaluate", "run", command="skiplab")
    assert code == 3


def test_a_checkpoint_of_another_network_is_refused(call: Cli) -> None:
    assert call(*SMALL, "out=one", "trainer.max_time=1e-9")[0] == 7
    assert call(*SMALL, "out=other", "width=10", "trainer.max_time=1e-9")[0] == 7
    Path("one/last.safetensors").write_bytes(Path("other/last.safetensors").read_bytes())
    code, _, err = call("resume=one")
    assert code in (2, 3)
    assert len(err.splitlines()) == 1


def test_what_makes_a_figure_say_little_is_told_at_the_start_and_in_the_report(call: Cli) -> None:
    """An average that is still the initial weights, and a validation set of an image."""
    average = ("trainer=default", "trainer.ema=0.999")
    code, out, err = call(*SMALL, *average, "val_fraction=0.001", "epochs=1", "out=run")
    assert (code, err) == (0, "")
    notes = [
        line for line in out.partition("\nepoch ")[0].splitlines() if line.startswith("note: ")
    ]
    assert notes == [
        "note: trainer.ema=0.999: after 6 steps the average, which is what is evaluated, "
        "is still 99 % initial weights; take a smaller trainer.ema, or trainer.ema_warmup=true",
        "note: val_fraction=0.001: validation has 1 image for 10 classes: the accuracy there, "
        "by which the best weights are chosen, says little",
    ]
    assert (
        Path("run/report.txt")
        .read_text()
        .endswith(notes[1].replace("val_fraction=0.001: ", "") + "\n")
    )
    code, out, err = call(
        *SMALL, "trainer.ema=0.999", "trainer.ema_warmup=true", "epochs=1", "out=warm"
    )
    assert (code, err) == (0, "")
    assert "note: " not in out
    assert "note: " not in Path("warm/report.txt").read_text()
    code, _, err = call(*SMALL, "trainer=default", "trainer.ema_warmup=true", "out=none")
    assert (code, err) == (
        2,
        "error: trainer.ema_warmup=true: there is no average to warm up; "
        "set trainer.ema above 0, or trainer=default\n",
    )


def test_debug_trainer_and_steps(call: Cli) -> None:
    code, out, err = call("trainer=debug", "depth=1", "width=8", "steps=1k", "out=run")
    assert code == 0, err
    result = json.loads(Path("run/result.json").read_text())
    assert result["steps"] == 10
    assert "10 of 1,000 steps (trainer.limit_steps)" in out
    assert len(re.findall(r"^step \d+  epoch", out, re.MULTILINE)) == 10


def test_the_test_set_of_an_unfinished_run_is_read_with_a_note(call: Cli) -> None:
    assert call(*SMALL, "out=run", "trainer.max_time=1e-9")[0] == 7
    for split, note in (("val", False), ("test", True)):
        code, out, err = call(
            "evaluate", "run", "--checkpoint", "last", "--split", split, command="skiplab"
        )
        assert code == 0
        assert "accuracy" in out
        assert ("note: run is not finished: the test set is for its end" in err) == note


@pytest.mark.realdata
@pytest.mark.parametrize(("dataset", "images"), [("mnist", 54_000), ("cifar10", 45_000)])
def test_the_real_data_sets_train(dataset: str, images: int, real_root: Path, call: Cli) -> None:
    code, out, err = call(
        f"dataset={dataset}",
        f"dataset.root={real_root}",
        "width=16",
        "depth=1",
        "steps=60",
        "out=run",
    )
    assert code == 0, err
    assert f"{dataset}: {images:,} training" in out
    result = json.loads(Path("run/result.json").read_text())
    assert result["test"]["images"] == 10_000
    assert result["test"]["accuracy"] > 0.2


def test_a_start_that_fails_leaves_no_run_behind(call: Cli) -> None:
    code, _, err = call("dataset=mnist", "dataset.root=/dev/null/nowhere")
    assert code == 2
    assert "dataset=digits needs no download" in err
    code, _, err = call("init_from=nowhere")
    assert code == 2
    assert err.startswith(f"error: init_from={Path('nowhere').absolute()}: no such run folder")
    assert run_folders() == []


def test_a_run_cannot_become_shorter_than_it_is(call: Cli) -> None:
    assert call(*SMALL, "out=run")[0] == 0
    before = Path("run/result.json").read_bytes()
    code, _, err = call("resume=run", "epochs=1")
    assert code == 2
    assert "stands at step 12, beyond the 6 steps" in err
    assert Path("run/result.json").read_bytes() == before


def test_a_second_command_with_out_says_that_it_goes_on(call: Cli) -> None:
    assert call(*SMALL, "out=run", "trainer.max_time=1e-9")[0] == 7
    step = status.of_last_save(Path("run")).step
    code, out, err = call(*SMALL, "out=run")
    assert (code, err) == (0, "")
    assert out.startswith(f"going on with run at step {step} of 12\n")
    code, out, err = call(*SMALL, "out=run")
    assert (code, err) == (0, "")
    assert out.startswith("run is finished; its report:\n")


def test_a_label_shows_in_the_folder_the_list_and_the_report(call: Cli) -> None:
    assert call(*SMALL, "name='first try'", "trainer.max_time=1e-9")[0] == 7
    (folder,) = run_folders()
    assert folder.name.endswith("-digits-deepcnn-residual-first_try")
    # It is the same run, since a label changes no number.
    code, out, _ = call(*SMALL, "name=second")
    assert code == 0
    assert out.startswith(f"going on with {folder} at step ")
    assert (
        (folder / "report.txt")
        .read_text()
        .startswith("second: digits test set, deepcnn of residual blocks (")
    )
    assert call("evaluate", str(folder), command="skiplab")[1].startswith(
        "second: digits test set, "
    )
    assert " (second)  " in call("list", command="skiplab")[1]
    assert run_folders() == [folder]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("a", "a"),
        ("a b/c", "a_b_c"),
        ("../../x", "x"),
        ("\u00e9t\u00e9 3", "t_3"),
        ("\u65e5\u672c\u8a9e", ""),
        ("x" * 300, "x" * 40),
        ("--", ""),
        ("a\nb", "a_b"),
        (".hidden.", "hidden"),
    ],
)
def test_a_label_is_a_part_of_a_folders_name(name: str, label: str, tmp_path: Path) -> None:
    config = replace(compose(), name=name)
    folder = folders.make(tmp_path, launch.name_folder(config, "12-00-00"))
    assert folder.name == "12-00-00-digits-deepcnn-residual" + (f"-{label}" if label else "")
    launch.write_config(folder, stored.dump(config))
    assert stored.load(folder / "config.yaml").name == name
    assert stored.identity(config) == stored.identity(compose())
    model = read_run(folder).row().cells["model"]
    assert len(model) <= 75
    assert "\n" not in model
    cell = plan.cell_of(["seed=1"], config, folder=tmp_path, fixed=[])
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}", cell.folder.name)
    assert cell.folder.name.startswith(label[:24])
