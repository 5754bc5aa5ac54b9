"""Standard output and error that are closed, full, or cannot show a text.

A run goes on; a verb ends in one line and a code.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import SMALL, Cli
from skiplab.machine import streams
from skiplab.machine.streams import Patient

BIN = Path(sys.executable).parent
FULL = Path("/dev/full")
needs_shell = pytest.mark.skipif(os.name == "nt", reason="a shell of Unix")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


@pytest.fixture
def escaping(call: Cli) -> Cli:
    """`call`, its streams as `streams.prepare` makes them."""

    def run(*arguments: str, command: str = "train") -> tuple[int, str, str]:
        for stream in (sys.stdout, sys.stderr):
            assert isinstance(stream, io.TextIOWrapper)
            stream.reconfigure(errors=streams.SHOWN)
        return call(*arguments, command=command)

    return run


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line for the shell in which `train` and `skiplab` are found."""
    where = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["sh", "-c", line],
        cwd=cwd,
        env=os.environ | where | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


# --------------------------------------------------------------------------------------------------
# Runs


@needs_shell
def test_a_run_without_any_descriptor_goes_on_and_writes_its_log(tmp_path: Path) -> None:
    """No file of the run gets the number of standard output: a library may print into it."""
    done = shell(f"train {' '.join(SMALL)} trainer.limit_steps=4 out=run <&- >&- 2>&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "run/run.log").read_text(encoding="utf-8").endswith("skiplab evaluate run\n")
    assert json.loads((tmp_path / "run/result.json").read_text())["steps"] == 4
    assert all(
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    )


@needs_shell
@pytest.mark.slow
@pytest.mark.parametrize(
    "streams_of_it", ["<&- >&- 2>&-", pytest.param(">/dev/full 2>/dev/full", marks=needs_full)]
)
def test_a_study_goes_on_without_them(streams_of_it: str, tmp_path: Path) -> None:
    done = shell(
        f"train -m {' '.join(SMALL)} trainer.limit_steps=4 seed=0,1 study=s {streams_of_it}",
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list((tmp_path / "outputs/studies/s").glob("seed-*/result.json"))) == 2
    assert (tmp_path / "outputs/studies/s/compare.html").is_file()


# --------------------------------------------------------------------------------------------------
# Verbs


@needs_shell
@pytest.mark.parametrize(
    ("command", "output", "reason"),
    [
        pytest.param("skiplab list .", ">/dev/full", "No space left on device", marks=needs_full),
        pytest.param(
            "skiplab compare --help", ">/dev/full", "No space left on device", marks=needs_full
        ),
        pytest.param("train --help", ">/dev/full", "No space left on device", marks=needs_full),
        pytest.param("train --cfg job", ">/dev/full", "No space left on device", marks=needs_full),
        ("skiplab list .", ">&-", "it is closed"),
        ("train --version", "<&- >&-", "it is closed"),
    ],
)
def test_words_that_do_not_arrive_are_one_line_and_a_code(
    command: str, output: str, reason: str, tmp_path: Path
) -> None:
    done = shell(f"{command} {output}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (
        4,
        "",
        f"error: standard output: cannot be written ({reason})\n",
    )


@needs_shell
def test_a_verb_without_any_descriptor_says_so_by_its_code(tmp_path: Path) -> None:
    assert shell("skiplab list . <&- >&- 2>&-", tmp_path).returncode == 4
    assert shell("skiplab list nowhere <&- >&- 2>&-", tmp_path).returncode == 2
    assert shell("skiplab list nowhere 2>&-", tmp_path).returncode == 2


@needs_shell
def test_nobody_reads_on_is_no_error_to_tell(tmp_path: Path) -> None:
    done = shell("{ skiplab list .; echo $? >code; } | true", tmp_path)
    assert done.stderr == ""
    # The code is 0 if all was written before the reader had gone.
    assert (tmp_path / "code").read_text() in ("141\n", "0\n")


# --------------------------------------------------------------------------------------------------
# Characters


@needs_shell
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii:strict"},
    ],
    ids=["ascii", "a C locale", "strict"],
)
def test_what_an_output_cannot_show_is_replaced(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "運行").mkdir()
    done = shell("skiplab list 運行", tmp_path, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no runs under \\u")
    done = shell("skiplab list é", tmp_path, **environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: \\")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_run_in_a_folder_whose_name_is_no_text(escaping: Cli, tmp_path: Path) -> None:
    name = os.fsdecode(b"b\xe9d")
    code, _, err = escaping(*SMALL, "trainer.limit_steps=4", f"out='{name}'")
    assert code == 0, err
    assert "run folder b\\udce9d" in (tmp_path / name / "run.log").read_text(encoding="utf-8")
    code, _, err = escaping("compare", name, "--out", name, command="skiplab")
    assert code == 0, err
    assert 'href="./">0</a>' in (tmp_path / name / "compare.html").read_text(encoding="utf-8")
    code, _, err = escaping("compare", name, "--out", "elsewhere", command="skiplab")
    assert code == 0, err
    assert 'href="../b%E9d/">0</a>' in (tmp_path / "elsewhere/compare.html").read_text(
        encoding="utf-8"
    )


def test_class_names_of_any_language_stand_in_the_report(escaping: Cli, tmp_path: Path) -> None:
    code, _, err = escaping(
        *SMALL, "trainer.limit_steps=4", "dataset.classes=['ß',a,b,c,d,e,f,g,h,'é']", "out=run"
    )
    assert code == 0, err
    text = (tmp_path / "run/report.txt").read_text(encoding="utf-8")
    assert "ß " in text
    assert "é " in text


# --------------------------------------------------------------------------------------------------
# The parts


@needs_full
def test_a_patient_output_keeps_its_first_failure_and_drops_the_rest() -> None:
    with FULL.open("wb") as full:
        raw = Patient(full.fileno(), "w", closefd=False)
        text = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")
        print("a" * 100_000, file=text, flush=True)
        print("b", file=text, flush=True)
        assert raw.failure is not None
        assert raw.failure.strerror == "No space left on device"
        text.close()


@needs_shell
def test_a_full_pipe_that_does_not_block_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    program = (
        "import os; content = b''\n"
        f"while part := os.read({reading}, 65536): content += part\n"
        "print(len(content))"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", program], pass_fds=[reading], stdout=subprocess.PIPE
    )
    with io.BufferedWriter(Patient(writing, "w")) as output:
        output.write(b"x" * 1_000_000)
    os.close(reading)
    assert reader.communicate(timeout=60)[0].strip() == b"1000000"


def test_a_command_whose_words_are_kept_elsewhere_ends_as_it_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A file that is open to read cannot be written to.
    raw = Patient(os.open(os.devnull, os.O_RDONLY), "w")
    with io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(streams, "spared", False)
        print("a word")
        assert streams.settled(0) == 4
        assert streams.settled(5) == 5
        streams.spare()
        assert streams.settled(0) == 0
