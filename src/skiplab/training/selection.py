"""Selection by proxy: train only on those images of each batch that are hardest.

They are the hardest for a small network, which is trained before the run.
"""

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skiplab.data.batches import Batches
from skiplab.errors import Diverged
from skiplab.randomness import seed_default
from skiplab.runs.checkpoint import not_finite
from skiplab.training.losses import Loss
from skiplab.training.optimizers import Optimizer
from skiplab.training.schedules import Schedule
from skiplab.words import duration

# The proxy is trained in every fourth step, and only evaluates in the others.
EVERY = 4


@dataclass(eq=False)
class Proxy:
    """A small network that goes through all batches of a run before it, and chooses images.

    Batches depend only on the step, so it sees them augmented as the run will. Of each it chooses
    the `count` images with the largest loss; in every fourth step it is trained on them (Jordan
    2024's airbench96_faster; selection via proxy: Coleman et al. 2020).
    """

    model: nn.Module
    _: KW_ONLY
    optimizer: Optimizer
    learning_rate: Schedule
    batches: Batches
    autocast: torch.autocast
    # A torch.amp.GradScaler. It is typed for optimizers of torch's classes, which ours is not.
    scaler: Any
    loss: Loss
    count: int
    num_steps: int

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.batches.normalize.device

    def choose(self, check: Callable[[], None]) -> Tensor:
        """Return the positions of the chosen images in each step's batch, int32 (num_steps, count).

        They ascend, and are on the device. Calls `check` before every step. Raises Diverged if the
        proxy's weights are not finite at the end.
        """
        chosen = torch.empty(self.num_steps, self.count, dtype=torch.int32, device=self.device)
        for step in range(self.num_steps):
            check()
            chosen[step] = self.hardest(step).sort().values
        if problem := not_finite(self.model.state_dict()):
            raise Diverged(
                f"the network that selects the images has diverged ({problem}): "
                "trainer.select=1 does without it"
            )
        return chosen

    def hardest(self, step: int) -> Tensor:
        """Return the positions of a step's chosen images, int64 (count,). Trains if that is due."""
        self.model.train()
        seed_default(self.batches.seed, "proxy", step, device=self.device)
        # (B, C, H, W), (B,)
        images, labels = self.batches.at(step)
        is_trained = step % EVERY == 0
        with torch.set_grad_enabled(is_trained), self.autocast:
            # (B, C, H, W) -> (B, K)
            logits = self.model(images).float()
        # (B,)
        losses = self.loss.each(logits, labels)
        hardest = losses.detach().topk(self.count).indices
        if is_trained:
            self.optimizer.set_rate(self.learning_rate(step), step)
            loss = self.loss.mean_of(
                losses.index_select(0, hardest), labels.index_select(0, hardest)
            )
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
        return hardest

    def dry_run(self, times: int) -> None:
        """Do each kind of step `times`, so that it gets compiled; then restore the proxy."""
        state = deepcopy(self.model.state_dict())
        last = (self.num_steps - 1) // EVERY * EVERY
        for step in sorted({0, min(1, self.num_steps - 1), last, self.num_steps - 1}) * times:
            self.hardest(step)
        self.model.load_state_dict(state)
        self.optimizer.reset()


class Selection:
    """Which images of each batch are trained on: those that `proxy` chose; without one, all."""

    def __init__(self, proxy: Proxy | None):
        self.proxy = proxy
        # int32 (steps, count). A part of the run's state: a resumed run does not choose again.
        self.chosen: Tensor | None = None

    def prepare(self, check: Callable[[], None]) -> str | None:
        """Have the proxy choose, unless it has for every step of the run. Returns what to log."""
        if self.proxy is None or (
            self.chosen is not None and len(self.chosen) >= self.proxy.num_steps
        ):
            return None
        began = time.monotonic()
        self.chosen = self.proxy.choose(check)
        parameters = sum(p.numel() for p in self.proxy.model.parameters())
        return (
            f"a network of {parameters:,} parameters has selected {self.proxy.count:,} "
            f"of {self.proxy.batches.batch_size:,} images a step "
            f"in {duration(time.monotonic() - began)}, counted as training"
        )

    def dry_run(self, times: int) -> None:
        """Do the proxy's dry-run steps, and choose some images for those of the run.

        The caller restores the state afterwards.
        """
        if self.proxy is not None:
            self.proxy.dry_run(times)
            positions = torch.arange(self.proxy.count, dtype=torch.int32, device=self.proxy.device)
            self.chosen = positions.expand(self.proxy.num_steps, -1)

    def at(self, step: int) -> Tensor | None:
        """Return positions in step `step`'s batch, int32 (count,), or None for the whole batch."""
        return None if self.chosen is None else self.chosen[step]

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""
        return {} if self.chosen is None else {"chosen": self.chosen}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.chosen = (
            state["chosen"].to(self.proxy.device)
            if self.proxy is not None and "chosen" in state
            else None
        )
