"""Every network against its formula, torchvision and its published size.

Every combination trains a step or says why it cannot be built.
"""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import plain
from skiplab import families
from skiplab.errors import UsageError
from skiplab.networks import models
from skiplab.networks.blocks import Style
from skiplab.networks.models import BLOCKS
from skiplab.networks.plan import Plan
from skiplab.networks.summary import summarize

# What conf/model/*.yaml states apart from depth and width.
OPTIONS: dict[str, dict[str, Any]] = {
    "deepcnn": {"bias": True, "projection": "conv", "init": "torch"},
    "resnet": {"bias": True, "projection": "conv", "init": "torch"},
    "cifar_resnet": {"bias": False, "projection": "pad", "init": "he"},
    "imagenet_resnet": {"bias": False, "projection": "conv_bn", "init": "he"},
    "airbench": {"bias": False, "projection": "conv", "init": "torch"},
    "airbench96": {"bias": False, "projection": "conv", "init": "torch"},
}
COMMON: dict[str, Any] = {
    "channels": 3,
    "size": 32,
    "num_classes": 10,
    "norm": "batch",
    "shortcut": True,
    "dropout": 0.0,
}


def build(name: str, **chosen: Any) -> models.Network:
    options = COMMON | OPTIONS[name] | chosen
    style = Style(**{key: options.pop(key) for key in ("norm", "shortcut", "bias", "projection")})
    init = options.pop("init")
    # The tests' images are square, but for one.
    if isinstance(options["size"], int):
        options["size"] = (options["size"], options["size"])
    plan = Plan(**options | {"block": BLOCKS[options["block"]], "style": style})
    return models.build(name, plan, init=init)


def images(batch: int, channels: int, size: int) -> Tensor:
    return torch.randn((batch, channels, size, size), generator=torch.Generator().manual_seed(3))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --------------------------------------------------------------------------------------------------
# formulas, published sizes


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("block", ["conv", "residual", "residual_down", "skip"])
def test_deepcnn_is_the_labs(block: str, depth: int, training: bool):
    torch.manual_seed(0)
    model = plain.shake(build("deepcnn", block=block, depth=depth, width=8)).train(training)
    plain.assert_same(
        model,
        lambda tape, x: plain.deep_cnn(tape, x, block=plain.BLOCKS[block], num_blocks=depth),
        images(3, 3, 32).double(),
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("depth", [1, 2])
def test_resnet_is_the_notebooks(depth: int, training: bool):
    torch.manual_seed(0)
    model = plain.shake(
        build("resnet", block="basic", depth=depth, width=8, channels=1, size=28)
    ).train(training)
    plain.assert_same(
        model, lambda tape, x: plain.mnist_resnet(tape, x, depth=depth), images(3, 1, 28).double()
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("depth", [8, 14])
def test_cifar_resnet_is_he_et_als(depth: int, training: bool):
    torch.manual_seed(0)
    model = plain.shake(build("cifar_resnet", block="basic", depth=depth, width=4)).train(training)
    # The size is odd, so that every stage's stride meets a border.
    x = images(2, 3, 13).double()
    plain.assert_same(
        model, lambda tape, x: plain.cifar_resnet(tape, x, depth=depth), x, bias=False
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("depth", [8, 14])
def test_cifar_resnet_of_preact_blocks_is_he_et_als_of_2016(depth: int, training: bool):
    torch.manual_seed(0)
    model = plain.shake(
        build("cifar_resnet", block="preact", depth=depth, width=4, projection="conv")
    ).train(training)
    x = images(2, 3, 13).double()
    plain.assert_same(
        model, lambda tape, x: plain.preact_resnet(tape, x, depth=depth), x, bias=False
    )


@pytest.mark.parametrize(("depth", "block"), [(18, "basic"), (50, "bottleneck")])
def test_imagenet_resnet_is_torchvisions_with_a_3x3_stem(depth: int, block: str):
    from torchvision.models import resnet18, resnet50

    torch.manual_seed(0)
    ours = plain.shake(
        build("imagenet_resnet", block=block, depth=depth, width=64, init="torch")
    ).float()
    # Its initialisation would take longer than the rest of this test.
    with torch.device("meta"):
        theirs = {18: resnet18, 50: resnet50}[depth](num_classes=10)
        theirs.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        theirs.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    # The names differ, so the weights are matched by order.
    weights = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict({name: tensor.clone() for name, tensor in weights}, assign=True)
    x = images(2, 3, 9)
    for training in (False, True):
        for model in (ours, theirs):
            F.cross_entropy(model.train(training)(x), torch.tensor([3, 7])).backward()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            # The gradients add up: those in evaluation, then both.
            torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours(x), theirs(x))
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("deepcnn", {"block": "conv", "depth": 6, "width": 32}, 80_426),
        ("deepcnn", {"block": "residual", "depth": 6, "width": 32}, 80_426),
        ("deepcnn", {"block": "residual_down", "depth": 6, "width": 32}, 191_498),
        ("deepcnn", {"block": "skip", "depth": 6, "width": 32}, 66_506),
        ("resnet", {"block": "basic", "depth": 1, "width": 32, "channels": 1, "size": 28}, 299_114),
        ("cifar_resnet", {"block": "basic", "depth": 20, "width": 16}, 269_722),
        ("cifar_resnet", {"block": "basic", "depth": 32, "width": 16}, 464_154),
        ("cifar_resnet", {"block": "basic", "depth": 44, "width": 16}, 658_586),
        ("cifar_resnet", {"block": "basic", "depth": 56, "width": 16}, 853_018),
        ("cifar_resnet", {"block": "basic", "depth": 110, "width": 16}, 1_727_962),
        ("imagenet_resnet", {"block": "basic", "depth": 18, "width": 64}, 11_173_962),
        ("imagenet_resnet", {"block": "basic", "depth": 34, "width": 64}, 21_282_122),
        ("imagenet_resnet", {"block": "bottleneck", "depth": 50, "width": 64}, 23_520_842),
    ],
)
def test_parameter_counts(name: str, options: dict[str, Any], parameters: int):
    # The meta device has shapes without memory.
    with torch.device("meta"):
        assert count(build(name, **options)) == parameters


