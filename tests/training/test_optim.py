"""Schedules against torch's, what decays, an optimizer's state that survives a file bit for bit, and the average."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as theirs
from torch.optim.swa_utils import AveragedModel

import plain
from skiplab.networks import models
from skiplab.networks.blocks import Style
from skiplab.networks.plan import Plan
from skiplab.runs import checkpoint
from skiplab.training import averages, optimizers

CPU = torch.device("cpu")
# of multistep: no low start
FULL: dict[str, Any] = {"gamma": 0.1, "low": 1.0, "low_until": 0.0}
# torch before 2.9 warns of its own SequentialLR
WARM_UP = "ignore:The epoch parameter:UserWarning"
LENGTHS = [1, 2, 3, 7, 20, 101]
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}),
    "sgd_heavy_ball": (
        "sgd",
        {"lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
    ),
    "sgd_plain": ("sgd", {"lr": 0.05, "momentum": 0.0, "nesterov": False, "weight_decay": 5e-4}),
    "adam": ("adam", {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}),
    "adamw": ("adamw", {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.05}),
    "muon": (
        "muon",
        {
            "lr": 0.1,
            "momentum": 0.6,
            "nesterov": True,
            "iterations": 3,
            "head_lr": 0.05,
            "bias_lr": 0.2,
            "sgd_momentum": 0.9,
            "weight_decay": 1e-3,
        },
    ),
}


# -------------------------------------------------------------------------------------------------------------
# schedules


def torchs(
    num_steps: int, make: Callable[[torch.optim.Optimizer], theirs.LRScheduler]
) -> list[float]:
    """The learning rates of the steps under a scheduler of torch's, around a peak of 0.3."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = make(optimizer)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def ours(name: str, num_steps: int, **options: Any) -> list[float]:
    rate = optimizers.learning_rate(name, lr=0.3, num_steps=num_steps, **options)
    return [rate(step) for step in range(num_steps)]


def after_warmup(num_warmup: int, make: Callable[[torch.optim.Optimizer], theirs.LRScheduler]):
    """LinearLR from 1/W to 1 over W steps, then another."""

    def chained(optimizer: torch.optim.Optimizer) -> theirs.LRScheduler:
        if num_warmup == 0:
            return make(optimizer)
        warmup = theirs.LinearLR(
            optimizer, start_factor=1 / num_warmup, total_iters=max(1, num_warmup - 1)
        )
        return theirs.SequentialLR(optimizer, [warmup, make(optimizer)], [num_warmup])

    return chained


@pytest.mark.filterwarnings(WARM_UP)
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 0.9])
def test_constant_is_torchs(warmup: float):
    for num_steps in LENGTHS:
        expected = torchs(
            num_steps,
            after_warmup(round(warmup * num_steps), lambda o: theirs.ConstantLR(o, factor=1.0)),
        )
        assert ours("constant", num_steps, warmup=warmup) == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings(WARM_UP)
@pytest.mark.parametrize(
    ("warmup", "final"), [(0.0, 0.0), (0.0, 0.1), (0.05, 0.0), (0.3, 0.01), (0.9, 1.0)]
)
def test_cosine_is_torchs(warmup: float, final: float):
    for num_steps in LENGTHS:
        num_warmup = round(warmup * num_steps)
        cosine = functools.partial(
            theirs.CosineAnnealingLR, T_max=max(1, num_steps - num_warmup), eta_min=0.3 * final
        )
        expected = torchs(num_steps, after_warmup(num_warmup, cosine))
        assert ours("cosine", num_steps, warmup=warmup, final=final) == pytest.approx(
            expected, rel=1e-9, abs=1e-12
        )


@pytest.mark.filterwarnings(WARM_UP)
@pytest.mark.parametrize("milestones", [(0.5, 0.75), (0.3, 0.6, 0.8), (0.9,), ()])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_multistep_is_torchs(warmup: float, milestones: tuple[float, ...]):
    for num_steps in LENGTHS:
        num_warmup = round(warmup * num_steps)
        at = [round(fraction * num_steps) - num_warmup for fraction in milestones]
        expected = torchs(
            num_steps,
            after_warmup(
                num_warmup, functools.partial(theirs.MultiStepLR, milestones=at, gamma=0.2)
            ),
        )
        assert ours(
            "multistep",
            num_steps,
            warmup=warmup,
            milestones=milestones,
            gamma=0.2,
            low=1.0,
            low_until=0.0,
        ) == pytest.approx(expected, rel=1e-9)


