"""`skiplab list`: one row per run and study within the terminal, its filters, what differs."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers import Cli, compose
from skiplab.cli import list_table
from skiplab.config import stored
from skiplab.runs import folders
from skiplab.study import record


@dataclass(frozen=True)
class Made:
    """Makes runs that look finished, or are none yet."""

    count: Iterator[int]

    def run(self, folder: str, *texts: str, val: float | None = 0.9) -> str:
        path = Path(folder)
        path.mkdir(parents=True)
        config = compose(*texts)
        (path / folders.CONFIG).write_text(stored.dump(config))

        began = 1_700_000_000 + 60 * next(self.count)
        os.utime(path / folders.CONFIG, (began, began))
        if val is not None:
            result = {
                "steps": 10,
                "best_val_accuracy": val,
                "test": {"accuracy": val - 0.1},
                "train_seconds": 3.0,
            }
            (path / folders.RESULT).write_text(json.dumps(result))
        return folder

    def study(self, name: str, command: str, cells: list[str]) -> None:
        folder = Path("outputs/studies") / name
        folder.mkdir(parents=True, exist_ok=True)
        record.write(folder, command=command, cells=[folder / cell for cell in cells])


@pytest.fixture
def made() -> Made:
    return Made(iter(range(1000)))


def listed(call: Cli, *arguments: str) -> str:
    code, out, err = call("list", *arguments, command="skiplab")
    assert (code, err) == (0, "")
    return out


def in_80(call: Cli, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    out = listed(call, *arguments)
    commands = [line for line in out.splitlines() if "its command" not in line]
    assert max(map(len, commands)) <= 80
    return out


@pytest.fixture
def some(made: Made) -> Made:
    made.run("outputs/a", "norm=none", "seed=2", "name=no norm")
    made.run("outputs/b", "model=resnet", "dataset=mnist", "optimizer=adam")
    made.run("outputs/c", "model=resnet110", "dataset=cifar10", "epochs=3", val=None)
    for seed in (0, 1):
        made.run(f"outputs/studies/s/seed-{seed}", f"seed={seed}", "block=skip", val=0.5 + seed / 5)
    Path("outputs/studies/s/logs").mkdir()
    Path("outputs/studies/s/logs/seed-2.log").write_text("epoch 1\nerror: the disk is full\n")
    made.study("s", "train -m block=skip seed=0,1,2,3", [f"seed-{seed}" for seed in range(4)])
    return made


def test_a_study_is_one_row_and_the_newest_stand_last(
    some: Made, call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = in_80(call, monkeypatch).splitlines()
    at = {word: i for i, line in enumerate(lines) for word in line.split()[:1]}
    assert at["outputs/a"] < at["outputs/b"] < at["outputs/c"] < at["outputs/studies/s"]
    assert "seed-0" not in "".join(lines)
    study = lines[at["outputs/studies/s"] - 1]
    # Its best on validation, and the test accuracy of the same run.
    assert re.search(r"study +digits +2 of 4 done, 1 failed +70\.00 +60\.00 +seed$", study)
    assert lines[at["outputs/studies/s"] + 1] == "  its command: train -m block=skip seed=0,1,2,3"


def test_what_differs_from_the_presets_is_told(
    some: Made, call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = in_80(call, monkeypatch)
    # It stands where there is room: behind the row, behind the folder, or below.
    assert re.search(r"90\.00 +80\.00\n  outputs/a  norm=none seed=2 name='no norm'\n", out)
    assert re.search(
        r"mnist +resnet/basic d1 w32 +90\.00 +80\.00\n  outputs/b  optimizer=adam\n", out
    )
    assert re.search(r"cifar_resnet/basic d110 w16 +- +- +epochs=3\n  outputs/c\n", out)


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        (("status=finished",), {"a", "b", "seed-0", "seed-1"}),
        (("state=stopped",), {"c"}),
        (("model=resnet",), {"b"}),
        (("model=resnet110",), {"c"}),
        (("model=resnet20",), set()),
        (("model=cifar_resnet,resnet",), {"b", "c"}),
        (("dataset=digits", "seed=0"), {"seed-0"}),
        (("block=skip", "seed=1,2"), {"seed-1"}),
        (("name=no*",), {"a"}),
        (("study=s",), {"seed-0", "seed-1"}),
        (("optimizer=adam",), {"b"}),
        (("optimizer.lr=0.001",), {"b"}),
        (("norm=none", "outputs"), {"a"}),
        (("study=none",), set()),
    ],
)
def test_filters_keep_what_fits(
    filters: tuple[str, ...], kept: set[str], some: Made, call: Cli
) -> None:
    document = json.loads(listed(call, *filters, "--json"))
    assert {Path(run["folder"]).name for run in document["runs"]} == kept
    has_study = bool(kept & {"seed-0", "seed-1"})
    assert [Path(each["folder"]).name for each in document["studies"]] == ["s"] * has_study
    if not kept:
        assert listed(call, *filters).startswith("no runs under outputs with ")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("status=runing", "status=runing: did you mean running?"),
        ("model=resnt", "model=resnt: did you mean resnet?"),
        ("statu=x", "statu: no such key; did you mean status?"),
        ("lr=1", "lr: no such key at the root; did you mean optimizer.lr?"),
    ],
)
def test_a_filter_that_nothing_can_pass_gets_one_line(
    word: str, line: str, some: Made, call: Cli
) -> None:
    code, out, err = call("list", word, command="skiplab")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {line}")


def test_an_opened_study_lists_its_runs(some: Made, call: Cli) -> None:
    for arguments in (("study=s",), ("outputs/studies/s",)):
        out = listed(call, *arguments)
        assert "outputs/studies/s/seed-0" in out
        assert "its command: train -m" in out


def test_twenty_rows_are_shown_and_all_if_asked(made: Made, call: Cli) -> None:
    for number in range(23):
        made.run(f"outputs/r{number:02}")
    out = listed(call)
    assert "outputs/r02" not in out
    assert "outputs/r03" in out
    assert out.endswith("3 older: skiplab list --all\n")
    assert listed(call, "--all").count("outputs/r") == 23
    assert len(json.loads(listed(call, "--json"))["runs"]) == 23


def test_a_wide_terminal_and_a_pipe_have_one_line_per_run(
    some: Made, call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = listed(call)
    monkeypatch.setenv("COLUMNS", "200")
    assert listed(call) == piped
    row = next(line for line in piped.splitlines() if line.endswith("outputs/a"))
    assert " norm=none " in row
    assert " deepcnn/residual d6 w32 s2 (no norm) " in row


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (59, "59 s"), (3599, "60 min"), (7200, "2 h"), (9e6, "104 d")],
)
def test_an_age_has_one_unit(seconds: float, words: str) -> None:
    assert list_table.age(seconds) == words
