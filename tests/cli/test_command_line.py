"""The two commands before any training: help, flags, completion, bad ends, paths as typed.

None of it loads torch.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from helpers import Cli, compose
from skiplab import __version__, paths
from skiplab.cli import skiplab
from skiplab.config import grid, overrides, plugins, stored, typed
from skiplab.config.schema import Config
from skiplab.errors import UsageError
from skiplab.paths import groups
from skiplab.runs import container
from skiplab.study import search

# Runs a command as its entry point does and writes down which modules it has loaded.
PROBE = """
import sys
from skiplab.cli.skiplab import skiplab_command
from skiplab.cli.train import train_command
from skiplab.exits import guard
command, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = command
try:
    commands = {"train": train_command, "skiplab": skiplab_command}
    code = guard(lambda: commands[command](sys.argv[1:]))
except SystemExit as error:
    code = error.code
with open("modules.txt", "w") as file:
    print(*sys.modules, file=file)
sys.exit(code)
"""


def probe(
    *arguments: str, command: str = "train", **environment: str
) -> tuple[int, str, str, set[str]]:
    """Run a command in its own process: exit code, stdout, stderr, top-level modules at the end."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, command, *arguments],
        env=os.environ | {"PYTHONWARNINGS": "error"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    modules = Path("modules.txt").read_text().split()
    return done.returncode, done.stdout, done.stderr, {module.split(".")[0] for module in modules}


def assert_refused(result: tuple[int, str, str], *fragments: str) -> None:
    """Expect exit code 2 and one line on stderr with every fragment; no traceback, nothing made."""
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    for fragment in fragments:
        assert fragment in err
    assert not re.search("usage|Traceback|append|HYDRA_FULL_ERROR", err)
    assert not Path("outputs").exists()


# --------------------------------------------------------------------------------------------------
# help, version


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_load_neither_hydra_nor_torch(flag: str) -> None:
    code, out, err, modules = probe(flag)
    assert (code, err) == (0, "")
    assert not modules & {
        "hydra",
        "omegaconf",
        "torch",
        "torchvision",
        "numpy",
        "yaml",
        "sklearn",
        "matplotlib",
    }
    assert __version__ in out.splitlines()[0]
    if flag == "--version":
        assert out == f"skiplab {__version__}\n"


def test_the_installed_commands_answer(tmp_path: Path) -> None:
    for command in ("train", "skiplab"):
        path = Path(sys.executable).parent / command
        done = subprocess.run(
            [path, "--version"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert (done.stdout, done.stderr) == (f"skiplab {__version__}\n", "")


# --------------------------------------------------------------------------------------------------
# config, completion


def test_cfg_job_prints_the_config_and_loads_no_torch() -> None:
    # Flags may stand anywhere.
    code, out, err, modules = probe("depth=3", "--cfg", "job", "model=resnet")
    assert (code, err) == (0, "")
    assert {"hydra", "omegaconf"} <= modules
    assert not modules & {"torch", "torchvision", "numpy", "sklearn", "matplotlib", "tqdm"}
    for line in ("depth: 3", "  name: resnet", "  amp: 'off'", "seed: 0"):
        assert line in out.splitlines()
    assert "hydra" not in out
    assert not Path("outputs").exists()


def test_cfg_job_checks_first_and_shows_a_part(call: Cli) -> None:
    code, out, _ = call("optimizer=adam", "--cfg", "job", "-p", "optimizer")
    assert code == 0
    assert "# @package optimizer" in out
    assert "momentum" not in out
    assert_refused(call("--cfg", "job", "depth=x"), "depth=x: a whole number")


def test_completion_prints_a_script_and_answers_queries() -> None:
    code, out, err, modules = probe("-sc", "install=bash")
    assert (code, err) == (0, "")
    assert "complete " in out
    assert out.rstrip().endswith(" train")
    assert "torch" not in modules
    line = "train model=res"
    code, out, err, modules = probe("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert (code, err) == (0, "")
    assert out.split() == [
        f"model={option}" for option in groups()["model"] if option.startswith("res")
    ]
    assert "torch" not in modules


def test_completion_knows_keys_too(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "train optimizer.l")
    assert call("-sc", "query=bash") == (0, "optimizer.lr=\n", "")
    assert call("-sc", "install=fish")[0] == 0


# --------------------------------------------------------------------------------------------------
# plugins of Hydra's

LAUNCHER = """
import torch
from hydra.core.config_store import ConfigStore
from hydra._internal.core_plugins.basic_launcher import BasicLauncher

class Loud(BasicLauncher):
    def launch(self, job_overrides, initial_job_idx):
        raise AssertionError("nothing is launched here")

node = {"_target_": "hydra_plugins.loud.Loud"}
ConfigStore.instance().store(group="hydra/launcher", name="loud", node=node)
"""
# Published launchers raise this on some Python versions.
BROKEN = "raise ValueError('mutable default for field enqueue is not allowed')"


@pytest.fixture
def plugged(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Install a plugin of this text: the environment of a process that has it."""

    def install(text: str) -> dict[str, str]:
        (tmp_path / "extra/hydra_plugins").mkdir(parents=True)
        (tmp_path / "extra/hydra_plugins/loud.py").write_text(text)
        return {
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(tmp_path / "extra"), os.environ.get("PYTHONPATH")))
            )
        }

    return install


@pytest.mark.parametrize(
    "plugin", [pytest.param(LAUNCHER, marks=pytest.mark.slow), BROKEN], ids=["slow", "broken"]
)
@pytest.mark.parametrize(
    ("arguments", "line", "expected"),
    [
        (("depth=x",), "", 2),
        (("--cfg", "job", "dataset=mnist", "dataset.root=/data/hydra/launcher"), "", 0),
        (("-sc", "query=bash"), "/opt/hydra/bin/train model=res", 0),
        (("-sc", "install=bash"), "", 0),
    ],
    ids=["a mistake", "cfg", "a tab", "installing completion"],
)
def test_plugins_are_left_alone(
    plugged: Callable[[str], dict[str, str]],
    plugin: str,
    arguments: tuple[str, ...],
    line: str,
    expected: int,
) -> None:
    code, _, err, modules = probe(
        *arguments, COMP_LINE=line, COMP_POINT=str(len(line)), **plugged(plugin)
    )
    assert code == expected, err
    assert "Traceback" not in err
    assert "torch" not in modules


@pytest.mark.slow
def test_a_plugin_is_loaded_for_who_names_it(
    plugged: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    environment = plugged(LAUNCHER)
    code, out, err, modules = probe("hydra/launcher=loud", "--cfg", "hydra", **environment)
    assert (code, err) == (0, "")
    assert "_target_: hydra_plugins.loud.Loud" in out
    assert "torch" in modules
    line = "train -m hydra/launcher=l"
    code, out, err, _ = probe(
        "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)), **environment
    )
    assert (code, out.split(), err) == (0, ["hydra/launcher=loud"], "")
    (tmp_path / "extra/hydra_plugins/loud.py").write_text(BROKEN)
    assert_refused(
        probe("hydra/launcher=basic", **environment)[:3],
        "loud.py",
        "cannot be imported",
        "mutable default for field enqueue",
    )


def test_a_preset_may_name_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "conf_folder", lambda: tmp_path)
    (tmp_path / "config.yaml").write_text(
        "defaults:\n  - override hydra/job_logging: disabled\n"
        "  # - override hydra/launcher: joblib\n"
    )
    assert not plugins.needed(["seed=1", "name=hydra"])
    assert plugins.needed(["+hydra/callbacks=x"])
    for text in (
        "  - override /hydra/launcher: submitit_local\n",
        "hydra:\n  sweeper:\n    _target_: hydra_plugins.a.Sweeper\n",
    ):
        (tmp_path / "preset.yaml").write_text(text)
        assert plugins.needed([])


# --------------------------------------------------------------------------------------------------
# flags, one line


@pytest.mark.parametrize(
    ("arguments", "spelling"),
    [
        (("--resume", "outputs/a"), "train resume=outputs/a"),
        (("--resume=outputs/a",), "train resume=outputs/a"),
        (("--resume", "out puts/a'b"), "train resume=" + shlex.quote("out puts/a'b")),
        (("depth=3", "--resume"), "train resume=RUN"),
        (("--resume=",), "train resume=RUN"),
    ],
)
def test_a_dashed_resume_is_answered_with_the_right_spelling(
    arguments: tuple[str, ...], spelling: str, call: Cli
) -> None:
    result = call(*arguments)
    assert_refused(result, "--resume")
    assert result[2].rstrip().endswith(f"write {spelling}")


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--foo",), ("--foo", "KEY=VALUE")),
        (("--lr=0.1",), ("--lr=0.1", "KEY=VALUE")),
        (("-x",), ("-x", "KEY=VALUE")),
        (("--hel",), ("--hel", "train --help")),
        (("--vers",), ("--vers",)),
        (
            ("--experimental-rerun", "job.pickle"),
            ("--experimental-rerun", "pickle", "train resume=RUN"),
        ),
        (("--experimental-rerun=job.pickle",), ("--experimental-rerun", "pickle")),
        (("--config-name", "x"), ("--config-name", "conf/")),
        (("--config-name=x",), ("--config-name", "conf/")),
        (("--config-dir", "x", "depth=3"), ("--config-dir x", "no such folder")),
        (("-cp", "x"), ("--config-path", "conf/")),
        (("--cfg", "jobs"), ("--cfg", "jobs", "job")),
        (("--cfg", "hydra", "-m", "depth=2,4"), ("--cfg", "-m", "one of them")),
        (("--run", "--multirun"), ("--run", "-m", "one of them")),
        (("--package", "optimizer"), ("--package", "--cfg job --package optimizer")),
        (("-sc",), ("-sc", "install=bash")),
        (("-sc", "install=ksh"), ("-sc", "install=bash", "install=zsh")),
        (("-sc", "setup=bash"), ("-sc", "install=bash")),
        (("depth=x",), ("depth=x: a whole number",)),
        (("-m", "depth=2,x"), ("depth=x: a whole number",)),
        (("depth=2,4",), ("depth=2,4", "add -m")),
        (("depth",), ("depth: a value is missing",)),
        (("resnet20", "-m", "depth=20,26"), ("resnet20", "write model=resnet20")),
        (("resume=nowhere",), ("nowhere: no such run folder or checkpoint", "skiplab list")),
        (("resume=nevr",), ("resume=nevr", "did you mean never?")),
        (("--epochs", "3"), ("--epochs: options have no dashes here; write train epochs=3",)),
        (("--model=resnet20", "depth=2"), ("write train model=resnet20",)),
        (("--optimizer.lr", "depth=2"), ("write train optimizer.lr=VALUE",)),
        (("epochs", "3"), ("epochs 3: write epochs=3",)),
        (("seed=1", "model", "resnet"), ("model resnet: write model=resnet",)),
        (("resume=",), ("resume=: auto, never, or the path",)),
        (("-m", "resume=outputs/a", "depth=2,4"), ("resume=outputs/a", "leave out -m")),
        (("--cfg", "job", "resume=outputs/a"), ("--cfg", "resume=outputs/a", "config.yaml")),
        (("resume=outputs/a", "init_from=b"), ("outputs/a: no such run",)),
        (("seed=1", "seed=2"), ("seed=1 seed=2: seed is given 2 times; leave one",)),
        (("seed=1", "+seed=1"), ("seed is given 2 times",)),
        (("resume=a", "depth=2", "resume=b"), ("resume=a resume=b: resume is given 2 times",)),
        (("-m", "block=conv,skip", "++block=basic"), ("block is given 2 times",)),
        (("seed", "=", "3"), ("seed = 3: write seed=3",)),
        (("seed", "=3", "depth=2"), ("seed =3: write seed=3",)),
        (("seed=", "3"), ("seed= 3: write seed=3",)),
        (("seed:", "3"), ("seed: 3: write seed=3",)),
        (("seed: 3",), ("seed: 3: write seed=3",)),
        (("seed:3",), ("seed:3: write seed=3",)),
        (("seed =3",), ("seed =3: write seed=3",)),
        ((" seed=3",), ("write seed=3",)),
        (("num_blocks", "=", "3"), ("num_blocks = 3: no such key; did you mean depth?",)),
        (("",), ("an empty argument",)),
        (("seed=1", " "), ("an empty argument",)),
        (("seed=1\n",), ("'seed=1\\n': holds a line break",)),
        (("seed=1\ndepth=2",), ("holds a line break",)),
        (("name=a\u2028b",), ("holds a line break",)),
        (("\u2013m", "seed=1,2"), ("'\\u2013m': begins with a dash that is no hyphen; write -m",)),
        (("\u2014epochs=3",), ("write --epochs=3",)),
        (("optimizer.lr=1e\u22123",), ("holds a dash that is no hyphen",)),
        (("\uff53eed=1",), ("no such key; a key is of letters",)),
        (("seed=" + "1" * 5000,), ("1...: the value cannot be read",)),
        (
            ("--learning-rate", "0.1"),
            ("--learning-rate: options are written KEY=VALUE", "did you mean optimizer.lr=0.1?"),
        ),
        (
            ("--batch-size=128",),
            ("--batch-size: options have no dashes here; write train batch_size=128",),
        ),
        (("-lr", "0.1"), ("did you mean optimizer.lr=0.1?",)),
        (("--fp16",), ("did you mean trainer.amp=fp16?",)),
        (("--resolve",), ("--resolve", "--cfg job --resolve")),
        (("-sc", "query=bash"), ("is what the shell calls on a tab",)),
        (("CIFAR10",), ("CIFAR10: a key is missing; did you mean dataset=cifar10?",)),
        (("block=resnet",), ("did you mean model=resnet?",)),
        (("depth=2", "hydra.run.dir=/x"), ("hydra.run.dir=/x: write out=FOLDER",)),
        (("-m", "seed=1,2", "hydra.sweep.dir=/x"), ("hydra.sweep.dir=/x", "study=NAME")),
        (("-m", "seed=1,2", "hydra.sweep.subdir=x"), ("hydra.sweep.subdir=x", "out=runs/")),
        (("hydra.job.chdir=true",), ("hydra.job.chdir=true", "cd there first")),
        (("hydra.job.name=x",), ("write name=LABEL",)),
        (("hydra.job.env_set.A=x",), ("VARIABLE=VALUE train",)),
        (("hydra.verbose=true",), ("write trainer.log_every=1",)),
        (("hydra/job_logging=stdout",), ("run.log", "trainer.log_every=N")),
        (("hydra/hydra_logging=none",), ("run.log", "trainer.log_every=N")),
        (("hydra.output_subdir=x",), (".hydra", "out=FOLDER")),
        (("hydra.searchpath=[x]",), ("conf/",)),
        (("hydra/help=x",), ("train --help",)),
        (("hydra/env=x",), ("nothing here reads it",)),
        (("+hydra.callbacks.x=1",), ("no callbacks are called here",)),
        (("~hydra.run",), ("write out=FOLDER",)),
        (("hydra/launcher=basic",), ("is of a study; add -m",)),
        (("-m", "seed=1,2", "hydra/launcher=jobli"), ("did you mean joblib?",)),
        (("-m", "seed=1,2", "hydra/sweeper=optuna"), ("skiplab search",)),
        (("-m", "seed=1,2", "hydra.sweeper.max_batch_size=2"), ("jobs=N",)),
    ],
    ids=lambda value: " ".join(value)[:60].encode("ascii", "backslashreplace").decode(),
)
def test_a_bad_command_line_is_answered_in_one_line(
    arguments: tuple[str, ...], fragments: tuple[str, ...], call: Cli
) -> None:
    assert_refused(call(*arguments, as_typed=True), *fragments)


def test_a_plus_before_a_key_that_is_there_is_taken_off(call: Cli) -> None:
    code, out, err = call("+seed=3", "++optimizer=adam", "+optimizer.lr=0.5", "--cfg", "job")
    assert (code, err) == (0, "")
    assert "seed: 3" in out.splitlines()
    assert "  lr: 0.5" in out.splitlines()
    assert_refused(call("+foo=3"), "foo: no such key")
    finished_run(Path("run"))
    assert call("+resume=run")[:2] == call("resume=run")[:2]


def test_no_arguments_are_none() -> None:
    assert typed.checked([]) == []
    assert typed.checked(["-m", "+seed=1,2", "resume=a=b"]) == ["-m", "seed=1,2", "resume=a=b"]


def test_what_is_so_anyway_may_be_said_in_hydras_words(call: Cli) -> None:
    for text in (
        "hydra.job.chdir=false",
        "hydra.verbose=false",
        "hydra.run.dir=.",
        "hydra/job_logging=disabled",
        "hydra.output_subdir=null",
    ):
        assert call(text, "--cfg", "job")[0] == 0, text


def test_a_searchs_options_stand_anywhere(monkeypatch: pytest.MonkeyPatch, call: Cli) -> None:
    seen: list[tuple[list[str], int]] = []
    monkeypatch.setattr(
        "skiplab.study.search.command",
        lambda options: seen.append((list(options.texts), options.trials)) or search.Outcome(0, {}),
    )
    keys = ["depth=1,2", "trainer.threads=1"]
    for arguments in (
        ("search", *keys, "--trials", "6"),
        ("search", keys[0], "--trials", "6", keys[1]),
        ("search", "--trials=6", *keys),
        ("--trials", "6", "search", *keys),
        ("search", keys[0], "--trials=6", f"+{keys[1]}"),
    ):
        assert call(*arguments, command="skiplab")[0] == 0
    assert seen == [(keys, 6)] * 5


def test_every_verbs_options_stand_anywhere() -> None:
    for verb, orders in {
        "evaluate": [("run", "--split", "val"), ("--split", "val", "run"), ("--split=val", "run")],
        "compare": [
            ("a", "b", "--by", "depth"),
            ("a", "--by", "depth", "b"),
            ("--by", "depth", "a", "b"),
        ],
        "verify": [
            ("depth=1", "seed=1", "--kills", "2"),
            ("depth=1", "--kills", "2", "seed=1"),
            ("--kills", "2", "depth=1", "seed=1"),
        ],
        "list": [("words",)],
        "draw": [("a", "b")],
    }.items():
        read = [skiplab.read_options(verb, order) for order in orders]
        assert all(options == read[0] for options in read), verb
    assert skiplab.read_options("list", []).words == []


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    for command in ("train --help", "train -sc install=bash"):
        done = subprocess.run(
            [
                "bash",
                "-c",
                f"{Path(sys.executable).parent}/{command} | true; exit ${{PIPESTATUS[0]}}",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode in (0, 141), done.stderr) == (True, "")


def test_several_mistakes_are_several_lines(call: Cli) -> None:
    code, out, err = call("depth=x", "lr=3", "blok=conv")
    assert (code, out) == (2, "")
    assert sorted(line.split(":")[1] for line in err.splitlines()) == [" blok", " depth=x", " lr"]


def test_a_config_error_loads_no_torch() -> None:
    code, out, err, modules = probe("-m", "model=resnet20", "depth=20,21")
    assert (code, out) == (2, "")
    assert err == "error: depth=21 is no CIFAR ResNet: 6n+2 layers with block=basic, so 20 or 26\n"
    assert "hydra" in modules
    assert not modules & {"torch", "torchvision", "numpy", "sklearn", "matplotlib", "tqdm"}
    assert not Path("outputs").exists()


def test_cuda_on_a_machine_without_is_one_line(call: Cli) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    code, _, err = call("device=cuda")
    assert code == 2
    assert err.startswith("error: device=cuda: ")
    assert err.count("\n") == 1
    assert "take auto or cpu" in err


# --------------------------------------------------------------------------------------------------
# paths as typed

ODD = [
    "a=b",
    "a,b",
    "a(b",
    "a b",
    "a'b",
    'a"b',
    "a$b",
    "a{b}",
    "[a]",
    "a\\",
    "a\\'b",
    "~a",
    "50%",
    "a;b",
    "a=1,b=(2) 'c' \"d\"",
    "\u00e9",
]


@cache
def stored_config() -> str:
    return stored.dump(compose())


def finished_run(folder: Path) -> Path:
    """A run folder that is finished, as far as `train resume=` looks into it."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(stored_config(), encoding="utf-8")
    (folder / "result.json").write_text("{}\n")
    (folder / "report.txt").write_text("the report of this run\n")
    return folder


def test_resume_takes_any_path_as_typed(call: Cli) -> None:
    for name in ODD:
        folder = finished_run(Path("runs") / name)
        for path in (str(folder), str(folder.absolute())):
            code, out, err = call(f"resume={path}")
            assert (code, err) == (0, ""), name
            assert out.startswith(f"{path} is finished")
            assert "the report of this run" in out
        code, _, err = call(f"resume={folder}x")
        assert (code, err.count("\n")) == (2, 1)
        assert f"{folder}x: no such run folder" in err


@pytest.mark.parametrize("key", ["init_from", "dataset.root"])
def test_other_paths_are_taken_as_typed_too(key: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for name in [*ODD, "/a/b", "..", "a/"]:
        override = OverridesParser.create().parse_override(grid.for_hydra(f"{key}={name}"))
        assert override.value() == name
        assert not override.is_sweep_override()
    assert grid.for_hydra(f"{key}=null") == f"{key}=null"
    assert grid.for_hydra("name=a,b") == "name=a,b"
    assert compose(grid.for_hydra(f"{key}=/a=b,(c) 'd'")) == replace_path(key, "/a=b,(c) 'd'")


def replace_path(key: str, path: str) -> Config:
    config = compose()
    return (
        replace(config, init_from=path)
        if key == "init_from"
        else replace(config, dataset=replace(config.dataset, root=path))
    )


def test_resume_of_what_is_no_run_is_refused(call: Cli) -> None:
    Path("empty").mkdir()
    assert_refused(call("resume=empty"), "empty: not a run folder", "config.yaml", "skiplab list")
    Path("file.safetensors").write_bytes(b"")
    assert_refused(call("resume=file.safetensors"), "file.safetensors: not a run folder")
    Path("foreign").mkdir()
    Path("foreign/config.yaml").write_text("a: 1\n")
    assert_refused(call("resume=foreign"), "foreign: not a run folder")


def test_resume_holds_changed_values_against_the_run(call: Cli) -> None:
    finished_run(Path("run"))
    assert_refused(call("resume=run", "depth=7"), "depth=7: cannot change", "depth=6")
    assert_refused(call("resume=run", "epoch=7"), "epoch: no such key; did you mean epochs?")
    assert_refused(
        call("resume=run", "model=resnet"), "model=resnet: a run goes on with its own model"
    )
    assert_refused(call("resume=run", "epochs=0"), "epochs=0: must be at least 1")
    assert Path("run/result.json").exists()
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("seed: 0", "seed: ${oc.env:HOME}"))
    assert_refused(call("resume=run"), "run/config.yaml", "${...}")


def test_quoted_paths_do_not_open_the_door_to_hydra_grammar() -> None:
    overrides.check(
        ["dataset=mnist", *(grid.for_hydra(f"dataset.root={name}") for name in ODD)], multirun=True
    )
    with pytest.raises(UsageError, match="add -m"):
        overrides.check(["name=a,b"], multirun=False)


# --------------------------------------------------------------------------------------------------
# skiplab


def test_list_of_nothing_and_of_no_folder(call: Cli) -> None:
    code, out, err = call("list", "outputs", command="skiplab")
    assert (code, out) == (2, "")
    assert (
        err == "error: outputs: no such folder; "
        "runs go to outputs/ under the folder that train is started in\n"
    )
    Path("outputs").mkdir()
    for arguments in (("list",), ("list", "outputs")):
        assert call(*arguments, command="skiplab") == (0, "no runs under outputs\n", "")


def test_list_shows_runs_of_every_state_without_torch() -> None:
    finished_run(Path("outputs/one"))
    result = {
        "steps": 1200,
        "best_val_accuracy": 0.5,
        "test": {"accuracy": 0.25},
        "train_seconds": 3.2,
    }
    Path("outputs/one/result.json").write_text(json.dumps(result))
    finished_run(Path("outputs/a b"))
    Path("outputs/a b/result.json").unlink()
    finished_run(Path("outputs/halfway"))
    Path("outputs/halfway/result.json").unlink()
    progress = {"step": 600, "best_accuracy": 0.75}
    content = json.dumps(
        {"num_steps": 1200, "progress": progress, "history": {"seconds": 72.0}}
    ).encode()
    content = len(content).to_bytes(8, "little") + content
    # Format 1, which needs no torch to be written here.
    Path("outputs/halfway/last.ckpt").write_bytes(
        container.MAGIC_1 + hashlib.sha256(content).digest() + content
    )
    finished_run(Path("outputs/broken"))
    broken = Path("outputs/broken/config.yaml")
    broken.write_text(broken.read_text().replace("depth: 6", "depth: six"))
    code, out, err, modules = probe("list", command="skiplab")
    assert (code, err) == (0, "")
    *lines, advice = out.splitlines()
    assert advice == "go on with a stopped run: train resume=RUN_FOLDER"
    # When a run began differs from test to test.
    lines = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d +", "", line) for line in lines]
    rows = {re.split(r" {2,}", line)[-1]: re.split(r" {2,}", line)[:-1] for line in lines}
    common = ["digits", "deepcnn/residual d6 w32 s0", "0.05", "20"]
    assert rows.pop("run folder")[:5] == ["state", "data", "model", "lr", "epochs"]
    (told,) = (words for words in rows if words.startswith("outputs/broken"))
    assert told.startswith("outputs/broken (its config.yaml does not pass the check: depth=six: ")
    assert rows.pop(told) == ["broken"]
    assert rows == {
        "outputs/one": ["finished", *common, "1,200", "50.00 %", "25.00 %", "3.2 s", "-"],
        "outputs/halfway": ["stopped", *common, "600 of 1,200", "75.00 %", "-", "1 min 12 s", "-"],
        "'outputs/a b'": ["stopped", *common, "-", "-", "-", "-", "-"],
    }
    assert not modules & {"torch", "hydra", "numpy"}


def test_info_names_versions_devices_and_folders(call: Cli) -> None:
    code, out, err = call("info", command="skiplab")
    assert (code, err) == (0, "")
    told = dict(
        line.split(maxsplit=1) for line in out.replace("data root", "data_root").splitlines()
    )
    assert {"skiplab", "python", "torch", "cpu", "cuda", "mps", "data_root", "conf"} <= {
        name.split(":")[0] for name in told
    }
    assert told["skiplab"] == __version__
    assert told["conf"] == str(paths.conf_folder())


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ((), "VERB"),
        (("search",), "the following arguments are required: KEY=VALUES"),
        (("lst",), "skiplab lst: no such verb; did you mean list?"),
        (
            ("zzz",),
            "skiplab zzz: no such verb; choices: compare, draw, evaluate, export, info, keys",
        ),
        (("trian",), "skiplab trian: no such verb; did you mean train?"),
        (("train", "evaluate"), "evaluate: no such key; skiplab evaluate is a command of its own"),
        (("--out", "train", "compare"), "the following arguments are required: folder"),
        (("train", "-sc", "install=bash"), 'write eval "$(train -sc install=bash)"'),
        (("evaluate",), "run"),
        (("evaluate", "x", "--split", "train"), "--split train: choices: test, val"),
        (("list", "a", "b"), "b: one folder at a time; filters are written KEY=VALUE"),
    ],
)
def test_a_verb_that_is_missing_or_wrong_exits_with_2(
    arguments: tuple[str, ...], fragment: str, call: Cli
) -> None:
    code, out, err = call(*arguments, command="skiplab")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert fragment in err


def test_evaluate_of_what_is_no_run_is_one_line_without_torch() -> None:
    Path("empty").mkdir()
    for path, fragment in (
        ("nowhere", "no such run folder or checkpoint"),
        ("empty", "not a run folder"),
    ):
        code, out, err, modules = probe("evaluate", path, command="skiplab")
        assert_refused((code, out, err), f"{path}: {fragment}")
        assert "torch" not in modules
