"""trainer.on_nonfinite=rollback: what happens at a loss that is not finite.

The run goes back to its last save, and on from there with half the learning rate.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from skiplab.errors import Diverged
from skiplab.training.progress import ROLLBACK_FACTOR
from skiplab.training.trainer import Trainer

# How often a run may go back.
MAX_ROLLBACKS = 5


def as_changes(steps: Sequence[int], *, lr: float) -> list[dict[str, Any]]:
    """Return the rollbacks to these steps in the form of result.json's changes.

    Each has halved the learning rate, which was `lr` before the first.
    """
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
    """Train to the last step, if need be in several attempts.

    Under on_nonfinite=rollback a loss that is not finite sends the run back to its last save.
    Raises Diverged where that is not asked for, or after MAX_ROLLBACKS.
    """
    while True:
        try:
            trainer.fit()
        except Diverged as error:
            roll_back(trainer, error)
        else:
            return


def roll_back(trainer: Trainer, error: Diverged) -> None:
    """Go back to the last save with a lower learning rate, and save that.

    Raises `error` again where that is not asked for, or after MAX_ROLLBACKS.
    """
    rollbacks = trainer.progress.rollbacks + 1
    if trainer.settings.on_nonfinite == "stop" or rollbacks > MAX_ROLLBACKS:
        raise error
    step, log = trainer.step, trainer.context.log
    log.stop_bar()
    with suppress(Diverged):
        # The writer may have refused to save weights that are not finite.
        trainer.saver.writer.wait()
    step.losses.clear()
    step.probe.clear()
    step.optimizer.zero_grad()
    trainer.is_best = False
    earlier, seconds = trainer.rolled_back, trainer.seconds
    trainer.resume()
    # The lost steps were training, too.
    trainer.seconds = seconds
    trainer.progress.rollbacks = rollbacks
    trainer.rolled_back = [*earlier, trainer.progress.step]
    log.line(
        f"{error}; going back to step {trainer.progress.step:,}, "
        f"from there with {trainer.progress.lr_factor:g} of the learning rate "
        f"(rollback {rollbacks} of at most {MAX_ROLLBACKS})"
    )
    with trainer.saver.writer:
        trainer.save()
