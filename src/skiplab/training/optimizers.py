"""Optimizers, and the learning rate as a function of the step.

The update rules are torch's own functions, fused. Its optimizer classes are not used: to construct
one imports torch._dynamo, which takes half as long as torch itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from skiplab.training import muon

State = dict[str, Tensor]


class Rule(Protocol):
    """How a group is updated in place, from gradients that are scaled by `grad_scale`, unless `found_inf` (both None without a scaler)."""

    def __call__(
        self,
        params: Sequence[nn.Parameter],
        states: Sequence[State],
        *,
        lr: float,
        weight_decay: float,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
    ) -> None: ...


class Optimizer:
    """Groups of parameters and their state; `step` updates each group by its rule, learning rate and decay.

    A group is {params, rule, weight_decay, lr, lr_scale, ends}: its learning rate is the schedule's
    times `lr_scale`, or, where it `ends` at a step, falls linearly from the peak to zero there;
    from then on its parameters are frozen.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, fused: bool):
        self.param_groups = (
            # this name and `_step_supports_amp_scaling` are torch's GradScaler's, which sets
            # grad_scale and found_inf
            groups
        )
        self.state: dict[nn.Parameter, State] = {}
        self.peak = lr
        # a reducer of gradients wants all of them
        self.can_freeze = True
        self._step_supports_amp_scaling = fused

    def set_rate(self, lr: float, step: int) -> None:
        """The learning rates of step `step`, at which the schedule gives `lr`."""
        for group in self.param_groups:
            group["lr"] = lr * group["lr_scale"]
            if group["ends"] is not None:
                left = max(0.0, 1 - step / group["ends"])
                group["lr"] = self.peak * left * group["lr_scale"]
                for parameter in group["params"] if self.can_freeze else ():
                    parameter.requires_grad_(left > 0)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        scaling = {name: getattr(self, name, None) for name in ("grad_scale", "found_inf")}
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                states = [self.state.setdefault(p, {}) for p in params]
                group["rule"](
                    params, states, lr=group["lr"], weight_decay=group["weight_decay"], **scaling
                )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def gradients(params: Sequence[nn.Parameter]) -> list[Tensor]:
    """The parameters' gradients, all of which are there."""
    return [p.grad for p in params if p.grad is not None]


def sgd_rule(*, momentum: float, nesterov: bool = False, fused: bool) -> Rule:
    """torch's SGD: b <- momentum b + g; w <- w - lr b (Nesterov: g + momentum b), g the gradient + weight_decay w."""

    def update(
        params: Sequence[nn.Parameter],
        states: Sequence[State],
        *,
        lr: float,
        weight_decay: float,
        **scaling: Any,
    ) -> None:
        buffers = [state.get("momentum_buffer") for state in states]
        options = {
            "momentum": momentum,
            "nesterov": nesterov,
            "dampening": 0.0,
            "maximize": False,
            "foreach": False,
            "fused": fused,
        }
        sgd(
            list(params),
            gradients(params),
            buffers,
            lr=lr,
            weight_decay=weight_decay,
            **options,
            **scaling,
        )
        for state, buffer in zip(states, buffers, strict=True):
            if buffer is not None:
                state["momentum_buffer"] = buffer

    return update


