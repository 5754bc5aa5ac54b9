"""The table of the networks' rules against the blocks and networks that are built by it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import ROOT, compose
from skiplab import families
from skiplab.config import rules
from skiplab.errors import UsageError
from skiplab.networks import models
from skiplab.networks.blocks import Style
from skiplab.networks.plan import Plan

PLAIN = Style(norm="batch", shortcut=False, bias=False, projection="conv")


def plan_of(block: str, *, depth: int, width: int, size: int = 32) -> Plan:
    return Plan(
        block=models.BLOCKS[block],
        style=PLAIN,
        depth=depth,
        width=width,
        dropout=0.0,
        channels=3,
        size=(size, size),
        num_classes=10,
    )


def built(name: str, plan: Plan) -> nn.Module | str:
    """Return the network of a plan, without memory, or what `build` says against it."""
    try:
        with torch.device("meta"):
            return models.build(name, plan, init="torch")
    except UsageError as error:
        return str(error)


def legal_depth(name: str, block: str) -> int:
    """The least depth with a block."""
    return next(d for d in range(1, 20) if families.depth_problem(name, block, d) is None)


def convs(module: nn.Module) -> list[nn.Conv2d]:
    return [found for found in module.modules() if isinstance(found, nn.Conv2d)]


def test_the_table_has_rows_of_known_blocks_and_networks_only() -> None:
    assert families.BLOCKS.keys() <= models.BLOCKS.keys()
    assert families.NETWORKS.keys() == models.MODELS.keys()
    assert all(models.BLOCKS[name].name == name for name in models.BLOCKS)


@pytest.mark.parametrize("block", models.BLOCKS)
def test_a_blocks_rules_are_those_of_the_block(block: str) -> None:
    row = families.block_rules(block)
    made = convs(models.BLOCKS[block](16, 16, 1, PLAIN))
    assert len(made) == row.num_convs
    assert min(conv.out_channels for conv in made) * row.inner == 16
    for channels in range(1, 13):
        problem = families.width_problem(block, channels)
        assert (problem is None) == (channels % row.inner == 0)
        if problem is None:
            models.BLOCKS[block](channels, channels, 1, PLAIN)
        else:
            with pytest.raises(ValueError, match=re.escape(problem)):
                models.BLOCKS[block](channels, channels, 1, PLAIN)


@pytest.mark.parametrize("block", models.BLOCKS)
@pytest.mark.parametrize("name", models.MODELS)
def test_the_config_and_the_builder_refuse_the_same_widths_in_the_same_words(
    name: str, block: str
) -> None:
    """And the blocks themselves agree, which are built here behind the builder's back."""
    config = compose("dataset=cifar10")
    depth = legal_depth(name, block)
    config = replace(
        config,
        model=replace(config.model, name=name),
        block=replace(config.block, name=block),
        depth=depth,
    )
    for width in (1, 2, 3, 4, 6, 8, 9):
        plan = plan_of(block, depth=depth, width=width)
        said = list(rules.across(replace(config, width=width)))
        made = built(name, plan)
        assert said == ([made] if isinstance(made, str) else [])
        try:
            with torch.device("meta"):
                models.MODELS[name](plan)
            is_refused = False
        except UsageError:
            is_refused = True
        assert bool(said) == is_refused


@pytest.mark.parametrize("block", models.BLOCKS)
@pytest.mark.parametrize("name", models.MODELS)
def test_the_config_and_the_builder_refuse_the_same_depths_in_the_same_words(
    name: str, block: str
) -> None:
    """What is built has the depth, in layers or in blocks."""
    config = compose("dataset=cifar10")
    config = replace(
        config,
        model=replace(config.model, name=name),
        block=replace(config.block, name=block),
        width=4,
    )
    layers_of_a_block = families.block_rules(block).num_convs
    # Where every depth is legal, the small ones show it.
    deep = (5, 8, 11, 14, 18, 20, 21, 34) if name.endswith("_resnet") else ()
    for depth in (0, 1, 2, 3, *deep):
        plan = plan_of(block, depth=depth, width=4)
        said = list(rules.across(replace(config, depth=depth)))
        model = built(name, plan)
        if isinstance(model, str):
            assert said == [model]
            continue
        assert said == []
        num_convs = len(convs(model))
        if name == "cifar_resnet":
            assert num_convs + 1 == depth
        elif name == "imagenet_resnet":
            num_blocks = sum(families.IMAGENET_STAGES[depth])
            assert num_convs == 1 + layers_of_a_block * num_blocks
        else:
            stem, stages = {"deepcnn": (3, 1), "resnet": (0, 3)}.get(name, (1, 3))
            assert num_convs == stem + stages * depth * layers_of_a_block


