"""Searches: the space, trials as runs, what is pruned or fails, and going on after a kill."""

import re
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from helpers import Cli, start
from skiplab.config import grid
from skiplab.errors import UsageError
from skiplab.runs import lock, status
from skiplab.study import search, search_files, search_space
from skiplab.study.supervisor import Job

SMALL = ("width=8", "batch_size=256", "trainer.threads=1", "jobs=2", "study=s")


def stored(folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / search_files.JOURNAL)))
    return optuna.load_study(study_name=folder.name, storage=storage)


def test_the_space_is_what_the_command_line_says() -> None:
    texts = [
        "optimizer.lr=tag(log,interval(1e-3,1))",
        "trainer.ema=interval(0.0,0.9)",
        "depth=range(1,8,2)",
        "width=interval(8,32)",
    ]
    assert search_space.space_of(grid.parsed([*texts, "block=conv,skip", "epochs=3"])) == {
        "optimizer.lr": FloatDistribution(1e-3, 1.0, log=True),
        "trainer.ema": FloatDistribution(0.0, 0.9),
        "depth": IntDistribution(1, 7, step=2),
        "width": IntDistribution(8, 32),
        "block": CategoricalDistribution(["conv", "skip"]),
    }
    for bad, words in (
        ("depth=3", "nothing to search"),
        ("optimizer.lr=interval(1,0.1)", "from a smaller to a larger number"),
    ):
        with pytest.raises(UsageError, match=words):
            search_space.space_of(grid.parsed([bad]))


def test_a_search_ends_with_the_best_command_line_and_goes_on_to_more_trials(call: Cli) -> None:
    """This block cannot be built with odd widths: their trials are recorded as failed."""
    search_space = (
        *SMALL,
        "epochs=1",
        "depth=1",
        "block=residual",
        "width=interval(7,10)",
        "optimizer.lr=tag(log,interval(1e-2,0.1))",
    )
    code, out, err = call("search", *search_space, "--trials", "4", command="skiplab")
    assert (code, err) == (0, "")
    trials = stored(Path("outputs/studies/s")).trials
    assert len(trials) == 4
    for trial in trials:
        assert trial.state == (
            TrialState.FAIL if trial.params["width"] % 2 else TrialState.COMPLETE
        )
        assert (
            trial.value is None
            or trial.value == status.read(Path(trial.user_attrs["folder"])).val_accuracy
        )
    best = max(
        (trial for trial in trials if trial.value is not None), key=lambda trial: trial.value or 0
    )
    assert f"the best again:  train {' '.join(SMALL[:3][1:])}" in out
    assert f"width={best.params['width']} optimizer.lr={best.params['optimizer.lr']}" in out
    assert ("so a rough guess" in out) == ("importance: " in out)
    assert not list(Path("outputs").glob("**/test_reads.jsonl"))
    assert "  test " not in out
    assert f"train resume={best.user_attrs['folder']} evaluator.split=test" in out
    assert Path("outputs/studies/s/search.png").exists()
    code, out, _ = call("search", *search_space, "--trials", "5", command="skiplab")
    assert code == 0
    assert "4 of 5 trials done before" in out
    assert len(stored(Path("outputs/studies/s")).trials) == 5
    code, _, err = call(
        "search", *search_space, "width=interval(4,10)", "--trials", "6", command="skiplab"
    )
    assert (code, err) == (
        2,
        "error: study=s: was searched over width, optimizer.lr in other ranges; "
        "take another study=NAME\n",
    )


def test_what_cannot_be_searched(call: Cli) -> None:
    def refusal(*arguments: str) -> str:
        code, _, err = call("search", *arguments, command="skiplab")
        assert code == 2
        assert len(err.splitlines()) == 1, err
        return err

    assert "nothing to search; give a key several values" in refusal("depth=2")
    assert "val_fraction=0: a search goes by validation accuracy" in refusal(
        "depth=1,2", "val_fraction=0"
    )
    assert "optimizer.lr=-1: must be above 0" in refusal("optimizer.lr=0.1,-1")
    assert "--trials 0: a whole number from 1 on is expected" in refusal(
        "depth=1,2", "--trials", "0"
    )
    assert "sweep=blocks: a preset is a grid for train" in refusal(
        "sweep=blocks", "optimizer.lr=0.1,0.2"
    )
    assert "optimizer.sgd_lr" in refusal("optimizer.sgd_lr=interval(0.1,1)")
    told = refusal("optimizer.momentum=interval(0.5,1.2)")
    assert told.startswith("error: optimizer.momentum=1.2: must be below 1")
    assert told.endswith("(an end of optimizer.momentum=interval(0.5,1.2))\n")
    assert "optimizer=sgd has no such key" in refusal("optimizer.betas=interval(0.1,0.9)")
    assert not Path("outputs").exists()


