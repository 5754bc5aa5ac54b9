"""A study's live table and the table at its end, from files that running cells would leave."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import compose
from skiplab.runs.status import Status
from skiplab.study import plan, progress_view, supervisor, sweep
from skiplab.study.supervisor import Job


def job(label: str, *, state: str = "running", texts: tuple[str, ...] = (), **more: Any) -> Job:
    folder = Path("outputs/studies/s") / label.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    config = compose("batch_size=100", "steps=1000", *texts)
    log = Path("outputs/studies/s/logs") / f"{folder.name}.log"
    return Job(plan.Cell(label, config, folder, log), state=state, attempts=1, **more)


def reach(of: Job, step: int) -> None:
    """Write the rows up to a step, as a log point does."""
    rows = [{"step": number, "lr": 0.1, "loss": 1.0} for number in range(1, step + 1)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (of.cell.folder / "metrics.jsonl").write_text(text)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: found.now)
    return found


def test_the_last_log_point_is_read_from_whole_rows() -> None:
    one = job("seed=0")
    assert supervisor.step_of(one) is None
    reach(one, 3000)
    assert supervisor.step_of(one) == 3000
    with (one.cell.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3001, "lr"')
    assert supervisor.step_of(one) == 3000


def test_the_time_left_is_known_from_the_second_log_point_on(clock: SimpleNamespace) -> None:
    one, other = job("seed=0", began=100.0), job("seed=1", state="waiting")
    progress = progress_view.Progress(slots=1)
    jobs = [one, other]
    assert progress.left(jobs) is None
    # A start of 9 s, then 50 steps a second.
    clock.now = 110.0
    reach(one, 50)
    assert progress.left(jobs) is None
    clock.now = 111.0
    reach(one, 100)
    # 900 steps of this cell, and another that takes as long as this one in all: 11 s + 18 s.
    assert progress.left(jobs) == pytest.approx(18 + 29)
    clock.now = 112.0
    assert progress.left(jobs) == pytest.approx(17 + 29)
    # A finished cell of this call tells what a whole one takes.
    ended = job("seed=2", state="finished", seconds=20.0)
    assert progress.left([one, other, ended]) == pytest.approx(17 + 20)


def test_a_run_that_goes_on_is_timed_from_where_it_stood(clock: SimpleNamespace) -> None:
    one = job("seed=0", began=100.0)
    reach(one, 600)
    progress = progress_view.Progress(slots=1)
    assert progress.left([one]) is None
    for seconds, step in ((110, 650), (111, 700)):
        clock.now = float(seconds)
        reach(one, step)
        found = progress.left([one])
    assert found == pytest.approx(6.0)
    # Cut back to a save.
    reach(one, 500)
    assert progress.left([one]) is None


def test_a_row_of_the_live_table_has_step_and_speed(clock: SimpleNamespace) -> None:
    one = job("seed=0", began=100.0)
    view = object.__new__(progress_view.Live)
    progress_view.Progress.__init__(view, slots=1)
    assert view.row(one)[2:5] == ("-", "-", "-")
    for seconds, step in ((110, 50), (111, 100)):
        clock.now = float(seconds)
        reach(one, step)
        row = view.row(one)
    assert row[2:5] == ("100 of 1,000", "-", "5,000")


def test_the_closing_table_has_keys_in_columns_and_its_folder_once() -> None:
    done = job("block=conv depth=2", state="finished")
    failed = job("block=skip depth=18", state="failed", reason="exit code 5: the loss is nan")
    table = progress_view.closing_table(
        [done, failed], lambda each: Status("", val_accuracy=0.5 if each is done else None)
    )
    lines = table.splitlines()
    assert lines[0] == "in outputs/studies/s:"
    assert lines[1].split() == [
        *("state", "block", "depth", "val", "%", "test", "%", "seconds"),
        *("run", "folder,", "or", "log"),
    ]
    assert lines[2].split() == ["done", "conv", "2", "50.00", "-", "-", "block=conv_depth=2"]
    assert lines[3].endswith("logs/block=skip_depth=18.log: exit code 5: the loss is nan")
    assert table.count("outputs/studies/s") == 1


def test_labels_without_the_same_keys_are_one_column() -> None:
    assert progress_view.by_key(["seed=0", "trial 3"]) == (["cell"], [["seed=0"], ["trial 3"]])
    assert progress_view.by_key(["a=1 b=x=y"]) == (["a", "b"], [["1", "x=y"]])


@pytest.mark.parametrize(("verbose", "shown"), [("", 1), ("1", 3)])
def test_single_cells_are_shown_if_asked_and_those_that_are_not_done_always(
    verbose: str, shown: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKIPLAB_VERBOSE", verbose)
    jobs = [job(f"seed={seed}", state="finished") for seed in (0, 1)]
    jobs.append(job("seed=2", state="failed", reason="exit code 1"))
    assert sweep.print_closing_table(jobs, stopped=0) == 1
    out = capsys.readouterr().out
    assert out.count("seed=") == shown
    assert "sweep: 2 of 3 cells done, 1 failed" in out
    assert ("skiplab list study=s" in out) == (not verbose)
