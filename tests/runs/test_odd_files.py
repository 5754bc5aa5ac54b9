"""Odd things where a file is expected, impossible paths, a working folder that is gone.

They end in one line, without a wait.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import SMALL, Cli
from skiplab.errors import FolderError
from skiplab.runs import contents

LONG = "a" * 300
# Arguments by which a command takes the path of a run, or of a folder with runs.
RUN_PATHS = {
    "train": ("resume=PATH", "init_from=PATH", "out=PATH"),
    "skiplab": ("evaluate PATH", "draw PATH", "list PATH", "compare PATH", "verify PATH"),
}


def make_folder(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_circular_link(path: Path) -> None:
    path.symlink_to(path.name)


ODD: dict[str, Callable[[Path], None]] = {
    "a folder, not a file": make_folder,
    "a pipe, not a file": make_fifo,
    "is a link to nowhere, which is not there": make_broken_link,
    "Too many levels of symbolic links": make_circular_link,
}


@pytest.fixture
def finished(call: Cli) -> Path:
    """A finished run of two steps, in run/."""
    code, _, err = call(*SMALL, "trainer.limit_steps=2", "out=run")
    assert (code, err) == (0, "")
    return Path("run")


def one_line(code: int, err: str, *, codes: tuple[int, ...] = (2,)) -> str:
    assert code in codes, err
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    assert "unforeseen" not in err
    return err


# --------------------------------------------------------------------------------------------------
# Paths


@pytest.mark.parametrize("command", ["train", "skiplab"])
def test_a_path_that_no_file_can_have_is_refused(call: Cli, command: str) -> None:
    for text, rule in (
        (LONG, "File name too long"),
        ("~nosuchuser/x", "no home folder is known for ~nosuchuser"),
        ("a\nb", "line break"),
    ):
        for template in RUN_PATHS[command]:
            arguments = [word.replace("PATH", text) for word in template.split(" ")]
            code, _, err = call(
                *(
                    [*SMALL, "trainer.limit_steps=2"]
                    if template.startswith(("out", "init"))
                    else []
                ),
                *arguments,
                command=command,
            )
            assert rule in one_line(code, err), (template, text)
    assert not Path("outputs").exists() or not list(Path("outputs").rglob("config.yaml"))


@pytest.mark.parametrize("template", RUN_PATHS["skiplab"])
def test_a_path_that_leads_nowhere_says_where_it_ends(call: Cli, template: str) -> None:
    Path("link").symlink_to("nowhere")
    Path("file").touch()
    verb = template.split(" ")[0]
    code, _, err = call(verb, "link", command="skiplab")
    assert "link is a link to nowhere, which is not there" in one_line(code, err)
    code, _, err = call(verb, "file/x", command="skiplab")
    assert "file is a file, not a folder" in one_line(code, err)


def test_a_study_in_the_place_of_something_else_is_refused(call: Cli) -> None:
    studies = Path("outputs/studies")
    studies.mkdir(parents=True)
    for name, make in (
        ("folder", make_fifo),
        ("link", make_broken_link),
        ("loop", make_circular_link),
    ):
        make(studies / name)
        code, _, err = call("-m", *SMALL, "trainer.limit_steps=2", "seed=0,1", f"study={name}")
        assert f"study={name}: " in one_line(code, err)
        code, _, err = call(
            "search",
            *SMALL,
            "trainer.limit_steps=2",
            "val_fraction=0.2",
            "depth=1,2",
            f"study={name}",
            command="skiplab",
        )
        assert f"study={name}: " in one_line(code, err)


@pytest.mark.parametrize(
    "arguments",
    [("train", "depth=1"), ("train", "-m", "seed=0,1"), ("skiplab", "list"), ("skiplab", "info")],
)
def test_a_working_folder_that_is_gone_is_said(arguments: tuple[str, ...], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    script = f"import os, sys; gone = {str(gone)!r}\n"
    script += "os.mkdir(gone); os.chdir(gone); os.rmdir(gone)\n"
    script += f"sys.argv = {list(arguments)!r}; from skiplab.cli import main; main.{arguments[0]}()"
    # The working folder on the path of modules, which only `python -c` has, trips CPython 3.13.0.
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False
    )
    assert "cd to one that is" in one_line(done.returncode, done.stderr)
    assert not gone.exists()


# --------------------------------------------------------------------------------------------------
# In a run's folder


@pytest.mark.parametrize("told", ODD)
def test_what_is_no_file_is_never_opened_by_a_verb(call: Cli, finished: Path, told: str) -> None:
    readers = {
        "config.yaml": ("evaluate", "draw", "compare"),
        "result.json": ("compare",),
        "predictions.npz": ("draw",),
        "test_reads.jsonl": ("evaluate", "draw"),
        "best.safetensors": ("evaluate",),
        "last.safetensors": (),
    }
    for name, verbs in readers.items():
        path, kept = finished / name, finished / f"{name}.kept"
        path.rename(kept)
        ODD[told](path)
        for verb in verbs:
            code, _, err = call(verb, "run", command="skiplab")
            assert name in one_line(code, err, codes=(2, 3, 4)), (verb, name)
        code, out, err = call("list", ".", command="skiplab")
        assert (code, err) == (0, ""), name
        assert "run" in out
        code, _, err = call("resume=run", "epochs=3")
        assert name in one_line(code, err, codes=(2, 3, 4)), name
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        kept.rename(path)
    code, out, err = call("resume=run")
    assert (code, err) == (0, "")
    assert "its report" in out


@pytest.mark.parametrize("told", ODD)
def test_a_run_starts_in_no_folder_with_something_odd_in_a_files_place(
    call: Cli, told: str
) -> None:
    for name in (
        "run.log",
        "metrics.jsonl",
        "last.safetensors",
        "result.json",
        "config.yaml",
        ".lock",
    ):
        Path("run").mkdir()
        ODD[told](Path("run", name))
        code, _, err = call(*SMALL, "trainer.limit_steps=2", "out=run")
        one_line(code, err, codes=(2, 4))
        assert os.listdir("run") in ([name], sorted([".lock", name])), (
            "what was there is left as it was"
        )
        path = Path("run", name)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        Path("run/.lock").unlink(missing_ok=True)
        Path("run").rmdir()


def test_a_log_that_leads_to_the_null_device_is_a_wish(tmp_path: Path) -> None:
    (tmp_path / "run.log").symlink_to(os.devnull)
    contents.check(tmp_path)
    (tmp_path / "metrics.jsonl").symlink_to(os.devnull)
    with pytest.raises(FolderError, match=r"metrics\.jsonl: a device, not a file; move it away"):
        contents.check(tmp_path)