def test_milestones_by_hand():
    """He et al. 2015: divide by ten at a half and at three quarters; a milestone within the warm-up counts after it."""
    assert ours("multistep", 8, warmup=0.0, milestones=(0.5, 0.75), **FULL) == pytest.approx(
        [0.3] * 4 + [0.03] * 2 + [0.003] * 2
    )
    rates = ours("multistep", 10, warmup=0.4, milestones=(0.2, 0.8), **FULL)
    assert rates == pytest.approx([0.075, 0.15, 0.225, 0.3] + [0.03] * 4 + [0.003] * 2)


def test_he_2015_start_resnet_110_low():
    """Section 4.2: a tenth of the learning rate for the first 400 of 64,000 steps."""
    rates = ours(
        "multistep",
        64_000,
        warmup=0.0,
        milestones=(0.5, 0.75),
        gamma=0.1,
        low=0.1,
        low_until=0.00625,
    )
    changes = [step for step in range(1, 64_000) if rates[step] != rates[step - 1]]
    assert changes == [400, 32_000, 48_000]
    assert [rates[step] for step in (0, 400, 32_000, 48_000)] == pytest.approx(
        [0.03, 0.3, 0.03, 0.003]
    )


@pytest.mark.parametrize(
    ("warmup", "start", "final"), [(0.0, 0.0, 0.0), (0.1, 0.2, 0.0), (0.3, 0.5, 0.1)]
)
def test_linear_is_a_line_up_and_a_line_down_that_ends_at_the_end(
    warmup: float, start: float, final: float
):
    """By interpolation between (0, start), (W, 1) and (S, final); what airbench's two scripts do."""
    for num_steps in LENGTHS:
        peak = int(warmup * num_steps)
        corners = (
            ([0, peak, num_steps], [start, 1.0, final]) if peak else ([0, num_steps], [1.0, final])
        )
        expected = 0.3 * np.interp(range(num_steps), *corners)
        assert ours("linear", num_steps, warmup=warmup, start=start, final=final) == pytest.approx(
            expected.tolist(), rel=1e-12
        )


@pytest.mark.parametrize("warmup", [0.2, 0.23, 0.5, 0.9])
@pytest.mark.parametrize(("start", "final"), [(0.1, 1e-3), (1 / 25, 1e-5), (1.0, 0.5)])
def test_onecycle_is_torchs(warmup: float, start: float, final: float):
    for num_steps in (10, 11, 20, 101, 420):
        cycle = functools.partial(
            theirs.OneCycleLR,
            max_lr=0.3,
            total_steps=num_steps,
            pct_start=warmup,
            anneal_strategy="linear",
            cycle_momentum=False,
            div_factor=1 / start,
            final_div_factor=start / final,
        )
        expected = torchs(num_steps, cycle)
        assert ours(
            "onecycle", num_steps, warmup=warmup, start=start, final=final
        ) == pytest.approx(expected, rel=1e-9)


def test_onecycle_begins_at_start_and_ends_at_final():
    rates = ours("onecycle", 50, warmup=0.2, start=0.1, final=0.0)
    assert rates[0] == pytest.approx(0.03)
    assert rates[9] == pytest.approx(0.3)
    assert rates[-1] == pytest.approx(0.0, abs=1e-15)
    assert sorted(rates[:10]) == rates[:10]
    assert sorted(rates[9:], reverse=True) == rates[9:]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant", {}),
        ("cosine", {"final": 0.0}),
        (
            "multistep",
            {"milestones": (0.01, 0.5, 0.75), "gamma": 0.1, "low": 0.5, "low_until": 0.1},
        ),
        ("onecycle", {"start": 0.1, "final": 0.001}),
    ],
)
def test_tiny_runs_stay_in_range(name: str, options: dict[str, Any]):
    for num_steps in (1, 2, 3, 4, 5):
        for warmup in (0.0, 0.2, 0.5, 0.99):
            rates = ours(name, num_steps, warmup=warmup, **options)
            assert len(rates) == num_steps
            assert all(math.isfinite(rate) and 0 < rate <= 0.3 * (1 + 1e-12) for rate in rates), (
                rates
            )