def test_a_search_keeps_to_its_settings_and_survives_a_torn_journal(tmp_path: Path) -> None:
    space: dict[str, BaseDistribution] = {"depth": IntDistribution(1, 9)}
    options = search.Options((), 20)
    searched = search.Search(tmp_path, ["epochs=10"], space, options)
    searched.study.tell(searched.study.ask(space), 0.5)
    with pytest.raises(
        UsageError,
        match=r"was searched with other values \(epochs=10, epochs=3\); take another study=NAME",
    ):
        search.Search(tmp_path, ["epochs=3"], space, options)
    journal = tmp_path / search_files.JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 6, "wor')
    assert len(search.Search(tmp_path, ["epochs=10"], space, options).study.trials) == 1
    assert b'"wor' not in journal.read_bytes().replace(b'"worker', b"")
    journal.write_bytes(b"garbage\n" + whole)
    with pytest.raises(UsageError, match=r"search\.journal: damaged; its runs are kept"):
        search.Search(tmp_path, ["epochs=10"], space, options)


def test_a_trial_that_stands_below_the_others_is_given_up(tmp_path: Path) -> None:
    """By Optuna's median pruner, at the same share of each run, and not in its first fifth."""
    searched = search.Search(
        tmp_path, ["epochs=10"], {"depth": IntDistribution(1, 9)}, search.Options((), 20)
    )
    for _ in range(search.STARTUP_TRIALS):
        trial = searched.study.ask({"depth": IntDistribution(1, 9)})
        for share in range(10, 101, 10):
            trial.report(0.9, share)
        searched.study.tell(trial, 0.9)

    def fresh() -> Job:
        job = searched.job_of(searched.study.ask(searched.space))
        assert job is not None
        job.cell.folder.mkdir(parents=True, exist_ok=True)
        return job

    def stands(job: Job, epoch: int, accuracy: float) -> bool:
        row = (
            f'{{"step": {6 * epoch}, "epoch": {epoch}.0, '
            f'"train_loss": 1, "val_accuracy": {accuracy}}}\n'
        )
        with (job.cell.folder / "metrics.jsonl").open("a") as file:
            file.write(row)
        return searched.should_prune(job)

    job = fresh()
    # There is no evaluation yet.
    assert not searched.should_prune(job)
    assert not stands(job, 1, 0.1)
    assert not stands(job, 3, 0.95)
    job = fresh()
    assert stands(job, 3, 0.2)
    job.state, job.is_pruned = "stopped", True
    searched.tell(job)
    assert [trial.state for trial in searched.study.trials][-1] == TrialState.PRUNED


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_with_its_trials(tmp_path: Path) -> None:
    command = (
        "search",
        *SMALL,
        "epochs=60",
        "depth=1",
        "optimizer.lr=tag(log,interval(1e-2,0.1))",
        "--trials",
        "4",
    )
    process = start(*command, cwd=tmp_path, command="skiplab")
    folder, deadline = tmp_path / "outputs/studies/s", time.monotonic() + 60

    def saved() -> list[Path]:
        return [
            path.parent
            for path in folder.glob("trial-*/last.safetensors")
            if (status.of_last_save(path.parent).step or 0) > 0
        ]

    while len(saved()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while any(lock.is_locked(path) for path in saved()):
        time.sleep(0.05)
    process = start(*command, cwd=tmp_path, command="skiplab")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert re.search(r"0 of 4 trials done before, 2 to go on with", out)
    trials: Any = stored(folder).trials
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert all(trial.state.is_finished() for trial in trials)
    assert sum((path / "run.log").read_text().count("going on at step") for path in saved()) >= 2
