"""The recipes of CONTRIBUTING.md, followed in a copy of the source; the documents as text."""

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import plain
from helpers import ROOT
from skiplab.networks import blocks
from skiplab.training import optimizers

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Make a copy of src/ and conf/."""
    # With the bytecode, which spares each process two seconds of compiling.
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, tmp_path / "house" / name)
    return tmp_path / "house"


def code_below(heading: str) -> str:
    found = re.search(rf"## {heading}\n.*?```python\n(.*?)```", GUIDE, re.DOTALL)
    assert found is not None
    return found[1]


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


def start(house: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(house / "src"), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-c",
        "from skiplab.cli.main import train; train()",
        *arguments,
        "trainer=debug",
        "out=run",
    ]
    return subprocess.run(
        command, cwd=house, env=environment, capture_output=True, text=True, check=False
    )


def add_a_block(house: Path) -> None:
    code = code_below("Add a block")
    assert len(code.split("\n\n", 1)[1].splitlines()) <= 20
    package = house / "src/skiplab"
    with (package / "networks/blocks.py").open("a", encoding="utf-8") as file:
        file.write(f"\n\n{code}")
    replace(
        package / "networks/models.py",
        "        blocks.ResidualBlock,\n",
        "        blocks.ResidualBlock,\n        blocks.WideBlock,\n",
    )
    text = (house / "conf/block/residual.yaml").read_text()
    (house / "conf/block/wide.yaml").write_text(text.replace("name: residual", "name: wide"))


def add_a_network(house: Path) -> None:
    models = house / "src/skiplab/networks/models.py"
    replace(models, "MODELS: dict", f"{code_below('Add a network')}\n\nMODELS: dict")
    row = '    "deepcnn": deepcnn,\n'
    replace(models, row, f'{row}    "one_stage": one_stage,\n')
    text = (house / "conf/model/deepcnn.yaml").read_text()
    text = text.replace("name: deepcnn", "name: one_stage")
    (house / "conf/model/one_stage.yaml").write_text(text)


def add_a_schedule(house: Path) -> None:
    schedules = house / "src/skiplab/training/schedules.py"
    code = code_below("Add a schedule")
    replace(schedules, "SCHEDULES: dict", f"{code}\n\nSCHEDULES: dict")
    row = '    "cosine": cosine,\n'
    replace(schedules, row, f'{row}    "exponential": exponential,\n')
    text = (house / "conf/scheduler/cosine.yaml").read_text()
    text = text.replace("name: cosine", "name: exponential").replace("final: 0.0", "final: 1.0e-3")
    (house / "conf/scheduler/exponential.yaml").write_text(text)


def add_an_optimizer(house: Path) -> None:
    module = house / "src/skiplab/training/optimizers.py"
    code = code_below("Add an optimizer")
    replace(module, "class Treatment(", f"{code}\n\nclass Treatment(")
    row = '    "muon": Row(muon_for_filters),\n'
    replace(module, row, f'{row}    "adamax": Row(same_rule(adamax_rule)),\n')
    text = (house / "conf/optimizer/adam.yaml").read_text()
    (house / "conf/optimizer/adamax.yaml").write_text(text.replace("name: adam", "name: adamax"))


def add_a_data_set(house: Path) -> None:
    code = code_below("Add a data set")
    assert len(code.splitlines()) <= 10
    package = house / "src/skiplab"
    (package / "data/idx.py").write_text((package / "data/idx.py").read_text() + f"\n\n{code}")
    replace(
        package / "data/catalog.py",
        '    "digits": Dataset(digits.read_digits),\n',
        '    "digits": Dataset(digits.read_digits),\n    "kannada": Dataset(idx.read_kannada),\n',
    )
    text = (house / "conf/dataset/mnist.yaml").read_text()
    (house / "conf/dataset/kannada.yaml").write_text(text.replace("name: mnist", "name: kannada"))
    folder = house / "data/Kannada"
    folder.mkdir(parents=True)
    for split, count in (("train", 60_000), ("test", 10_000)):
        header = bytes((0, 0, 8, 3)) + np.array([count, 28, 28], ">u4").tobytes()
        (folder / f"X_kannada_MNIST_{split}-idx3-ubyte.gz").write_bytes(
            gzip.compress(header + bytes(count * 28 * 28), 1)
        )
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        header = bytes((0, 0, 8, 1)) + np.array([count], ">u4").tobytes()
        path = folder / f"y_kannada_MNIST_{split}-idx1-ubyte.gz"
        path.write_bytes(gzip.compress(header + labels, 1))


def add_a_verb(house: Path) -> None:
    package = house / "src/skiplab"
    (package / "cli/log.py").write_text(code_below("Add a verb"), encoding="utf-8")
    row = """    "info": Verb("versions, devices, threads, data root", answers=True),\n"""
    new = """    "log": Verb("the end of a run's log"),\n"""
    replace(package / "cli/skiplab.py", row, row + new)
    replace(package / "config/lexicon.py", '"list", ', '"list", "log", ')


def test_the_recipes_work_when_they_are_followed(house: Path) -> None:
    """All of them in one copy, then one run that uses all, since a start takes seconds."""
    add_a_block(house)
    add_a_network(house)
    add_a_schedule(house)
    add_an_optimizer(house)
    add_a_data_set(house)
    add_a_verb(house)
    options = ["block=wide", "model=one_stage", "scheduler=exponential", "optimizer=adamax"]
    data = ["dataset=kannada", f"dataset.root={house / 'data'}"]
    done = start(house, *options, *data, "depth=1", "width=4")
    assert done.returncode == 0, done.stderr
    assert "kannada: 54,000 training" in done.stdout
    assert "one_stage of wide blocks" in done.stdout
    stored = (house / "run/config.yaml").read_text()
    assert "name: exponential" in stored
    assert "name: adamax" in stored
    command = "from skiplab.cli.main import skiplab; skiplab()"
    done = subprocess.run(
        [sys.executable, "-c", command, "log", "run", "--lines", "2"],
        cwd=house,
        env=os.environ | {"PYTHONPATH": str(house / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    written = (house / "run/run.log").read_text(encoding="utf-8").splitlines()
    assert done.stdout.splitlines() == written[-2:]


def test_the_block_of_the_recipe_has_a_plain_twin() -> None:
    names = dict(vars(blocks))
    exec(compile(code_below("Add a block"), "CONTRIBUTING.md", "exec"), names)
    plain.assert_has_a_plain_twin(names["WideBlock"], has_shortcut=True)


def test_a_block_that_ignores_shortcut_is_found() -> None:
    names = dict(vars(blocks))
    code = code_below("Add a block")
    shortcut = "make_shortcut(in_channels, out_channels, stride, style)"
    assert shortcut in code
    always = "conv(in_channels, out_channels, 1, stride=stride, bias=False)"
    exec(compile(code.replace(shortcut, always), "CONTRIBUTING.md", "exec"), names)
    with pytest.raises(AssertionError, match="ignores shortcut=false"):
        plain.assert_has_a_plain_twin(names["WideBlock"], has_shortcut=True)


def test_the_optimizer_of_the_recipe_is_torchs() -> None:
    names = dict(vars(optimizers))
    exec(compile(code_below("Add an optimizer"), "CONTRIBUTING.md", "exec"), names)
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(7, 5)) for _ in range(2))
    rule = names["adamax_rule"](betas=(0.9, 0.99), eps=1e-8, fused=False)
    oracle = torch.optim.Adamax([theirs], lr=0.1, betas=(0.9, 0.99), weight_decay=0.01)
    state: dict[str, torch.Tensor] = {}
    for _ in range(5):
        theirs.grad = torch.randn(7, 5, generator=generator)
        ours.grad = theirs.grad.clone()
        with torch.no_grad():
            rule([ours], [state], lr=0.1, weight_decay=0.01, grad_scale=None, found_inf=None)
        oracle.step()
        torch.testing.assert_close(ours, theirs)


def test_an_option_without_code_gets_one_line(house: Path) -> None:
    text = (house / "conf/block/residual.yaml").read_text()
    (house / "conf/block/wide.yaml").write_text(text.replace("name: residual", "name: residul"))
    done = start(house, "block=wide")
    assert done.returncode == 2
    assert done.stderr.startswith("error: block.name=residul: did you mean residual?")


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda path: path.name,
)
def test_emphasis_is_closed_in_every_paragraph(path: Path) -> None:
    text = re.sub(
        r"^```.*?^```|`[^`\n]*`",
        "",
        path.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*[*-] )", text):
        assert paragraph.count("**") % 2 == 0, paragraph
