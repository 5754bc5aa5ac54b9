"""What comes before a sitting's first counted step: compiling is no part of training, and a resumed run adds up as a straight one."""

import time
from typing import TYPE_CHECKING

from skiplab.checkpoint import snapshot
from skiplab.evaluate import evaluate, first_batch

if TYPE_CHECKING:
    from skiplab.trainer import Trainer

COMPILED_AFTER = 3  # calls: CUDA graphs are recorded in the second


def rehearse(trainer: "Trainer") -> None:
    """Steps that leave nothing but compiled code, and with several ranks the final layout of their gradients: sums depend on it.

    Compiled code meets every shape: the next step, the last and smaller batch of an epoch, the end with what is frozen by then, and
    an evaluation. The trainer's state is taken back afterwards, as a resumed run takes over a checkpoint.
    """
    compiled, began = trainer.settings.compiled, time.monotonic()
    if trainer.ranks.size == 1 and not compiled:
        return
    tensors, facts = trainer.state_dict()
    tensors, steps = snapshot(tensors), {trainer.progress.step}
    trainer.selection.rehearse(COMPILED_AFTER if compiled else 1)
    if compiled:
        steps |= {trainer.batches.steps_per_epoch - 1, trainer.settings.num_steps - 1}
    for step in sorted(steps) * (COMPILED_AFTER if compiled else 1):
        trainer.train_step(step)
        trainer.pending.clear()
        trainer.probe.rows()
        if compiled:  # without a validation set, what the test at the end will meet
            held = trainer.validation or first_batch(trainer.batches.split)
            evaluate(trainer.predictor, held, trainer.normalize, num_classes=trainer.settings.num_classes, ranks=trainer.ranks)
    trainer.optimizer.state.clear()
    trainer.load_state_dict(tensors, facts)
    if compiled:
        trainer.log.line(f"compiled in {time.monotonic() - began:.1f} s, which are not counted as training")
