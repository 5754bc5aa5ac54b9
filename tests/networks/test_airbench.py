"""What the record scripts are made of, each part against an oracle.

The parts: Muon, whitening, the networks, alternating flips, slow weights, views.
"""

import dataclasses
import itertools
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import compose
from skiplab import build as parts
from skiplab.config.options import Airbench
from skiplab.data.augment import Augment
from skiplab.data.batches import Batches, Normalize
from skiplab.data.splits import Split
from skiplab.networks import airbench, models
from skiplab.networks.blocks import Style
from skiplab.networks.plan import Plan
from skiplab.training import averages, muon, optimizers, schedules
from skiplab.training.evaluation import Predictor

CPU = torch.device("cpu")
MUON: dict[str, Any] = {"lr": 0.24, "momentum": 0.6, "nesterov": True, "iterations": 3}
MUON |= {
    "head_lr": 0.02,
    "bias_lr": 106.0,
    "sgd_momentum": 0.85,
    "weight_decay": 4e-3,
    "decay_norm_and_bias": True,
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------------------
# Muon


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (12, 12)])
def test_orthogonalize_keeps_the_directions_and_maps_the_singular_values_by_the_quintic(
    shape: tuple[int, int],
) -> None:
    """By the singular value decomposition: U p(p(p(S / |S|))) V^T, p(s) = a s + b s^3 + c s^5."""
    matrix = randn(*shape).double()
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    a, b, c = muon.QUINTIC
    for _ in range(3):
        values = a * values + b * values**3 + c * values**5
    torch.testing.assert_close(
        muon.orthogonalize(matrix, iterations=3), u @ values.diag() @ vh, rtol=1e-5, atol=1e-5
    )


def test_many_iterations_bring_all_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(muon.orthogonalize(randn(16, 40), iterations=8))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_muon_updates_filters_by_its_formula_and_the_rest_by_sgd() -> None:
    """In float64, from the definition.

    The decay of the rest is a share per step, whatever the learning rate.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 4, bias=False)
    ).double()
    optimizer = optimizers.build("muon", model, **MUON)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    momentum = {name: torch.zeros_like(p) for name, p in weights.items()}
    for step, factor in enumerate((1.0, 0.5, 0.25)):
        optimizer.set_rate(0.24 * factor, step)
        for i, (name, p) in enumerate(model.named_parameters()):
            g = randn(*p.shape, seed=10 * step + i).double()
            p.grad = g.clone()
            w, buffer = weights[name], momentum[name]
            if p.ndim == 4:
                buffer.mul_(0.6).add_(g)
                w *= len(w) ** 0.5 / w.norm()
                update = muon.orthogonalize((g + 0.6 * buffer).reshape(len(w), -1), iterations=3)
                w -= 0.24 * factor * update.view(w.shape)
            else:
                lr = 0.02 if p.ndim == 2 else 106.0
                g = g + 4e-3 / lr * w
                buffer.mul_(0.85).add_(g)
                w -= lr * factor * (g + 0.85 * buffer)
        optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), weights[name], rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------------------------------
# the networks


class PlainAirbench(nn.Module):
    """The record's network: weights of deviation one in the head, divided by their number."""

    def __init__(self, width: int = 64):
        super().__init__()
        widths = [24, width, 4 * width, 4 * width]
        self.whiten = nn.Conv2d(3, 24, 2)
        pairs = [pair for a, b in itertools.pairwise(widths) for pair in ((a, b), (b, b))]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in pairs)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(o, eps=1e-12, momentum=0.4) for o in widths[1:] for _ in range(2)
        )
        self.head = nn.Linear(4 * width, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.whiten(x))
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = conv(x)
            x = F.gelu(norm(F.max_pool2d(x, 2) if i % 2 == 0 else x))
        return self.head(F.max_pool2d(x, 3).flatten(1)) / self.head.in_features


def build(name: str, *, width: int = 8) -> models.Network:
    plan = Plan(
        block=models.BLOCKS["airbench" if name == "airbench" else "airbench_residual"],
        style=Style(norm="batch", shortcut=True, bias=False, projection="conv"),
        depth=1,
        width=width,
        dropout=0.0,
        channels=3,
        size=(32, 32),
        num_classes=10,
    )
    torch.manual_seed(0)
    return models.build(name, plan, init="torch")


