"""A torch.optim.Optimizer of a user's own, under the schedule, and exact when a run goes on.

Its whole state is saved: the tensors and plain values of `state`, and of its groups what steps have
changed. What an optimizer keeps elsewhere is lost when a run stops; `skiplab verify` finds that.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.training.optimizers import Optimizer

# The name of the plain values among the tensors of a checkpoint, as JSON in bytes.
PLAIN = "own.json"
Json = str | float | None | list[Any] | dict[str, Any]
# A value of an optimizer's state: it may hold whatever a user keeps there.
Value = Any
# What stands in JSON for a tensor, a tuple, and a mapping.
TENSOR, TUPLE, MAPPING = "$tensor", "$tuple", "$mapping"


def is_maker(make: Callable[..., Any]) -> bool:
    """Return whether this makes an optimizer of torch's kind: a class of them, or (params, ...)."""
    if inspect.isclass(make):
        return True
    return next(iter(inspect.signature(make).parameters), None) == "params"


class Maker:
    """A class or function (params, lr, weight_decay) that makes a torch.optim.Optimizer."""

    def __init__(self, make: Callable[..., Any]):
        self.make = make

    def build(
        self,
        model: nn.Module,
        *,
        lr: float,
        weight_decay: float,
        decay_norm_and_bias: bool,
        ends: Mapping[str, int],
    ) -> "TorchOptimizer":
        """Make the optimizer over the parameters of `model` that take a gradient.

        Norms and biases (one dimension) decay only with `decay_norm_and_bias`. `ends` is that of
        `optimizers.build`. Raises UsageError if what is made is no such optimizer.
        """
        name = self.make.__name__
        known = inspect.signature(self.make).parameters
        takes_any = any(each.kind is each.VAR_KEYWORD for each in known.values())
        if "lr" not in known and not takes_any:
            raise UsageError(f"optimizer: {name} takes no lr, which the schedule sets")
        takes_decay = "weight_decay" in known or takes_any
        if weight_decay and not takes_decay:
            raise UsageError(f"optimizer.weight_decay={weight_decay:g}: {name} takes none")
        decay = {"weight_decay": weight_decay} if takes_decay else {}
        trained = [p for p in model.parameters() if p.requires_grad]
        inner = self.make(trained, lr=lr, **decay)
        if not isinstance(inner, torch.optim.Optimizer):
            kind = type(inner).__name__
            raise UsageError(f"optimizer: {name} gives {kind}, not a torch.optim.Optimizer")
        closure = inspect.signature(inner.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise UsageError(f"optimizer: {name} steps with a closure, and a step here has none")
        if not all("lr" in group for group in inner.param_groups):
            raise UsageError(f"optimizer: the groups of {name} have no lr, which the schedule sets")
        split_groups(inner, model, keeps_decay=decay_norm_and_bias, ends=ends)
        return TorchOptimizer(inner, model, lr=lr, ends=ends)


def split_groups(
    inner: torch.optim.Optimizer, model: nn.Module, *, keeps_decay: bool, ends: Mapping[str, int]
) -> None:
    """Give norms and biases groups without decay, and parameters that end early their own."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in inner.param_groups:
        parts: dict[tuple[bool, int | None], list[nn.Parameter]] = {}
        for p in group["params"]:
            decays = keeps_decay or p.ndim > 1 or not group.get("weight_decay")
            parts.setdefault((decays, ends.get(names.get(id(p), ""))), []).append(p)
        for (decays, _), params in parts.items():
            own = {} if decays else {"weight_decay": 0.0}
            groups.append(group | {"params": params} | own)
    inner.param_groups[:] = groups


class TorchOptimizer(Optimizer):
    """Steps an optimizer of torch's kind, with the learning rate of the schedule."""

    def __init__(
        self, inner: torch.optim.Optimizer, model: nn.Module, *, lr: float, ends: Mapping[str, int]
    ):
        self.inner = inner
        # The same list and the same mapping: torch's optimizer changes them in place.
        self.param_groups: Any = inner.param_groups
        self.state: Any = inner.state
        self.peak = lr
        self.can_freeze = True
        self._step_supports_amp_scaling = False
        self.names: dict[object, str] = {p: name for name, p in model.named_parameters()}
        # The keys of Optimizer's groups that torch's do not have.
        for group in inner.param_groups:
            group["lr_scale"] = float(group["lr"]) / lr
            group["ends"] = next((ends.get(self.names.get(p, "")) for p in group["params"]), None)
        self.begun_with = [encode(group_values(group), "", {}) for group in inner.param_groups]
        self.fresh = {name: tensor.clone() for name, tensor in self.tensors(model).items()}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self.inner.step()

    def reset(self) -> None:
        """Forget all steps."""
        self.load(self.fresh)

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the whole state as named tensors; plain values are the bytes of one of them."""
        found: dict[str, Tensor] = {}
        state = {
            self.names.get(key, str(key)): encode(value, self.names.get(key, str(key)), found)
            for key, value in self.state.items()
        }
        groups = [
            changed_values(group, before, f"group{i}", found)
            for i, (group, before) in enumerate(
                zip(self.param_groups, self.begun_with, strict=True)
            )
        ]
        text = json.dumps({"state": state, "groups": groups})
        return {PLAIN: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8), **found}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned. Raises KeyError or ValueError if it is not that."""
        plain = json.loads(bytes(tensors[PLAIN].tolist()))
        params = {name: p for p, name in self.names.items() if isinstance(p, Tensor)}
        anchor = next(iter(params.values()))
        self.state.clear()
        for name, value in plain["state"].items():
            self.state[params.get(name, name)] = decode(value, tensors, params.get(name, anchor))
        for group, before, changed in zip(
            self.param_groups, self.begun_with, plain["groups"], strict=True
        ):
            kept = {key: group[key] for key in ("params", "lr", "lr_scale", "ends")}
            group.clear()
            for values in (before, changed):
                group.update(decode(values, tensors, anchor))
            group.update(kept)


# --------------------------------------------------------------------------------------------------
# Values as JSON


def group_values(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's values without its tensors, which steps may change in place."""
    own = ("params", "lr", "lr_scale", "ends")
    return {
        key: value
        for key, value in group.items()
        if key not in own and not isinstance(value, Tensor)
    }


def changed_values(
    group: Mapping[str, Any], before: Json, place: str, found: dict[str, Tensor]
) -> Json:
    """Return what steps have changed in a group: its tensors, and values that are not as before.

    A hyperparameter stays as it is, so one that a command changes on the way counts.
    """
    assert isinstance(before, dict)
    was = dict(before[MAPPING])
    own = ("params", "lr", "lr_scale", "ends")
    now = {
        key: encode(value, f"{place}/{key}", found)
        for key, value in group.items()
        if key not in own
    }
    return {MAPPING: [[key, value] for key, value in now.items() if was.get(key, was) != value]}


def encode(value: object, place: str, found: dict[str, Tensor]) -> Json:
    """Return a value as JSON; tensors go to `found`, by their place.

    Raises UsageError for what a checkpoint cannot hold.
    """
    if isinstance(value, Tensor):
        found[place] = value
        on = "host" if value.device.type == "cpu" else "device"
        return {TENSOR: place, "strides": list(value.stride()), "on": on}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {
            MAPPING: [[key, encode(each, f"{place}/{key}", found)] for key, each in value.items()]
        }
    if isinstance(value, (list, tuple)):
        items = [encode(each, f"{place}/{i}", found) for i, each in enumerate(value)]
        return {TUPLE: items} if isinstance(value, tuple) else items
    raise UsageError(
        f"optimizer: its state {place} is a {type(value).__name__}, which a checkpoint cannot "
        "hold; tensors, numbers, texts, and lists and mappings of them are expected"
    )


def decode(value: Json, tensors: Mapping[str, Tensor], home: Tensor) -> Value:
    """Return the value that `encode` has written; its tensors are new ones, where `home` is."""
    if isinstance(value, list):
        return [decode(each, tensors, home) for each in value]
    if not isinstance(value, dict):
        return value
    if TUPLE in value:
        return tuple(decode(each, tensors, home) for each in value[TUPLE])
    if MAPPING in value:
        return {key: decode(each, tensors, home) for key, each in value[MAPPING]}
    saved, strides = tensors[value[TENSOR]], value["strides"]
    device = torch.device("cpu") if value["on"] == "host" else home.device
    # With other strides, a sum may be taken in another order.
    made = torch.empty_strided(saved.shape, strides, dtype=saved.dtype, device=device)
    return made.copy_(saved)
