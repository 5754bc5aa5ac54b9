"""Losses and weights that are not finite: found early, said in one line, never saved."""

import re
from contextlib import closing
from pathlib import Path

import pytest
import torch

from helpers import compose, on_cpu
from poisoned import SMALL, trainer_in
from skiplab.errors import Diverged
from skiplab.run import prepare
from skiplab.runs import checkpoint, folders
from skiplab.runs.log import Log


def test_a_loss_that_is_not_finite_stops_the_run_and_names_what_is_not(tmp_path: Path) -> None:
    with pytest.raises(Diverged) as caught:
        trainer_in(tmp_path / "run")
    message = str(caught.value)
    assert re.fullmatch(
        r"the loss is nan at step 10 \(learning rate 0\.05; "
        r"not finite: [\w.]+, [\w.]+, [\w.]+ and \d+ more of \d+\)",
        message,
    )
    tensors, facts = checkpoint.load(tmp_path / "run" / folders.LAST)
    assert facts["progress"]["step"] == 6
    assert checkpoint.not_finite(tensors) == ""
    # Nothing is recorded of the steps that went wrong.
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 9 + 1


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """They are poisoned after the last step, when no loss tells."""
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
