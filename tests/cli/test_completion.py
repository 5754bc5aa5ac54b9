"""Tab completion of `skiplab`, as a shell asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import Cli
from skiplab.cli import completion
from skiplab.cli.skiplab import VERBS


@pytest.fixture
def outputs() -> None:
    for name in ("2026-01-01/one", "2026-01-01/two", "studies/first/seed-0"):
        folder = Path("outputs") / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    Path("outputs/studies/first/study.json").touch()
    Path("outputs/2026-01-01/a b").mkdir()


def completed(line: str, shell: str = "bash") -> list[str]:
    return list(completion.shown(completion.candidates(line), line, shell))


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("skiplab sh", ["show "]),
        ("skiplab k", ["keys "]),
        ("skiplab evaluate outputs/2", ["outputs/2026-01-01/one ", "outputs/2026-01-01/two "]),
        ("skiplab compare ", ["outputs/2026-01-01/", "outputs/studies/"]),
        ("skiplab compare outputs/studies/", ["outputs/studies/first "]),
        ("skiplab compare outputs/studies/first/", ["outputs/studies/first/seed-0 "]),
        ("skiplab evaluate somewhere/", []),
        ("skiplab show model=resnet1", ["resnet110 ", "resnet18 "]),
        ("skiplab show opt", ["optimizer=", "optimizer."]),
        ("skiplab show optimizer.l", ["optimizer.lr="]),
        ("skiplab show --o", ["--out "]),
        ("skiplab list sta", ["status="]),
        ("skiplab list status=s", ["stopped "]),
        ("skiplab list study=", ["first "]),
        ("skiplab train block=conv,skip,pre", ["conv,skip,preact "]),
        ("skiplab train trainer.amp=", ["off ", "bf16 ", "fp16 "]),
        ("skiplab train shortcut=f", ["false "]),
        ("skiplab train trainer.early_stop=", ["null "]),
        ("skiplab train resume=outputs/2026-01-01/o", ["outputs/2026-01-01/one "]),
        ("skiplab keys optimizer.e", ["optimizer.eps "]),
        ("skiplab schema exp", ["experiment "]),
        ("skiplab evaluate 'outputs/2026-01-01/o", ["outputs/2026-01-01/one "]),
    ],
)
def test_a_word_is_completed(line: str, found: list[str]) -> None:
    assert completed(line) == found


def test_all_verbs_are_offered() -> None:
    assert {word.strip() for word in completed("skiplab ")} >= {"train", *VERBS}


def test_fish_and_zsh_get_whole_words_without_a_space() -> None:
    for shell in ("fish", "zsh"):
        assert completed("skiplab show model=resnet1", shell) == [
            "model=resnet110",
            "model=resnet18",
        ]


@pytest.mark.usefixtures("outputs")
def test_bash_calls_it_on_a_tab() -> None:
    """The script runs in bash itself, which does not end on an odd line."""
    script = 'eval "$(skiplab -sc install=bash)"\n'
    for line in ("skiplab export outputs/2026-01-01/t", "skiplab zzz"):
        script += f"COMP_LINE='{line}'; COMP_POINT={len(line)}; _skiplab_complete\n"
        script += 'printf "%s|" "${#COMPREPLY[@]}" "${COMPREPLY[@]}"; echo\n'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1|outputs/2026-01-01/two |\n0|\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_is_set_up_and_taken_away(shell: str, call: Cli) -> None:
    code, out, err = call("-sc", f"install={shell}", command="skiplab")
    assert (code, err) == (0, "")
    assert "skiplab -sc query=" in out
    assert call("-sc", f"uninstall={shell}", command="skiplab")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("-sc",), "-sc: one of install=bash, install=fish, install=zsh, uninstall=bash"),
        (("-sc", "install=ksh"), "-sc: one of install=bash"),
        (("-sc", "query=bash"), 'eval "$(skiplab -sc install=bash)" sets it up'),
    ],
)
def test_another_job_gets_one_line(arguments: tuple[str, ...], fragment: str, call: Cli) -> None:
    code, out, err = call(*arguments, command="skiplab")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert fragment in err
