"""`skiplab train`, `python -m skiplab train` and `train` are one command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import SMALL, Cli
from skiplab.cli import verify
from skiplab.cli.skiplab import words_of_train
from skiplab.runs import folders


def run_module(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, "-m", "skiplab", *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train", ""),
        ("train depth=2 -m seed=0,1", "depth=2 -m seed=0,1"),
        ("-m train seed=0,1", "-m seed=0,1"),
        ("--help train optimizer", "--help optimizer"),
        ("train train", "train"),
        ("list train", None),
        ("--by train compare x", None),
        ("--version", None),
        ("", None),
    ],
)
def test_what_comes_after_train_is_of_train(arguments: str, words: str | None) -> None:
    assert words_of_train(arguments.split()) == (None if words is None else words.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--help", "optimizer"),
        ("--version",),
        ("--cfg", "job", "depth=3"),
        ("--cfg", "job", "-p", "optimizer"),
        ("-m", "seed=0,1", "--cfg", "job"),
        ("resume=nowhere",),
        ("dpth=3", "lr=x"),
        ("--seed", "3"),
        ("-m", "--run"),
    ],
)
def test_both_spellings_answer_alike(arguments: tuple[str, ...], call: Cli) -> None:
    both = (call("train", *arguments, command="skiplab"), call(*arguments))
    # The estimate of a study's time is measured each time.
    one, other = ((code, re.sub(r"about .*", "", out), err) for code, out, err in both)
    assert one == other


def test_the_verbs_help_lists_train(call: Cli) -> None:
    code, out, err = call("--help", command="skiplab")
    assert (code, err) == (0, "")
    assert "\n    train " in out


def test_the_module_is_the_command(tmp_path: Path, call: Cli) -> None:
    done = run_module("train", "--cfg", "job", "depth=3", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == call("--cfg", "job", "depth=3")
    done = run_module("list", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: outputs: no such folder")


@pytest.mark.slow
def test_a_run_from_the_module_is_the_same(tmp_path: Path, straight: dict[str, str]) -> None:
    done = run_module("train", *SMALL, "out=run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert verify.digests(tmp_path / "run") == straight


@pytest.mark.slow
def test_a_study_runs_from_the_module(tmp_path: Path) -> None:
    """Its processes import the main module again, which must not run the command again."""
    study = ("-m", *SMALL, "seed=0,1", "study=s")
    done = run_module("train", *study, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(folders.runs_under(tmp_path / "outputs/studies/s")) == 2
    again = run_module("train", *study, cwd=tmp_path)
    assert "done before" in again.stdout
    done = run_module("train", *study[:-1], "study=j", "hydra/launcher=basic", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(folders.runs_under(tmp_path / "outputs/studies/j")) == 2
