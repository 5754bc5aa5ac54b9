"""Optimizers: rules that update parameters in place, and which rule a parameter gets.

The update rules are torch's own functions, fused. Its optimizer classes are not used: to construct
one imports torch._dynamo, which takes half as long as torch itself.

A new optimizer is a function that returns a Rule, and a row in OPTIMIZERS.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from skiplab.errors import UsageError
from skiplab.training import muon

State = dict[str, Tensor]


class Rule(Protocol):
    """Updates parameters in place from their gradients.

    Under a GradScaler the gradients arrive multiplied by `grad_scale`, and the rule divides by it.
    It is None if they were unscaled before. Where `found_inf` is 1 the rule updates nothing.
    Without a scaler both are None.
    """

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


class ParamGroup(TypedDict):
    """Parameters that share a rule and its values; a dict, since GradScaler reads "params"."""

    params: list[nn.Parameter]
    rule: Rule
    weight_decay: float
    # Of the step under way.
    lr: float
    # The group's learning rate is the schedule's times this.
    lr_scale: float
    # The step at which the learning rate, falling linearly from the peak, is zero. From then on the
    # parameters are frozen. None: follow the schedule.
    ends: int | None


class Optimizer:
    """Groups of parameters and their state; `step` updates each group by its rule.

    `lr` is the peak of the schedule. `takes_scaled`: all rules take gradients that a GradScaler has
    scaled. The names `param_groups` and `_step_supports_amp_scaling` are those that torch's
    GradScaler asks for; it sets the attributes `grad_scale` and `found_inf`.
    """

    def __init__(self, groups: list[ParamGroup], *, lr: float, takes_scaled: bool):
        self.param_groups = groups
        self.state: dict[nn.Parameter, State] = {}
        self.peak = lr
        # False where gradients are reduced over ranks: the reducer waits for all of them.
        self.can_freeze = True
        self._step_supports_amp_scaling = takes_scaled

    def set_rate(self, lr: float, step: int) -> None:
        """Set the groups' learning rates for step `step`, at which the schedule gives `lr`."""
        for group in self.param_groups:
            group["lr"] = lr * group["lr_scale"]
            if group["ends"] is not None:
                left = max(0.0, 1 - step / group["ends"]) if group["ends"] > 0 else 0.0
                group["lr"] = self.peak * left * group["lr_scale"]
                if self.can_freeze:
                    for parameter in group["params"]:
                        parameter.requires_grad_(left > 0)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                group["rule"](
                    params,
                    [self.state.setdefault(p, {}) for p in params],
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    grad_scale=getattr(self, "grad_scale", None),
                    found_inf=getattr(self, "found_inf", None),
                )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def reset(self) -> None:
        """Forget all steps."""
        self.state.clear()


# --------------------------------------------------------------------------------------------------
# Rules


def gradients(params: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the parameters' gradients, all of which are there."""
    return [p.grad for p in params if p.grad is not None]


def sgd_rule(*, momentum: float, nesterov: bool = False, fused: bool) -> Rule:
    """Make torch's SGD: b <- momentum b + g; w <- w - lr b.

    With Nesterov w <- w - lr (g + momentum b). g is the gradient + weight_decay w.
    """

    def update(
        params: Sequence[nn.Parameter],
        states: Sequence[State],
        *,
        lr: float,
        weight_decay: float,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
    ) -> None:
        buffers = [state.get("momentum_buffer") for state in states]
        sgd(
            list(params),
            gradients(params),
            buffers,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            dampening=0.0,
            maximize=False,
            foreach=False,
            fused=fused,
            grad_scale=grad_scale,
            found_inf=found_inf,
        )
        for state, buffer in zip(states, buffers, strict=True):
            if buffer is not None:
                state["momentum_buffer"] = buffer

    return update


def adam_rule(
    *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, decoupled: bool, fused: bool
) -> Rule:
    """Make torch's Adam, or with `decoupled` weight decay its AdamW."""

    def update(
        params: Sequence[nn.Parameter],
        states: Sequence[State],
        *,
        lr: float,
        weight_decay: float,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
    ) -> None:
        for p, state in zip(params, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), device=p.device if fused else None)
                state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        rule = adamw if decoupled else adam
        rule(
            list(params),
            gradients(params),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            lr=lr,
            weight_decay=weight_decay,
            beta1=betas[0],
            beta2=betas[1],
            eps=eps,
            amsgrad=False,
            maximize=False,
            foreach=False,
            fused=fused,
            grad_scale=grad_scale,
            found_inf=found_inf,
        )

    return update


# --------------------------------------------------------------------------------------------------
# Which rule a parameter gets


class Treatment(NamedTuple):
    """How a parameter is updated. `lr_scale`: its learning rate over the schedule's."""

    rule: Rule
    weight_decay: float
    lr_scale: float


