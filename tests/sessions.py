"""Runs in this process, session by session, and whether two of them are the same run."""

from contextlib import closing
from pathlib import Path

import pytest
import torch

from helpers import on_cpu
from skiplab.config.schema import Config
from skiplab.errors import Stopped
from skiplab.machine.decisions import GO_ON, Decision, stop_with
from skiplab.run import prepare
from skiplab.runs import checkpoint, folders
from skiplab.runs.log import Log
from skiplab.training.trainer import Trainer


class Killed(Exception):
    """Stands for SIGKILL: nothing is saved on the way out."""


def sit(
    config: Config, folder: Path, *, stop_after: int | None = None, kill: bool = False
) -> Trainer:
    """Run one session: from where the folder stands to step `stop_after`, or to the end."""
    folder.mkdir(exist_ok=True)
    with closing(Log(folder, console=False)) as log:
        trainer: Trainer | None = None

        def stop_signal() -> Decision:
            assert trainer is not None
            if trainer.progress.step != stop_after:
                return GO_ON
            if kill:
                raise Killed
            return stop_with(130)

        trainer, _ = prepare(config, on_cpu(folder, log, stop_signal))
        trainer.fit()
    return trainer


def sit_until(config: Config, folder: Path, step: int, *, kill: bool = False) -> None:
    with pytest.raises(Killed if kill else Stopped):
        sit(config, folder, stop_after=step, kill=kill)


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that all tensors, facts and metrics of two runs are equal, bit for bit."""
    for name in (folders.LAST, folders.BEST):
        tensors, facts = checkpoint.load(one / name)
        other_tensors, other_facts = checkpoint.load(other / name)
        assert tensors.keys() == other_tensors.keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, other_tensors[key]), f"{name}: {key}"
        # Seconds and images of all sessions may differ.
        assert {**facts, "history": None} == {**other_facts, "history": None}
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
