"""What a save costs the loop: a copy of the state, and no waiting for the disk."""

import statistics
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import compose, on_cpu
from skiplab.errors import FolderError
from skiplab.run import prepare
from skiplab.runs import atomic, checkpoint
from skiplab.runs.log import Log
from skiplab.training.trainer import Trainer

# A network with 2.8 million weights.
LARGE = ("model=resnet18", "width=32", "trainer.threads=1", "batch_size=16")


def test_a_snapshot_is_of_one_step_whatever_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is slow, and the loop goes on meanwhile."""
    gate, write = threading.Event(), atomic.write

    def slow(path: Path, content: bytes, **options: Any) -> None:
        if path.suffix == ".safetensors":
            gate.wait(10)
        write(path, content, **options)

    with closing(Log(tmp_path, console=False)) as log:
        trainer, _ = prepare(
            compose("depth=1", "width=8", "trainer.threads=1"),
            on_cpu(tmp_path, log),
        )
        trainer.step.model.train()
        with trainer.saver.writer:
            trainer.step.update(0)
            trainer.progress.step = 1
            expected = {name: tensor.clone() for name, tensor in trainer.state()[0].items()}
            monkeypatch.setattr(atomic, "write", slow)
            trainer.save()
            for step in range(1, 4):
                trainer.step.update(step)
            assert trainer.saver.writer.job is not None
            assert not trainer.saver.writer.job.done()
            gate.set()
    tensors, facts = checkpoint.load(tmp_path / "last.safetensors")
    assert facts["progress"]["step"] == 1
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), name


def test_a_failed_write_is_raised_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise FolderError(f"{path.parent}: full")

    with closing(Log(tmp_path, console=False)) as log:
        config = compose(
            "depth=1", "width=8", "trainer.threads=1", "steps=40", "trainer.save_every=0.5"
        )
        trainer, _ = prepare(config, on_cpu(tmp_path, log))
        first = trainer.step.update
        monkeypatch.setattr(
            trainer.step,
            "update",
            lambda step, **options: (time.sleep(0.01), first(step, **options)),
        )
        monkeypatch.setattr(atomic, "write", full)
        with pytest.raises(FolderError, match="full"):
            trainer.fit()
    assert trainer.progress.step <= 3


def seconds_of(action: object) -> float:
    assert callable(action)
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


@pytest.mark.slow
def test_a_save_stalls_the_loop_for_a_copy_of_the_state(tmp_path: Path) -> None:
    with closing(Log(tmp_path, console=False)) as log:
        trainer: Trainer = prepare(compose(*LARGE), on_cpu(tmp_path, log))[0]
        trainer.step.model.train()
        with trainer.saver.writer:
            trainer.step.update(0)
            trainer.progress.step = 1
            saves, copies, writes = [], [], []
            for _ in range(7):
                copies.append(seconds_of(lambda: checkpoint.snapshot(trainer.state()[0])))
                saves.append(seconds_of(trainer.save))
                writes.append(seconds_of(trainer.saver.writer.wait))
    save, copy, write = (statistics.median(values) for values in (saves, copies, writes))
    print(
        f"\nsave {1000 * save:.1f} ms, one copy {1000 * copy:.1f} ms, "
        f"the write behind it {1000 * write:.0f} ms"
    )
    assert save < 1.5 * copy + 0.005
