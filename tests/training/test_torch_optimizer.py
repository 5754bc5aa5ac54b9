"""Optimizers of torch's kind: exact when a run goes on, groups, and what is refused."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from skiplab.errors import UsageError
from skiplab.runs import checkpoint
from skiplab.training.torch_optimizer import Maker, TorchOptimizer, is_maker

FORMATS = (torch.contiguous_format, torch.channels_last)


class Counting(torch.optim.Optimizer):
    """Keeps whole numbers, a text, a mapping and a tuple, and changes its groups."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "k": 0, "beta": 0.9})
        for group in self.param_groups:
            group["scale"] = torch.ones((), dtype=torch.float64)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            group["k"] += 1
            group["scale"] *= 0.75
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    # The sum is of another type and other strides than its parameter.
                    total = torch.zeros(p.shape, dtype=torch.float64)
                    state |= {"n": 0, "kind": "sum", "more": {"sum": total}, "last": (0, None)}
                state["n"] += 1
                state["last"] = (state["n"], 1 / state["n"])
                state["more"]["sum"] += p.grad * group["scale"]
                rate = group["lr"] * state["last"][1] / group["k"]
                p.sub_((rate * state["more"]["sum"]).to(p.dtype))


def sgd(params: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr, weight_decay=weight_decay, momentum=0.9, nesterov=True)


def rmsprop(params: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(params, lr=lr, centered=True, momentum=0.5)


def amsgrad(params: list[nn.Parameter], lr: float, **values: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=lr, amsgrad=True, **values)


MAKERS: dict[str, Callable[..., Any]] = {
    "counting": Counting,
    "sgd": sgd,
    "rmsprop": rmsprop,
    "amsgrad": amsgrad,
    "nadam": torch.optim.NAdam,
    # It fills its state when it is made.
    "adagrad": torch.optim.Adagrad,
}


# The others keep tensors alone, or are torch's own at work.
QUICK = [
    pytest.param(kind, marks=() if kind in ("counting", "adagrad") else pytest.mark.slow)
    for kind in MAKERS
]


def build(make: Callable[..., Any], model: nn.Module, **values: Any) -> TorchOptimizer:
    options = {"lr": 0.01, "weight_decay": 0.0, "decay_norm_and_bias": False, "ends": {}} | values
    return Maker(make).build(model, **options)


def train(model: nn.Sequential, optimizer: TorchOptimizer, steps: range) -> None:
    for step in steps:
        optimizer.set_rate(0.01 / (1 + step), step)
        tiny.train(model, optimizer, range(step, step + 1))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("kind", QUICK)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(
    kind: str, memory_format: torch.memory_format, tmp_path: Path
) -> None:
    model = tiny.network(0, memory_format)
    straight = build(MAKERS[kind], model)
    train(model, straight, range(3))
    tensors = checkpoint.snapshot(straight.tensors(model))
    saved = weights(model)
    train(model, straight, range(3, 7))

    checkpoint.save(tmp_path / "last.ckpt", tensors, {})
    read, _ = checkpoint.load(tmp_path / "last.ckpt")
    other = tiny.network(1, memory_format)
    resumed = build(MAKERS[kind], other)
    other.load_state_dict(saved)
    resumed.load(read)
    train(other, resumed, range(3, 7))
    assert_equal(weights(model), weights(other))
    ours, theirs = straight.tensors(model), resumed.tensors(other)
    assert_equal(ours, theirs)
    assert [t.stride() for t in ours.values()] == [t.stride() for t in theirs.values()]


@pytest.mark.parametrize("kind", QUICK)
def test_an_optimizer_that_is_reset_is_as_it_was_made(kind: str) -> None:
    model = tiny.network(0, torch.contiguous_format)
    optimizer = build(MAKERS[kind], model)
    before = weights(model)
    train(model, optimizer, range(3))
    once = weights(model)
    model.load_state_dict(before)
    optimizer.reset()
    train(model, optimizer, range(3))
    assert_equal(once, weights(model))


def test_only_weights_decay_unless_all_shall() -> None:
    model = tiny.network(0, torch.contiguous_format)
    large = {id(p) for p in model.parameters() if p.ndim > 1}
    for keeps, expected in ((False, large), (True, {id(p) for p in model.parameters()})):
        optimizer = build(sgd, model, weight_decay=0.1, decay_norm_and_bias=keeps)
        decaying = [g for g in optimizer.param_groups if g["weight_decay"] == 0.1]
        assert {id(p) for group in decaying for p in group["params"]} == expected
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
            list(model.parameters())
        )


