"""The training loop: optimizer steps only. `fit` is the loop, `train_step` the weight update, `progress.Progress` all that is counted."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from skiplab import averages, checkpoint, hardware, optim
from skiplab.checkpoint import under
from skiplab.data import Batches, Normalize, Split
from skiplab.dist import ALONE, Ranks
from skiplab.errors import CheckpointError, Diverged, Stopped, UsageError
from skiplab.evaluate import Predictor, Scores, evaluate
from skiplab.folders import BEST, LAST
from skiplab.log import Log
from skiplab.pace import Pace
from skiplab.probe import Probe
from skiplab.progress import Progress, Settings
from skiplab.randomness import seed_default
from skiplab.rehearsal import rehearse
from skiplab.rollback import ROLLBACK_FACTOR, roll_back
from skiplab.selection import Selection

MOST_PENDING = 2**16  # steps whose losses wait on the device to be read, whatever trainer.log_every says


class Trainer:
    """One run, or one rank of it: trains `model` from wherever its state stands to the last step, keeps `best` and `last` in `folder`."""

    def __init__(
        self,
        settings: Settings,
        *,
        model: nn.Module,
        average: averages.Average,
        lookahead: averages.Lookahead,
        optimizer: optim.Optimizer,
        learning_rate: optim.Schedule,
        batches: Batches,
        selection: Selection,
        validation: Split | None,
        predictor: Predictor,
        probe: Probe,
        pace: Pace,
        folder: Path,
        log: Log,
        stop_signal: Callable[[], int],
        network: str,
        run: Mapping[str, Any],
        machine: Mapping[str, str],
        ranks: Ranks = ALONE,
        sync_bn: bool = False,
    ):
        self.settings, self.folder, self.log, self.stop_signal = settings, folder, log, stop_signal
        self.network, self.run, self.machine = network, dict(run), dict(machine)  # stored in checkpoints, compared when they are loaded
        self.model, self.average, self.lookahead = model, average, lookahead
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.ranks, self.replica = ranks, ranks.replicate(model, sync_bn=sync_bn)
        optimizer.can_freeze = ranks.size == 1  # every rank waits for every gradient
        self.batches, self.selection, self.validation, self.predictor = batches, selection, validation, predictor
        self.normalize: Normalize = batches.normalize
        self.probe, self.pace = probe, pace
        self.device = self.normalize.device
        self.progress = Progress()
        self.rolled_back: list[int] = []  # the steps that rollbacks went back to
        self.moved: list[dict[str, Any]] = []  # where the run went on on another machine: step, and what differed
        dtype = torch.float16 if settings.amp == "fp16" else torch.bfloat16
        self.autocast = torch.autocast(self.device.type, dtype, enabled=settings.amp != "off")
        self.scaler: Any = torch.amp.GradScaler(self.device.type, enabled=settings.amp == "fp16")
        self.parameters = list(model.parameters())
        # of the steps since the last log point, on the device: reading them earlier would wait for it; and one that is never read
        self.most_pending = min(settings.log_every, settings.stop_at, MOST_PENDING)
        self.losses = torch.zeros(self.most_pending + 1, device=self.device)
        self.plain_losses = torch.zeros_like(self.losses)  # without label smoothing, where there is any
        self.corrects = torch.zeros(self.most_pending + 1, dtype=torch.int64, device=self.device)
        self.pending: list[tuple[float, int]] = []  # their learning rates and batch sizes
        self.began = self.deadline = self.seconds = 0.0  # seconds of training: over all sittings
        self.images = 0
        self.val_accuracy: float | None = None  # of the last evaluation, to show
        self.is_best = False  # whether these weights became the best since the last save
        self.asked = 0  # by a signal, until it is done
        self.writer = checkpoint.Writer()

    # ------------------------------------------------------------------------------------------------------- the loop

    def fit(self) -> None:
        """Train to the last step. Raises Diverged on a loss that is not finite, Stopped after saving on a signal or max_time."""
        progress, settings = self.progress, self.settings
        self.model.train()
        rehearse(self)
        self.deadline = time.monotonic() + 60 * settings.max_time  # of this sitting
        self.began = time.monotonic() - self.seconds
        if said := self.selection.prepare(self.check_stop):
            self.log.line(said)
        self.log.start_bar(step=progress.step, num_steps=settings.stop_at)
        with self.writer:
            if progress.step == 0:
                self.log.truncate_metrics(0)  # of a start that died before it had saved
                self.save()
            while progress.step < settings.stop_at and progress.evaluations_since_best < settings.early_stop:
                try:
                    self.advance()
                except Diverged as error:
                    roll_back(self, error)
            if progress.num_seen:  # the run was told to end where it already stood
                self.evaluate()
            if progress.step < settings.stop_at or self.is_best:  # stopped early
                self.save()
        self.log.stop_bar()

    def advance(self) -> None:
        """One optimizer step, and what is due after it."""
        progress, settings = self.progress, self.settings
        self.train_step(progress.step)
        progress.step += 1
        self.log.advance()
        if self.due(settings.log_every) or len(self.pending) == self.most_pending:
            self.report_losses()
        self.pace.after(progress.step, is_synced=not self.pending)
        if self.due(settings.eval_every):
            self.evaluate()
        self.seconds = time.monotonic() - self.began
        self.asked = self.ranks.agreed(self.decide)
        if self.due(settings.save_every) or self.is_best or self.asked:
            self.save()
        if self.asked > 0 or progress.step == settings.stop_at:
            self.ranks.agreed(self.writer.wait)
        if self.asked > 0:
            raise Stopped(f"stopped and saved at step {progress.step:,} of {settings.num_steps:,}", exit_code=self.asked)
        self.asked = 0

    def decide(self) -> int:
        """What to do after this step: 0 go on, -1 save, else the exit code to stop with. Raises what the last save has raised."""
        self.writer.check()
        return self.stop_signal() or self.asked or (7 if time.monotonic() > self.deadline else 0)

    def check_stop(self) -> None:
        """Raise Stopped if the run is told to stop before its first step: then nothing is there to be saved."""
        if (code := self.ranks.agreed(self.decide)) > 0:
            raise Stopped(f"stopped before step 1 of {self.settings.num_steps:,}", exit_code=code)

    def train_step(self, step: int) -> None:
        """One optimizer step: w <- w - lr(step) * update(gradient of the mean loss over the batch)."""
        lr = self.rate(step)
        self.optimizer.set_rate(lr, step)
        with self.probe.forward(step):
            num_images = self.add_gradients(step)
        self.probe.after_backward(step, scaler=self.scaler)
        self.clip_gradients()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.probe.after_update(step)
        self.lookahead.update(step + 1)
        self.average.update(step)
        self.pending.append((lr, num_images))

    def add_gradients(self, step: int) -> int:
        """The gradient of the mean loss over the step's batch, of which each rank computes its part; returns the batch's size."""
        seed_default(self.settings.seed, "dropout", step, *self.ranks.position, device=self.device)
        slot, smoothing, chosen = len(self.pending), self.settings.label_smoothing, self.selection.at(step)
        num_images = len(self.batches.index(step) if chosen is None else chosen)
        rank, ranks, weight = self.ranks.part_of(num_images)
        images, labels = self.batches.at(step, chosen=chosen, rank=rank, ranks=ranks)  # (B, C, H, W), (B,)
        # at least two images a part: BatchNorm cannot normalise one value
        parts = max(1, min(self.settings.accumulate, num_images // ranks // 2))
        self.losses[slot], self.corrects[slot], counted = 0.0, 0, slot if weight else -1
        if smoothing:
            self.plain_losses[slot] = 0.0
        for number, (x, y) in enumerate(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True), 1):
            with self.ranks.reducing(self.replica, is_last=number == parts):
                with self.autocast:
                    logits = self.replica(x)  # (B, C, H, W) -> (B, K)
                    share = weight * (len(y) / num_images)
                    loss = F.cross_entropy(logits.float(), y, label_smoothing=smoothing) * share
                self.scaler.scale(loss).backward()
            self.losses[counted] += loss.detach()
            if smoothing:
                self.plain_losses[counted] += F.cross_entropy(logits.detach().float(), y) * share
            self.corrects[counted] += (logits.detach().argmax(1) == y).sum()
        return num_images

    def rate(self, step: int) -> float:
        """The learning rate of a step: the schedule's, lowered by the rollbacks so far."""
        return self.learning_rate(step) * ROLLBACK_FACTOR**self.progress.rollbacks

    def clip_gradients(self) -> None:
        """Scale the gradient down to norm `clip`; a clip of inf leaves it, and its norm is not even computed."""
        if self.settings.clip < math.inf:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.parameters, self.settings.clip)

    def due(self, every: int) -> bool:
        """Whether the step just done is a multiple of `every`, or the last."""
        return self.progress.step % every == 0 or self.progress.step == self.settings.stop_at

    def report_losses(self) -> None:
        """Bring the pending steps' losses to the host (this waits for the device), check them and write them down."""
        if not self.pending:
            return
        progress, count = self.progress, len(self.pending)
        losses, corrects = self.ranks.mean(self.losses[:count]).tolist(), self.ranks.sum(self.corrects[:count]).tolist()
        smoothed = self.settings.label_smoothing > 0
        plain = self.ranks.mean(self.plain_losses[:count]).tolist() if smoothed else losses
        first = progress.step - count
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise self.diverged(f"the loss is {loss} at step {first + i + 1:,}", lr=self.pending[i][0])
        rows = [{"step": first + i + 1, "lr": self.pending[i][0], "loss": loss} for i, loss in enumerate(losses)]
        self.log.metric(self.probe.behind(rows))
        for loss, plain_loss, correct, (_, num_images) in zip(losses, plain, corrects, self.pending, strict=True):
            progress.count(num_images, loss=loss, plain_loss=plain_loss, num_correct=correct)
            self.images += num_images
        self.pending.clear()
        shown = progress.shown(steps_per_epoch=self.batches.steps_per_epoch, loss=losses[-1], smoothed=smoothed)
        shown |= {"val": f"{self.val_accuracy:.1%}"} if self.val_accuracy is not None else {}
        shown |= {"img/s": f"{self.images / self.seconds:.0f}"} if self.seconds else {}
        self.log.show(shown, always=self.settings.log_every == 1)

    def evaluate(self) -> None:
        """Score validation, write the row, keep the weights if they are the best so far (accuracy; loss breaks ties)."""
        self.report_losses()
        self.ranks.share(self.predictor.model.buffers())  # BatchNorm statistics: each rank's are of its own parts of the batches
        progress = self.progress
        row: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.step / self.batches.steps_per_epoch,
        } | progress.take_means(smoothed=self.settings.label_smoothing > 0)
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
        self.log.time(step=progress.step, seconds=round(self.seconds, 3), images=self.images)
        is_best = progress.best_step == progress.step and self.validation is not None
        self.log.evaluation(row, lr=self.rate(progress.step - 1), images_per_second=self.images / max(self.seconds, 1e-9), is_best=is_best)

    def scores(self, split: Split) -> Scores:
        """Confusion matrix and loss of the weights that count. Raises Diverged if they are not finite."""
        scores = evaluate(self.predictor, split, self.normalize, num_classes=self.settings.num_classes, ranks=self.ranks)
        if not math.isfinite(scores.loss):
            raise self.diverged(f"the evaluation's loss is {scores.loss} at step {self.progress.step:,}")
        return scores

    def keep_best(self, accuracy: float, loss: float) -> None:
        """These weights are the best so far, and saved before the next step."""
        progress = self.progress
        progress.best_step, progress.evaluations_since_best = progress.step, 0
        if not math.isnan(accuracy):
            progress.best_accuracy, progress.best_loss = accuracy, loss
        self.is_best = True

    def diverged(self, what: str, *, lr: float | None = None) -> Diverged:
        """The error that says what is not finite, and where."""
        lr = self.rate(self.progress.step - 1) if lr is None else lr
        scale = f", loss scale {self.scaler.get_scale():g}" if self.scaler.is_enabled() else ""
        weights = checkpoint.not_finite(self.model.state_dict()) or "all weights are finite"
        return Diverged(f"{what} (learning rate {lr:.4g}{scale}; {weights})")

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The whole state as named tensors and JSON facts; `history` alone may differ between a straight and a resumed run."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"optimizer/{k}": v for k, v in optim.state_of(self.optimizer, self.model).items()}
        if self.average.model is not self.model:
            tensors |= {f"average/{k}": v for k, v in self.average.model.state_dict().items()}
        tensors |= {f"lookahead/{k}": v for k, v in self.lookahead.slow.items()}
        tensors |= {f"selection/{k}": v for k, v in self.selection.state().items()}
        facts = {"network": self.network, "num_steps": self.settings.num_steps, "progress": self.progress.facts()}
        facts |= {"accumulate": self.settings.accumulate, "run": self.run}
        history = {"seconds": self.seconds, "images": self.images, "machine": self.machine, "moved": self.moved}
        facts |= {"rolled_back": self.rolled_back} if self.rolled_back else {}
        return tensors, facts | {"scaler": self.scaler.state_dict(), "history": history}

    def load_state_dict(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises KeyError, TypeError or RuntimeError where it is not such a state."""
        self.model.load_state_dict(under("model/", tensors))
        if self.average.model is not self.model:
            self.average.model.load_state_dict(under("average/", tensors))
        self.lookahead.load(under("lookahead/", tensors))
        self.selection.load(under("selection/", tensors))
        optim.load_state(self.optimizer, self.model, under("optimizer/", tensors))
        if facts["scaler"]:  # none where the run began without fp16
            self.scaler.load_state_dict(facts["scaler"])
        self.progress.load(facts["progress"])
        self.rolled_back = [int(step) for step in facts.get("rolled_back", [])]
        self.seconds, self.images = facts["history"]["seconds"], facts["history"]["images"]
        self.moved = list(facts["history"].get("moved", []))

    def save(self) -> None:
        """Write `last`, and before it `best` if these weights are: in the background, from a copy of this moment; the first rank's."""
        self.report_losses()
        self.ranks.agreed(self.writer.wait)  # at most one copy at a time
        is_best, self.is_best = self.is_best, False
        if self.ranks.is_main:
            self.progress.metrics_size = self.log.metrics_size()
            tensors, facts = self.state_dict()
            tensors = checkpoint.snapshot(tensors)
            self.writer.submit(lambda: self.write(tensors, facts, is_best=is_best))

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, is_best: bool) -> None:
        """Write a state's files, in an order in which no crash leaves a `last` that lacks its best or its metrics."""
        if problem := checkpoint.not_finite(tensors):
            raise Diverged(f"the state cannot be saved at step {facts['progress']['step']:,} ({problem})")
        self.log.sync_metrics()
        if is_best:
            best = {"network": self.network, "run": {"identity": self.run["identity"]}} | {
                name: facts["progress"][f"best_{name}"] for name in ("step", "accuracy", "loss")
            }
            weights = under("average/", tensors) or under("model/", tensors)
            checkpoint.save(self.folder / BEST, {f"model/{name}": tensor for name, tensor in weights.items()}, best)
        checkpoint.save(self.folder / LAST, tensors, facts)

    def resume(self) -> None:
        """Take over `last`, or the generation before it if it is damaged; CheckpointError if neither is whole: never a fresh start."""
        path = self.folder / LAST
        with self.ranks.main_first():
            (tensors, facts), problem = checkpoint.newest(path)
            if problem is not None:
                self.log.line(f"warning: {problem}; going on from the save before it")
                checkpoint.promote(path)
        if facts.get("network") != self.network:
            raise UsageError(f"{path}: of {facts.get('network')}; this run is {self.network}")
        try:
            self.optimizer.state.clear()
            self.load_state_dict(tensors, facts)
            made_on = dict(facts["history"]["machine"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: not a checkpoint of this run ({' '.join(str(error).split())[:200]})") from None
        for difference in hardware.differences(made_on, self.machine):
            self.moved.append({"step": self.progress.step, "what": difference})
            self.log.line(f"{difference}: the end will not be equal to the bit to that of an uninterrupted run")
        if not self.log.truncate_metrics(self.progress.metrics_size):
            self.log.line(f"warning: {self.folder / 'metrics.jsonl'} lacks rows, and curves.png will")
        if self.ranks.is_main:
            checkpoint.restore(self.folder / BEST, step=self.progress.best_step)