def test_preactivation_networks_end_with_the_activation():
    """The blocks end with sums, on which pooling would act as on a linear network.

    Only `preact` leaves the norm to the network as well.
    """
    for name in models.MODELS:
        for block in BLOCKS:
            model = build(name, **smallest(name, block))
            kinds = [
                type(module)
                for module in model.get_submodule("ending").modules()
                if not list(module.children())
            ]
            expected = {
                "preact": [nn.BatchNorm2d, nn.ReLU],
                "basic": [nn.Identity],
                "bottleneck": [nn.Identity],
            }.get(block, [nn.ReLU])
            expected = [nn.Identity] if block.startswith("airbench") else expected
            assert kinds == expected + [nn.MaxPool2d] * (name == "deepcnn")


def test_layers_of_the_deep_networks():
    """`depth` counts the convolutions and the linear layer on the main path."""
    with torch.device("meta"):
        for depth, block in (
            (20, "basic"),
            (110, "basic"),
            (20, "preact"),
            (29, "bottleneck"),
            (20, "conv"),
        ):
            model = build("cifar_resnet", block=block, depth=depth, width=16)
            assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth
        for depth, block in (
            (18, "basic"),
            (34, "basic"),
            (50, "bottleneck"),
            (101, "bottleneck"),
            (152, "bottleneck"),
        ):
            model = build("imagenet_resnet", block=block, depth=depth, width=64, shortcut=False)
            assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth


# --------------------------------------------------------------------------------------------------
# every combination

# Name -> channels, size, classes.
DATASETS = {"digits": (1, 8, 10), "mnist": (1, 28, 10), "cifar100": (3, 32, 100)}
DEPTHS = {
    "deepcnn": 2,
    "resnet": 1,
    "cifar_resnet": 8,
    "imagenet_resnet": 18,
    "airbench": 1,
    "airbench96": 1,
}


def smallest(name: str, block: str) -> dict[str, Any]:
    """A block, the least depth, and a width at which relu leaves every layer a gradient."""
    has_three = families.block_rules(block).num_convs == 3
    depth = 11 if name == "cifar_resnet" and has_three else DEPTHS[name]
    expands = name in ("cifar_resnet", "imagenet_resnet")
    return {
        "block": block,
        "depth": depth,
        "width": 16 if block == "bottleneck" and not expands else 4,
    }