def test_the_learning_rate_is_lr_times_the_schedule():
    for name, options in {
        "constant": {},
        "cosine": {"final": 0.1},
        "onecycle": {"start": 0.1, "final": 0.1},
    }.items():
        factor = optimizers.SCHEDULERS[name](30, warmup=0.2, **options)
        for lr in (1.0, 0.05):
            rate = optimizers.learning_rate(name, lr=lr, num_steps=30, warmup=0.2, **options)
            assert [rate(step) for step in range(30)] == [lr * factor(step) for step in range(30)]
    assert optimizers.SCHEDULERS.keys() == {"constant", "cosine", "multistep", "onecycle", "linear"}


# ---------------------------------------------------------------------------------------------- a
# small network that trains


def network(seed: int, memory_format: torch.memory_format) -> nn.Sequential:
    """3x3 and 1x1 convolutions, norms, a linear layer; three channels in, so that channels_last strides differ."""
    torch.manual_seed(seed)
    style = Style(norm="batch", shortcut=True, bias=True, projection="conv")
    plan = Plan(
        block=models.BLOCKS["basic"], style=style, depth=1, width=4, dropout=0.0,
        channels=3, size=6, num_classes=10,
    )  # fmt: skip
    model = models.build("resnet", plan, init="torch")
    return model.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]


