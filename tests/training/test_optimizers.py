"""Updates against torch's, what decays, and a state that survives a file bit for bit."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import plain
from skiplab.runs import checkpoint
from skiplab.training import optimizers
from tiny import OPTIMIZERS, network, optimizer_of, train


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_norms_and_biases_decay_only_if_asked(name: str, decay_norm_and_bias: bool):
    """Without a gradient, AdamW and plain SGD multiply a weight by 1 - lr * weight_decay."""
    model = network(0, torch.contiguous_format)
    options: dict[str, Any] = {"momentum": 0.0} if name == "sgd" else {}
    optimizer = optimizers.build(
        name,
        model,
        weight_decay=0.1,
        decay_norm_and_bias=decay_norm_and_bias,
        lr=0.5,
        **options,
    )
    # The oracle of muon is in test_airbench.py.
    assert tuple(optimizers.OPTIMIZERS) == ("sgd", "adam", "adamw", "muon")
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1 and not decay_norm_and_bias:
            assert torch.equal(parameter, before[key]), key
        # Adam's decay is a gradient, so the step's length is the learning rate.
        elif name == "adam":
            assert not torch.equal(parameter, before[key]) or not before[key].any(), key
        else:
            torch.testing.assert_close(parameter.detach(), 0.95 * before[key])
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    # Each parameter is in one group.
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_a_model_without_norms_and_biases_has_one_group():
    optimizer = optimizers.build(
        "sgd",
        nn.Linear(3, 2, bias=False),
        weight_decay=0.1,
        decay_norm_and_bias=False,
        lr=0.1,
        momentum=0.0,
    )
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]


KINDS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize(
    "memory_format",
    [torch.contiguous_format, torch.channels_last],
    ids=["contiguous", "channels_last"],
)
@pytest.mark.parametrize("kind", [kind for kind in OPTIMIZERS if kind != "muon"])
def test_an_update_is_that_of_torchs_optimizer(
    kind: str, memory_format: torch.memory_format, fused: bool
):
    """It is bit for bit that of the fused one, and in value that of the plain one."""
    model, reference = network(0, memory_format), network(0, memory_format)
    optimizer = optimizer_of(kind, model)
    name, options = OPTIMIZERS[kind]
    undecayed = [p for p in reference.parameters() if p.ndim == 1]
    decayed = [p for p in reference.parameters() if p.ndim > 1]
    groups = [{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}]
    theirs = KINDS[name](groups, foreach=False, fused=fused, **options)
    generator = torch.Generator().manual_seed(5)
    for step in range(4):
        for found, expected in zip(model.parameters(), reference.parameters(), strict=True):
            gradient = torch.randn(found.shape, generator=generator)
            found.grad = torch.empty_like(found, requires_grad=False).copy_(gradient)
            expected.grad = torch.empty_like(expected, requires_grad=False).copy_(gradient)
        optimizer.set_rate(options["lr"], step)
        optimizer.step()
        theirs.step()
    for found, expected in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(found, expected) or not fused
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_norms_may_learn_faster_and_decay_no_faster_for_it():
    """Under plain SGD and a zero gradient, all weights lose the share lr * weight_decay."""
    model = network(0, torch.contiguous_format)
    plain.shake(model)
    options: dict[str, Any] = {
        "lr": 0.5,
        "weight_decay": 0.1,
        "momentum": 0.0,
        "norm_scale": 8.0,
        "decay_norm_and_bias": True,
    }
    optimizer = optimizers.build("sgd", model, **options)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        assert rates[id(parameter)] == (4.0 if ".bn" in key else 0.5), key
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), 0.95 * before[key])


def test_what_ends_falls_to_zero_there_and_is_frozen_from_then_on():
    model = network(0, torch.contiguous_format)
    name, parameter = next((n, p) for n, p in model.named_parameters() if p.ndim == 1)
    options: dict[str, Any] = {
        "lr": 0.5,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "decay_norm_and_bias": True,
    }
    optimizer = optimizers.build("sgd", model, ends={name: 4}, **options)
    (group,) = (g for g in optimizer.param_groups if g["ends"] is not None)
    assert [id(p) for p in group["params"]] == [id(parameter)]
    rates = []
    for step in range(6):
        optimizer.set_rate(0.1, step)
        rates.append(group["lr"])
        assert parameter.requires_grad == (step < 4)
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0, 0.0])
    assert all(g["lr"] == pytest.approx(0.1) for g in optimizer.param_groups if g["ends"] is None)
    # A run may go back to an earlier step.
    optimizer.set_rate(0.1, 2)
    assert parameter.requires_grad


def test_what_ends_at_once_is_frozen_at_once():
    """A fraction of a run of one step may be no step."""
    model = nn.Linear(3, 2)
    optimizer = optimizers.build(
        "sgd",
        model,
        lr=0.5,
        weight_decay=0.0,
        decay_norm_and_bias=True,
        ends={"bias": 0},
        momentum=0.0,
    )
    optimizer.set_rate(0.1, 0)
    assert model.weight.requires_grad
    assert not model.bias.requires_grad
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.0]


@pytest.mark.parametrize(("kind", "waits"), [("sgd", False), ("adamw", False), ("muon", True)])
def test_a_scaled_gradient_gives_the_same_update_and_an_infinite_one_none(kind: str, waits: bool):
    """What torch's GradScaler relies on; the fused rules need no host to look at what was found."""
    plain_model, scaled_model = (
        network(0, torch.contiguous_format),
        network(0, torch.contiguous_format),
    )
    one, other = optimizer_of(kind, plain_model), optimizer_of(kind, scaled_model)
    assert other._step_supports_amp_scaling is not waits
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for factor in (1.0, math.inf, 1.0):
        for p, q in zip(plain_model.parameters(), scaled_model.parameters(), strict=True):
            gradient = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
            p.grad, q.grad = (
                gradient.clone(),
                gradient * float(scaler.scale(torch.ones(()))) * factor,
            )
        if factor == 1.0:
            one.step()
        scaler.step(other)
        scaler.update()
        one.zero_grad()
        other.zero_grad()
    for found, expected in zip(scaled_model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_rule_and_a_row_make_an_optimizer(monkeypatch: pytest.MonkeyPatch):
    """By a rule of signs that knows of no scaler: torch's then unscales the gradients before."""

    def sign_rule(*, factor: float, fused: bool) -> optimizers.Rule:
        def update(
            params: Sequence[nn.Parameter],
            states: Sequence[optimizers.State],
            *,
            lr: float,
            weight_decay: float,
            **_: Tensor | None,
        ) -> None:
            for p in params:
                assert p.grad is not None
                p.sub_(factor * lr * (p.grad.sign() + weight_decay * p))

        return update

    monkeypatch.setitem(
        optimizers.OPTIMIZERS, "sign", optimizers.Row(optimizers.same_rule(sign_rule))
    )
    model = nn.Linear(3, 2)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = optimizers.build(
        "sign", model, lr=0.5, weight_decay=0.1, decay_norm_and_bias=False, factor=2.0
    )
    for p in model.parameters():
        p.grad = torch.full_like(p, -3.0)
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(torch.ones(()))
    scaler.step(optimizer)
    weight, bias = (p.detach() for p in model.parameters())
    torch.testing.assert_close(weight, before[0] + 1 - 0.1 * before[0])
    torch.testing.assert_close(bias, before[1] + 1)


# --------------------------------------------------------------------------------------------------
# State


@pytest.mark.parametrize("through_a_file", [True, False], ids=["file", "memory"])
@pytest.mark.parametrize(
    "memory_format",
    [torch.contiguous_format, torch.channels_last],
    ids=["contiguous", "channels_last"],
)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_going_on_is_bit_equal_to_not_having_stopped(
    kind: str, memory_format: torch.memory_format, through_a_file: bool, tmp_path: Path
):
    """A file holds contiguous tensors. A fused CPU kernel pairs them wrongly with channels_last."""
    straight = network(0, memory_format)
    optimizer = optimizer_of(kind, straight)
    train(straight, optimizer, range(3))
    weights = {f"model/{key}": tensor.clone() for key, tensor in straight.state_dict().items()}
    moments = {
        f"optimizer/{key}": tensor.clone()
        for key, tensor in optimizers.state_of(optimizer, straight).items()
    }
    if through_a_file:
        checkpoint.save(tmp_path / "a.safetensors", weights | moments, {"step": 3})
        tensors, facts = checkpoint.load(tmp_path / "a.safetensors")
        assert facts == {"step": 3}
        assert all(tensor.is_contiguous() for tensor in tensors.values())
        weights = {key: tensors[key] for key in weights}
        moments = {key: tensors[key] for key in moments}

    resumed = network(1, memory_format)
    resumed.load_state_dict({key.removeprefix("model/"): tensor for key, tensor in weights.items()})
    fresh = optimizer_of(kind, resumed)
    optimizers.load_state(
        fresh, resumed, {key.removeprefix("optimizer/"): tensor for key, tensor in moments.items()}
    )
    for parameter in resumed.parameters():
        for value in fresh.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.ndim:
                assert value.stride() == parameter.stride()
                assert not value.requires_grad
    train(straight, optimizer, range(3, 7))
    train(resumed, fresh, range(3, 7))
    for (name, found), expected in zip(
        resumed.state_dict().items(), straight.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected), name
        assert found.stride() == expected.stride(), name
    found, expected = optimizers.state_of(fresh, resumed), optimizers.state_of(optimizer, straight)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_the_state_is_named_by_parameter():
    model = network(0, torch.channels_last)
    names = [name for name, _ in model.named_parameters()]
    for kind, keys in {
        "sgd": ["momentum_buffer"],
        "sgd_plain": [],
        "adam": ["step", "exp_avg", "exp_avg_sq"],
        "adamw": ["step", "exp_avg", "exp_avg_sq"],
        "muon": ["momentum_buffer"],
    }.items():
        optimizer = optimizer_of(kind, model)
        assert optimizers.state_of(optimizer, model) == {}
        # Asking leaves nothing behind.
        assert not optimizer.state
        train(model, optimizer, range(1))
        assert optimizers.state_of(optimizer, model).keys() == {
            f"{name}/{key}" for name in names for key in keys
        }


def test_what_was_loaded_is_a_copy():
    model = network(0, torch.contiguous_format)
    optimizer = optimizer_of("adam", model)
    train(model, optimizer, range(2))
    saved = {key: tensor.clone() for key, tensor in optimizers.state_of(optimizer, model).items()}
    kept = {key: tensor.clone() for key, tensor in saved.items()}
    fresh = optimizer_of("adam", model)
    optimizers.load_state(fresh, model, saved)
    train(model, fresh, range(2, 4))
    assert all(torch.equal(saved[key], kept[key]) for key in saved)


def test_a_state_of_another_network_is_refused():
    model = network(0, torch.contiguous_format)
    optimizer = optimizer_of("sgd", model)
    with pytest.raises(KeyError, match=r"stage9\.weight"):
        optimizers.load_state(optimizer, model, {"stage9.weight/momentum_buffer": torch.zeros(3)})
