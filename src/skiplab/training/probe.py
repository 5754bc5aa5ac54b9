"""What flows through a network while it trains: per layer the gradient's norm, the activation's deviation, the update against the weight.

A layer is a convolution or a linear layer. Everything is computed on the device and read at the log
points, with the losses.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# -> key of metrics.jsonl
KINDS = {
    "gradients": "gradient_norm",
    "activations": "activation_deviation",
    "updates": "update_ratio",
}


class Probe:
    """Measures `kinds` of KINDS in step 0, whose weights are the initial ones, and in every `every`-th after it; no kinds: does nothing.

    gradient_norm: L2 norm of the loss's gradient with respect to the layer's weight, before
    clipping; activation_deviation: standard deviation of the layer's output over batch, channels
    and places; update_ratio: L2 norm of the step's change of the weight over the weight's own.
    """

    def __init__(self, model: nn.Module, *, kinds: Sequence[str], every: int):
        layers = (
            [
                (name, m)
                for name, m in model.named_modules()
                if isinstance(m, (nn.Conv2d, nn.Linear))
            ]
            if kinds
            else []
        )
        self.layers = [(name, layer) for name, layer in layers if layer.weight.requires_grad]
        self.kinds, self.every = kinds, every
        # step and figures (layers,), on the device
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        # of the step under way
        self.found: dict[str, Tensor] = {}
        # its weights
        self.before: list[Tensor] = []

    def is_due(self, step: int) -> bool:
        """Whether step `step`, counted from 0, is measured."""
        return bool(self.layers) and step % self.every == 0

    @contextmanager
    def forward(self, step: int) -> Iterator[None]:
        """Around the forward and backward passes of a step: the activations."""
        if not (self.is_due(step) and "activations" in self.kinds):
            yield
            return
        deviations: dict[str, Tensor] = {}
        hooks = [
            layer.register_forward_hook(functools.partial(note_deviation, deviations, name))
            for name, layer in self.layers
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self.found["activations"] = torch.stack([deviations[name] for name, _ in self.layers])

    @torch.no_grad()
    def after_backward(self, step: int, *, scaler: torch.amp.GradScaler) -> None:
        """The gradients, taken back to their scale, and a copy of the weights."""
        if not self.is_due(step):
            return
        if "gradients" in self.kinds:
            norms = [
                torch.zeros((), device=m.weight.device)
                if m.weight.grad is None
                else norm_of(m.weight.grad)
                for _, m in self.layers
            ]
            # under fp16 this waits for the device
            self.found["gradients"] = torch.stack(norms) / scaler.get_scale()
        if "updates" in self.kinds:
            self.before = [layer.weight.detach().clone() for _, layer in self.layers]

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """The change of the weights."""
        if not self.is_due(step):
            return
        if "updates" in self.kinds:
            ratios = [
                (layer.weight - before).norm() / before.norm().clamp_min(1e-30)
                for (_, layer), before in zip(self.layers, self.before, strict=True)
            ]
            self.found["updates"], self.before = torch.stack(ratios), []
        self.pending.append((step, self.found))
        self.found = {}

    def behind(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The rows of steps, each with the probe's own behind it: an order that does not depend on when they are written."""
        own = {row["step"]: row for row in self.rows()}
        for row in rows:
            yield row
            if row["step"] in own:
                yield own[row["step"]]

    def rows(self) -> list[dict[str, Any]]:
        """The pending figures as rows of metrics.jsonl, in one transfer: {step, gradient_norm: {layer: value}, ...}; steps count from 1."""
        if not self.pending:
            return []
        flat = torch.cat(
            [figures for _, found in self.pending for figures in found.values()]
        ).tolist()
        # JSON knows no infinity
        values = (value if math.isfinite(value) else None for value in flat)
        rows = [
            {"step": step + 1}
            | {KINDS[kind]: {name: next(values) for name, _ in self.layers} for kind in found}
            for step, found in self.pending
        ]
        self.pending.clear()
        return rows


def norm_of(gradient: Tensor) -> Tensor:
    """Its L2 norm, float32 (): of its values over the largest one, for the squares of values below 1e-23 are 0."""
    gradient = gradient.float()
    largest = gradient.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    return (gradient / largest).norm() * largest


def note_deviation(
    deviations: dict[str, Tensor],
    name: str,
    _layer: nn.Module,
    _inputs: tuple[Tensor, ...],
    output: Tensor,
) -> None:
    """A forward hook: the standard deviation of a layer's output, on the device."""
    deviations[name] = output.detach().float().std()
