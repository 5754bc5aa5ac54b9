"""Optimizers, the learning rate as a function of the step, and the average of the weights."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def build(
    name: str, model: nn.Module, *, weight_decay: float, decay_norm_and_bias: bool, device: torch.device, **hyperparameters: Any
) -> torch.optim.Optimizer:
    """Optimizer `name` over the model's parameters; norms and biases (one dimension) decay only if asked to."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    norms_and_biases = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": norms_and_biases, "weight_decay": weight_decay if decay_norm_and_bias else 0.0},
    ]
    fused = device.type in ("cpu", "cuda")
    return OPTIMIZERS[name]([g for g in groups if g["params"]], fused=fused, **hyperparameters)


def state_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's tensors by parameter name, `conv1.weight/momentum_buffer`: no hyperparameters, no numbering."""
    state = optimizer.state
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in state.get(parameter, {}).items()
        if value is not None
    }


def load_state(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put what `state_of` gave into a fresh optimizer over an equal model. Raises KeyError for a parameter it does not have."""
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        if value.shape == parameter.shape:
            # into the parameter's own strides: a fused CPU kernel pairs wrong elements of a channels_last weight and
            # a contiguous buffer, and raises nothing
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        elif key == "step":
            value = value.clone() if parameter.device.type == "cpu" else value.to(parameter.device)
        optimizer.state[parameter][key] = value


Schedule = Callable[[int], float]


def warmed_up(num_steps: int, warmup: float, after: Schedule) -> Schedule:
    """Linear from 1/W to 1 over the first W = round(warmup * num_steps) steps, then `after(step - W)`."""
    num_warmup = round(warmup * num_steps)
    return lambda step: (step + 1) / num_warmup if step < num_warmup else after(step - num_warmup)


def constant(num_steps: int, *, warmup: float) -> Schedule:
    """1."""
    return warmed_up(num_steps, warmup, lambda step: 1.0)


def cosine(num_steps: int, *, warmup: float, final: float) -> Schedule:
    """final + (1 - final) (1 + cos(pi s / S)) / 2 over the S steps after the warm-up (torch's CosineAnnealingLR)."""
    num_after = max(1, num_steps - round(warmup * num_steps))
    return warmed_up(num_steps, warmup, lambda step: final + (1 - final) * (1 + math.cos(math.pi * step / num_after)) / 2)


def multistep(num_steps: int, *, warmup: float, milestones: tuple[float, ...], gamma: float) -> Schedule:
    """gamma ** (milestones passed), each at round(fraction * num_steps) (torch's MultiStepLR)."""
    num_warmup = round(warmup * num_steps)
    passed_at = [round(fraction * num_steps) for fraction in milestones]
    return warmed_up(num_steps, warmup, lambda step: gamma ** sum(step + num_warmup >= at for at in passed_at))


def onecycle(num_steps: int, *, warmup: float, start: float, final: float) -> Schedule:
    """Linear from `start` to 1, reached `warmup` into the run, then linear to `final` at the last step.

    torch's OneCycleLR with anneal_strategy="linear" and cycle_momentum=False (Smith & Topin 2018).
    """
    peak = max(0.0, warmup * num_steps - 1)
    descent = max(1.0, num_steps - 1 - peak)

    def factor(step: int) -> float:
        if step <= peak and peak > 0:
            return start + (1 - start) * step / peak
        return 1 + (final - 1) * (step - peak) / descent

    return factor


SCHEDULERS: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "multistep": multistep,
    "onecycle": onecycle,
}


def learning_rate(name: str, *, lr: float, num_steps: int, **options: Any) -> Schedule:
    """The learning rate at each step 0 .. num_steps - 1 under scheduler `name`, which gives a multiple of `lr`."""
    factor = SCHEDULERS[name](num_steps, **options)
    return lambda step: lr * factor(step)


class Average:
    """Exponential moving average of weights and BatchNorm statistics: a <- decay a + (1 - decay) w; `decay` 0 keeps none.

    `model` is what evaluation and the best checkpoint use: the averaged copy, or without an average the trained model.
    """

    def __init__(self, model: nn.Module, *, decay: float):
        self.source, self.decay = model, decay
        self.model = copy.deepcopy(model).requires_grad_(False) if decay else model
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)) if decay else []
        self.averaged = [(a, w) for a, w in pairs if a.is_floating_point()]
        self.copied = [(a, w) for a, w in pairs if not a.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        for average, weight in self.averaged:
            average.lerp_(weight, 1 - self.decay)
        for average, weight in self.copied:
            average.copy_(weight)
