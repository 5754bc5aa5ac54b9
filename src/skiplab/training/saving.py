"""The checkpoints of a run.

They are written in the background, best before last. If the newest is damaged, the one before it is
read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from skiplab.errors import CheckpointError, Diverged, UsageError
from skiplab.runs import checkpoint
from skiplab.runs.checkpoint import under
from skiplab.runs.facts import BestFacts, Facts, ImageFacts, Origin
from skiplab.runs.folders import BEST, LAST
from skiplab.runs.log import Log


@dataclass(kw_only=True)
class Saver:
    """Writes and reads a run's `best` and `last`; `writer`, while entered, has a thread for it."""

    folder: Path
    log: Log
    # Stored in checkpoints, and compared when they are loaded: the network in words, the run's
    # identity and config, the images that it is for, the machine.
    network: str
    run: Origin
    images: ImageFacts
    machine: Mapping[str, str]
    writer: checkpoint.Writer = field(default_factory=checkpoint.Writer)

    def submit(self, tensors: Mapping[str, Tensor], facts: Facts, *, is_best: bool) -> None:
        """Write a state in the background, from a copy of this moment."""
        copy = checkpoint.snapshot(tensors)
        self.writer.submit(lambda: self.write(copy, facts, is_best=is_best))

    def write(self, tensors: Mapping[str, Tensor], facts: Facts, *, is_best: bool) -> None:
        """Write a state's files. No crash leaves a `last` that lacks its best or its metrics.

        Raises Diverged, before anything is written, if a tensor is not finite.
        """
        if problem := checkpoint.not_finite(tensors):
            raise Diverged(
                f"the state cannot be saved at step {facts.progress['step']:,} ({problem})"
            )
        self.log.sync_metrics()
        if is_best:
            best = BestFacts(
                step=facts.progress["best_step"],
                accuracy=facts.progress["best_accuracy"],
                loss=facts.progress["best_loss"],
                network=self.network,
                run=self.run,
                images=self.images,
            )
            weights = under("average/", tensors) or under("model/", tensors)
            checkpoint.save(
                self.folder / BEST,
                weights,
                best.as_tree(),
            )
        checkpoint.save(self.folder / LAST, tensors, facts.as_tree())

    def newest(self) -> tuple[dict[str, Tensor], Facts]:
        """Return `last`, or the generation before it if it is damaged.

        Raises CheckpointError if neither is whole or it holds no run's state, since a run never
        starts again unasked; UsageError if it is of another network.
        """
        path = self.folder / LAST
        (tensors, tree), problem = checkpoint.newest(path)
        if problem is not None:
            self.log.line(f"warning: {problem}; going on from the save before it")
            checkpoint.promote(path)
        if (network := tree.get("network")) != self.network:
            raise UsageError(f"{path}: of {network}; this run is {self.network}")
        try:
            return tensors, Facts.of_tree(tree)
        except (KeyError, TypeError, ValueError) as error:
            raise not_of_this_run(path, error) from None


def not_of_this_run(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a checkpoint that does not hold what a run of this kind does."""
    reason = " ".join(str(error).split())[:200]
    return CheckpointError(f"{path}: not a checkpoint of this run ({reason})")
