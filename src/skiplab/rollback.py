"""trainer.on_nonfinite=rollback: a loss that is not finite sends the run back to its last save, with half the learning rate."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from skiplab.errors import Diverged

if TYPE_CHECKING:
    from skiplab.trainer import Trainer

ROLLBACK_FACTOR, MAX_ROLLBACKS = 0.5, 5  # of the learning rate, each time a run goes back; and how often it may


def as_changes(steps: Sequence[int], *, lr: float) -> list[dict[str, Any]]:
    """Return the rollbacks that went back to these steps as result.json lists changes: each halved the learning rate."""
    rates = [lr * ROLLBACK_FACTOR**number for number in range(len(steps) + 1)]
    return [
        {"step": step, "key": "optimizer.lr", "from": rates[i], "to": rates[i + 1], "by": "trainer.on_nonfinite=rollback"}
        for i, step in enumerate(steps)
    ]


def roll_back(trainer: "Trainer", error: Diverged) -> None:
    """Under on_nonfinite=rollback go back to the last save with a lower learning rate, else raise the error again."""
    rollbacks = trainer.progress.rollbacks + 1
    if trainer.settings.on_nonfinite == "stop" or rollbacks > MAX_ROLLBACKS:
        raise error
    with suppress(Diverged):  # a save of such weights, refused
        trainer.writer.wait()
    trainer.pending, trainer.is_best = [], False
    trainer.probe.rows()
    trainer.optimizer.zero_grad()
    earlier = trainer.rolled_back
    trainer.resume()
    trainer.progress.rollbacks, trainer.rolled_back = rollbacks, [*earlier, trainer.progress.step]
    back = f"going back to step {trainer.progress.step:,}, from there with {ROLLBACK_FACTOR**rollbacks:g} of the learning rate"
    trainer.log.line(f"{error}; {back} (rollback {rollbacks} of at most {MAX_ROLLBACKS})")
    trainer.save()
