"""Averages of the weights over the steps: the one that is evaluated, and the slow weights to which training returns."""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of weights and BatchNorm statistics: a <- d a + (1 - d) w; `decay` 0 keeps none.

    d is `decay`, or with `warmup` at step t = 0, 1, ... the lesser of it and (1 + t) / (10 + t),
    which soon forgets the initial weights (TensorFlow's tf.train.ExponentialMovingAverage with
    num_updates).

    `model` is what evaluation and the best checkpoint use: the averaged copy, or without an average
    the trained model.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: bool):
        self.source, self.decay, self.warmup = model, decay, warmup
        self.model = copy.deepcopy(model).requires_grad_(False) if decay else model
        pairs = (
            list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
            if decay
            else []
        )
        self.averaged = [(a, w) for a, w in pairs if a.is_floating_point()]
        self.copied = [(a, w) for a, w in pairs if not a.is_floating_point()]

    def decay_at(self, step: int) -> float:
        """d at a step."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    def initial_share(self, num_steps: int) -> float:
        """What part of the average the initial weights are after so many steps: the product of all d."""
        if not self.warmup:
            return self.decay**num_steps
        # by then it is next to nothing
        return math.prod(self.decay_at(step) for step in range(min(num_steps, 10)))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the optimizer step of this number."""
        kept = self.decay_at(step)
        for average, weight in self.averaged:
            average.lerp_(weight, 1 - kept)
        for average, weight in self.copied:
            average.copy_(weight)


class Lookahead:
    """Slow weights (Zhang et al. 2019): after every k-th step s of S, slow <- d slow + (1 - d) w and w <- slow; at the end w <- slow.

    d = decay^k (s / S)^3 grows over the run (Jordan 2024); k = `every`, 0 for none. BatchNorm
    statistics count as weights.
    """

    def __init__(self, model: nn.Module, *, every: int, decay: float, num_steps: int):
        self.every, self.decay, self.num_steps = every, decay, num_steps
        self.fast = (
            {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
            if every
            else {}
        )
        self.slow = {name: t.clone() for name, t in self.fast.items()}

    def update(self, step: int) -> None:
        """After `step` optimizer steps."""
        if self.every and step % self.every == 0:
            kept = self.decay**self.every * (step / self.num_steps) ** 3
            for slow, fast in zip(self.slow.values(), self.fast.values(), strict=True):
                fast.copy_(slow.lerp_(fast, 1 - kept))
        if self.every and step == self.num_steps:
            for slow, fast in zip(self.slow.values(), self.fast.values(), strict=True):
                fast.copy_(slow)

    def load(self, slow: Mapping[str, Tensor]) -> None:
        """Take over slow weights. Raises KeyError where one is missing."""
        for name, tensor in self.slow.items():
            tensor.copy_(slow[name])