def train(model: nn.Module, optimizer: optimizers.Optimizer, steps: range) -> None:
    """Step s learns batch s, at a learning rate of its own."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn((6, 3, 6, 6), generator=generator)
        y = torch.randint(0, 10, (6,), generator=generator)
        if next(model.parameters()).is_contiguous(memory_format=torch.channels_last):
            x = x.to(memory_format=torch.channels_last)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def optimizer_of(kind: str, model: nn.Module) -> optimizers.Optimizer:
    name, options = OPTIMIZERS[kind]
    return optimizers.build(name, model, device=CPU, decay_norm_and_bias=False, **options)


# ------------------------------------------------------------------------------------------------------------
# optimizers


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_norms_and_biases_decay_only_if_asked(name: str, decay_norm_and_bias: bool):
    """Without a gradient only the decay moves a weight: decoupled or plain SGD, by 1 - lr * weight_decay."""
    model = network(0, torch.contiguous_format)
    options: dict[str, Any] = {"momentum": 0.0} if name == "sgd" else {}
    optimizer = optimizers.build(
        name,
        model,
        device=CPU,
        weight_decay=0.1,
        decay_norm_and_bias=decay_norm_and_bias,
        lr=0.5,
        **options,
    )
    # muon's oracle is in test_airbench.py
    assert optimizers.OPTIMIZERS == ("sgd", "adam", "adamw", "muon")
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, parameter in model.named_parameters():
        if parameter.ndim == 1 and not decay_norm_and_bias:
            assert torch.equal(parameter, before[key]), key
        # the decay is a gradient here, so the step's length is the learning rate
        elif name == "adam":
            assert not torch.equal(parameter, before[key]) or not before[key].any(), key
        else:
            torch.testing.assert_close(parameter.detach(), 0.95 * before[key])
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    # each once
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_a_model_without_norms_and_biases_has_one_group():
    optimizer = optimizers.build(
        "sgd",
        nn.Linear(3, 2, bias=False),
        device=CPU,
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
    """To the bit that of its fused one, and in value that of its plain one."""
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
    """Plain SGD over a zero gradient: the decay alone moves a weight, by lr * weight_decay for all."""
    model = network(0, torch.contiguous_format)
    plain.shake(model)
    options: dict[str, Any] = {
        "lr": 0.5,
        "weight_decay": 0.1,
        "momentum": 0.0,
        "norm_scale": 8.0,
        "decay_norm_and_bias": True,
    }
    optimizer = optimizers.build("sgd", model, device=CPU, **options)
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
    optimizer = optimizers.build("sgd", model, device=CPU, ends={name: 4}, **options)
    (group,) = (g for g in optimizer.param_groups if g["ends"] is not None)
    assert [id(p) for p in group["params"]] == [id(parameter)]
    rates = []
    for step in range(6):
        optimizer.set_rate(0.1, step)
        rates.append(group["lr"])
        assert parameter.requires_grad == (step < 4)
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0, 0.0])
    assert all(g["lr"] == pytest.approx(0.1) for g in optimizer.param_groups if g["ends"] is None)
    # a run that goes back to a step before
    optimizer.set_rate(0.1, 2)
    assert parameter.requires_grad


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


# -------------------------------------------------------------------------------------------------------------
# the state


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
    """A file holds contiguous tensors: a fused CPU kernel would pair them wrongly with channels_last weights."""
    straight = network(0, memory_format)
    optimizer = optimizer_of(kind, straight)
    train(straight, optimizer, range(3))
    weights = {f"model/{key}": tensor.clone() for key, tensor in straight.state_dict().items()}
    moments = {
        f"optimizer/{key}": tensor.clone()
        for key, tensor in optimizers.state_of(optimizer, straight).items()
    }
    if through_a_file:
        checkpoint.save(tmp_path / "a.ckpt", weights | moments, {"step": 3})
        tensors, facts = checkpoint.load(tmp_path / "a.ckpt")
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
        # asking leaves nothing behind
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


# -----------------------------------------------------------------------------------------------------------
# the average


def test_without_decay_the_average_is_the_model():
    model = network(0, torch.contiguous_format)
    average = averages.Average(model, decay=0.0, warmup=False)
    assert average.model is model
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    average.update(0)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "memory_format",
    [torch.contiguous_format, torch.channels_last],
    ids=["contiguous", "channels_last"],
)
def test_the_average_is_its_formula(memory_format: torch.memory_format):
    model = network(0, memory_format)
    optimizer = optimizer_of("sgd", model)
    average = averages.Average(model, decay=0.7, warmup=False)
    expected = {key: tensor.double() for key, tensor in model.state_dict().items()}
    for step in range(5):
        train(model, optimizer, range(step, step + 1))
        average.update(step)
        for key, tensor in model.state_dict().items():
            expected[key] = 0.7 * expected[key] + 0.3 * tensor.double()
    state = average.model.state_dict()
    assert state.keys() == expected.keys()
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    statistics = [key for key in state if key.endswith(("running_mean", "running_var"))]
    assert counters
    assert statistics
    for key, tensor in state.items():
        if key in counters:
            # a count is copied, not averaged
            assert tensor.item() == 5
        else:
            torch.testing.assert_close(tensor, expected[key].float(), rtol=1e-5, atol=1e-6)
            assert tensor.stride() == model.state_dict()[key].stride()
    for key in statistics:
        assert not torch.equal(state[key], model.state_dict()[key])


@pytest.mark.parametrize(("decay", "num_steps"), [(0.999, 40), (0.5, 40), (0.15, 5)])
def test_a_warmed_up_average_is_torchs_with_the_decays_of_tensorflow(decay: float, num_steps: int):
    """And its share of the initial weights is what the average holds of a network that starts at 1 and is 0 ever after."""
    model = nn.Linear(1, 1, bias=False)
    # n: updates, the copy included
    oracle = AveragedModel(
        model, avg_fn=lambda a, w, n: a + (1 - min(decay, n / (9 + n))) * (w - a)
    )
    # which takes a copy
    oracle.update_parameters(model)
    average = averages.Average(model, decay=decay, warmup=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(num_steps):
        with torch.no_grad():
            model.weight.fill_(torch.randn((), generator=generator))
        oracle.update_parameters(model)
        average.update(step)
        torch.testing.assert_close(
            average.model.state_dict()["weight"], oracle.module.weight, rtol=1e-5, atol=1e-6
        )
    with torch.no_grad():
        model.weight.fill_(1.0)
    for warmup in (True, False):
        with torch.no_grad():
            model.weight.fill_(1.0)
        average = averages.Average(model, decay=decay, warmup=warmup)
        with torch.no_grad():
            model.weight.fill_(0.0)
        for step in range(num_steps):
            average.update(step)
        held = average.model.state_dict()["weight"].item()
        assert average.initial_share(num_steps) == pytest.approx(held, rel=1e-4, abs=1e-4)
        assert (average.initial_share(num_steps) > 0.1) == (held > 0.1)


def test_the_average_shares_nothing_with_the_model_and_takes_no_gradient():
    model = plain.shake(network(0, torch.contiguous_format))
    average = averages.Average(model, decay=0.9, warmup=False)
    assert average.model is not model
    before = {key: tensor.clone() for key, tensor in average.model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(
        torch.equal(tensor, before[key]) for key, tensor in average.model.state_dict().items()
    )
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    average.update(0)
    for key, tensor in average.model.named_parameters():
        torch.testing.assert_close(tensor, before[key] + 0.1, rtol=1e-12, atol=1e-12)