def check_one_step(model: nn.Module, x: Tensor, num_classes: int, *, norm: str) -> None:
    """A finite loss, a gradient in every parameter, and a step that changes the output."""
    labels = torch.tensor([0, 1, num_classes - 2, num_classes - 1])
    logits = model(x)
    assert logits.shape == (4, num_classes)
    loss = F.cross_entropy(logits, labels)
    assert math.isfinite(loss.item())
    loss.backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # A whitening's filters and a norm's fixed scale are not trained.
            if not parameter.requires_grad:
                continue
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # A bias in front of a norm is subtracted with the mean, so its gradient is zero.
            bias_of_conv = name.endswith("bias") and isinstance(
                model.get_submodule(name.rpartition(".")[0]), nn.Conv2d
            )
            assert parameter.grad.any() or (bias_of_conv and norm == "batch"), name
            parameter -= 0.01 * parameter.grad
        assert not torch.equal(model(x), logits)


@pytest.mark.parametrize(
    "dataset",
    [pytest.param(name, marks=() if name == "mnist" else pytest.mark.slow) for name in DATASETS],
)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", models.MODELS)
def test_every_combination_trains_a_step_or_says_why_not(name: str, block: str, dataset: str):
    channels, size, num_classes = DATASETS[dataset]
    shape: dict[str, Any] = {"channels": channels, "size": size, "num_classes": num_classes}
    x = images(4, channels, size)
    if name.startswith("airbench") and size < 9:
        with pytest.raises(UsageError, match="at least 9x9"):
            build(name, **smallest(name, block), **shape)
        return
    for norm in ("batch", "none"):
        for shortcut in (True, False):
            torch.manual_seed(0)
            model = build(name, norm=norm, shortcut=shortcut, **smallest(name, block), **shape)
            models.fit_to_images(model, x)
            has_norm = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
            assert has_norm == (norm == "batch")
            check_one_step(model, x, num_classes, norm=norm)


@pytest.mark.parametrize("name", [name for name in models.MODELS if name.startswith("airbench")])
def test_airbench_refuses_images_that_its_pooling_cannot_halve(name: str):
    with pytest.raises(UsageError, match="at least 9x9"):
        build(name, **smallest(name, "residual"), channels=1, size=8, num_classes=10)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_style_trains_a_step(block: str):
    for bias, projection, init in itertools.product(
        (True, False), ("conv", "conv_bn", "pad"), ("torch", "he")
    ):
        torch.manual_seed(0)
        model = build(
            "resnet",
            **smallest("resnet", block),
            size=9,
            bias=bias,
            projection=projection,
            init=init,
            dropout=0.2,
        )
        assert all(
            (module.bias is not None) == bias
            for module in model.modules()
            if isinstance(module, nn.Conv2d)
        )
        check_one_step(model, images(4, 3, 9), 10, norm="batch")


@pytest.mark.parametrize("name", OPTIONS)
def test_images_of_two_sides(name: str) -> None:
    """Height and width are those of the stages, in this order, as a square's are."""
    chosen = smallest(name, "airbench" if name.startswith("airbench") else "residual")
    model = build(name, **chosen, size=(24, 17)).eval()
    x = torch.zeros(2, 3, 24, 17)
    assert model(x).shape == (2, 10)
    shapes = [shape for shape, _ in summarize(model, channels=3, size=(24, 17)).stages.values()]
    for side, place in ((24, 1), (17, 2)):
        square = build(name, **chosen, size=side).eval()
        squares = summarize(square, channels=3, size=(side, side)).stages.values()
        planes = [shape for shape in shapes if len(shape) == 3]
        assert [s[place] for s in planes] == [s[1] for s, _ in squares if len(s) == 3]