def test_steps_are_those_of_torch_with_groups_by_hand() -> None:
    ours, theirs = (tiny.network(0, torch.contiguous_format) for _ in range(2))
    optimizer = build(sgd, ours, weight_decay=0.1)
    oracle = torch.optim.SGD(
        [
            {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=0.01, momentum=0.9, nesterov=True,
    )  # fmt: skip
    for step in range(3):
        train(ours, optimizer, range(step, step + 1))
        for group in oracle.param_groups:
            group["lr"] = 0.01 / (1 + step)
        tiny.train(theirs, oracle, range(step, step + 1))  # pyright: ignore[reportArgumentType]
    assert_equal(weights(ours), weights(theirs))


def test_a_group_keeps_its_share_of_the_rate_and_an_end_freezes_its_parameter() -> None:
    def shares(params: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        last = {"params": params[1:], "lr": lr / 10}
        return torch.optim.SGD([{"params": params[:1]}, last], lr=lr)

    model = tiny.network(0, torch.contiguous_format)
    name = list(dict(model.named_parameters()))[-1]
    optimizer = build(shares, model, ends={name: 4})
    optimizer.set_rate(0.02, 2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    params = dict(model.named_parameters())
    first, *middle, _ = params.values()
    assert rates[id(first)] == pytest.approx(0.02)
    assert [rates[id(p)] for p in middle] == pytest.approx([0.002] * len(middle))
    assert rates[id(params[name])] == pytest.approx(0.01 / 2 / 10)
    optimizer.set_rate(0.02, 4)
    assert not params[name].requires_grad


def test_a_changed_hyperparameter_counts_and_a_changed_counter_is_kept() -> None:
    model = tiny.network(0, torch.contiguous_format)
    first = build(Counting, model, weight_decay=0.1)
    train(model, first, range(2))
    again = build(Counting, model, weight_decay=0.3)
    again.load(checkpoint.snapshot(first.tensors(model)))
    assert {group["weight_decay"] for group in again.param_groups} == {0.3, 0.0}
    assert {group["k"] for group in again.param_groups} == {2}


def closure(params: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(params, lr=lr)


def nothing(params: list[nn.Parameter], lr: float) -> None:
    return None


def no_rate(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=1.0)


@pytest.mark.parametrize(
    ("make", "values", "line"),
    [
        (closure, {}, "closure steps with a closure"),
        (nothing, {}, "nothing gives NoneType, not a torch.optim.Optimizer"),
        (no_rate, {}, "no_rate takes no lr"),
        (rmsprop, {"weight_decay": 0.1}, "optimizer.weight_decay=0.1: rmsprop takes none"),
    ],
)
def test_what_cannot_be_used_gets_one_line(
    make: Callable[..., Any], values: dict[str, Any], line: str
) -> None:
    with pytest.raises(UsageError, match=line):
        build(make, tiny.network(0, torch.contiguous_format), **values)


def test_a_state_that_a_checkpoint_cannot_hold_is_named() -> None:
    model = tiny.network(0, torch.contiguous_format)
    optimizer = build(sgd, model, weight_decay=0.0)
    train(model, optimizer, range(1))
    parameter = next(model.parameters())
    optimizer.inner.state[parameter]["odd"] = object()
    with pytest.raises(UsageError, match=r"state \S+/odd is a object"):
        optimizer.tensors(model)


def test_a_maker_is_told_from_a_function_that_returns_a_rule() -> None:
    assert is_maker(torch.optim.SGD)
    assert is_maker(sgd)
    assert not is_maker(lambda: None)
    assert not is_maker(lambda *, fused: None)
