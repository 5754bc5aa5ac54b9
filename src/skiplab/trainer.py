"""The training loop: optimizer steps only. `fit` is the loop, `train_step` the weight update, `Progress` all that is counted."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from skiplab import checkpoint, optim
from skiplab.data import Batches, Normalize, Split
from skiplab.errors import CheckpointError, Diverged, Stopped
from skiplab.evaluate import Predictor, Scores, evaluate
from skiplab.folders import BEST, LAST
from skiplab.log import Log
from skiplab.randomness import seed_default


@dataclass(kw_only=True)
class Progress:
    """The numbers a run carries from step to step; with weights, average, optimizer and scaler this is its whole state."""

    step: int = 0  # optimizer steps done
    best_step: int = 0
    best_accuracy: float = -1.0
    best_loss: float = 0.0
    evaluations_since_best: int = 0
    loss_sum: float = 0.0  # of the batches' mean losses since the last evaluation, times their images
    num_correct: int = 0
    num_seen: int = 0
    metrics_size: int = 0  # bytes of metrics.jsonl that belong to these steps


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Plain values the loop needs; `*_every` in optimizer steps, `max_time` in minutes (inf: no limit)."""

    seed: int
    num_steps: int
    stop_at: int
    num_classes: int
    accumulate: int
    amp: str
    clip: float
    label_smoothing: float
    early_stop: float
    eval_every: int
    eval_train: bool
    save_every: int
    log_every: int
    max_time: float