@pytest.mark.parametrize("size", [9, 29, 31])
@pytest.mark.parametrize("name", models.MODELS)
def test_odd_sizes_one_channel_and_a_batch_of_one(name: str, size: int):
    for block in BLOCKS:
        torch.manual_seed(0)
        model = build(name, **smallest(name, block), channels=1, size=size).eval()
        with torch.inference_mode():
            batch = images(3, 1, size)
            together = model(batch)
            assert together.shape == (3, 10)
            assert together.isfinite().all()
            torch.testing.assert_close(model(batch[:1]), together[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", models.MODELS)
def test_channels_last_gives_the_same(name: str):
    torch.manual_seed(0)
    model = plain.shake(build(name, block="residual", depth=DEPTHS[name], width=4)).eval()
    x = images(2, 3, 32).double()
    with torch.inference_mode():
        expected = model(x)
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        torch.testing.assert_close(
            model(x.to(memory_format=torch.channels_last)), expected, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "cifar_resnet",
            {"block": "basic", "depth": 21},
            "depth=21 is no CIFAR ResNet: 6n+2 layers with block=basic, so 20 or 26",
        ),
        (
            "cifar_resnet",
            {"block": "basic", "depth": 2},
            "depth=2 is no CIFAR ResNet: 6n+2 layers with block=basic, so 8 or 14",
        ),
        ("cifar_resnet", {"block": "basic", "depth": 0}, "so 8 or 14"),
        (
            "cifar_resnet",
            {"block": "bottleneck", "depth": 21},
            "depth=21 is no CIFAR ResNet: 9n+2 layers with block=bottleneck, so 20 or 29",
        ),
        (
            "imagenet_resnet",
            {"block": "basic", "depth": 20},
            "depth=20 is no ImageNet ResNet: take 18 (of 18, 34, 50, 101, 152)",
        ),
        (
            "resnet",
            {"block": "basic", "depth": 0},
            "depth=0: model=resnet needs at least 1 block a stage",
        ),
        (
            "deepcnn",
            {"block": "conv", "depth": -1},
            "depth=-1: model=deepcnn takes 0 blocks or more",
        ),
        (
            "deepcnn",
            {"block": "conv", "depth": 2, "size": 7},
            "size=7: model=deepcnn pools three times; take images of at least 8x8",
        ),
        (
            "deepcnn",
            {"block": "residual", "depth": 2, "width": 31},
            "width=31: block=residual works at 1/2 of its width, so take a multiple of 2: 30 or 32",
        ),
        (
            "deepcnn",
            {"block": "bottleneck", "depth": 2, "width": 6},
            "width=6: block=bottleneck works at 1/4 of its width, so take a multiple of 4: 4 or 8",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(
    name: str, options: dict[str, Any], message: str
):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        build(name, **({"width": 8} | options))
    assert "\n" not in str(caught.value)


def test_the_plain_twin_of_a_network_is_the_network_of_plain_blocks():
    torch.manual_seed(0)
    twin = plain.shake(build("resnet", block="residual", depth=2, width=8, shortcut=False))
    conv = plain.shake(build("resnet", block="conv", depth=2, width=8))
    conv.load_state_dict(twin.state_dict())
    x = images(2, 3, 9).double()
    assert torch.equal(twin(x), conv(x))


def test_the_first_block_of_resnet_sees_the_raw_image():
    """The lab's blocks begin with a relu, which would hide what is below zero in the image."""
    for block in BLOCKS:
        torch.manual_seed(0)
        model = build("resnet", block=block, depth=1, width=8, shortcut=False).eval()
        x = images(2, 3, 9)
        assert not torch.allclose(model(x), model(x.relu()))
        layers = [
            module
            for module in model[0].modules()
            if not list(module.children()) and not isinstance(module, nn.Identity)
        ]
        assert isinstance(layers[0], nn.Conv2d)


# --------------------------------------------------------------------------------------------------
# initialisation, dropout


def test_he_initialisation():
    torch.manual_seed(0)
    model = build("imagenet_resnet", block="basic", depth=18, width=32, bias=True)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            number, deviation = module.weight.numel(), math.sqrt(2 / fan_out)
            assert module.weight.std().item() == pytest.approx(
                deviation, rel=5 / math.sqrt(2 * number)
            )
            assert abs(module.weight.mean().item()) < 5 * deviation / math.sqrt(number)
            assert module.bias is not None
            assert not module.bias.any()
        elif isinstance(module, nn.Linear):
            assert not module.bias.any()
            # The linear layer keeps torch's own initialisation.
            assert module.weight.abs().max() <= 1 / math.sqrt(module.in_features)
            assert module.weight.std().item() == pytest.approx(
                1 / math.sqrt(3 * module.in_features), rel=0.05
            )
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


@pytest.mark.parametrize(
    ("name", "block", "channels", "layers"),
    # The layers in the order in which the lab and the notebook make them: (in, out, kernel), and
    # (in, out) for the last one.
    [
        (
            "deepcnn",
            "residual",
            3,
            [
                (3, 8, 3),
                (8, 8, 3),
                (8, 8, 3),
                (8, 4, 3),
                (4, 8, 3),
                (8, 4, 3),
                (4, 8, 3),
                (128, 10),
            ],
        ),
        (
            "deepcnn",
            "residual_down",
            3,
            [(3, 8, 3), (8, 8, 3), (8, 8, 3), *[(8, 8, 3)] * 6, (128, 10)],
        ),
        (
            "deepcnn",
            "skip",
            3,
            [
                (3, 8, 3),
                (8, 8, 3),
                (8, 8, 3),
                (8, 4, 3),
                (4, 4, 3),
                (8, 4, 3),
                (4, 4, 3),
                (128, 10),
            ],
        ),
        (
            "resnet",
            "basic",
            1,
            [
                (1, 8, 3),
                (8, 8, 3),
                (1, 8, 1),
                (8, 16, 3),
                (16, 16, 3),
                (8, 16, 1),
                (16, 32, 3),
                (32, 32, 3),
                (16, 32, 1),
                (32, 10),
            ],
        ),
    ],
)
def test_torch_initialisation_is_that_of_the_same_layers_under_the_same_seed(
    name: str, block: str, channels: int, layers: list[Any]
):
    torch.manual_seed(7)
    model = build(
        name, block=block, depth=2 if name == "deepcnn" else 1, width=8, channels=channels
    )
    torch.manual_seed(7)
    made = [nn.Conv2d(*layer) if len(layer) == 3 else nn.Linear(*layer) for layer in layers]
    expected = [parameter for layer in made for parameter in layer.parameters()]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    of_norms = {id(parameter) for norm in norms for parameter in norm.parameters()}
    found = [parameter for parameter in model.parameters() if id(parameter) not in of_norms]
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


def test_dropout_acts_in_training_only():
    for name in models.MODELS:
        torch.manual_seed(0)
        model = build(name, block="conv", depth=DEPTHS[name], width=8, dropout=0.5, size=9)
        models.fit_to_images(model, images(4, 3, 9))
        x = images(4, 3, 9)
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))
        (dropout,) = [module for module in model.modules() if isinstance(module, nn.Dropout)]
        assert dropout.p == 0.5


# --------------------------------------------------------------------------------------------------
# summarize


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", models.MODELS)
def test_summary_counts_what_torch_counts_and_leaves_no_trace(name: str, training: bool):
    for block, size in (("residual_down", 32), ("bottleneck", 32), ("skip", 29), ("preact", 9)):
        torch.manual_seed(0)
        model = build(name, **smallest(name, block), size=size, dropout=0.5).train(training)
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        state = torch.get_rng_state()
        summary = summarize(model, channels=3, size=(size, size))
        assert torch.equal(torch.get_rng_state(), state)
        assert all(module.training == training for module in model.modules())
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
        assert not any(module._forward_hooks for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(images(1, 3, size))
        assert summary.flops == counter.get_total_flops()
        assert summary.macs == counter.get_total_flops() / 2
        assert (
            summary.parameters
            == count(model)
            == sum(parameters for _, parameters in summary.stages.values())
        )
        assert list(summary.stages) == [name for name, _ in model.named_children()]
        x = images(2, 3, size)
        for child, stage in model.named_children():
            x = stage(x)
            assert summary.stages[child] == (x.shape[1:], count(stage))


def test_a_compiled_network_is_one_graph_and_its_summary_compiles_nothing():
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    for name in ("deepcnn", "airbench"):
        torch.manual_seed(0)
        model = build(name, **smallest(name, "residual"), size=9).eval()
        expected = model(images(2, 3, 9))
        summary = summarize(model, channels=3, size=(9, 9))
        torch.compiler.reset()
        graphs.clear()
        model.compile(backend=backend, fullgraph=True, dynamic=False)
        assert summarize(model, channels=3, size=(9, 9)) == summary
        assert graphs == []
        torch.testing.assert_close(model(images(2, 3, 9)), expected)
        assert len(graphs) == 1
