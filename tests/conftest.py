"""What every test gets: markers that skip with a reason, its own folders, and shared fixtures.

The fixtures call commands.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import HAS_REAL_DATA, REAL_ROOT, SMALL, Cli, Train, last_of, start
from skiplab.cli.skiplab import skiplab_command
from skiplab.cli.train import train_command
from skiplab.exits import guard


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs from tests that do not ask for one: what they expect is computed on a CPU.

    And keep bytecode, as helpers.py makes the processes that tests start do.
    """
    sys.dont_write_bytecode = False
    if "gpu" not in (config.getoption("markexpr") or ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine or this call leaves out, and say why."""
    asked = config.getoption("markexpr") or ""
    for item in items:
        if "slow" in item.keywords and "slow" not in asked:
            item.add_marker(pytest.mark.skip(reason="slow: run with -m slow"))
        if "realdata" in item.keywords and not HAS_REAL_DATA:
            item.add_marker(
                pytest.mark.skip(
                    reason=f"realdata: no MNIST and CIFAR-10 under {REAL_ROOT} (set SKIPLAB_DATA)"
                )
            )
        elif "realdata" in item.keywords and "realdata" not in asked:
            item.add_marker(pytest.mark.skip(reason="realdata: run with -m realdata"))
        if "gpu" in item.keywords:
            import torch

            if not torch.cuda.is_available():
                reason = "gpu: no CUDA device that this call may use (run with -m gpu)"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def real_root() -> Path:
    """The folder with the real MNIST and CIFAR-10."""
    return REAL_ROOT


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in its own folder and remembers nothing for the next."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SKIPLAB_OUTPUTS", raising=False)
    # pytest-xdist tells its workers a width, in which commands would break their lines.
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of a run of SMALL to which nothing happens; made once for all workers."""
    from skiplab.cli import verify
    from skiplab.runs import folders, lock

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with lock.one_at_a_time(shared / "straight"):
        if not folders.is_finished(shared / "straight/run"):
            process = start(*SMALL, "out=run", cwd=shared / "straight")
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
    return verify.digests(shared / "straight/run")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that runs `train ...` (or `skiplab ...`) in this process.

    It returns exit code, stdout and stderr. It leaves out the four pictures, which take a second
    per run.

    With `as_typed` a key may be given twice; otherwise only its last value is passed on.
    """
    monkeypatch.setattr("skiplab.pictures.draw", lambda *_, **__: [])
    monkeypatch.setattr("skiplab.pictures.draw_start", lambda *_: None)

    def run(
        *arguments: str, command: str = "train", as_typed: bool = False
    ) -> tuple[int, str, str]:
        arguments = arguments if as_typed else last_of(arguments)
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        entry = train_command if command == "train" else skiplab_command
        try:
            code = guard(lambda: entry(list(arguments)))
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Run `train` to its end in the test's folder."""

    def call(*arguments: str, command: str = "train") -> subprocess.CompletedProcess[str]:
        process = start(*arguments, cwd=tmp_path, command=command)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return call