def test_the_depths_of_imagenet_resnets_count_layers() -> None:
    """He et al. 2015, table 1: basic blocks up to 34 layers, bottlenecks from 50 on."""
    for depth, stages in families.IMAGENET_STAGES.items():
        block = "basic" if depth < 50 else "bottleneck"
        assert depth == 2 + families.block_rules(block).num_convs * sum(stages)


@pytest.mark.parametrize("block", models.BLOCKS)
def test_a_stage_is_as_much_wider_as_the_table_says(block: str) -> None:
    depth = legal_depth("cifar_resnet", block)
    model = models.build("cifar_resnet", plan_of(block, depth=depth, width=8), init="torch").eval()
    shape = model[1](model[0](torch.zeros(1, 3, 8, 8))).shape
    assert shape == (1, 8 * families.block_rules(block).expansion, 8, 8)


@pytest.mark.parametrize("name", models.MODELS)
def test_the_least_size_is_the_least_that_pooling_leaves_a_pixel_of(name: str) -> None:
    """The layers are built here behind the builder's back; the config names its own key."""
    block = "airbench" if name.startswith("airbench") else "residual"
    depth, least = legal_depth(name, block), families.network_rules(name).least_size
    model = models.build(name, plan_of(block, depth=depth, width=4, size=least), init="torch")
    assert model.eval()(torch.zeros(1, 3, least, least)).shape == (1, 10)
    if least == 1:
        return
    size = least - 1
    plan = plan_of(block, depth=depth, width=4, size=size)
    refused = built(name, plan)
    assert isinstance(refused, str)
    assert refused.startswith(f"size={size}: model={name} ")
    assert refused.endswith(f"take images of at least {least}x{least}")
    # Deep_CNN's linear layer has no input, of which torch warns.
    with pytest.raises((RuntimeError, IndexError, UserWarning)):
        models.Network(models.MODELS[name](plan)).eval()(torch.zeros(1, 3, size, size))
    config = compose("dataset=cifar10", "augment=none")
    config = replace(
        config,
        model=replace(config.model, name=name),
        dataset=replace(config.dataset, resize=size),
        depth=depth,
        width=4,
    )
    assert f"dataset.resize={size}{refused.removeprefix(f'size={size}')}" in rules.across(config)


# --------------------------------------------------------------------------------------------------
# a block that is not in the table

THIRD = '''

class ThirdBlock(BasicBlock):
    """A block whose second convolution has three groups."""

    name = "third"

    def build(self, in_channels: int, out_channels: int, stride: int, style: Style) -> None:
        super().build(in_channels, out_channels, stride, style)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=3)
'''


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of src/ and conf/ with ThirdBlock, added as CONTRIBUTING.md says."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, tmp_path / "house" / name, ignore=ignored)
    package = tmp_path / "house/src/skiplab"
    with (package / "networks/blocks.py").open("a") as file:
        file.write(THIRD)
    models_file, old = package / "networks/models.py", "blocks.ConvBlock,"
    text = models_file.read_text()
    assert text.count(old) == 1
    models_file.write_text(text.replace(old, f"{old} blocks.ThirdBlock,"))
    conf = tmp_path / "house/conf/block"
    text = (conf / "residual.yaml").read_text()
    (conf / "third.yaml").write_text(text.replace("name: residual", "name: third"))
    return tmp_path / "house"


def train(house: Path, *commands: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `train block=third ...` for each list of arguments, in one process."""
    script = """if True:
        import json, sys
        from skiplab.cli.train import train_command
        from skiplab.exits import guard

        for arguments in json.loads(sys.argv[1]):
            print("exit code", guard(lambda: train_command(arguments)))
    """
    common = ["block=third", "trainer=debug", "out=run"]
    return subprocess.run(
        [sys.executable, "-c", script, json.dumps([[*each, *common] for each in commands])],
        cwd=house,
        env=os.environ | {"PYTHONPATH": str(house / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.slow
def test_a_block_that_refuses_a_width_ends_in_one_line(house: Path) -> None:
    """Torch's own ValueError becomes the line; a row in the table has the config say it."""
    of_width, of_budget = ("width=16",), ("match=params", "target=20k")
    done = train(house, of_width, of_budget)
    assert done.stdout.count("exit code 2") == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.match(r"error: width=\d+: block=third cannot turn \d+ channels into \d+ \(", line)
        assert "divisible by groups" in line
    table = house / "src/skiplab/families.py"
    row = '    "conv": BlockRules(inner=2),\n'
    text = table.read_text()
    assert text.count(row) == 1
    table.write_text(text.replace(row, row + '    "third": BlockRules(inner=3),\n'))
    done = train(house, of_width, of_budget)
    (line,) = done.stderr.splitlines()
    assert "works at 1/3 of its width, so take a multiple of 3: 15 or 18" in line
    first, rest = done.stdout.split("\n", 1)
    assert first == "exit code 2"
    width = re.match(r"width=(\d+): ", rest)
    assert width is not None
    assert int(width[1]) % 3 == 0
    assert rest.endswith("exit code 0\n")
