"""FILE.py:NAME as a value, what a file must look like, and options of a user's own in conf/."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import Cli, compose
from skiplab import own_code, paths
from skiplab.config import code, overrides, stored, validate
from skiplab.config.grid import for_hydra, for_people
from skiplab.errors import UsageError
from skiplab.runs import folders
from skiplab.study import plan

BLOCK = """
from skiplab.networks.blocks import Block


class {name}(Block):
    preactivation = True

    def build(self, in_channels, out_channels, stride, style):
        pass

    def forward(self, x):
        return x
"""


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    own_code.ALLOWED.clear()
    paths.choose_own(None)
    yield
    own_code.ALLOWED.clear()
    paths.choose_own(None)


def write(path: str, text: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return Path(path)


def problem(*texts: str, multirun: bool = False) -> str:
    with pytest.raises(UsageError) as error:
        overrides.check([for_hydra(text) for text in texts], multirun=multirun)
    return str(error.value)


# --------------------------------------------------------------------------------------------------
# FILE.py:NAME


@pytest.mark.parametrize(
    ("path", "name", "short"),
    [
        ("wide.py", "Wide", "wide.Wide"),
        ("./a b/my-wide.py", "Wide", "my-wide.Wide"),
        ("größe.py", "Größe", "größe.Größe"),
        pytest.param("a=b/(1).py", "Wide", "_1_.Wide", marks=pytest.mark.slow),
        pytest.param("~/wide.py", "Wide", "wide.Wide", marks=pytest.mark.slow),
        ("a'b/two words.py", "Wide", "two_words.Wide"),
        ("ad.py", "am", "ad.am"),
    ],
)
def test_a_file_of_any_name_is_found_from_a_command_line(
    path: str, name: str, short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    write(path.replace("~", "."), BLOCK.format(name=name))
    text = f"block={path}:{name}"
    quoted = for_hydra(text)
    overrides.check([quoted], multirun=False)
    config = compose(quoted)
    assert config.block.name == short
    (piece,) = config.code
    assert (piece.group, piece.name) == ("block", short)
    assert Path(piece.path).samefile(path.replace("~", "."))
    # A quote needs a sign before it in Hydra's grammar.
    assert "'" in path or for_people([quoted]) == for_people([text])
    # A stored config is read again, and has the same identity.
    Path("config.yaml").write_text(stored.dump(config))
    assert stored.load(Path("config.yaml")) == config
    assert folders.slug(short)


def test_values_of_own_code_are_those_of_its_base() -> None:
    write("f.py", BLOCK.format(name="Wide") + "\ndef make(params, lr):\n    pass\n")
    own, base = compose("model=resnet20", "block=./f.py:Wide"), compose("model=resnet20")
    basic = compose("model=resnet20", "block=residual")
    assert (own.block.bias, own.block.projection) == (basic.block.bias, basic.block.projection)
    assert own.depth == base.depth
    optimizer = compose("optimizer=./f.py:make", "optimizer.lr=0.5").optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (0.5, 0.0)
    assert "optimizer.betas" in problem("optimizer=./f.py:make", "optimizer.betas=[0.9,0.9]")


def test_an_identity_is_of_the_content_and_a_config_without_own_code_is_as_before() -> None:
    assert "code" not in stored.tree(compose())
    assert not set(code.DIGESTS) & set(stored.identity_values(compose()))
    write("f.py", BLOCK.format(name="Wide"))
    one = compose("block=./f.py:Wide")
    write("g/f.py", BLOCK.format(name="Wide"))
    assert stored.identity(compose("block=g/f.py:Wide")) == stored.identity(one)
    write("g/f.py", BLOCK.format(name="Wide") + "# more\n")
    assert stored.identity(compose("block=g/f.py:Wide")) != stored.identity(one)


def test_a_sweep_takes_own_code_beside_options_and_names_its_folders() -> None:
    write("f.py", BLOCK.format(name="Wide"))
    jobs = [["block=residual", "seed=0"], ["block=./f.py:Wide", "seed=0"]]
    cells = plan.cells_of(jobs, folder=Path("study"), fixed=[])
    assert [cell.label for cell in cells][1] == "block=./f.py:Wide seed=0"
    assert cells[1].folder.name.startswith("block-f.Wide_seed-0_")
    overrides.check(["block=residual,./f.py:Wide"], multirun=True)
    assert "no Wid; did you mean Wide?" in problem("block=residual,./f.py:Wid", multirun=True)


def test_a_stored_config_must_say_which_code_it_means() -> None:
    write("f.py", BLOCK.format(name="Wide"))
    tree = stored.tree(compose("block=./f.py:Wide"))
    for change, line in (
        ({"code": []}, "block.name=f.Wide: the config does not say which code that is"),
        ({"block": tree["block"] | {"name": "residual"}}, "code: block is f.Wide"),
        ({"code": tree["code"] * 2}, "code: a group is given twice"),
        ({"code": [tree["code"][0] | {"sha256": "12"}]}, "code: Skiplab writes this key itself"),
        ({"code": [tree["code"][0] | {"name": "../f.Wide"}]}, "code: Skiplab writes this key"),
        ({"code": "f.py"}, "code: Skiplab writes this key itself"),
    ):
        with pytest.raises(UsageError, match=line):
            validate.check(tree | change, is_stored=True)


# --------------------------------------------------------------------------------------------------
# What a file must look like

HEAD = "from skiplab.networks.blocks import Block, ConvBlock\n"


@pytest.mark.parametrize(
    ("group", "source", "line"),
    [
        ("block", "class X: pass", "2: X is no subclass of Block"),
        ("block", "def X(a, b, c, d): pass", "2: X is a function"),
        ("block", "class X(Block):\n    def forward(self, x): pass", "2: X has no method build"),
        ("block", "class X(ConvBlock):\n    def forward(self): pass", "3: X.forward does not take"),
        ("block", "class X(ConvBlock):\n    def __init__(self): pass", "3: X has an __init__"),
        ("block", "class X(ConvBlock):\n    def build(self, a, b): pass", "3: X.build does not"),
        ("model", "class X: pass", "2: X is a class"),
        ("model", "def X(plan, depth): pass", "2: X(plan, depth) does not take one plan"),
        ("model", "async def X(plan): pass", "2: X is asynchronous"),
        ("augment", "def X(images): pass", "2: X(images) does not take (images, generator)"),
        ("augment", "class X: pass", "2: X has no method __call__"),
        ("augment", "class X:\n    def __call__(self, x): pass", "3: X.__call__ does not take"),
        ("optimizer", "class X: pass", "2: X is no torch.optim.Optimizer"),
        ("optimizer", "def X(params): pass", "2: X(params) takes no lr"),
        ("optimizer", "def X(params, lr, rho): pass", "2: X(params, lr, rho) needs rho"),
        ("optimizer", "def X(a): pass", "2: X(a) needs a: give defaults"),
        ("block", "class Y: pass", "the file has no X; choices: Y"),
        ("block", "def X(:", "2: invalid syntax"),
        ("block", "X = 'a\0b'", "null bytes"),
    ],
)
def test_a_signature_that_does_not_fit_gets_one_line(group: str, source: str, line: str) -> None:
    write("f.py", f"{HEAD}{source}\n")
    said = problem(f"{group}=./f.py:X")
    assert line in said
    assert len(said.splitlines()) == 1
    assert not own_code.ALLOWED


@pytest.mark.parametrize(
    ("group", "source"),
    [
        ("block", "class X(ConvBlock): pass"),
        ("block", "X = ConvBlock"),
        ("block", "if True:\n    class X(ConvBlock): pass"),
        ("block", "try:\n    import nothing\nexcept ImportError:\n    X = ConvBlock"),
        ("model", "def X(plan, *, more=1): pass"),
        ("model", "def X(*args): pass"),
        ("augment", "def X(images, generator, strength=3): pass"),
        ("augment", "class X:\n    def __call__(self, *args): pass"),
        ("optimizer", "from torch.optim import Adagrad as X"),
        ("optimizer", "def X(params, *, lr, weight_decay): pass"),
        ("optimizer", "def X(params, **values): pass"),
        ("optimizer", "def X(*, fused): pass"),
        ("optimizer", "def X(): pass"),
    ],
)
def test_a_signature_that_fits_passes(group: str, source: str) -> None:
    write("f.py", f"{HEAD}{source}\n")
    code.read(group, "./f.py:X")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("block=./f.py", "a name is missing; write block=./f.py:NAME, the file has Wide"),
        ("block=./f.py:", "a name is missing"),
        ("block=./gone.py:Wide", "block=./gone.py:Wide: cannot be read (No such file"),
        ("block=./d.py:Wide", "cannot be read (a folder, not a file)"),
        ("dataset=./f.py:Wide", "code of your own can be a block, model, augment, optimizer"),
        ("block.name=./f.py:Wide", "an option is chosen whole; write block=./f.py:Wide"),
        ("trust_code=true", "train resume=RUN trust_code=true"),
        ("code=mine", "train resume=RUN code=theirs|mine"),
    ],
)
def test_a_misspelt_name_gets_one_line(text: str, line: str) -> None:
    write("f.py", BLOCK.format(name="Wide"))
    Path("d.py").mkdir()
    assert line in problem(text)


# --------------------------------------------------------------------------------------------------
# Options in conf/


def test_options_of_ones_own_are_listed_and_build_on_others(call: Cli) -> None:
    write("f.py", BLOCK.format(name="Wide"))
    write("conf/block/wide.yaml", "# My block.   train block=wide\nname: ./f.py:Wide\n"
          "bias: false\nprojection: conv\n")  # fmt: skip
    write("conf/optimizer/slow.yaml", "defaults: [sgd]\nlr: 0.001\n")
    write("conf/experiment/mine.yaml", "# @package _global_\ndefaults:\n"
          "  - override /block: wide\n  - override /optimizer: slow\nepochs: 2\n")  # fmt: skip
    config = compose("experiment=mine")
    assert (config.block.name, config.block.bias) == ("f.Wide", False)
    assert (config.optimizer.name, config.optimizer.lr, config.epochs) == ("sgd", 0.001, 2)
    out = call("--help")[1]
    assert "skip, yours: wide" in out
    assert "yours: slow" in out
    assert "yours, conf/block/wide.yaml: My block." in call("--help", "block")[1]
    assert "yours, conf/optimizer/slow.yaml" in call("--help", "optimizer")[1]
    assert "did you mean wide?" in problem("block=wid")
    assert "did you mean bottleneck?" in problem("block=bottlenek")
    assert "name: ./f.py:Wide" in call("block=wide", "--cfg", "job")[1]


def test_another_folder_is_named_by_config_dir(call: Cli) -> None:
    write("mine/block/padded.yaml", "defaults: [residual]\nprojection: pad\n")
    write("mine/sweep/two.yaml", "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n"
          "    params:\n      block: padded,conv\n")  # fmt: skip
    code_, out, err = call("--config-dir", "mine", "block=padded", "--cfg", "job")
    assert (code_, err) == (0, "")
    assert "projection: pad" in out
    code_, out, err = call("--config-dir=mine", "sweep=two", "--cfg", "job")
    assert (code_, err) == (0, "")
    assert "block=padded" in out
    assert out.splitlines()[-1].endswith("--config-dir mine")
    assert "no such block" in call("block=padded", "--cfg", "job")[2]
    assert "--config-dir none: no such folder" in call("--config-dir", "none")[2]


def test_a_name_of_skiplabs_is_refused_if_it_says_something_else() -> None:
    write("conf/block/residual.yaml", "name: residual\nbias: false\nprojection: conv\n")
    shutil.copy(paths.conf_folder() / "block/conv.yaml", "conf/block")
    write("conf/block/.hidden.yaml", "name: residual\n")
    write("conf/foreign/x.yaml", "a: 1\n")
    write("conf/config.yaml", "epochs: 99\n")
    said = problem("block=residual")
    assert "conf/block/residual.yaml has the name of an option of Skiplab's" in said
    overrides.check(["block=conv"], multirun=False)
    assert paths.own_options() == {}
    assert compose().epochs != 99


def test_skiplabs_own_checkout_does_not_double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(paths.conf_folder().parent)
    assert paths.own_folder() is None
    assert paths.groups() == paths.built_in_groups()


def test_a_broken_option_of_ones_own_gets_one_line() -> None:
    write("conf/block/bad.yaml", "name: [\n")
    assert "conf/block/bad.yaml" in problem("block=bad")
    write("conf/block/odd.yaml", "defaults: [residual]\nsize: 3\n")
    assert "block.size: no such key" in problem("block=odd")
    write("conf/block/none.yaml", "name: mine\nbias: true\nprojection: conv\n")
    assert problem("block=none").startswith("block.name=mine: choices: ")
