"""Code of a user's own, from the command line to the run folder; docs/own_code.md as it stands."""

import importlib.util
import os
import py_compile
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers import ROOT, Cli, Train, compose
from skiplab import own_code
from skiplab.cli import verify
from skiplab.config import overrides, stored
from skiplab.errors import UsageError
from skiplab.trained import open_trained

GUIDE = (ROOT / "docs/own_code.md").read_text(encoding="utf-8")
TINY = ("depth=1", "width=4", "trainer.limit_steps=2", "pictures=never", "trainer.threads=1")
# A block that leaves a mark when its file is run.
MARKED = """
from pathlib import Path

from skiplab.networks.blocks import ResidualBlock

Path({mark!r}).write_text("was run")


class Marked(ResidualBlock):
    pass
"""


LOUD = """
from pathlib import Path

Path({mark!r}).write_text("was run")


def loud(images, generator):
    return images
"""


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    """Forget what this process was allowed to run, as a new one has."""
    forget()
    yield
    forget()


def forget() -> None:
    own_code.ALLOWED.clear()
    own_code._module.cache_clear()


def files_of_the_guide() -> dict[str, str]:
    """Return the files that the guide shows, by name."""
    pattern = r"`([\w/]+\.(?:py|yaml))`:\n\n```(?:python|yaml)\n(.*?)```"
    return dict(re.findall(pattern, GUIDE, re.DOTALL))


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    """Write the guide's files into the working folder."""
    for name, text in files_of_the_guide().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


# --------------------------------------------------------------------------------------------------
# The guide


SIGN = "optimizer=./opt.py:sign_sgd"


@pytest.mark.slow
@pytest.mark.usefixtures("guide")
def test_a_function_that_makes_an_optimizer_trains(call: Cli) -> None:
    assert call("optimizer=./opt.py:nadam", *TINY)[0] == 0


@pytest.mark.usefixtures("guide")
def test_every_example_of_the_guide_trains(call: Cli) -> None:
    assert set(files_of_the_guide()) == {
        "wide.py", "net.py", "aug.py", "opt.py", "conf/block/wide.yaml"
    }  # fmt: skip
    first = ("model=./net.py:one_stage", "block=./wide.py:WideBlock", "augment=./aug.py:Strong")
    for number, texts in enumerate(
        (
            (*first, "optimizer=./opt.py:Lion", "optimizer.weight_decay=0.1"),
            ("block=wide", "augment=./aug.py:Brightness", "augment.crop=2", SIGN),
        )
    ):
        code, out, err = call(*texts, *TINY, f"out=run{number}")
        assert (code, err) == (0, ""), texts
        assert out.startswith(f"run folder run{number}")
    config = stored.load(Path("run0/config.yaml"))
    names = [code.name for code in config.code]
    assert names == ["wide.WideBlock", "net.one_stage", "aug.Strong", "opt.Lion"]
    assert (config.model.name, config.block.name) == ("net.one_stage", "wide.WideBlock")
    wide = stored.load(Path("run1/config.yaml"))
    assert (wide.block.name, wide.block.bias, wide.augment.crop) == ("wide.WideBlock", False, 2)
    # The weights alone say which code they need, and this user has run it.
    for run, trained in (("run0", config), ("run1", wide)):
        alone = open_trained(Path(run, "best.safetensors")).config
        assert stored.identity(alone) == stored.identity(trained)


@pytest.mark.slow
@pytest.mark.usefixtures("guide")
def test_every_command_of_the_guide_passes_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPLAB_DATA", os.getcwd())
    commands = re.findall(r"^    ((?:train|skiplab) .*?)(?:  +#.*)?$", GUIDE, re.MULTILINE)
    assert len(commands) >= 9
    for command in commands:
        texts = [text for text in shlex.split(command) if "=" in text]
        if texts and not any(text.startswith("resume=") for text in texts):
            overrides.check(texts, multirun=" -m " in command)


def test_the_rule_of_the_guide_is_what_it_says() -> None:
    names: dict[str, object] = {}
    exec(compile(files_of_the_guide()["opt.py"], "opt.py", "exec"), names)
    p = torch.nn.Parameter(torch.tensor([2.0, -2.0, 1.0]))
    p.grad = torch.tensor([0.5, -3.0, 0.0])
    update = names["sign_sgd"]()  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        update([p], [{}], lr=0.1, weight_decay=0.5, grad_scale=None, found_inf=None)
    torch.testing.assert_close(p.detach(), torch.tensor([1.8, -1.8, 0.95]))


