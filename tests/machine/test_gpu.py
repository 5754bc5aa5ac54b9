"""What only a CUDA device can show: a step that waits for nothing.

Also compiled, half-precision and resumed runs.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import Cli, compose
from skiplab import build
from skiplab.cli import verify
from skiplab.machine import devices
from skiplab.machine.devices import pick_device
from skiplab.runs.log import Log
from skiplab.training.context import Context

pytestmark = pytest.mark.gpu
# 1,617 images, with a last batch of 17.
RUN = ("depth=1", "width=16", "batch_size=200", "epochs=3", "device=cuda")


@pytest.fixture
def trainer_of(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that makes a trainer at step 0 on the GPU. Its log is closed afterwards."""
    log = Log(tmp_path, console=False)
    yield lambda *texts: make_trainer(
        Context(folder=tmp_path, device=pick_device("cuda"), log=log), *texts
    )
    log.close()


def make_trainer(context: Context, *texts: str) -> Any:
    """Make a trainer at step 0 of a small run."""
    config = compose(*RUN, *texts)
    devices.set_up(threads=1, deterministic=False, keep_allocator=True)
    training, validation, _ = build.training_data(config, context.device)
    model = build.network(config, context.device)
    return build.make_trainer(config, model, training, validation, context, accumulate=1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_steps_between_log_points_neither_wait_for_the_device_nor_copy_to_it(
    trainer_of: Callable[..., Any], optimizer: str, amp: str
) -> None:
    """Crop, cutout, dropout, average and slow weights included.

    Muon under a scaler is excepted: it looks at whether it found values that are not finite.
    """
    if (optimizer, amp) == ("muon", "fp16"):
        pytest.skip("Muon under a scaler waits once a step")
    switches = [
        "trainer.ema=0.9",
        "trainer.lookahead=2",
        "model.dropout=0.5",
        "augment=cutout",
        "augment.crop=1",
        "augment.cutout=3",
    ]
    trainer = trainer_of(f"optimizer={optimizer}", f"trainer.amp={amp}", *switches)
    trainer.step.model.train()
    # The first steps allocate memory.
    for step in range(2):
        trainer.step.update(step)
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            # The mode calls itself a prototype, and the profiler says what it forgets.
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
            activities = [torch.profiler.ProfilerActivity.CUDA]
            with torch.profiler.profile(activities=activities) as profile:
                for step in range(2, 8):
                    trainer.step.update(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    copies = [
        event.name
        for event in profile.events() or ()
        if "Memcpy HtoD" in event.name or "Memcpy DtoH" in event.name
    ]
    assert copies == []
    trainer.progress.step = 8
    trainer.report_losses()


@pytest.mark.parametrize("switches", [(), ("trainer.amp=bf16",), ("trainer.amp=fp16",)])
def test_a_run_stopped_and_resumed_ends_equal_to_the_bit(
    call: Cli, switches: tuple[str, ...]
) -> None:
    texts = (*RUN, "trainer.deterministic=true", *switches)
    assert call(*texts, "out=straight")[0] == 0
    assert call(*texts, "out=cut", "trainer.limit_steps=7")[0] == 0
    assert call("resume=cut", "trainer.limit_steps=null")[0] == 0
    straight, cut = verify.digests(Path("straight")), verify.digests(Path("cut"))
    # The report of the second one says that a command changed trainer.limit_steps.
    assert straight.pop("report.txt") != cut.pop("report.txt")
    assert straight == cut


@pytest.mark.slow
def test_a_compiled_run_learns_what_an_eager_one_does_and_reports_its_warm_up_apart(
    call: Cli,
) -> None:
    code, out, _ = call(*RUN, "trainer.compile=true", "trainer.amp=bf16", "out=compiled")
    assert code == 0
    assert "not counted as training" in out
    compiled = json.loads(Path("compiled/result.json").read_text())
    assert call(*RUN, "trainer.amp=bf16", "out=eager")[0] == 0
    eager = json.loads(Path("eager/result.json").read_text())
    assert abs(compiled["test"]["accuracy"] - eager["test"]["accuracy"]) < 0.1
