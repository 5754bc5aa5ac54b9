"""Every block against its formula (tests/plain.py), its plain twin, and the shapes it promises."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import plain
from skiplab import families
from skiplab.networks.blocks import Block, PadShortcut, Style, make_norm, make_shortcut
from skiplab.networks.models import BLOCKS

SHORTCUT = Style(norm="batch", shortcut=True, bias=True, projection="conv")
PLAIN = Style(norm="batch", shortcut=False, bias=True, projection="conv")


def images(
    batch: int, channels: int, height: int, width: int | None = None, seed: int = 0
) -> Tensor:
    shape = (batch, channels, height, width or height)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(
    name: str,
    in_channels: int,
    out_channels: int,
    stride: int,
    style: Style = SHORTCUT,
    *,
    raw_image: bool = False,
) -> Block:
    torch.manual_seed(0)
    block = BLOCKS[name](in_channels, out_channels, stride, style, raw_image=raw_image)
    plain.shake(block)
    return block


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "stride"), [(8, 8, 1), (4, 8, 1), (8, 8, 2), (4, 8, 2)]
)
@pytest.mark.parametrize("name", BLOCKS)
def test_block_is_its_formula(name: str, in_channels: int, out_channels: int, stride: int):
    for norm, training in itertools.product(("batch", "none"), (True, False)):
        style = Style(norm=norm, shortcut=True, bias=True, projection="conv")
        block = make(name, in_channels, out_channels, stride, style).train(training)
        plain.assert_same(
            block, lambda tape, x: plain.BLOCKS[name](tape, x, stride), images(3, in_channels, 6, 7)
        )


def test_the_formulas_cover_every_block():
    assert plain.BLOCKS.keys() == BLOCKS.keys()


@pytest.mark.parametrize("name", BLOCKS)
def test_shape_at_odd_sizes_for_each_projection_and_norm(name: str):
    for stride, projection, norm in itertools.product(
        (1, 2), ("conv", "conv_bn", "pad"), ("batch", "none")
    ):
        block = BLOCKS[name](
            4, 8, stride, Style(norm=norm, shortcut=True, bias=False, projection=projection)
        ).eval()
        pools = name.startswith("airbench")
        for size in (2, 9, 29, 31) if pools else (1, 2, 9, 29, 31):
            # Strides round up, pooling rounds down.
            side = size // stride if pools else -(-size // stride)
            assert block(images(1, 4, size).float()).shape == (1, 8, side, side)


def test_bias_and_norm_are_the_styles():
    for name in BLOCKS:
        block = BLOCKS[name](
            4, 8, 2, Style(norm="none", shortcut=True, bias=False, projection="conv_bn")
        )
        assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())
        assert {parameter.ndim for parameter in block.parameters()} == {4}
        block = BLOCKS[name](4, 8, 2, SHORTCUT)
        convs = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
        assert all(conv.bias is not None for conv in convs)
        main_path = [
            conv for child, conv in block.named_children() if child in ("conv1", "conv2", "conv3")
        ]
        assert len(main_path) - (name == "residual_down") == families.block_rules(name).num_convs


def test_half_and_quarter_widths_that_are_not_whole_are_refused_in_one_line():
    for name, width in (("conv", 7), ("residual", 7), ("skip", 7), ("bottleneck", 6)):
        with pytest.raises(ValueError, match=f"width={width}: block={name} works at 1/") as caught:
            make(name, 4, width, 1)
        assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------
# the plain twin


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_has_a_plain_twin(name: str):
    plain.assert_has_a_plain_twin(BLOCKS[name], has_shortcut=name not in ("conv", "airbench"))


@pytest.mark.parametrize("stride", [1, 2])
def test_residual_without_shortcut_is_conv_with_the_same_weights(stride: int):
    twin, conv = make("residual", 8, 8, stride, PLAIN), make("conv", 8, 8, stride)
    # Loading is strict: the names and shapes are the same, so nothing is left of the shortcut.
    conv.load_state_dict(twin.state_dict())
    x = images(3, 8, 6)
    assert torch.equal(twin(x), conv(x))


def test_skip_without_shortcut_has_a_second_convolution_of_full_width():
    twin = make("skip", 8, 8, 1, PLAIN)
    assert isinstance(twin.conv2, nn.Conv2d)
    assert twin.conv2.weight.shape == (8, 4, 3, 3)
    plain.assert_same(twin, plain.conv_block, images(3, 8, 6))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["basic", "preact", "bottleneck", "residual_down"])
def test_without_shortcut_the_same_layers_without_the_sum(name: str, stride: int):
    """With the side path's weights at zero the block with a shortcut is its twin."""
    whole, twin = make(name, 4, 8, stride), make(name, 4, 8, stride, PLAIN)
    kept = {key: value for key, value in whole.state_dict().items() if key in twin.state_dict()}
    twin.load_state_dict(kept)
    side = {key for key in whole.state_dict() if key not in kept}
    assert side == (
        {"conv3.weight", "conv3.bias"}
        if name == "residual_down"
        else {"shortcut.weight", "shortcut.bias"}
    )
    x = images(3, 4, 6)
    assert not torch.equal(whole(x), twin(x))
    for key in side:
        whole.state_dict()[key].zero_()
    # The pass above moved the running statistics.
    twin.load_state_dict(kept)
    torch.testing.assert_close(whole(x), twin(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["basic", "preact", "bottleneck", "residual"])
def test_the_sum_is_of_the_input_itself_where_the_shape_stays(name: str):
    whole, twin = make(name, 8, 8, 1).eval(), make(name, 8, 8, 1, PLAIN).eval()
    # Lift f far above zero, where the last relu does nothing.
    if not BLOCKS[name].preactivation:
        whole.state_dict()["bn3.bias" if name == "bottleneck" else "bn2.bias"].fill_(100)
    # Loading is strict: the identity has no weights.
    twin.load_state_dict(whole.state_dict())
    x = images(2, 8, 5)
    torch.testing.assert_close(whole(x), x + twin(x), rtol=1e-12, atol=1e-12)


# --------------------------------------------------------------------------------------------------
# shortcuts


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "stride"),
    [(4, 8, 2), (4, 9, 2), (3, 4, 1), (4, 4, 2), (2, 3, 3)],
)
def test_pad_shortcut_is_the_plain_loop(in_channels: int, out_channels: int, stride: int):
    for height, width in ((6, 6), (7, 5), (1, 1)):
        x = images(2, in_channels, height, width)
        out = PadShortcut(in_channels, out_channels, stride)(x)
        assert torch.equal(out, plain.option_a(x, out_channels, stride))
    assert not list(PadShortcut(in_channels, out_channels, stride).parameters())