@pytest.mark.usefixtures("guide")
def test_a_run_that_stopped_goes_on_bit_for_bit(call: Cli) -> None:
    texts = ("block=./wide.py:WideBlock", "augment=./aug.py:Strong", "optimizer=./opt.py:Lion")
    texts = (*texts, *TINY, "optimizer.weight_decay=0.1")
    assert call(*texts, "trainer.limit_steps=7", "out=straight")[0] == 0
    assert call(*texts, "trainer.limit_steps=3", "out=stopped")[0] == 0
    forget()
    assert call("resume=stopped", "trainer.limit_steps=7")[0] == 0
    straight, stopped = (
        {
            name: digest
            for name, digest in verify.digests(Path(run)).items()
            if "model/" in name or "optimizer/" in name
        }
        for run in ("straight", "stopped")
    )
    assert any(name.endswith("/average") for name in straight)
    assert straight == stopped


@pytest.mark.slow
@pytest.mark.usefixtures("guide")
def test_kills_change_nothing(train: Train) -> None:
    done = train(
        "model=./net.py:one_stage", "block=./wide.py:WideBlock", "augment=./aug.py:Brightness",
        "optimizer=./opt.py:Lion", "depth=1", "width=4", "--kills", "3", "verify",
        command="skiplab",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal to the bit" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("guide")
def test_a_study_groups_by_the_block_and_is_done_before(train: Train) -> None:
    texts = ("-m", "block=residual,./wide.py:WideBlock", "seed=0,1", *TINY[:3], "study=first")
    done = train(*texts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "block=wide.WideBlock" in done.stdout
    names = sorted(path.name for path in Path("outputs/studies/first").iterdir() if path.is_dir())
    assert [name for name in names if name.startswith("block-wide.WideBlock_seed-0_")]
    assert "4 done before" in train(*texts).stdout


@pytest.mark.slow
@pytest.mark.usefixtures("guide")
def test_several_processes_give_the_numbers_of_one(train: Train) -> None:
    """An own augmentation draws for the whole batch on each of them."""
    texts = ("augment=./aug.py:Brightness", *TINY, "norm=none", "model.dropout=0", "device=cpu")
    for number in (1, 2):
        done = train(*texts, f"trainer.devices={number}", f"out=ranks{number}")
        assert done.returncode == 0, done.stderr
    one, two = (
        re.findall(r'"loss": ([\d.]+)', Path(f"ranks{n}/metrics.jsonl").read_text()) for n in (1, 2)
    )
    losses = [list(map(float, each)) for each in (one, two)]
    assert losses[0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# --------------------------------------------------------------------------------------------------
# Whose code is run


def mark_of(folder: Path) -> Path:
    return folder / "MARK"


@pytest.fixture
def foreign(tmp_path: Path, call: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the run folder of somebody else, whose file has gone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "theirs"))
    source = tmp_path / "marked.py"
    source.write_text(MARKED.format(mark=str(mark_of(tmp_path))))
    augment = tmp_path / "loud.py"
    augment.write_text(LOUD.format(mark=str(mark_of(tmp_path))))
    code, _, err = call("block=./marked.py:Marked", "augment=./loud.py:loud", *TINY, "out=foreign")
    assert (code, err) == (0, "")
    assert mark_of(tmp_path).exists(), "what a user names himself is run"
    for path in (mark_of(tmp_path), source, augment):
        path.unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    forget()
    return tmp_path / "foreign"


def test_nothing_runs_the_code_of_a_foreign_folder_unasked(
    foreign: Path, call: Cli, tmp_path: Path
) -> None:
    def attempt(*arguments: str, command: str = "skiplab") -> tuple[int, str]:
        code, _, err = call(*arguments, command=command)
        assert not mark_of(tmp_path).exists(), arguments
        forget()
        return code, err

    assert attempt("list", ".")[0] == 0
    for arguments in (("evaluate", "foreign"), ("draw", "foreign"), ("verify", "foreign")):
        code, err = attempt(*arguments)
        assert code == 2, arguments
        assert "you have not run before" in err
        assert "--trust-code" in err
    assert attempt("resume=foreign", command="train") == (0, "")
    code, err = attempt("resume=foreign", "trainer.limit_steps=3", command="train")
    assert code == 2
    assert "block=marked.Marked, augment=loud.loud" in err
    assert "say trust_code=true" in err
    for answer in ("code=theirs", "code=mine"):
        assert attempt("resume=foreign", answer, command="train")[0] == 2
    code, err = attempt("init_from=foreign", *TINY, command="train")
    assert code == 2
    assert "does not fit" in err
    for arguments in (
        ("predict", "foreign", "a.png"),
        ("export", "foreign", "--to", "safetensors"),
        ("predict", "foreign/best.safetensors", "a.png"),
    ):
        code, err = attempt(*arguments)
        assert code == 2
        assert "you have not run before" in err
    for source in (foreign, foreign / "best.safetensors"):
        with pytest.raises(UsageError, match="you have not run before"):
            open_trained(source)
    assert not mark_of(tmp_path).exists()


@pytest.mark.slow
def test_a_comparison_does_not_run_it(foreign: Path, call: Cli, tmp_path: Path) -> None:
    code, _, err = call("compare", "foreign", command="skiplab")
    assert (code, err) == (0, "")
    assert not mark_of(tmp_path).exists()


def test_who_trusts_it_once_is_not_asked_again(foreign: Path, call: Cli, tmp_path: Path) -> None:
    code, out, err = call("evaluate", "foreign", "--trust-code", command="skiplab")
    assert (code, err) == (0, "")
    assert mark_of(tmp_path).exists()
    forget()
    assert call("evaluate", "foreign", command="skiplab")[1] == out
    assert open_trained(foreign).config.block.name == "marked.Marked"
    # The augmentation was not needed so far.
    assert call("draw", "foreign", command="skiplab")[0] == 2
    texts = ("resume=foreign", "trainer.limit_steps=3", "trust_code=true")
    assert call(*texts)[0] == 0


def test_a_pyc_or_a_changed_copy_is_not_run(foreign: Path, call: Cli, tmp_path: Path) -> None:
    (copy,) = foreign.glob("code/marked-*.py")
    evil = tmp_path / "evil"
    bad = tmp_path / "bad.py"
    bad.write_text(MARKED.format(mark=str(evil)))
    shutil.copystat(copy, bad)
    cached = copy.parent / "__pycache__" / Path(importlib.util.cache_from_source(str(copy))).name
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(bad), str(cached), invalidation_mode=unchecked)
    assert call("evaluate", "foreign", "--trust-code", command="skiplab")[0] == 0
    assert not evil.exists()
    shutil.rmtree(tmp_path / "mine")
    forget()
    copy.write_text(bad.read_text())
    code, _, err = call("evaluate", "foreign", "--trust-code", command="skiplab")
    assert code == 2
    assert f"{Path('foreign/code') / copy.name}: is not what the run was trained with" in err
    copy.unlink()
    assert "is missing" in call("evaluate", "foreign", "--trust-code", command="skiplab")[2]
    assert not evil.exists()


def test_a_config_cannot_have_another_file_run(foreign: Path, call: Cli, tmp_path: Path) -> None:
    """Neither the path nor the digest that a folder states is a reason to run a file."""
    other = tmp_path / "other.py"
    other.write_text(MARKED.format(mark=str(mark_of(tmp_path))))
    digest = own_code.digest(other.read_bytes())
    config = foreign / "config.yaml"
    before = stored.load(config)
    codes = tuple(replace(each, path=str(other), sha256=digest) for each in before.code)
    config.write_text(stored.dump(replace(before, code=codes)))
    for arguments in (("evaluate", "foreign"), ("draw", "foreign"), ("verify", "foreign")):
        assert call(*arguments, command="skiplab")[0] in (2, 3)
    assert call("resume=foreign", "trainer.limit_steps=3")[0] == 2
    assert not mark_of(tmp_path).exists()


# --------------------------------------------------------------------------------------------------
# A file that changes


def test_a_changed_optimizer_is_tried_before_anything_is_written(guide: Path, call: Cli) -> None:
    text = "import torch\n\n\ndef make(params, lr):\n    return torch.optim.SGD(params, lr=lr)\n"
    (guide / "rule.py").write_text(text)
    assert call("optimizer=./rule.py:make", *TINY, "out=one")[0] == 0
    before = {path.name: path.read_bytes() for path in Path("one").iterdir() if path.is_file()}
    (guide / "rule.py").write_text(f"""{text}

class Insists(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["exp_avg"].add_(p.grad)


def make(params, lr):
    return Insists(params, lr=lr)
""")
    forget()
    code, _, err = call("resume=one", "trainer.limit_steps=3", "code=mine")
    assert code == 2
    assert err == (
        "error: code=mine: a step of your changed optimizer fails on the state of one "
        "(KeyError: 'exp_avg'); code=theirs goes on with the run's own copy\n"
    )
    after = {path.name: path.read_bytes() for path in Path("one").iterdir() if path.is_file()}
    assert {**after, ".lock": None} == {**before, ".lock": None}
    # Adam begins afresh where SGD has left nothing.
    (guide / "rule.py").write_text(text.replace("SGD", "Adam"))
    forget()
    code, _, err = call("resume=one", "trainer.limit_steps=3", "code=mine")
    assert (code, err) == (0, "")


def test_a_changed_file_is_asked_for_and_recorded(guide: Path, call: Cli) -> None:
    run = ("block=./wide.py:WideBlock", *TINY)
    assert call(*run, "out=one")[0] == 0
    shutil.copytree("one", "two")
    began = stored.load(Path("one/config.yaml"))
    wide = guide / "wide.py"
    wide.write_text(wide.read_text().replace("5, stride", "3, stride"))
    forget()
    code, _, err = call("resume=one", "trainer.limit_steps=3")
    assert code == 2
    assert err.startswith("error: one: wide.py has changed since the run began; code=theirs goes")
    assert stored.load(Path("one/config.yaml")) == began
    # A 3x3 convolution has other weights.
    code, _, err = call("resume=one", "trainer.limit_steps=3", "code=mine")
    assert code == 2
    assert "code=mine: the weights of one do not fit your changed file" in err
    assert stored.load(Path("one/config.yaml")) == began
    code, out, _ = call("resume=two", "trainer.limit_steps=3", "code=theirs")
    assert code == 0
    assert [change.key for change in stored.load(Path("two/config.yaml")).changed] == [
        "trainer.limit_steps"
    ]
    # Another content of the same shapes goes on, and is in the history.
    wide.write_text(files_of_the_guide()["wide.py"].replace("F.relu(x))", "F.silu(x))"))
    forget()
    code, out, err = call("resume=two", "trainer.limit_steps=4", "code=mine")
    assert (code, err) == (0, "")
    assert "block=wide.WideBlock: your changed file" in out
    config = stored.load(Path("two/config.yaml"))
    assert [change.key for change in config.changed] == [
        "trainer.limit_steps", "trainer.limit_steps", "block.sha256"
    ]  # fmt: skip
    assert config.changed[-1].before == began.code[0].sha256
    assert config.changed[-1].after == config.code[0].sha256
    assert len(list(Path("two/code").glob("wide-*.py"))) == 2
    assert call("evaluate", "two", command="skiplab")[0] == 0
    assert "code=mine: one has no" not in call("resume=one", "code=mine")[2]


def test_the_same_command_goes_on_and_an_edit_begins_another_run(guide: Path, call: Cli) -> None:
    texts = ("block=./wide.py:WideBlock", *TINY)
    assert call(*texts, "out=a")[0] == 0
    identity = stored.identity(stored.load(Path("a/config.yaml")))
    (guide / "elsewhere").mkdir()
    shutil.copy(guide / "wide.py", guide / "elsewhere/wide.py")
    moved = compose("block=elsewhere/wide.py:WideBlock", *TINY, "out=a")
    assert stored.identity(moved) == identity
    with (guide / "wide.py").open("a") as file:
        file.write("# another\n")
    assert stored.identity(compose(*texts, "out=a")) != identity
    code, _, err = call(*texts, "out=a")
    assert code == 4
    assert "holds another run (block.sha256 differ)" in err


@pytest.mark.slow
def test_two_files_of_one_name_are_two_groups(guide: Path, call: Cli) -> None:
    texts = ("block=./wide.py:WideBlock", *TINY, "evaluator.split=val")
    assert call(*texts, "out=runs/a")[0] == 0
    with (guide / "wide.py").open("a") as file:
        file.write("# another\n")
    forget()
    assert call(*texts, "out=runs/b")[0] == 0
    assert call("augment=./aug.py:Strong", *TINY, "evaluator.split=val", "out=runs/c")[0] == 0
    code, out, err = call("compare", "runs", "--metric", "val.accuracy", command="skiplab")
    assert (code, err) == (0, "")
    digests = {
        c.sha256[:8] for name in "ab" for c in stored.load(Path(f"runs/{name}/config.yaml")).code
    }
    assert len(digests) == 2
    for digest in digests:
        assert f"block.sha256={digest}" in out
    assert "augment=aug.Strong" in out
    assert "block=wide.WideBlock" in out


# --------------------------------------------------------------------------------------------------
# Errors


FAULTS = """
import torch

from skiplab.networks.blocks import Block, ConvBlock, conv


class Init(ConvBlock):
    def build(self, in_channels, out_channels, stride, style):
        undefined


class Forward(ConvBlock):
    def forward(self, x):
        return x @ torch.ones(3, 3, 3)


class Shape(ConvBlock):
    def build(self, in_channels, out_channels, stride, style):
        super().build(in_channels, 2 * out_channels, stride, style)


class Odd(ConvBlock):
    def build(self, in_channels, out_channels, stride, style):
        raise ValueError("odd channels")


class Host(ConvBlock):
    def build(self, in_channels, out_channels, stride, style):
        self.rates = torch.linspace(0, 1, 3).tolist()
        super().build(in_channels, out_channels, stride, style)


Five = 5


def short(plan):
    return {"a": torch.nn.Flatten(), "b": torch.nn.Linear(64, 7)}


def half(images, generator):
    return images[:, ::2]


def boom(images, generator):
    return images[generator]
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("block=./f.py:Init", "f.py:9: NameError: name 'undefined' is not defined"),
        pytest.param("block=./f.py:Forward", "f.py:14: RuntimeError: ", marks=pytest.mark.slow),
        ("block=./f.py:Shape", "block=f.Shape: f.py: its layers do not fit (RuntimeError"),
        ("block=./f.py:Odd", "block=f.Odd cannot turn 4 channels into 4 (odd channels, f.py:24)"),
        pytest.param(
            "block=./f.py:Five",
            "block=f.Five: f.py: is no subclass of skiplab.networks.blocks",
            marks=pytest.mark.slow,
        ),
        ("model=./f.py:short", "the network gives (2, 7) for 2 images; (2, 10) is expected"),
        pytest.param(
            "augment=./f.py:half",
            "augment: gives uint8 (2, 4, 8, 1) on cpu for uint8 (2, 8, 8,",
            marks=pytest.mark.slow,
        ),
        ("augment=./f.py:boom", "f.py:45: IndexError"),
        ("block=./gone.py:X", "block=./gone.py:X: cannot be read (No such file"),
        pytest.param(
            "block=./raises.py:X", "raises.py:1: RuntimeError: two lines", marks=pytest.mark.slow
        ),
        ("block=./exits.py:X", "exits.py:1: SystemExit: 7"),
        pytest.param(
            "block=./imports.py:X",
            "imports.py:1: ModuleNotFoundError: No module named 'nowhere'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_fault_gets_one_line_and_leaves_no_folder(text: str, line: str, call: Cli) -> None:
    Path("f.py").write_text(FAULTS)
    Path("raises.py").write_text("raise RuntimeError('two\\nlines')\nX = 1\n")
    Path("exits.py").write_text("raise SystemExit(7)\nX = 1\n")
    Path("imports.py").write_text("import nowhere\nX = 1\n")
    code, _, err = call(text, *TINY, "out=run")
    assert code == 2
    assert line in err
    assert len(err.splitlines()) == 1
    assert "traceback is in" not in err
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_network_that_needs_memory_to_be_made_is_made(call: Cli) -> None:
    Path("f.py").write_text(FAULTS)
    assert call("block=./f.py:Host", *TINY)[0] == 0


def test_the_traceback_is_shown_on_demand(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("f.py").write_text(FAULTS)
    monkeypatch.setenv("SKIPLAB_TRACEBACK", "1")
    _, _, err = call("block=./f.py:Init", *TINY)
    assert "Traceback" in err
    assert 'f.py", line 9, in build' in err


@pytest.mark.slow
def test_a_run_goes_on_with_its_copy_where_the_file_has_gone(guide: Path, call: Cli) -> None:
    for name in ("one", "two"):
        assert call("block=./wide.py:WideBlock", *TINY, f"out={name}")[0] == 0
    assert call("resume=one", "trainer.limit_steps=3")[0] == 0
    (guide / "wide.py").unlink()
    forget()
    assert call("resume=two", "trainer.limit_steps=3")[0] == 0
    assert verify.differences(verify.digests(Path("one")), verify.digests(Path("two"))) == []
    assert call("verify", "two", "--kills", "0", "--steps", "2", command="skiplab")[0] == 0
    assert "code=mine: " in call("resume=two", "trainer.limit_steps=4", "code=mine")[2]
