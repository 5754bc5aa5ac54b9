"""A run whose weights become nan on the way, for the tests of divergence and of rollback."""

from contextlib import closing
from pathlib import Path

import torch

from helpers import compose, on_cpu
from skiplab.run import prepare
from skiplab.runs.log import Log
from skiplab.training import rollback
from skiplab.training.trainer import Trainer

# 18 steps; a save and an evaluation every sixth.
SMALL = (
    "depth=1",
    "width=8",
    "batch_size=256",
    "epochs=3",
    "trainer.threads=1",
    "trainer.log_every=3",
    "scheduler=constant",
)


def trainer_in(folder: Path, *texts: str) -> Trainer:
    """Train in a folder. Step 9 leaves nan in a weight, until the run has gone back twice."""
    folder.mkdir(exist_ok=True)
    with closing(Log(folder, console=False)) as log:
        trainer, _ = prepare(compose(*SMALL, *texts), on_cpu(folder, log))
        healthy = trainer.step.update

        def update(step: int, **options: float) -> None:
            healthy(step, **options)
            if step == 8 and trainer.progress.rollbacks < 2:
                with torch.no_grad():
                    trainer.step.parameters[0].fill_(torch.nan)

        trainer.step.update = update
        rollback.fit(trainer)
    return trainer
