"""Selection by proxy: of each batch, only the images that are hardest for a small network which is trained beforehand."""

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiplab.data.batches import Batches
from skiplab.errors import Diverged
from skiplab.randomness import seed_default
from skiplab.runs.checkpoint import not_finite
from skiplab.training.optimizers import Optimizer
from skiplab.training.schedules import Schedule

# steps of the proxy: it is trained in one, and only looks on in the others
EVERY = 4


class Proxy:
    """A small network that goes through all batches of a run, augmented as the run will see them, since they depend on the step alone.

    Of each it chooses the `count` images with the largest loss; in every fourth step it is trained
    on them (Jordan 2024's airbench96_faster; selection via proxy: Coleman et al. 2020).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer,
        learning_rate: Schedule,
        batches: Batches,
        autocast: torch.autocast,
        # torch.amp.GradScaler
        scaler: Any,
        label_smoothing: float,
        count: int,
        num_steps: int,
    ):
        self.model, self.optimizer, self.learning_rate, self.batches = (
            model,
            optimizer,
            learning_rate,
            batches,
        )
        self.autocast, self.scaler, self.label_smoothing = autocast, scaler, label_smoothing
        self.count, self.num_steps = count, num_steps
        self.device = batches.normalize.device

    def choose(self, check: Callable[[], None]) -> Tensor:
        """Positions of the chosen images in each step's batch, ascending: int32 (num_steps, count), on the device.

        Calls `check` before every step. Raises Diverged if the proxy's weights are not finite in
        the end.
        """
        chosen = torch.empty(self.num_steps, self.count, dtype=torch.int32, device=self.device)
        for step in range(self.num_steps):
            check()
            chosen[step] = self.hardest(step).sort().values
        if problem := not_finite(self.model.state_dict()):
            raise Diverged(
                f"the network that selects the images has diverged ({problem}): trainer.select=1 does without it"
            )
        return chosen

    def hardest(self, step: int) -> Tensor:
        """The positions of the chosen images of step `step`, int64 (count,), and a step of training if it is due."""
        self.model.train()
        seed_default(self.batches.seed, "proxy", step, device=self.device)
        # (B, C, H, W), (B,)
        images, labels = self.batches.at(step)
        is_trained = step % EVERY == 0
        with torch.set_grad_enabled(is_trained), self.autocast:
            # (B, C, H, W) -> (B, K)
            logits = self.model(images).float()
        # (B,)
        losses = F.cross_entropy(
            logits, labels, label_smoothing=self.label_smoothing, reduction="none"
        )
        hardest = losses.detach().topk(self.count).indices
        if is_trained:
            self.optimizer.set_rate(self.learning_rate(step), step)
            self.scaler.scale(losses.index_select(0, hardest).mean()).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
        return hardest

    def dry_run(self, times: int) -> None:
        """Steps of every kind, for what is compiled at the first of each, then the proxy as it was."""
        state, last = deepcopy(self.model.state_dict()), (self.num_steps - 1) // EVERY * EVERY
        for step in sorted({0, min(1, self.num_steps - 1), last, self.num_steps - 1}) * times:
            self.hardest(step)
        self.model.load_state_dict(state)
        self.optimizer.state.clear()


class Selection:
    """Which images of each batch are trained on: those that `proxy` has chosen, or without one all of them."""

    def __init__(self, proxy: Proxy | None):
        self.proxy = proxy
        # int32 (steps, count); a part of the run's state, so that a resumed run need not choose
        # again
        self.chosen: Tensor | None = None

    def prepare(self, check: Callable[[], None]) -> str | None:
        """Have the proxy choose, unless it has for every step of the run; what to say of it."""
        if self.proxy is None or (
            self.chosen is not None and len(self.chosen) >= self.proxy.num_steps
        ):
            return None
        began = time.monotonic()
        self.chosen = self.proxy.choose(check)
        parameters = sum(p.numel() for p in self.proxy.model.parameters())
        return (
            f"a network of {parameters:,} parameters has selected {self.proxy.count:,} of {self.proxy.batches.batch_size:,} images a step "
            f"in {time.monotonic() - began:.1f} s, counted as training"
        )

    def dry_run(self, times: int) -> None:
        """What comes before a rehearsal of the run's own steps, which afterwards loads the state anew."""
        if self.proxy is not None:
            self.proxy.dry_run(times)
            positions = torch.arange(self.proxy.count, dtype=torch.int32, device=self.proxy.device)
            self.chosen = positions.expand(self.proxy.num_steps, -1)

    def at(self, step: int) -> Tensor | None:
        """Positions in step `step`'s batch, int32 (count,); None: the whole batch."""
        return None if self.chosen is None else self.chosen[step]

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {} if self.chosen is None else {"chosen": self.chosen}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.chosen = (
            state["chosen"].to(self.proxy.device)
            if self.proxy is not None and "chosen" in state
            else None
        )
