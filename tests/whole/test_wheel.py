"""The wheel, installed elsewhere, trains from an empty folder with the presets inside it."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from helpers import ROOT

# Building and installing take a quarter of a minute. CI runs them by name.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_preset_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"skiplab/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    assert not any(name.startswith(("tests/", "scripts/", "outputs/")) for name in names)


def test_the_installed_wheel_trains_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    venv.create(home, symlinks=os.name != "nt")
    site = (
        next(home.glob("lib/python*/site-packages"))
        if os.name != "nt"
        else home / "Lib/site-packages"
    )
    # Its own .pth files stay unread, our editable one among them.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python = str(home / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        str(wheel),
    ]
    subprocess.run(pip, check=True)
    work = tmp_path / "empty"
    work.mkdir()
    where = subprocess.run(
        [python, "-c", "import skiplab; print(skiplab.__file__)"],
        cwd=work,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(home)
    command = [
        str(Path(python).parent / "train"),
        "model=resnet20",
        "trainer=debug",
        "trainer.threads=1",
        "out=run",
    ]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cifar_resnet of basic blocks, depth 20" in done.stdout
    assert (work / "run" / "report.txt").is_file()
