"""`skiplab show`: a network printed, drawn and as JSON, of a run or of a command line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from helpers import SMALL, Cli
from skiplab import network_picture
from skiplab.networks.structure import Layer, Skip, Unit

OWN = """
from torch.nn import functional as F
from skiplab.networks.blocks import Block, conv

class Wide(Block):
    preactivation = True

    def build(self, in_channels, out_channels, stride, style):
        self.conv = conv(in_channels, out_channels, 5, stride=stride, bias=style.bias)

    def forward(self, x):
        out = self.conv(F.relu(x))
        return out + x if x.shape == out.shape else out
"""


def shown(call: Cli, *arguments: str) -> str:
    code, out, err = call("show", *arguments, command="skiplab")
    assert (code, err) == (0, "")
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 80
    return out


def test_a_network_is_printed_and_drawn(call: Cli) -> None:
    out = shown(call, "model=resnet110", "dataset=cifar10")
    rows = [line.split() for line in out.splitlines()]
    assert out.startswith("cifar_resnet of basic blocks, depth 110, width 16, for cifar10")
    assert ["stage3", "64x8x8", "1,313,280", "83.76"] in rows
    assert ["basic", "x", "17", "64x8x8", "73,984", "4.72", "each"] in rows
    assert "      [3x3 conv 64, bn, relu, 3x3 conv 64, bn] + x, relu\n" in out
    assert out.endswith("\nwritten: network.png\n")
    with Image.open("network.png") as picture:
        # Equal blocks are drawn once, so 110 layers fit a page.
        assert picture.width < picture.height < 3 * picture.width


def test_a_run_is_shown_in_its_folder_and_its_config_counts(call: Cli) -> None:
    assert call(*SMALL, "block=skip", "depth=2", "out=run")[0] == 0
    out = shown(call, "run")
    assert "of skip blocks, depth 2" in out
    assert "] cat x" in out
    assert Path("run/network.png").is_file()
    shown(call, "run/best.safetensors", "--out", "there.png")
    assert Path("there.png").is_file()
    assert call("list", "run", command="skiplab")[0] == 0


def test_code_of_ones_own_is_shown(call: Cli) -> None:
    Path("own.py").write_text(OWN)
    document = json.loads(
        call("show", "block=./own.py:Wide", "depth=2", "--json", command="skiplab")[1]
    )
    (block,) = next(each for each in document["stages"] if each["name"] == "blocks")["blocks"]
    assert (block["name"], block["count"]) == ("own.Wide", 2)
    assert block["layers"] == ["relu", "5x5 conv 32"]
    assert block["skips"] == [{"first": 0, "last": 1, "joined_by": "sum", "layers": []}]


@pytest.mark.slow
def test_a_budget_chooses_the_width(call: Cli) -> None:
    assert "width 34" in shown(call, "match=params", "target=80k")


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (("model=resnt",), 2, "model=resnt: no such model; did you mean resnet?"),
        (("depth=1,2",), 2, "one network is shown at a time"),
        (("nowhere",), 2, "nowhere: no such run folder or checkpoint"),
        (("run", "depth=2"), 2, "run: a run folder stands alone"),
        (("--out", "x.pdf"), 2, "--out x.pdf: a name that ends with .png is expected"),
        (("--out", "no/where.png"), 4, "no: cannot write where.png"),
        (("--depth", "3"), 2, "write depth=3"),
    ],
)
def test_what_cannot_be_shown_gets_one_line(
    arguments: tuple[str, ...], code: int, fragment: str, call: Cli
) -> None:
    found, _, err = call("show", *arguments, command="skiplab")
    assert found == code
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert fragment in err


def test_a_picture_that_fails_leaves_the_text(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_picture.Sketch, "draw", lambda *_: 1 / 0)
    code, out, err = call("show", command="skiplab")
    assert code == 1
    assert "stem" in out
    assert "written" not in out
    assert err == ("error: network.png not drawn (ZeroDivisionError: division by zero)\n")


def test_arcs_that_overlap_lie_apart() -> None:
    skips = [Skip(0, 4, "sum"), Skip(1, 3, "sum"), Skip(4, 6, "sum"), Skip(0, 6, "product")]
    assert network_picture.levels_of(skips) == [1, 0, 0, 2]


def test_boxes_hold_one_heavy_layer_and_end_where_a_skip_does() -> None:
    layers = (
        Layer("bn"),
        Layer("conv", is_heavy=True),
        Layer("relu"),
        Layer("conv", is_heavy=True),
    )
    unit = Unit("", (1,), (1,), 0, 0, (*layers, Layer("relu")), (Skip(0, 4, "sum"),))
    texts = [each.text for each in network_picture.boxes_of(unit)]
    assert texts == ["bn, conv, relu", "conv", "relu"]
