"""What a run counts while it trains, and the plain values that its loop goes by."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# What is left of the learning rate each time a run goes back.
ROLLBACK_FACTOR = 0.5


@dataclass(kw_only=True)
class Progress:
    """The numbers that a run carries from step to step.

    With weights, averages, optimizer, selection and loss scaler they are its whole state.
    """

    # Optimizer steps done.
    step: int = 0
    best_step: int = 0
    best_accuracy: float = -1.0
    best_loss: float = 0.0
    evaluations_since_best: int = 0
    # Sums since the last evaluation: the batches' mean losses times their images, correct images,
    # images.
    loss_sum: float = 0.0
    num_correct: int = 0
    num_seen: int = 0
    # Bytes of metrics.jsonl that belong to these steps.
    metrics_size: int = 0
    # Times that the run went back and lowered its learning rate.
    rollbacks: int = 0
    # The same as loss_sum, without label smoothing and class weights.
    plain_loss_sum: float = 0.0

    @property
    def lr_factor(self) -> float:
        """Share of the schedule's learning rate that rollbacks have left."""
        return ROLLBACK_FACTOR**self.rollbacks

    def note_score(self, accuracy: float, loss: float) -> bool:
        """Record a score on validation. Returns whether it is the best so far.

        Accuracy counts, loss breaks ties.
        """
        if (accuracy, -loss) <= (self.best_accuracy, -self.best_loss):
            self.evaluations_since_best += 1
            return False
        self.best_step, self.evaluations_since_best = self.step, 0
        self.best_accuracy, self.best_loss = accuracy, loss
        return True

    def note_no_score(self) -> None:
        """Take the present weights for the best: there is no validation set."""
        self.best_step, self.evaluations_since_best = self.step, 0

    def count(self, num_images: int, *, loss: float, plain_loss: float, num_correct: int) -> None:
        """Add a batch to the sums since the last evaluation."""
        self.loss_sum += loss * num_images
        self.plain_loss_sum += plain_loss * num_images
        self.num_correct += num_correct
        self.num_seen += num_images

    def take_means(self, *, is_plain: bool) -> dict[str, float]:
        """Return the means since the last evaluation, for its row, and begin the sums again.

        Unless the loss `is_plain`, it is label-smoothed or weighted by class. Then the row has the
        plain loss too, since the loss on validation is plain.
        """
        row = {
            "train_loss": self.loss_sum / self.num_seen,
            "train_accuracy": self.num_correct / self.num_seen,
        }
        if not is_plain:
            row["train_plain_loss"] = self.plain_loss_sum / self.num_seen
        self.loss_sum, self.plain_loss_sum = 0.0, 0.0
        self.num_correct, self.num_seen = 0, 0
        return row

    def shown(self, *, steps_per_epoch: int, loss: float, loss_name: str) -> dict[str, str]:
        """Return what the progress bar shows: step, epoch, the last step's loss, training accuracy.

        The accuracy is that since the last evaluation. `loss_name` is that of `Loss`.
        """
        return {
            "step": f"{self.step:,}",
            "epoch": f"{self.step / steps_per_epoch:.1f}",
            f"{loss_name} loss".strip(): f"{loss:.3f}",
            "train": f"{self.num_correct / self.num_seen:.1%}",
        }

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it.

        Of a plain loss the two sums are equal. The second is left out then, as
        in format 1.
        """
        found = asdict(self)
        if self.plain_loss_sum == self.loss_sum:
            del found["plain_loss_sum"]
        return found

    def load(self, facts: Mapping[str, Any]) -> None:
        """Take over what `facts` returned.

        Raises KeyError, TypeError or ValueError if it is not that.
        """
        loaded = Progress(**{"plain_loss_sum": facts["loss_sum"], **facts})
        values = asdict(loaded)
        if not all(isinstance(value, (int, float)) and value >= -1 for value in values.values()):
            raise ValueError(f"progress {facts}")
        for name, value in values.items():
            setattr(self, name, value)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Plain values that the loop goes by."""

    seed: int
    # Optimizer steps of the whole run, and the step to stop at, which trainer.limit_steps sets.
    num_steps: int
    stop_at: int
    num_classes: int
    # Parts that a batch is computed in.
    accumulate: int
    compiled: bool
    # off, bf16 or fp16.
    amp: str
    # Largest norm of the gradient; inf leaves it.
    clip: float
    # Evaluations without a better one after which the run stops; inf: never.
    early_stop: float
    # Optimizer steps from one evaluation, save or log point to the next.
    eval_every: int
    eval_train: bool
    save_every: int
    log_every: int
    # Minutes of a session; inf: no limit.
    max_time: float
    # stop or rollback.
    on_nonfinite: str