def test_a_plain_twin_has_no_shortcut() -> None:
    style = Style(norm="batch", shortcut=False, bias=True, projection="conv")
    assert make_shortcut(8, 8, 1, style) is None
    assert make_shortcut(4, 8, 2, style) is None


def test_shortcut_is_the_identity_where_nothing_changes():
    for projection in ("conv", "conv_bn", "pad"):
        style = Style(norm="batch", shortcut=True, bias=True, projection=projection)
        assert isinstance(make_shortcut(8, 8, 1, style), nn.Identity)
        for changed in (make_shortcut(8, 8, 2, style), make_shortcut(4, 8, 1, style)):
            assert changed is not None
            kinds = [type(module) for module in changed.modules() if not list(module.children())]
            assert (
                kinds
                == {
                    "conv": [nn.Conv2d],
                    "conv_bn": [nn.Conv2d, nn.BatchNorm2d],
                    "pad": [PadShortcut],
                }[projection]
            )


def test_make_norm():
    norm = make_norm(5, "batch")
    assert isinstance(norm, nn.BatchNorm2d)
    assert (norm.eps, norm.momentum, norm.num_features) == (1e-5, 0.1, 5)
    assert isinstance(make_norm(5, "none"), nn.Identity)


# --------------------------------------------------------------------------------------------------
# raw image


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_on_the_raw_image_skips_its_input_activation(name: str):
    """Half of a normalised image is negative: a relu of -1 everywhere would leave nothing."""
    block, raw = (
        make(name, 3, 8, 1, PLAIN).eval(),
        make(name, 3, 8, 1, PLAIN, raw_image=True).eval(),
    )
    raw.load_state_dict(
        {key: value for key, value in block.state_dict().items() if key in raw.state_dict()}
    )
    x = images(2, 3, 6)
    if not BLOCKS[name].preactivation:
        # The block begins with a convolution anyway.
        assert torch.equal(raw(x), block(x))
        return
    assert not torch.allclose(raw(-x.abs()), raw(torch.zeros_like(x)))
    positive = x.abs()
    if not BLOCKS[name].normalizes_input:
        # Where relu does nothing, the two are the same.
        assert torch.equal(raw(positive), block(positive))
    else:
        assert "bn1.weight" not in raw.state_dict()
        after_norm = plain.Tape(block).norm(positive).relu()
        torch.testing.assert_close(raw(after_norm), block(positive), rtol=1e-12, atol=1e-12)


def test_no_block_writes_into_its_input():
    x = images(2, 4, 6)
    for name in BLOCKS:
        before = x.clone()
        make(name, 4, 4, 1)(x)
        assert torch.equal(x, before)