def adam_rule(
    *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, decoupled: bool, fused: bool
) -> Rule:
    """torch's Adam, and with `decoupled` its AdamW."""

    def update(
        params: Sequence[nn.Parameter],
        states: Sequence[State],
        *,
        lr: float,
        weight_decay: float,
        **scaling: Any,
    ) -> None:
        for p, state in zip(params, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), device=p.device if fused else None)
                state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        averages, squares, steps = (
            [state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")
        )
        options = {
            "beta1": betas[0],
            "beta2": betas[1],
            "eps": eps,
            "amsgrad": False,
            "maximize": False,
            "foreach": False,
            "fused": fused,
        }
        rule = adamw if decoupled else adam
        rule(
            list(params),
            gradients(params),
            averages,
            squares,
            [],
            steps,
            lr=lr,
            weight_decay=weight_decay,
            **options,
            **scaling,
        )

    return update


OPTIMIZERS = ("sgd", "adam", "adamw", "muon")


def build(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    decay_norm_and_bias: bool,
    device: torch.device,
    ends: Mapping[str, int] | None = None,
    compiled: bool = False,
    **hyperparameters: Any,
) -> Optimizer:
    """Optimizer `name` over the parameters that take a gradient; norms and biases (one dimension) decay only if asked to.

    `ends` names parameters that are trained up to a step, their learning rate falling linearly to
    zero there.
    """
    fused = device.type in ("cpu", "cuda")
    norms = {
        id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    }
    decay = weight_decay if decay_norm_and_bias else 0.0
    if name == "muon":
        kind = muon_groups(
            lr=lr,
            weight_decay=weight_decay,
            decay=decay,
            fused=fused,
            compiled=compiled,
            **hyperparameters,
        )
    else:
        scale = hyperparameters.pop("norm_scale", 1.0)
        rule = (
            sgd_rule(fused=fused, **hyperparameters)
            if name == "sgd"
            else adam_rule(fused=fused, decoupled=name == "adamw", **hyperparameters)
        )
        kind = norm_groups(rule, norms, weight_decay=weight_decay, decay=decay, scale=scale)
    groups: dict[Any, list[nn.Parameter]] = {}
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((*kind(parameter), (ends or {}).get(path)), []).append(parameter)
    return Optimizer(
        [
            {
                "params": params,
                "rule": rule,
                "weight_decay": decay,
                "lr": lr * scale,
                "lr_scale": scale,
                "ends": end,
            }
            for (rule, decay, scale, end), params in groups.items()
        ],
        lr=lr,
        fused=fused and name != "muon",
    )


# a parameter's rule, decay, and learning rate as a multiple of `lr`
Kind = Callable[[nn.Parameter], tuple[Rule, float, float]]


def norm_groups(
    rule: Rule, norms: set[int], *, weight_decay: float, decay: float, scale: float
) -> Kind:
    """One rule for all; norms (by id) have `scale` times the learning rate and decay no faster for it."""

    def kind(p: nn.Parameter) -> tuple[Rule, float, float]:
        if id(p) in norms:
            return rule, decay / scale, scale
        return rule, weight_decay if p.ndim > 1 else decay, 1.0

    return kind


def muon_groups(
    *,
    lr: float,
    weight_decay: float,
    decay: float,
    fused: bool,
    compiled: bool,
    momentum: float,
    nesterov: bool,
    iterations: int,
    head_lr: float,
    bias_lr: float,
    sgd_momentum: float,
) -> Kind:
    """Muon for filters, SGD with Nesterov momentum for the rest.

    Matrices (the head), and norms and biases, have learning rates of their own. `weight_decay` and
    `decay` are the shares that they lose in a step at the peak of the schedule, whatever these are.
    """
    rest = sgd_rule(momentum=sgd_momentum, nesterov=sgd_momentum > 0, fused=fused)
    filters = muon.muon_rule(
        momentum=momentum, nesterov=nesterov, iterations=iterations, compiled=compiled
    )

    def kind(p: nn.Parameter) -> tuple[Rule, float, float]:
        if p.ndim > 2:
            return filters, 0.0, 1.0
        return (
            (rest, weight_decay / head_lr, head_lr / lr)
            if p.ndim == 2
            else (rest, decay / bias_lr, bias_lr / lr)
        )

    return kind


def state_of(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's tensors by parameter name, `conv1.weight/momentum_buffer`: no hyperparameters, no numbering."""
    state = optimizer.state
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in state.get(parameter, {}).items()
        if value is not None
    }


def load_state(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put what `state_of` gave into a fresh optimizer over an equal model. Raises KeyError for a parameter it does not have."""
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        if value.shape == parameter.shape:
            # into the parameter's own strides: a fused CPU kernel pairs wrong elements of a
            # channels_last weight and a contiguous buffer, and raises nothing
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        elif key == "step":
            value = value.clone() if parameter.device.type == "cpu" else value.to(parameter.device)
        optimizer.state.setdefault(parameter, {})[key] = value


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
    return warmed_up(
        num_steps,
        warmup,
        lambda step: final + (1 - final) * (1 + math.cos(math.pi * step / num_after)) / 2,
    )


def multistep(
    num_steps: int,
    *,
    warmup: float,
    milestones: tuple[float, ...],
    gamma: float,
    low: float,
    low_until: float,
) -> Schedule:
    """gamma ** (milestones passed), each at round(fraction * num_steps) (torch's MultiStepLR); times `low` before `low_until`."""
    num_warmup, num_low = round(warmup * num_steps), round(low_until * num_steps)
    passed_at = [round(fraction * num_steps) for fraction in milestones]

    def factor(step: int) -> float:
        return gamma ** sum(step >= at for at in passed_at) * (low if step < num_low else 1.0)

    return warmed_up(num_steps, warmup, lambda step: factor(step + num_warmup))


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


def linear(num_steps: int, *, warmup: float, start: float, final: float) -> Schedule:
    """start + (1 - start) s / W over the first W = int(warmup * num_steps) steps, then linear to `final` at step num_steps, the end."""
    num_warmup = int(warmup * num_steps)
    return lambda step: (
        start + (1 - start) * step / num_warmup
        if step < num_warmup
        else final + (1 - final) * (num_steps - step) / (num_steps - num_warmup)
    )


SCHEDULERS: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "multistep": multistep,
    "onecycle": onecycle,
    "linear": linear,
}


def learning_rate(name: str, *, lr: float, num_steps: int, **options: Any) -> Schedule:
    """The learning rate at each step 0 .. num_steps - 1 under scheduler `name`, which gives a multiple of `lr`."""
    factor = SCHEDULERS[name](num_steps, **options)
    return lambda step: lr * factor(step)