def test_the_network_of_94_percent_is_the_records() -> None:
    """In training it is the same function, with the same number of weights.

    The record's head has our head's weights times the number of its inputs.
    """
    ours, plain = build("airbench"), PlainAirbench(8)
    models.fit_to_images(ours, randn(50, 3, 32, 32))
    source = iter(ours.state_dict().values())
    with torch.no_grad():
        for parameter in plain.whiten.parameters():
            parameter.copy_(next(source))
        for i in range(6):
            plain.convs[i].weight.copy_(next(source))  # pyright: ignore[reportArgumentType, reportCallIssue]
            # The norm is new in both, so its five tensors are passed over.
            for _ in range(5):
                next(source)
        plain.head.weight.copy_(next(source) * plain.head.in_features)
    x = randn(5, 3, 32, 32, seed=1)
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-4, atol=1e-5)
    assert float(plain.head.weight.detach().std()) == pytest.approx(1.0)
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in model.parameters())
            for model in (PlainAirbench(), build("airbench", width=64))
        ]
    assert counts == [1_972_792, 1_972_792]


def test_the_network_of_96_percent_adds_a_residual_block_to_each_stage() -> None:
    model = build("airbench96")
    x = F.gelu(model.get_submodule("stem.0")(randn(4, 3, 32, 32)))
    block: Any = model.get_submodule("stage1.0")
    x0 = F.gelu(
        F.batch_norm(
            F.max_pool2d(F.conv2d(x, block.conv1.weight, padding=1), 2),
            None,
            None,
            training=True,
            eps=1e-12,
        )
    )
    x1 = F.gelu(
        F.batch_norm(
            F.conv2d(x0, block.conv2.weight, padding=1), None, None, training=True, eps=1e-12
        )
    )
    x2 = F.batch_norm(
        F.conv2d(x1, block.conv3.weight, padding=1), None, None, training=True, eps=1e-12
    )
    torch.testing.assert_close(block(x), F.gelu(x2 + x0), rtol=1e-4, atol=1e-5)
    assert [model.get_submodule(f"stage{i}.0.conv3").out_channels for i in (1, 2, 3)] == [8, 24, 32]
    logits = model.get_submodule("head")(randn(2, 32, 3, 3))
    linear: Any = next(m for m in model.get_submodule("head").modules() if isinstance(m, nn.Linear))
    torch.testing.assert_close(logits, linear(randn(2, 32, 3, 3).amax((2, 3))) / 9)


def test_first_filters_pass_a_channel_on_and_the_norms_learn_no_scale() -> None:
    model = build("airbench")
    block: Any = model.get_submodule("stage1.0")
    x = randn(2, 8, 5, 5)
    torch.testing.assert_close(block.conv2(x), x)
    assert not block.bn1.weight.requires_grad
    assert block.bn1.bias.requires_grad


