"""The training loop: `fit` is the loop, `advance` one turn of it.

The weight update is `step.Step.update`.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from skiplab.errors import Stopped
from skiplab.machine import devices
from skiplab.machine.decisions import GO_ON, Decision, stop_with
from skiplab.machine.ranks import Ranks
from skiplab.runs import checkpoint
from skiplab.runs.epochs import Evaluated
from skiplab.runs.facts import Facts, History
from skiplab.runs.folders import BEST, LAST
from skiplab.training import state
from skiplab.training.context import Context
from skiplab.training.evaluation import Evaluator, Scores
from skiplab.training.pace import Pace
from skiplab.training.progress import Progress, Settings
from skiplab.training.saving import Saver, not_of_this_run
from skiplab.training.step import Step

TIME_IS_UP = stop_with(7)


class Trainer:
    """One run, or one rank of it: trains from where its state stands, keeps `best` and `last`."""

    def __init__(
        self,
        settings: Settings,
        step: Step,
        evaluator: Evaluator,
        saver: Saver,
        pace: Pace,
        context: Context,
    ):
        self.settings = settings
        self.step = step
        self.evaluator = evaluator
        self.saver = saver
        self.pace = pace
        self.context = context
        self.progress = Progress()
        # The steps that rollbacks went back to.
        self.rolled_back: list[int] = []
        # Where the run went on on another machine: the step, and what differed.
        self.moved: list[dict[str, Any]] = []
        # Seconds of training and images, over all sessions.
        self.seconds = 0.0
        self.images = 0
        # When training would have begun, had it been one session.
        self.began = 0.0
        # When this session has to stop; None before it starts.
        self.deadline: float | None = None
        # Accuracy of the last evaluation, for the progress bar.
        self.val_accuracy: float | None = None
        # Whether these weights became the best since the last save.
        self.is_best = False
        # What a signal or the time limit has asked for. It stays until it is done, since a rollback
        # may come between.
        self.decision = GO_ON

    # ----------------------------------------------------------------------------------------------
    # The loop

    def fit(self) -> None:
        """Train to the last step.

        Raises Diverged on a loss that is not finite; Stopped, after saving, on a signal or at
        max_time.
        """
        progress, settings, log = self.progress, self.settings, self.context.log
        self.step.model.train()
        if self.deadline is None:
            self.deadline = time.monotonic() + 60 * settings.max_time
        self.began = time.monotonic() - self.seconds
        if said := self.step.selection.prepare(self.check_stop):
            log.line(said)
        log.start_bar(step=progress.step, num_steps=settings.stop_at)
        with self.saver.writer:
            if progress.step == 0:
                # A start that died before its first save may have left rows.
                log.truncate_metrics(0)
                self.save()
            while (
                progress.step < settings.stop_at
                and progress.evaluations_since_best < settings.early_stop
            ):
                self.advance()
            # The run was told to end where it already stood.
            if progress.num_seen:
                self.evaluate()
            has_stopped_early = progress.step < settings.stop_at
            if has_stopped_early or self.is_best:
                self.save()
        log.stop_bar()

    def advance(self) -> None:
        """Do one optimizer step, and what is due after it."""
        progress, settings, ranks = self.progress, self.settings, self.context.ranks
        self.step.update(progress.step, lr_factor=progress.lr_factor)
        progress.step += 1
        self.context.log.advance()
        if self.is_due(settings.log_every) or self.step.losses.is_full:
            self.report_losses()
        self.pace.after(progress.step, is_synced=not self.step.losses)
        if self.is_due(settings.eval_every):
            self.evaluate()
        self.seconds = time.monotonic() - self.began
        self.decision = agree(ranks, self.decide)
        if self.is_due(settings.save_every) or self.is_best or self.decision.saves:
            self.save()
        if self.decision.is_stop or progress.step == settings.stop_at:
            ranks.agreed(self.saver.writer.wait)
        if self.decision.is_stop:
            raise Stopped(
                f"stopped and saved at step {progress.step:,} of {settings.num_steps:,}",
                exit_code=self.decision.exit_code,
            )
        self.decision = GO_ON

    def is_due(self, every: int) -> bool:
        """Return whether the step just done is a multiple of `every`, or the last."""
        return self.progress.step % every == 0 or self.progress.step == self.settings.stop_at

    def decide(self) -> Decision:
        """Return what to do after this step. Raises what the last save has raised."""
        self.saver.writer.check()
        if decision := self.context.stop_signal() or self.decision:
            return decision
        is_late = self.deadline is not None and time.monotonic() > self.deadline
        return TIME_IS_UP if is_late else GO_ON

    def check_stop(self) -> None:
        """Raise Stopped if the run is told to stop before its first step: nothing is saved then."""
        decision = agree(self.context.ranks, self.decide)
        if decision.is_stop:
            raise Stopped(
                f"stopped before step 1 of {self.settings.num_steps:,}",
                exit_code=decision.exit_code,
            )

    # ----------------------------------------------------------------------------------------------
    # What is due after a step

    def report_losses(self) -> None:
        """Read the losses of the steps since the last log point, check them and record them.

        Reading waits for the device. Raises Diverged if a loss is not finite.
        """
        progress, losses, log = self.progress, self.step.losses, self.context.log
        if not losses:
            return
        found = losses.read(self.context.ranks)
        first = progress.step - len(found) + 1
        for number, each in enumerate(found, first):
            if not math.isfinite(each.loss):
                raise self.step.diverged(f"the loss is {each.loss} at step {number:,}", lr=each.lr)
        rows = [
            {"step": number, "lr": each.lr, "loss": each.loss}
            for number, each in enumerate(found, first)
        ]
        log.metric(self.step.probe.merge(rows))
        for each in found:
            progress.count(
                each.num_images,
                loss=each.loss,
                plain_loss=each.plain_loss,
                num_correct=each.num_correct,
            )
            self.images += each.num_images
        losses.clear()
        shown = progress.shown(
            steps_per_epoch=self.step.batches.steps_per_epoch,
            loss=found[-1].loss,
            loss_name=self.step.loss.name,
        )
        if self.val_accuracy is not None:
            shown["val"] = f"{self.val_accuracy:.1%}"
        if self.seconds:
            shown["img/s"] = f"{self.images / self.seconds:.0f}"
        log.show(shown, always=self.settings.log_every == 1)

    def evaluate(self) -> None:
        """Score validation, record the row, and note whether these weights are the best so far.

        Accuracy counts, loss breaks ties. Without a validation set the last weights are the best.
        Raises Diverged if a mean loss is not finite.
        """
        self.report_losses()
        progress, evaluator, log = self.progress, self.evaluator, self.context.log
        lr = self.step.learning_rate(progress.step - 1) * progress.lr_factor
        # Each rank's BatchNorm statistics are those of its own parts of the batches.
        self.context.ranks.share(evaluator.predictor.model.buffers())
        row: dict[str, float] = {
            "step": progress.step,
            "epoch": progress.step / self.step.batches.steps_per_epoch,
        }
        row |= progress.take_means(is_plain=not self.step.loss.name)
        for name, scores in score_splits(evaluator, with_training=self.settings.eval_train):
            if not math.isfinite(scores.loss):
                raise self.step.diverged(
                    f"the evaluation's loss is {scores.loss} at step {progress.step:,}", lr=lr
                )
            row |= {f"{name}_loss": scores.loss, f"{name}_accuracy": scores.accuracy}
        if evaluator.validation is None:
            progress.note_no_score()
            self.is_best = True
        else:
            self.val_accuracy = row["val_accuracy"]
            self.is_best |= progress.note_score(row["val_accuracy"], row["val_loss"])
        log.metric([row])
        log.time(step=progress.step, seconds=round(self.seconds, 3), images=self.images)
        done = progress.step
        shown = Evaluated(
            row=row,
            lr=lr,
            images_per_second=self.images / max(self.seconds, 1e-9),
            seconds=self.seconds,
            left=self.seconds / done * (self.settings.stop_at - done),
            is_best=evaluator.validation is not None and progress.best_step == done,
            loss_name=self.step.loss.name,
        )
        log.evaluation(shown)

    def save(self) -> None:
        """Write `last`, and before it `best` if these weights are the best so far.

        Only the first rank writes: in the background, from a copy of this moment.
        """
        self.report_losses()
        ranks = self.context.ranks
        # At most one copy exists at a time.
        ranks.agreed(self.saver.writer.wait)
        is_best, self.is_best = self.is_best, False
        if ranks.is_main:
            self.progress.metrics_size = self.context.log.metrics_size()
            self.saver.submit(*self.state(), is_best=is_best)

    # ----------------------------------------------------------------------------------------------
    # The state

    def state(self) -> tuple[dict[str, Tensor], Facts]:
        """Return the run's whole state: named tensors and facts.

        Only `history` may differ between a straight and a resumed run.
        """
        history = History(
            seconds=self.seconds,
            images=self.images,
            machine=self.saver.machine,
            moved=list(self.moved),
        )
        facts = Facts(
            network=self.saver.network,
            num_steps=self.settings.num_steps,
            progress=self.progress.facts(),
            accumulate=self.settings.accumulate,
            run=self.saver.run,
            scaler=self.step.scaler.state_dict(),
            history=history,
            rolled_back=list(self.rolled_back),
        )
        return state.tensors_of(self.step), facts

    def load(self, tensors: Mapping[str, Tensor], facts: Facts) -> None:
        """Take over what `state` returned.

        Raises KeyError, TypeError, ValueError or RuntimeError if it is not such a state.
        """
        state.load_tensors(self.step, tensors)
        # The scaler's facts are empty where the run began without fp16.
        if facts.scaler:
            self.step.scaler.load_state_dict(dict(facts.scaler))
        self.progress.load(facts.progress)
        self.rolled_back = list(facts.rolled_back)
        self.seconds = facts.history.seconds
        self.images = facts.history.images
        self.moved = list(facts.history.moved)

    def resume(self) -> None:
        """Take over the newest checkpoint that is whole.

        Raises CheckpointError if there is none, UsageError if it is of another network.
        """
        folder, log, ranks = self.context.folder, self.context.log, self.context.ranks
        with ranks.main_first():
            tensors, facts = self.saver.newest()
        try:
            self.load(tensors, facts)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise not_of_this_run(folder / LAST, error) from None
        for difference in devices.differences(facts.history.machine, self.saver.machine):
            self.moved.append({"step": self.progress.step, "what": difference})
            log.line(
                f"{difference}: the end will not be equal to the bit "
                "to that of an uninterrupted run"
            )
        if not log.truncate_metrics(self.progress.metrics_size):
            log.line(f"warning: {folder / 'metrics.jsonl'} lacks rows, and curves.png will")
        if ranks.is_main:
            checkpoint.restore(folder / BEST, step=self.progress.best_step)


def agree(ranks: Ranks, decide: Callable[[], Decision]) -> Decision:
    """Return on all ranks what the first decides."""
    return Decision.from_number(ranks.agreed(lambda: decide().to_number()))


def score_splits(evaluator: Evaluator, *, with_training: bool) -> Iterator[tuple[str, Scores]]:
    """Yield the scores of the training images if asked for, and of validation if there is one."""
    if with_training:
        yield "train_eval", evaluator.score(evaluator.training)
    if evaluator.validation is not None:
        yield "val", evaluator.score(evaluator.validation)
