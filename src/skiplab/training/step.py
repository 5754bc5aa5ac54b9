"""The weight update: w <- w - lr(step) * update(gradient of the batch's mean loss)."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from skiplab.data.batches import Batches
from skiplab.errors import Diverged
from skiplab.machine.ranks import ALONE, Ranks
from skiplab.randomness import seed_default
from skiplab.runs import checkpoint
from skiplab.training.averages import Average, Lookahead
from skiplab.training.losses import Loss, LossBuffer
from skiplab.training.optimizers import Optimizer
from skiplab.training.probe import Probe
from skiplab.training.progress import Settings
from skiplab.training.schedules import Schedule
from skiplab.training.selection import Selection

# Steps whose losses may wait on the device to be read, whatever trainer.log_every says.
MOST_PENDING = 2**16


@dataclass(kw_only=True)
class Step:
    """One optimizer step after another, of a run or of one rank of it."""

    settings: Settings
    # Trained in place.
    model: nn.Module
    average: Average
    lookahead: Lookahead
    optimizer: Optimizer
    learning_rate: Schedule
    batches: Batches
    loss: Loss
    # Which images of each batch are trained on.
    selection: Selection
    probe: Probe
    ranks: Ranks = ALONE
    sync_bn: bool = False

    # The model as it is called: with several ranks it takes the mean of their gradients.
    replica: nn.Module = field(init=False)
    autocast: torch.autocast = field(init=False)
    # A torch.amp.GradScaler. It is typed for optimizers of torch's classes, which ours is not.
    scaler: Any = field(init=False)
    losses: LossBuffer = field(init=False)
    parameters: list[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        settings, device = self.settings, self.device
        self.replica = self.ranks.replicate(self.model, sync_bn=self.sync_bn)
        # Every rank waits for every gradient, so none may be left out.
        self.optimizer.can_freeze = self.ranks.size == 1
        dtype = torch.float16 if settings.amp == "fp16" else torch.bfloat16
        self.autocast = torch.autocast(device.type, dtype, enabled=settings.amp != "off")
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")  # pyright: ignore[reportPrivateImportUsage]
        size = min(settings.log_every, settings.stop_at, MOST_PENDING)
        self.losses = LossBuffer(size, device=device, is_plain=not self.loss.name)
        self.parameters = list(self.model.parameters())

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.batches.normalize.device

    def update(self, step: int, *, lr_factor: float = 1.0) -> None:
        """Do optimizer step `step`, counted from 0.

        Its learning rate is the schedule's times `lr_factor`.
        """
        lr = self.learning_rate(step) * lr_factor
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
        self.losses.end(lr=lr, num_images=num_images)

    def add_gradients(self, step: int) -> int:
        """Add up the gradient of the mean loss over the step's batch. Returns the batch's size.

        Each rank computes its part of the batch, in as many parts as `accumulate` says.
        """
        seed_default(self.settings.seed, "dropout", step, *self.ranks.position, device=self.device)
        chosen = self.selection.at(step)
        num_images = len(self.batches.index(step) if chosen is None else chosen)
        rank, ranks, weight = self.ranks.part_of(num_images)
        # (B, C, H, W), (B,)
        images, labels = self.batches.at(step, chosen=chosen, rank=rank, ranks=ranks)
        # BatchNorm cannot normalise one value, so a part has at least two images.
        parts = max(1, min(self.settings.accumulate, num_images // ranks // 2))
        # Every rank knows the labels of the whole batch.
        total = self.loss.total_of(num_images, lambda: self.batches.labels_at(step, chosen=chosen))
        self.losses.begin(counts=weight > 0)
        if parts > 1 and self.settings.compiled:
            self.allocate_gradients()
        for number, (x, y) in enumerate(
            zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True), 1
        ):
            with self.ranks.reducing(self.replica, is_last=number == parts):
                with self.autocast:
                    # (B, C, H, W) -> (B, K)
                    logits = self.replica(x)
                    share = weight * (self.loss.total(y) / total)
                    loss = self.loss.mean(logits.float(), y) * share
                self.scaler.scale(loss).backward()
            self.losses.add(loss.detach(), (logits.detach().argmax(1) == y).sum())
            if self.loss.name:
                plain_share = weight * (len(y) / num_images)
                self.losses.add_plain(F.cross_entropy(logits.detach().float(), y) * plain_share)
        return num_images

    def allocate_gradients(self) -> None:
        """Let gradients start as zeros of their own, to which each part is added.

        Otherwise the first part's gradients lie in the memory of a recorded CUDA graph, and the
        next part overwrites them.
        """
        for parameter in self.parameters:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    def clip_gradients(self) -> None:
        """Scale the gradient down to norm `clip`; with inf not even its norm is computed."""
        if self.settings.clip < math.inf:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.parameters, self.settings.clip)

    def diverged(self, what: str, *, lr: float) -> Diverged:
        """Return the error that says what is not finite, and where."""
        scale = f", loss scale {self.scaler.get_scale():g}" if self.scaler.is_enabled() else ""
        weights = checkpoint.not_finite(self.model.state_dict()) or "all weights are finite"
        return Diverged(f"{what} (learning rate {lr:.4g}{scale}; {weights})")