Treat = Callable[[nn.Parameter], Treatment]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every row of OPTIMIZERS is told, whatever its own hyperparameters are."""

    # Peak of the schedule.
    lr: float
    # Of weights, and of norms and biases, which have one dimension.
    weight_decay: float
    small_decay: float
    # The parameters of norms, by id.
    norms: frozenset[int]
    # Whether torch has fused rules for the parameters' device.
    fused: bool
    # Whether a rule shall compile what it can.
    compiled: bool


def same_rule(rule: Callable[..., Rule]) -> Callable[..., Treat]:
    """Give every parameter the rule that `rule(fused=..., **hyperparameters)` makes.

    Norms learn `norm_scale` times as fast, and decay no faster for it.
    """

    def prepare(setup: Setup, *, norm_scale: float = 1.0, **hyperparameters: object) -> Treat:
        update = rule(fused=setup.fused, **hyperparameters)

        def treat(p: nn.Parameter) -> Treatment:
            if id(p) in setup.norms:
                return Treatment(update, setup.small_decay / norm_scale, norm_scale)
            return Treatment(update, setup.weight_decay if p.ndim > 1 else setup.small_decay, 1.0)

        return treat

    return prepare


def muon_for_filters(
    setup: Setup,
    *,
    momentum: float,
    nesterov: bool,
    iterations: int,
    head_lr: float,
    bias_lr: float,
    sgd_momentum: float,
) -> Treat:
    """Give filters Muon, and the rest SGD with Nesterov momentum.

    Matrices (the head), and norms and biases, have learning rates of their own. A weight decay is
    the share that a weight loses per step at the schedule's peak, whatever its learning rate is.
    """
    rest = sgd_rule(momentum=sgd_momentum, nesterov=sgd_momentum > 0, fused=setup.fused)
    filters = muon.muon_rule(
        momentum=momentum, nesterov=nesterov, iterations=iterations, compiled=setup.compiled
    )

    def treat(p: nn.Parameter) -> Treatment:
        if p.ndim > 2:
            return Treatment(filters, 0.0, 1.0)
        if p.ndim == 2:
            return Treatment(rest, setup.weight_decay / head_lr, head_lr / setup.lr)
        return Treatment(rest, setup.small_decay / bias_lr, bias_lr / setup.lr)

    return treat


class Row(NamedTuple):
    """An optimizer: from a Setup and its hyperparameters to the Treatment of each parameter."""

    prepare: Callable[..., Treat]
    # Whether its rules, where fused, divide gradients by `grad_scale` and heed `found_inf`. If not,
    # the GradScaler does so before, for which it waits for the device.
    takes_scaled: bool = False


# An optimizer by its name in the config.
OPTIMIZERS = {
    "sgd": Row(same_rule(sgd_rule), takes_scaled=True),
    "adam": Row(same_rule(functools.partial(adam_rule, decoupled=False)), takes_scaled=True),
    "adamw": Row(same_rule(functools.partial(adam_rule, decoupled=True)), takes_scaled=True),
    "muon": Row(muon_for_filters),
}


def own_row(make: Callable[..., Rule]) -> Row:
    """Return the row of a user's function that returns a rule. It may take `fused`."""

    def rule(*, fused: bool) -> Rule:
        update = make(fused=fused) if "fused" in inspect.signature(make).parameters else make()
        if not callable(update):
            raise UsageError(
                f"optimizer: {make.__name__} returns {type(update).__name__}, which is no rule: "
                "a function (params, states, *, lr, weight_decay, grad_scale, found_inf)"
            )
        return update

    return Row(same_rule(rule))


def build(
    name: str | Row,
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    decay_norm_and_bias: bool,
    ends: Mapping[str, int] | None = None,
    compiled: bool = False,
    **hyperparameters: object,
) -> Optimizer:
    """Build optimizer `name`, or that of a row, over the parameters that take a gradient.

    Its state lies on their device. Norms and biases (one dimension) decay only with
    `decay_norm_and_bias`. `ends` names parameters that are trained up to a step, while their
    learning rate falls linearly to zero.
    """
    row = OPTIMIZERS[name] if isinstance(name, str) else name
    setup = Setup(
        lr=lr,
        weight_decay=weight_decay,
        small_decay=weight_decay if decay_norm_and_bias else 0.0,
        norms=frozenset(
            id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
        ),
        fused=next(model.parameters()).device.type in ("cpu", "cuda"),
        compiled=compiled,
    )
    treat = row.prepare(setup, **hyperparameters)
    ends = ends or {}
    groups: dict[tuple[Treatment, int | None], list[nn.Parameter]] = {}
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((treat(parameter), ends.get(path)), []).append(parameter)
    return Optimizer(
        [
            ParamGroup(params=params, lr=lr * treatment.lr_scale, ends=end, **treatment._asdict())
            for (treatment, end), params in groups.items()
        ],
        lr=lr,
        takes_scaled=setup.fused and row.takes_scaled,
    )


# --------------------------------------------------------------------------------------------------
# State


def state_of(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's tensors by parameter name, such as `conv1.weight/momentum_buffer`.

    No hyperparameters, and no numbering of parameters. Raises UsageError if a rule of a user's own
    keeps something else.
    """
    for state in optimizer.state.values():
        if odd := [key for key, value in state.items() if not isinstance(value, Tensor | None)]:
            raise UsageError(f"optimizer: its state {odd[0]} is no tensor, so it cannot be saved")
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def load_state(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put what `state_of` returned into a fresh optimizer over an equal model.

    Raises KeyError for a parameter that the model does not have.
    """
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        if value.shape == parameter.shape:
            # Copy into the parameter's own strides: a fused CPU kernel pairs wrong elements of a
            # channels_last weight and a contiguous buffer, and raises nothing.
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        elif key == "step":
            value = value.clone() if parameter.device.type == "cpu" else value.to(parameter.device)
        optimizer.state.setdefault(parameter, {})[key] = value
