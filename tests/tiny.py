"""A small network that trains, for the tests of optimizers and of averages."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from skiplab.networks import models
from skiplab.networks.blocks import Style
from skiplab.networks.plan import Plan
from skiplab.training import optimizers

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


def network(seed: int, memory_format: torch.memory_format) -> nn.Sequential:
    """Make 3x3 and 1x1 convolutions, norms and a linear layer.

    Three channels come in, so that channels_last strides differ.
    """
    torch.manual_seed(seed)
    style = Style(norm="batch", shortcut=True, bias=True, projection="conv")
    plan = Plan(
        block=models.BLOCKS["basic"], style=style, depth=1, width=4, dropout=0.0,
        channels=3, size=(6, 6), num_classes=10,
    )  # fmt: skip
    model = models.build("resnet", plan, init="torch")
    return model.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]


def train(model: nn.Module, optimizer: optimizers.Optimizer, steps: range) -> None:
    """Do some steps. Step s learns batch s."""
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
    return optimizers.build(name, model, decay_norm_and_bias=False, **options)
