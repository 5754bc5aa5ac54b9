"""Averages of the weights over the steps.

`Average` is what evaluation uses. `Lookahead` holds slow weights, to which training is set back
every k steps.
"""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

# One launch on a GPU for all tensors of a list, as torch's optimizers do it.
lerp_all = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
copy_all = torch._foreach_copy_  # pyright: ignore[reportPrivateImportUsage]


class Average:
    """Exponential moving average of weights and BatchNorm statistics: a <- d a + (1 - d) w.

    d is `decay`; 0 keeps no average. With `warmup` d at step t = 0, 1, ... is the lesser of `decay`
    and (1 + t) / (10 + t), which soon forgets the initial weights (TensorFlow's
    tf.train.ExponentialMovingAverage with num_updates).

    `model` is what evaluation and the best checkpoint use: the averaged copy, or without an average
    the trained model.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: bool):
        self.decay, self.warmup = decay, warmup
        self.model = copy.deepcopy(model).requires_grad_(False) if decay else model
        pairs: list[tuple[Tensor, Tensor]] = []
        if decay:
            averages, weights = self.model.state_dict().values(), model.state_dict().values()
            pairs = list(zip(averages, weights, strict=True))
        # Averages and the tensors that they follow; counts are copied.
        self.averaged = [(a, w) for a, w in pairs if a.is_floating_point()]
        self.copied = [(a, w) for a, w in pairs if not a.is_floating_point()]

    def decay_at(self, step: int) -> float:
        """Return d at a step, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    def initial_share(self, num_steps: int) -> float:
        """Return the share of the initial weights after `num_steps`: the product of all d."""
        if not self.warmup:
            return self.decay**num_steps
        # After ten steps it is next to nothing.
        return math.prod(self.decay_at(step) for step in range(min(num_steps, 10)))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 0."""
        if self.averaged:
            averages, weights = zip(*self.averaged, strict=True)
            lerp_all(averages, weights, 1 - self.decay_at(step))
        if self.copied:
            averages, weights = zip(*self.copied, strict=True)
            copy_all(averages, weights)


class Lookahead:
    """Slow weights, to which training returns (Zhang et al. 2019).

    After every k-th step s of S, slow <- d slow + (1 - d) w, then w <- slow; at the end w <- slow.
    d = decay^k (s / S)^3 grows over the run (Jordan 2024); k = `every`, 0 for none. BatchNorm
    statistics count as weights.
    """

    def __init__(self, model: nn.Module, *, every: int, decay: float, num_steps: int):
        self.every, self.decay, self.num_steps = every, decay, num_steps
        self.fast: dict[str, Tensor] = {}
        if every:
            state = model.state_dict()
            self.fast = {name: t for name, t in state.items() if t.is_floating_point()}
        self.slow = {name: t.clone() for name, t in self.fast.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Return to the slow weights if that is due after `step` optimizer steps."""
        if not self.every:
            return
        slow, fast = list(self.slow.values()), list(self.fast.values())
        if step % self.every == 0:
            kept = self.decay**self.every * (step / self.num_steps) ** 3
            lerp_all(slow, fast, 1 - kept)
            copy_all(fast, slow)
        if step == self.num_steps:
            copy_all(fast, slow)

    def load(self, slow: Mapping[str, Tensor]) -> None:
        """Take over slow weights. Raises KeyError where one is missing."""
        for name, tensor in self.slow.items():
            tensor.copy_(slow[name])
