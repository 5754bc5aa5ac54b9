"""trainer.on_nonfinite=rollback: a run goes back to its last save, and in the end gives up."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import torch

from helpers import Cli, compose, on_cpu
from poisoned import SMALL, trainer_in
from skiplab.errors import Stopped
from skiplab.machine.decisions import GO_ON, stop_with
from skiplab.run import prepare
from skiplab.runs import checkpoint, folders
from skiplab.runs.log import Log
from skiplab.training import rollback
from skiplab.training.rollback import MAX_ROLLBACKS


def test_rollback_goes_back_and_lowers_the_rate(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path / "run", "trainer.on_nonfinite=rollback")
    assert trainer.progress.step == 18
    assert trainer.progress.rollbacks == 2
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["lr"] for row in rows if "lr" in row}
    # Each step is recorded once.
    assert list(rates) == list(range(1, 19))
    assert [rates[step] for step in (1, 6, 7, 18)] == [0.05, 0.05, 0.0125, 0.0125]
    said = (tmp_path / "run/run.log").read_text()
    assert (
        "going back to step 6, from there with 0.5 of the learning rate (rollback 1 of at most 5)"
        in said
    )
    assert "with 0.25 of the learning rate (rollback 2 of at most 5)" in said
    # A run that is resumed from the last save has gone back as often.
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


def test_a_stop_that_meets_a_rollback_is_not_forgotten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    asked = iter([*[GO_ON] * 8, stop_with(143), *[GO_ON] * 100])
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
    # It goes back to 6, then stops after the next step.
    assert trainer.progress.step == 7
