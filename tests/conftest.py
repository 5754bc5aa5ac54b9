"""What the tests share: markers that skip with a reason, small configs, a cache of their own, `train` as a process."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: tensors this small only wait for a second thread

from skiplab import cli, composition, files
from skiplab.launch import guarded
from skiplab.schema import Config

REAL_ROOT = files.default_root()  # before any test moves the cache
HAS_REAL_DATA = (REAL_ROOT / "MNIST/raw/train-images-idx3-ubyte").is_file() and (
    REAL_ROOT / "cifar-10-batches-bin/data_batch_1.bin"
).is_file()

# 18 steps; a save and an evaluation every second one
SMALL = ("depth=1", "width=8", "batch_size=256", "epochs=3", "trainer.threads=1", "trainer.save_every=0.34", "trainer.eval_every=0.34")
SMALL = (*SMALL, "pictures=never")  # which take a second


def last_of(arguments: Sequence[str]) -> tuple[str, ...]:
    """Arguments with a test's own values in place of those of SMALL before them: a command line gives each key once."""
    keys = [text.partition("=")[0] if "=" in text and not text.startswith("-") else "" for text in arguments]
    return tuple(text for i, (key, text) in enumerate(zip(keys, arguments, strict=True)) if not key or key not in keys[i + 1 :])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine or this call leaves out, and say why."""
    asked = config.getoption("markexpr") or ""
    for item in items:
        if "slow" in item.keywords and "slow" not in asked:
            item.add_marker(pytest.mark.skip(reason="slow: run with -m slow"))
        if "realdata" in item.keywords and not HAS_REAL_DATA:
            item.add_marker(pytest.mark.skip(reason=f"realdata: no MNIST and CIFAR-10 under {REAL_ROOT} (set SKIPLAB_DATA)"))
        elif "realdata" in item.keywords and "realdata" not in asked:
            item.add_marker(pytest.mark.skip(reason="realdata: run with -m realdata"))
        if "gpu" in item.keywords:
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="gpu: no CUDA device"))


@pytest.fixture
def real_root() -> Path:
    """The folder with the real MNIST and CIFAR-10."""
    return REAL_ROOT


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in its own folder and remembers nothing for the next."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def compose(*texts: str) -> Config:
    """The checked config of a command line."""
    return composition.compose_config(texts)


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of a run of SMALL to which nothing happens; made once for all workers."""
    from skiplab import folders, verify

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with folders.one_at_a_time(shared / "straight"):
        if not folders.is_finished(shared / "straight/run"):
            process = start(*SMALL, "out=run", cwd=shared / "straight")
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
    return verify.digests(shared / "straight/run")


Train = Callable[..., subprocess.CompletedProcess[str]]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`train ...` (or `skiplab ...`) in this process, without the four pictures, a second a run: exit code, stdout, stderr.

    `as_typed`: also a key that is given twice; elsewhere a test's own value counts.
    """
    monkeypatch.setattr("skiplab.outcome.draw", lambda *_, **__: None)

    def run(*arguments: str, command: str = "train", as_typed: bool = False) -> tuple[int, str, str]:
        arguments = arguments if as_typed else last_of(arguments)
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        entry = cli.train_command if command == "train" else cli.skiplab_command
        try:
            code = guarded(lambda: entry(list(arguments)))
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def start(*arguments: str, cwd: Path, command: str = "train") -> subprocess.Popen[str]:
    """`train` (or `skiplab`) as a process of its own, one thread, without a terminal."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [str(Path(sys.executable).parent / command), *last_of(arguments)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Run `train` to its end in the test's folder."""

    def call(*arguments: str, command: str = "train") -> subprocess.CompletedProcess[str]:
        process = start(*arguments, cwd=tmp_path, command=command)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return call