class Trainer:
    """One run: trains `model` from wherever its state stands to the last step, and keeps `best` and `last` in `folder`."""

    def __init__(
        self,
        settings: Settings,
        *,
        model: nn.Module,
        average: optim.Average,
        optimizer: torch.optim.Optimizer,
        learning_rate: optim.Schedule,
        batches: Batches,
        validation: Split | None,
        predictor: Predictor,
        folder: Path,
        log: Log,
        stop_signal: Callable[[], int],
    ):
        self.settings, self.folder, self.log, self.stop_signal = settings, folder, log, stop_signal
        self.model, self.average, self.optimizer, self.learning_rate = model, average, optimizer, learning_rate
        self.batches, self.validation, self.predictor = batches, validation, predictor
        self.normalize: Normalize = batches.normalize
        self.device = self.normalize.device
        self.progress = Progress()
        dtype = torch.float16 if settings.amp == "fp16" else torch.bfloat16
        self.autocast = torch.autocast(self.device.type, dtype, enabled=settings.amp != "off")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.amp == "fp16")
        self.parameters = list(model.parameters())
        # of the steps since the last log point, on the device: reading them earlier would wait for it
        self.losses = torch.zeros(settings.log_every, device=self.device)
        self.corrects = torch.zeros(settings.log_every, dtype=torch.int64, device=self.device)
        self.pending: list[tuple[float, int]] = []  # their learning rates and batch sizes
        self.seconds = 0.0  # of training, over all sittings
        self.images = 0
        self.val_accuracy: float | None = None  # of the last evaluation, to show

    # ------------------------------------------------------------------------------------------------------- the loop

    def fit(self) -> None:
        """Train to the last step. Raises Diverged on a loss that is not finite, Stopped after saving on a signal or max_time."""
        progress, settings = self.progress, self.settings
        began = time.monotonic() - self.seconds
        self.log.start_bar(step=progress.step, num_steps=settings.stop_at)
        if progress.step == 0:
            self.save()
        self.model.train()
        while progress.step < settings.stop_at and progress.evaluations_since_best < settings.early_stop:
            self.train_step(progress.step)
            progress.step += 1
            self.log.advance()
            if self.due(settings.log_every):
                self.report_losses()
            if self.due(settings.eval_every):
                self.evaluate()
            self.seconds = time.monotonic() - began
            stop = self.stop_signal() or (7 if self.seconds > 60 * settings.max_time else 0)
            if self.due(settings.save_every) or stop:
                self.save()
            if stop:
                raise Stopped(f"stopped and saved at step {progress.step:,} of {settings.num_steps:,}", exit_code=stop)
        self.log.stop_bar()

    def train_step(self, step: int) -> None:
        """One optimizer step: w <- w - lr(step) * update(gradient of the mean loss over the batch)."""
        lr = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        seed_default(self.settings.seed, "dropout", step, device=self.device)
        images, labels = self.batches.at(step)  # (B, C, H, W), (B,)
        slot, num_images = len(self.pending), len(labels)
        # at least two images a part: BatchNorm cannot normalise one value
        parts = max(1, min(self.settings.accumulate, num_images // 2))
        self.losses[slot] = 0.0
        self.corrects[slot] = 0
        for x, y in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            with self.autocast:
                logits = self.model(x)  # (B, C, H, W) -> (B, K)
                loss = F.cross_entropy(logits.float(), y, label_smoothing=self.settings.label_smoothing) * (len(y) / num_images)
            self.scaler.scale(loss).backward()
            self.losses[slot] += loss.detach()
            self.corrects[slot] += (logits.detach().argmax(1) == y).sum()
        self.clip_gradients()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.average.update()
        self.pending.append((lr, num_images))

    def clip_gradients(self) -> None:
        """Scale the gradient down to norm `clip`; a clip of inf leaves it, and its norm is not even computed."""
        if self.settings.clip < math.inf:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.parameters, self.settings.clip)

    def due(self, every: int) -> bool:
        """Whether the step just done is a multiple of `every`, or the last."""
        return self.progress.step % every == 0 or self.progress.step == self.settings.stop_at

    # ------------------------------------------------------------------------------------------- what happens sometimes

    def report_losses(self) -> None:
        """Bring the pending steps' losses to the host (this waits for the device), check them and write them down."""
        if not self.pending:
            return
        progress, count = self.progress, len(self.pending)
        losses, corrects = self.losses[:count].tolist(), self.corrects[:count].tolist()
        first = progress.step - count
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss is {loss} at step {first + i + 1:,} (learning rate {self.pending[i][0]:.4g}): "
                    f"lower optimizer.lr, lengthen scheduler.warmup or set trainer.clip=1"
                )
        self.log.metric(
            {"step": first + i + 1, "lr": lr, "loss": loss} for i, (loss, (lr, _)) in enumerate(zip(losses, self.pending, strict=True))
        )
        for loss, correct, (_, num_images) in zip(losses, corrects, self.pending, strict=True):
            progress.loss_sum += loss * num_images
            progress.num_correct += correct
            progress.num_seen += num_images
            self.images += num_images
        self.pending.clear()
        epoch = progress.step / self.batches.steps_per_epoch
        train_accuracy = progress.num_correct / progress.num_seen
        values = {"epoch": f"{epoch:.1f}", "loss": f"{losses[-1]:.3f}", "train": f"{train_accuracy:.1%}"}
        if self.val_accuracy is not None:
            values["val"] = f"{self.val_accuracy:.1%}"
        if self.seconds:
            values["img/s"] = f"{self.images / self.seconds:.0f}"
        self.log.show({"step": f"{progress.step:,}"} | values, always=self.settings.log_every == 1)

    def evaluate(self) -> None:
        """Score validation, write the row, keep the weights if they are the best so far (accuracy; loss breaks ties)."""
        self.report_losses()
        progress = self.progress
        row: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.step / self.batches.steps_per_epoch,
            "train_loss": progress.loss_sum / progress.num_seen,
            "train_accuracy": progress.num_correct / progress.num_seen,
        }
        if self.settings.eval_train:
            scores = self.scores(self.batches.split)
            row |= {"train_eval_loss": scores.loss, "train_eval_accuracy": scores.accuracy}
        if self.validation is None:  # then the last weights are the best
            self.keep_best(math.nan, math.nan)
        else:
            scores = self.scores(self.validation)
            row |= {"val_loss": scores.loss, "val_accuracy": scores.accuracy}
            self.val_accuracy = scores.accuracy
            if (scores.accuracy, -scores.loss) > (progress.best_accuracy, -progress.best_loss):
                self.keep_best(scores.accuracy, scores.loss)
            else:
                progress.evaluations_since_best += 1
        self.log.metric([row])
        progress.loss_sum, progress.num_correct, progress.num_seen = 0.0, 0, 0
        self.log.time(step=progress.step, seconds=round(self.seconds, 3), images=self.images)
        percent = {name: f"{100 * row[name]:.2f} %" for name in row if name.endswith("accuracy")}
        self.log.line(
            f"epoch {row['epoch']:<5.4g} step {progress.step:<7,} lr {self.learning_rate(progress.step - 1):<8.3g} "
            f"train loss {row['train_loss']:.4f} accuracy {percent['train_accuracy']:<8}"
            + (f" val loss {row['val_loss']:.4f} accuracy {percent['val_accuracy']:<8}" if self.validation is not None else "")
            + (f" {self.images / self.seconds:,.0f} img/s" if self.seconds else "")
            + ("  best so far" if progress.best_step == progress.step and self.validation is not None else "")
        )

    def scores(self, split: Split) -> Scores:
        """Confusion matrix and loss of the weights that count. Raises Diverged if they are not finite."""
        scores = evaluate(self.predictor, split, self.normalize, num_classes=self.settings.num_classes)
        if not math.isfinite(scores.loss):
            raise Diverged(f"the evaluation's loss is {scores.loss} at step {self.progress.step:,}: lower optimizer.lr")
        return scores

    def keep_best(self, accuracy: float, loss: float) -> None:
        """These weights are the best so far. `best` is written before `last`, so that no crash leaves a `last` that lacks its best."""
        progress = self.progress
        progress.best_step, progress.evaluations_since_best = progress.step, 0
        if not math.isnan(accuracy):
            progress.best_accuracy, progress.best_loss = accuracy, loss
        facts = {"step": progress.step, "accuracy": progress.best_accuracy, "loss": progress.best_loss}
        checkpoint.save(self.folder / BEST, {f"model/{k}": v for k, v in self.average.model.state_dict().items()}, facts)

    # ------------------------------------------------------------------------------------------------------- the state

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The whole state as named tensors and JSON facts; `history` alone may differ between a straight and a resumed run."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"optimizer/{k}": v for k, v in optim.state_of(self.optimizer, self.model).items()}
        if self.average.model is not self.model:
            tensors |= {f"average/{k}": v for k, v in self.average.model.state_dict().items()}
        facts = {"num_steps": self.settings.num_steps, "progress": asdict(self.progress), "scaler": self.scaler.state_dict()}
        return tensors, facts | {"history": {"seconds": self.seconds, "images": self.images}}

    def load_state_dict(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises KeyError or RuntimeError where it is another network's."""
        self.model.load_state_dict(under("model/", tensors))
        if self.average.model is not self.model:
            self.average.model.load_state_dict(under("average/", tensors))
        optim.load_state(self.optimizer, self.model, under("optimizer/", tensors))
        self.scaler.load_state_dict(facts["scaler"])
        self.progress.__init__(**facts["progress"])
        self.seconds, self.images = facts["history"]["seconds"], facts["history"]["images"]

    def save(self) -> None:
        """Write `last`."""
        self.report_losses()
        self.progress.metrics_size = self.log.metrics_size()
        checkpoint.save(self.folder / LAST, *self.state_dict())

    def resume(self) -> None:
        """Take over `last`. Raises CheckpointError if it is damaged or another network's; never a silent fresh start."""
        path = self.folder / LAST
        try:
            self.load_state_dict(*checkpoint.load(path))
        except (KeyError, RuntimeError, TypeError) as error:
            raise CheckpointError(f"{path}: not a checkpoint of this network ({' '.join(str(error).split())[:200]})") from None
        self.log.truncate_metrics(self.progress.metrics_size)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
