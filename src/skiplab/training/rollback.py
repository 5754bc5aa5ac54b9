"""trainer.on_nonfinite=rollback: a loss that is not finite sends the run back to its last save, with half the learning rate."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from skiplab.errors import Diverged
from skiplab.training.progress import ROLLBACK_FACTOR
from skiplab.training.trainer import Trainer

# how often a run may go back
MAX_ROLLBACKS = 5


def as_changes(steps: Sequence[int], *, lr: float) -> list[dict[str, Any]]:
    """Return the rollbacks that went back to these steps as result.json lists changes: each halved the learning rate."""
    rates = [lr * ROLLBACK_FACTOR**number for number in range(len(steps) + 1)]
    return [
        {
            "step": step,
            "key": "optimizer.lr",
            "from": rates[i],
            "to": rates[i + 1],
            "by": "trainer.on_nonfinite=rollback",
        }
        for i, step in enumerate(steps)
    ]


def fit(trainer: Trainer) -> None:
    """Train to the last step. Under on_nonfinite=rollback a loss that is not finite sends the run back to its last save."""
    while True:
        try:
            trainer.fit()
        except Diverged as error:
            roll_back(trainer, error)
        else:
            return


def roll_back(trainer: Trainer, error: Diverged) -> None:
    """Go back to the last save with a lower learning rate, and save that. Raises the error again where that is not asked for."""
    rollbacks = trainer.progress.rollbacks + 1
    if trainer.settings.on_nonfinite == "stop" or rollbacks > MAX_ROLLBACKS:
        raise error
    step, log = trainer.step, trainer.context.log
    log.stop_bar()
    # a save of such weights, refused
    with suppress(Diverged):
        trainer.saver.writer.wait()
    step.losses.clear()
    step.probe.rows()
    step.optimizer.zero_grad()
    trainer.is_best = False
    earlier, seconds = trainer.rolled_back, trainer.seconds
    trainer.resume()
    # what was lost was training too
    trainer.seconds = seconds
    trainer.progress.rollbacks, trainer.rolled_back = rollbacks, [*earlier, trainer.progress.step]
    back = f"going back to step {trainer.progress.step:,}, from there with {trainer.progress.lr_factor:g} of the learning rate"
    log.line(f"{error}; {back} (rollback {rollbacks} of at most {MAX_ROLLBACKS})")
    with trainer.saver.writer:
        trainer.save()
