"""Dry-run steps before training.

They compile the network and fix the layout of its gradients, then restore the run's state.
"""

import time

from skiplab.runs.checkpoint import snapshot
from skiplab.training.evaluation import first_batch
from skiplab.training.trainer import Trainer
from skiplab.words import duration

# Calls after which nothing is left to compile: CUDA graphs are recorded in the second.
COMPILED_AFTER = 3


def dry_run(trainer: Trainer) -> None:
    """Do steps that leave compiled code, and with several ranks the final layout of gradients.

    Sums over ranks depend on this layout. Compiled code meets every shape: the next step, the last
    and smaller batch of an epoch, the end with what is frozen by then, and an evaluation. The run's
    state is restored afterwards, as a resumed run takes over a checkpoint. None of it counts as
    training.
    """
    step, evaluator, compiled = trainer.step, trainer.evaluator, trainer.settings.compiled
    if trainer.context.ranks.size == 1 and not compiled:
        return
    began = time.monotonic()
    step.model.train()
    tensors, facts = trainer.state()
    tensors = snapshot(tensors)
    times = COMPILED_AFTER if compiled else 1
    step.selection.dry_run(times)
    numbers = {trainer.progress.step}
    if compiled:
        numbers |= {step.batches.steps_per_epoch - 1, trainer.settings.num_steps - 1}
    for number in sorted(numbers) * times:
        step.update(number, lr_factor=trainer.progress.lr_factor)
        step.losses.clear()
        step.probe.clear()
        if compiled:
            # Without a validation set, a batch stands for the test at the end.
            size = evaluator.predictor.batch_size
            evaluator.score(evaluator.validation or first_batch(evaluator.training, size))
    trainer.load(tensors, facts)
    if compiled:
        trainer.context.log.line(
            f"compiled in {duration(time.monotonic() - began)}, which are not counted as training"
        )
