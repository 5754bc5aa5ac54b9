"""What a run counts while it trains, and the plain values that its loop goes by."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# of the learning rate, each time a run goes back
ROLLBACK_FACTOR = 0.5


@dataclass(kw_only=True)
class Progress:
    """The numbers a run carries from step to step; with weights, average, optimizer and scaler this is its whole state."""

    # optimizer steps done
    step: int = 0
    best_step: int = 0
    best_accuracy: float = -1.0
    best_loss: float = 0.0
    evaluations_since_best: int = 0
    # of the batches' mean losses since the last evaluation, times their images
    loss_sum: float = 0.0
    num_correct: int = 0
    num_seen: int = 0
    # bytes of metrics.jsonl that belong to these steps
    metrics_size: int = 0
    # times that the run went back and lowered its learning rate
    rollbacks: int = 0
    # as loss_sum, without label smoothing
    plain_loss_sum: float = 0.0

    @property
    def lr_factor(self) -> float:
        """What rollbacks have left of the schedule's learning rate."""
        return ROLLBACK_FACTOR**self.rollbacks

    def note_score(self, accuracy: float, loss: float) -> bool:
        """Take in a score on validation. Returns whether it is the best so far: accuracy counts, loss breaks ties."""
        if (accuracy, -loss) <= (self.best_accuracy, -self.best_loss):
            self.evaluations_since_best += 1
            return False
        self.best_step, self.evaluations_since_best = self.step, 0
        self.best_accuracy, self.best_loss = accuracy, loss
        return True

    def count(self, num_images: int, *, loss: float, plain_loss: float, num_correct: int) -> None:
        """Add a batch to the sums since the last evaluation."""
        self.loss_sum += loss * num_images
        self.plain_loss_sum += plain_loss * num_images
        self.num_correct += num_correct
        self.num_seen += num_images

    def take_means(self, *, smoothed: bool) -> dict[str, float]:
        """The means since the last evaluation, for its row; the sums begin anew. `smoothed`: whether the loss is label-smoothed."""
        row = {
            "train_loss": self.loss_sum / self.num_seen,
            "train_accuracy": self.num_correct / self.num_seen,
        }
        # which the loss on validation is not
        if smoothed:
            row["train_plain_loss"] = self.plain_loss_sum / self.num_seen
        self.loss_sum, self.plain_loss_sum, self.num_correct, self.num_seen = 0.0, 0.0, 0, 0
        return row

    def shown(self, *, steps_per_epoch: int, loss: float, smoothed: bool) -> dict[str, str]:
        """What the progress bar shows of it: step, epoch, the last step's loss, training accuracy since the last evaluation."""
        where = {"step": f"{self.step:,}", "epoch": f"{self.step / steps_per_epoch:.1f}"}
        return where | {
            "smoothed loss" if smoothed else "loss": f"{loss:.3f}",
            "train": f"{self.num_correct / self.num_seen:.1%}",
        }

    def facts(self) -> dict[str, Any]:
        """As a checkpoint holds it. Without label smoothing the two sums are one, and the second is left out, as it was in format 1."""
        found = asdict(self)
        if self.plain_loss_sum == self.loss_sum:
            del found["plain_loss_sum"]
        return found

    def load(self, facts: Mapping[str, Any]) -> None:
        """Take over what `facts` gave. Raises KeyError, TypeError or ValueError where it is none such."""
        self.__init__(**{"plain_loss_sum": facts["loss_sum"], **facts})
        if not all(
            isinstance(value, (int, float)) and value >= -1 for value in asdict(self).values()
        ):
            raise ValueError(f"progress {facts}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Plain values the loop needs; `*_every` in optimizer steps, `max_time` in minutes (inf: no limit)."""

    seed: int
    num_steps: int
    stop_at: int
    num_classes: int
    accumulate: int
    compiled: bool
    amp: str
    clip: float
    label_smoothing: float
    early_stop: float
    eval_every: int
    eval_train: bool
    save_every: int
    log_every: int
    max_time: float
    on_nonfinite: str
