"""The learning rate as a function of the step.

A schedule is a function of the run's number of steps and of its own options. It returns the factor
of the peak learning rate at each step, counted from 0. A new one is a function and a row in
SCHEDULES.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def warm_up(num_steps: int, warmup: float, after: Schedule) -> Schedule:
    """Rise linearly from 1/W to 1 over the first W steps, then follow `after(step - W)`.

    W = round(warmup * num_steps).
    """
    num_warmup = round(warmup * num_steps)
    return lambda step: (step + 1) / num_warmup if step < num_warmup else after(step - num_warmup)


def constant(num_steps: int, *, warmup: float) -> Schedule:
    """Stay at 1 after the warm-up."""
    return warm_up(num_steps, warmup, lambda step: 1.0)


def cosine(num_steps: int, *, warmup: float, final: float) -> Schedule:
    """Fall from 1 along a cosine after the warm-up (torch's CosineAnnealingLR).

    The factor is final + (1 - final) (1 + cos(pi s / S)) / 2 over the S steps after the warm-up.
    """
    num_after = max(1, num_steps - round(warmup * num_steps))
    return warm_up(
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
    """Multiply by `gamma` at each milestone, and by `low` before `low_until`.

    The factor is gamma ** (milestones passed), each passed at round(fraction * num_steps) (torch's
    MultiStepLR). `low_until` is a fraction of the run, too.
    """
    num_warmup = round(warmup * num_steps)
    num_low = round(low_until * num_steps)
    passed_at = [round(fraction * num_steps) for fraction in milestones]

    def factor(step: int) -> float:
        return gamma ** sum(step >= at for at in passed_at) * (low if step < num_low else 1.0)

    return warm_up(num_steps, warmup, lambda step: factor(step + num_warmup))


def onecycle(num_steps: int, *, warmup: float, start: float, final: float) -> Schedule:
    """Rise linearly from `start` to 1 at `warmup` of the run, then to `final` at the last step.

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
    """Rise linearly from `start` to 1, then fall linearly to `final` at step num_steps, the end.

    The rise is start + (1 - start) s / W over the first W = int(warmup * num_steps) steps.
    """
    num_warmup = int(warmup * num_steps)
    return lambda step: (
        start + (1 - start) * step / num_warmup
        if step < num_warmup
        else final + (1 - final) * (num_steps - step) / (num_steps - num_warmup)
    )


# A schedule by its name in the config.
SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "multistep": multistep,
    "onecycle": onecycle,
    "linear": linear,
}


def learning_rate(name: str, *, lr: float, num_steps: int, **options: object) -> Schedule:
    """Return the learning rate at each step 0 .. num_steps - 1: `lr` times schedule `name`."""
    factor = SCHEDULES[name](num_steps, **options)
    return lambda step: lr * factor(step)