def test_whitening_decorrelates_the_patches_it_was_fitted_to() -> None:
    """Up to eps, the second moments of the first half of its outputs are the identity.

    The other half is their negative.
    """
    images = randn(200, 3, 9, 9) @ randn(9, 9, seed=1) / 3 + 0.5
    layer = airbench.Whitening(3)
    layer.fit(images, eps=1e-6)
    with torch.no_grad():
        # (24, N * 8 * 8)
        out = F.conv2d(images, layer.weight).transpose(0, 1).flatten(1)
    moments = out[:12] @ out[:12].T / out.shape[1]
    torch.testing.assert_close(moments, torch.eye(12), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(out[12:], -out[:12])
    assert not layer.weight.requires_grad


# --------------------------------------------------------------------------------------------------
# flips, slow weights, views


def test_an_alternating_flip_shows_each_image_as_it_is_and_mirrored_in_turns() -> None:
    # No image is symmetric, except image 0.
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1) * torch.tensor(
        [1, 3], dtype=torch.uint8
    ).view(1, 1, 2, 1)
    flip = Augment(
        flip="alternating",
        crop=0,
        padding_mode="zeros",
        cutout=0,
        cutout_inside=False,
        fill=torch.zeros(1, dtype=torch.uint8),
    )
    normalize = Normalize(mean=(0.0,), std=(1.0,), size=(1, 1), channels_last=False, device=CPU)
    normalize.scale, normalize.shift = torch.ones(2), torch.zeros(2)
    split = Split(images, torch.arange(40))
    batches = Batches(
        split,
        batch_size=16,
        seed=3,
        shuffle=True,
        drop_last=False,
        augment=flip,
        normalize=normalize,
    )
    is_mirrored = torch.zeros(4, 40, dtype=torch.bool)
    for step in range(4 * batches.steps_per_epoch):
        x, labels = batches.at(step)
        is_mirrored[step // batches.steps_per_epoch, labels] = x[:, 0, 0, 0] > x[:, 0, 0, 1]
    # Image 0 is its own mirror image.
    seen = is_mirrored[:, 1:]
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert torch.equal(seen[0], ~seen[1])
    # About half are mirrored.
    assert 8 < int(seen[0].sum()) < 31


def test_parts_of_a_batch_are_the_batch() -> None:
    images = torch.randint(
        0, 256, (50, 6, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    augment = Augment(
        flip="random",
        crop=2,
        padding_mode="reflect",
        cutout=2,
        cutout_inside=True,
        fill=torch.zeros(3, dtype=torch.uint8),
    )
    normalize = Normalize(
        mean=(0.5,) * 3, std=(0.2,) * 3, size=(6, 6), channels_last=True, device=CPU
    )
    split = Split(images, torch.arange(50))
    batches = Batches(
        split,
        batch_size=16,
        seed=3,
        shuffle=True,
        drop_last=False,
        augment=augment,
        normalize=normalize,
    )
    for step in (0, 3, 5):
        x, labels = batches.at(step)
        for ranks in (2, 3):
            parts_of = [batches.at(step, rank=rank, ranks=ranks) for rank in range(ranks)]
            assert torch.equal(torch.cat([part for part, _ in parts_of]), x)
            assert torch.equal(torch.cat([part for _, part in parts_of]), labels)


def test_slow_weights_are_their_formula() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    lookahead = averages.Lookahead(model, every=2, decay=0.9, num_steps=7)
    slow = {name: t.clone() for name, t in model.state_dict().items()}
    fast = {name: t.clone() for name, t in slow.items()}
    for step in range(1, 8):
        for i, (name, tensor) in enumerate(model.state_dict().items()):
            if tensor.is_floating_point():
                change = randn(*tensor.shape, seed=10 * step + i)
                tensor.add_(change)
                fast[name] += change
                if step % 2 == 0:
                    kept = 0.9**2 * (step / 7) ** 3
                    slow[name] = kept * slow[name] + (1 - kept) * fast[name]
                    fast[name] = slow[name].clone()
                if step == 7:
                    fast[name] = slow[name].clone()
        lookahead.update(step)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, fast[name])
    none = averages.Lookahead(model, every=0, decay=0.9, num_steps=7)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    none.update(7)
    assert none.slow == {}
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_views_of_a_test_image() -> None:
    """Six views, weighted by hand, of a network that sees where a pixel is."""
    weights = randn(4, 3 * 6 * 5)

    class Positional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ weights.T

    images = randn(7, 3, 6, 5, seed=2)
    padded = torch.from_numpy(
        np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    )
    views = {0.25: [images, images.flip(3)], 0.125: []}
    for moved in (padded[:, :, :6, :5], padded[:, :, 2:, 2:]):
        views[0.125] += [moved, moved.flip(3)]
    expected = sum(
        weight * (view.flatten(1) @ weights.T) for weight, some in views.items() for view in some
    )
    autocast = torch.autocast("cpu", enabled=False)
    torch.testing.assert_close(
        Predictor(Positional(), autocast=autocast, tta="multicrop")(images),
        expected,
        rtol=1e-5,
        atol=1e-5,
    )
    plain = Predictor(Positional(), autocast=autocast, tta="none")(images)
    mirrored = Predictor(Positional(), autocast=autocast, tta="none")(images.flip(3))
    torch.testing.assert_close(
        Predictor(Positional(), autocast=autocast, tta="flip")(images), (plain + mirrored) / 2
    )


# --------------------------------------------------------------------------------------------------
# the experiments


def test_the_numbers_of_the_94_percent_recipe_are_the_records() -> None:
    """Ours has means and shares where the record sums losses over 2000 images.

    The record: learning rates 0.053 and 0.67, decay 2e-6 * 2000, head over 256.
    """
    config = compose("experiment=speedrun94")
    assert (
        config.batch_size,
        config.epochs,
        config.val_fraction,
        config.trainer.label_smoothing,
    ) == (2000, 8, 0.0, 0.2)
    found = dataclasses.asdict(config.optimizer)
    expected = {
        "lr": 0.24,
        "momentum": 0.6,
        "sgd_momentum": 0.85,
        "bias_lr": 0.053 * 2000,
        "head_lr": 0.67 * 2000 / 256**2,
        "weight_decay": 4e-3,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    model = parts.network(config, CPU)
    ends = {"stem.0.bias": 75}
    options = {name: value for name, value in found.items() if name != "name"}
    optimizer = optimizers.build("muon", model, ends=ends, **options)
    rate = schedules.learning_rate(
        "linear", lr=0.24, num_steps=200, warmup=0.0, start=0.0, final=0.0
    )
    for step in (0, 30, 74, 75, 199):
        optimizer.set_rate(rate(step), step)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        by_name = {
            name: rates[id(p)]
            for name, p in model.named_parameters()
            if p.requires_grad or name == "stem.0.bias"
        }
        assert by_name["stem.0.bias"] == pytest.approx(106 * max(0, 1 - step / 75))
        assert by_name["stage1.0.conv1.weight"] == pytest.approx(0.24 * (1 - step / 200))
        assert by_name["stage2.0.bn1.bias"] == pytest.approx(106 * (1 - step / 200))


def test_the_numbers_of_the_96_percent_recipe_are_the_records() -> None:
    """Ours has means where the record sums losses over 512 images.

    The record: a rate of 9 per 1024 images over 1 + 1 / (1 - momentum), a decay of 0.012 likewise.
    """
    config = compose("experiment=speedrun96")
    optimizer: Any = config.optimizer
    kilostep = 1024 * (1 + 1 / (1 - 0.85))
    assert optimizer.lr == pytest.approx(9 / kilostep * 512, rel=1e-6)
    assert optimizer.lr * optimizer.weight_decay == pytest.approx(0.012 * 1024 / kilostep, rel=1e-5)
    assert optimizer.norm_scale == 64
    assert (
        config.epochs,
        config.batch_size,
        config.trainer.lookahead,
        config.trainer.lookahead_decay,
    ) == (45, 1024, 5, 0.95)
    assert isinstance(config.model, Airbench)
    assert config.model.whiten_bias == pytest.approx(3 / 45)
    assert dataclasses.asdict(config.augment) == {
        "flip": "alternating",
        "crop": 4,
        "padding_mode": "reflect",
        "cutout": 12,
        "cutout_inside": True,
    }


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_he_et_al_table_6(depth: int) -> None:
    config = compose(f"experiment=he2016_resnet{depth}")
    optimizer: Any = config.optimizer
    assert (config.steps, config.batch_size, config.val_fraction, config.init) == (
        64_000,
        128,
        0.0,
        "he",
    )
    assert (optimizer.lr, optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (
        0.1,
        0.9,
        False,
        1e-4,
    )
    assert optimizer.decay_norm_and_bias
    scheduler = dataclasses.asdict(config.scheduler)
    rate = schedules.learning_rate(scheduler.pop("name"), lr=0.1, num_steps=64_000, **scheduler)
    changes = [step for step in range(1, 64_000) if rate(step) != rate(step - 1)]
    assert changes == ([400] if depth == 110 else []) + [32_000, 48_000]
    assert rate(0) == pytest.approx(0.01 if depth == 110 else 0.1)
    assert config.shortcut


def test_the_plain_twins_have_no_shortcuts() -> None:
    for depth in (20, 56):
        twin = compose(f"experiment=he2016_plain{depth}")
        assert not twin.shortcut
        assert dataclasses.replace(twin, shortcut=True) == compose(
            f"experiment=he2016_resnet{depth}"
        )


def test_the_pool_gives_its_gradient_to_one_pixel_of_equal_ones() -> None:
    planes = torch.zeros(2, 3, 4, 4, requires_grad=True)
    airbench.GlobalMaxPool()(planes).sum().backward()
    assert planes.grad is not None
    assert planes.grad.flatten(2).sort(2).values.tolist() == [[[0.0] * 15 + [1.0]] * 3] * 2


@pytest.mark.slow
def test_compiled_in_half_precision_the_pool_gives_finite_gradients() -> None:
    """Compiled, float32 stays float32 up to the pool, whose output alone is rounded."""
    from torch._inductor import config as inductor

    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    network = models.Network(OrderedDict(norm=norm, gelu=nn.GELU(), pool=airbench.GlobalMaxPool()))
    # Vector code for bfloat16 needs a newer compiler than some machines have.
    with inductor.patch({"cpp.simdlen": 1}):
        network.compile(dynamic=False)
        with torch.autocast("cpu", torch.bfloat16):
            network(torch.randn(16, 8, 3, 3).bfloat16()).float().sum().backward()
    assert norm.weight.grad is not None
    assert norm.weight.grad.isfinite().all()
