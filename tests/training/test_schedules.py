"""Schedules against torch's and by hand."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as theirs

from skiplab.training import schedules

# Options of multistep without a low start.
FULL: dict[str, Any] = {"gamma": 0.1, "low": 1.0, "low_until": 0.0}
# PyTorch before 2.9 warns of its own SequentialLR.
WARM_UP = "ignore:The epoch parameter:UserWarning"
LENGTHS = [1, 2, 3, 7, 20, 101]


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
    rate = schedules.learning_rate(name, lr=0.3, num_steps=num_steps, **options)
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
    """He et al. 2015 divide by ten at a half and at three quarters.

    A milestone within the warm-up counts after it.
    """
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
    """The oracle interpolates between (0, start), (W, 1) and (S, final).

    This is what airbench's two scripts do.
    """
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
        factor = schedules.SCHEDULES[name](30, warmup=0.2, **options)
        for lr in (1.0, 0.05):
            rate = schedules.learning_rate(name, lr=lr, num_steps=30, warmup=0.2, **options)
            assert [rate(step) for step in range(30)] == [lr * factor(step) for step in range(30)]
    assert schedules.SCHEDULES.keys() == {"constant", "cosine", "multistep", "onecycle", "linear"}
