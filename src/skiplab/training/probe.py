"""Per layer of a network in training: gradient norm, activation deviation and update ratio.

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

# A kind of figure, and its key in metrics.jsonl.
KINDS = {
    "gradients": "gradient_norm",
    "activations": "activation_deviation",
    "updates": "update_ratio",
}


class Probe:
    """Measures `kinds` of KINDS in steps 0, `every`, 2 `every` ...; without kinds it does nothing.

    Step 0 has the initial weights.

    gradient_norm: L2 norm of the loss's gradient with respect to the layer's weight, before
    clipping; activation_deviation: standard deviation of the layer's output over batch, channels
    and places; update_ratio: L2 norm of the step's change of the weight over the weight's own.
    """

    def __init__(self, model: nn.Module, *, kinds: Sequence[str], every: int):
        self.kinds, self.every = kinds, every
        self.layers: list[tuple[str, nn.Conv2d | nn.Linear]] = []
        if kinds:
            self.layers = [
                (name, layer)
                for name, layer in model.named_modules()
                if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.weight.requires_grad
            ]
        # Steps and their figures by kind, (layers,), on the device.
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        # Figures of the step under way, and its weights before the update.
        self.found: dict[str, Tensor] = {}
        self.before: list[Tensor] = []

    def is_due(self, step: int) -> bool:
        """Return whether step `step`, counted from 0, is measured."""
        return bool(self.layers) and step % self.every == 0

    @contextmanager
    def forward(self, step: int) -> Iterator[None]:
        """Measure activations while entered, around the forward and backward passes of a step."""
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
        """Measure the gradients, divided by the scaler's scale, and copy the weights."""
        if not self.is_due(step):
            return
        if "gradients" in self.kinds:
            norms = [norm_of(layer.weight.grad, like=layer.weight) for _, layer in self.layers]
            # Under fp16 the scale is on the device, so this waits for it.
            self.found["gradients"] = torch.stack(norms) / scaler.get_scale()
        if "updates" in self.kinds:
            self.before = [layer.weight.detach().clone() for _, layer in self.layers]

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Measure the change of the weights."""
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

    def merge(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return step rows, each followed by its probe row, and forget the pending figures.

        So their order does not depend on when they are written.
        """
        own = {row["step"]: row for row in self.take_rows()}
        merged = []
        for row in rows:
            merged.append(row)
            if row["step"] in own:
                merged.append(own[row["step"]])
        return merged

    def take_rows(self) -> list[dict[str, Any]]:
        """Return the pending figures as rows of metrics.jsonl, in one transfer, and forget them.

        A row is {step, gradient_norm: {layer: value}, ...}; its steps count from 1.
        """
        if not self.pending:
            return []
        flat = torch.cat(
            [figures for _, found in self.pending for figures in found.values()]
        ).tolist()
        # JSON knows no infinity.
        values = (value if math.isfinite(value) else None for value in flat)
        rows = [
            {"step": step + 1}
            | {KINDS[kind]: {name: next(values) for name, _ in self.layers} for kind in found}
            for step, found in self.pending
        ]
        self.clear()
        return rows

    def clear(self) -> None:
        """Forget the pending figures."""
        self.pending.clear()


def norm_of(gradient: Tensor | None, *, like: Tensor) -> Tensor:
    """Return the L2 norm of a gradient of `like`, float32 (); 0 if there is none.

    The values are divided by the largest one before: the square of a value below 1e-23 is 0.
    """
    if gradient is None:
        return torch.zeros((), device=like.device)
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
    """Record the standard deviation of a layer's output, on the device: a forward hook."""
    deviations[name] = output.detach().float().std()
