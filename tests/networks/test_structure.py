"""What a network is made of, against its summary, its blocks' formulas and modules of one's own."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import compose
from skiplab import build
from skiplab.config import rules
from skiplab.networks import structure
from skiplab.networks.structure import Unit
from skiplab.paths import groups


def stages_of(*texts: str) -> tuple[list[structure.Stage], nn.Sequential]:
    config = compose(*texts)
    model = build.build_network(config)
    size = rules.image_size(config)
    return structure.stages_of(model, channels=rules.channels(config), size=size), model


# The others are deeper ones of the same kind.
MODELS = [name for name in groups()["model"] if name not in ("resnet34", "resnet44", "resnet56")]


@pytest.mark.parametrize("model", MODELS)
def test_the_figures_are_those_of_the_summary(model: str) -> None:
    texts = (f"model={model}", "dataset=cifar10")
    found, network = stages_of(*texts)
    expected = build.summary_of(compose(*texts), network)
    assert sum(stage.macs for stage in found) == expected.macs
    assert {stage.name: (stage.gives, stage.parameters) for stage in found} == expected.stages
    for stage in found:
        assert sum(unit.parameters * unit.count for unit in stage.units) == stage.parameters
        assert sum(unit.macs * unit.count for unit in stage.units) == stage.macs


@pytest.mark.parametrize(("depth", "number"), [(20, 3), (110, 18)])
def test_equal_blocks_in_a_row_are_one_unit_with_its_count(depth: int, number: int) -> None:
    found, _ = stages_of("model=resnet20", "dataset=cifar10", f"depth={depth}")
    counts = {stage.name: [unit.count for unit in stage.units] for stage in found}
    assert counts["stage1"] == [number]
    assert counts["stage2"] == counts["stage3"] == [1, number - 1]


def words(unit: Unit) -> tuple[str, list[tuple[str, str, str]]]:
    """The main path, and of each skip what it passes, how it is joined and what lies on it."""
    texts = [layer.text for layer in unit.layers]
    skips = [
        (
            ", ".join(texts[skip.start : skip.end]),
            skip.joined_by,
            ", ".join(layer.text for layer in skip.layers),
        )
        for skip in unit.skips
    ]
    return ", ".join(texts), skips


PATHS = {
    # The formulas in the docstrings of networks/blocks.py and airbench.py.
    "conv": ("relu, 3x3 conv 16, bn, relu, 3x3 conv 32", None, ""),
    "residual": ("relu, 3x3 conv 16, bn, relu, 3x3 conv 32", 0, "sum"),
    "residual_down": ("relu, 3x3 conv 32, bn, relu, 3x3 conv 32", 1, "sum"),
    "skip": ("relu, 3x3 conv 16, bn, relu, 3x3 conv 16", 2, "concatenation"),
    "basic": ("3x3 conv 32, bn, relu, 3x3 conv 32, bn, relu", 0, "sum"),
    "preact": ("bn, relu, 3x3 conv 32, bn, relu, 3x3 conv 32", 0, "sum"),
    "bottleneck": (
        "1x1 conv 8, bn, relu, 3x3 conv 8, bn, relu, 1x1 conv 32, bn, relu",
        0,
        "sum",
    ),
    "airbench": ("3x3 conv 32, bn, gelu, 3x3 conv 32, bn, gelu", None, ""),
    "airbench_residual": (
        "3x3 conv 32, bn, gelu, 3x3 conv 32, bn, gelu, 3x3 conv 32, bn, gelu",
        3,
        "sum",
    ),
}


@pytest.mark.parametrize("block", groups()["block"])
def test_a_block_has_the_layers_and_the_skip_of_its_formula(block: str) -> None:
    found, _ = stages_of(f"block={block}", "depth=1")
    (unit,) = next(stage for stage in found if stage.name == "blocks").units
    path, start, joined_by = PATHS[block]
    main, skips = words(unit)
    assert main == path
    assert [(skip.start, skip.joined_by) for skip in unit.skips] == (
        [] if start is None else [(start, joined_by)]
    )
    assert [branch for _, _, branch in skips] == (
        ["3x3 conv 32"] if block == "residual_down" else [""] * len(skips)
    )
    plain, _ = stages_of(f"block={block}", "depth=1", "shortcut=false")
    assert not any(unit.skips for stage in plain for unit in stage.units)


def test_a_projection_lies_on_its_skip() -> None:
    found, _ = stages_of("model=resnet18", "dataset=cifar10")
    assert words(found[2].units[0])[1] == [
        ("3x3 conv 128 /2, bn, relu, 3x3 conv 128, bn", "sum", "1x1 conv 128 /2, bn")
    ]
    found, _ = stages_of("model=resnet20", "dataset=cifar10")
    assert words(found[2].units[0])[1][0][2] == "pad"


class Excited(nn.Module):
    """A gate inside a sum, as in squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.gate = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        gate = torch.sigmoid(self.gate(y.mean((2, 3))))
        return F.relu(x + y * gate[:, :, None, None])


class Foreign(torch.autograd.Function):
    """A function that torch's recording does not look into."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.detach() * 2

    @staticmethod
    def backward(_ctx: object, gradient: Tensor) -> Tensor:  # pyright: ignore
        return gradient * 2


class Dense(nn.Module):
    """Each layer sees all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 1, 1), nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((x, self.one(Foreign.apply(x))), 1)  # pyright: ignore
        return torch.cat((x, self.two(x)), dim=1)


def unit_of(module: nn.Module, channels: int) -> Unit:
    model = nn.Sequential(OrderedDict(body=module))
    (stage,) = structure.stages_of(model, channels=channels, size=(5, 5))
    (unit,) = stage.units
    return unit


def test_skips_are_found_in_modules_of_ones_own() -> None:
    main, skips = words(unit_of(Excited(), 4))
    assert main == "3x3 conv 4 in 2 groups, mean, linear 4, sigmoid, relu"
    assert skips == [
        ("mean, linear 4, sigmoid", "product", ""),
        ("3x3 conv 4 in 2 groups, mean, linear 4, sigmoid", "sum", ""),
    ]
    main, skips = words(unit_of(Dense(), 2))
    assert main == "1x1 conv 1, 1x1 conv 1"
    assert skips == [("1x1 conv 1", "concatenation", "")] * 2


def test_the_model_is_left_as_it_was() -> None:
    config = compose("norm=batch")
    model = build.build_network(config).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    structure.stages_of(model, channels=1, size=(8, 8))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("model", ["resnet20", "airbench"])
def test_a_network_is_measured_without_drawing_its_weights(model: str) -> None:
    """On the meta device, where a network's size is measured, draws would import the compiler."""
    drawn = torch.get_rng_state()
    with torch.device("meta"):
        built = build.build_network(compose(f"model={model}", "dataset=cifar10"))
    assert all(parameter.is_meta for parameter in built.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
