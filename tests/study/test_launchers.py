"""Other launchers of Hydra's: the same folders, skipping, resuming; and preempted jobs."""

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import Cli, last_of
from skiplab.cli import verify
from skiplab.runs import status

SMALL = ("width=8", "batch_size=256", "epochs=2", "depth=1", "trainer.threads=1", "study=s")
PLUGINS = {
    "joblib": "hydra_joblib_launcher",
    "submitit_local": "hydra_submitit_launcher",
    "ray": "hydra_ray_launcher",
}
OPTIONS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": [],
    "ray": ["+hydra.launcher.ray.init.num_cpus=2"],
}


def needs(launcher: str) -> None:
    try:
        importlib.metadata.distribution(PLUGINS[launcher])
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{launcher}: {PLUGINS[launcher]} is not installed")


def run_to_end(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """`train`, with warnings as usual: launchers and what they bring have theirs."""
    command = [str(Path(sys.executable).parent / "train"), *last_of(arguments)]
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"
    } | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_study_is_the_same_under_every_launcher(tmp_path: Path, launcher: str) -> None:
    """Begun under ours, widened under another, a bad cell in it, and finished under ours again."""
    needs(launcher)
    assert run_to_end("-m", *SMALL, "seed=0", cwd=tmp_path)[0] == 0
    code, out, err = run_to_end(
        "-m", f"hydra/launcher={launcher}", *OPTIONS[launcher], *SMALL, "seed=0,1,2", cwd=tmp_path
    )
    assert code == 0, err
    assert "sweep: 3 of 3 cells done" in out
    study = tmp_path / "outputs/studies/s"
    runs = sorted(path.parent for path in study.glob("*/config.yaml"))
    assert [path.name.rsplit("_", 1)[0] for path in runs] == ["seed-0", "seed-1", "seed-2"]
    code, out, err = run_to_end("-m", *SMALL, "seed=0,1,2", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "3 cells, 3 done before" in out
    assert run_to_end(*SMALL[:-1], "seed=2", "pictures=never", "out=alone", cwd=tmp_path)[0] == 0
    assert verify.differences(verify.digests(tmp_path / "alone"), verify.digests(runs[2])) == []


@pytest.mark.slow
def test_a_preempted_job_saves_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    """As Slurm does it, by submitit's local executor."""
    needs("submitit_local")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [
        str(Path(sys.executable).parent / "train"),
        "-m",
        "hydra/launcher=submitit_local",
        *SMALL[:2],
        *SMALL[3:],
        "epochs=300",
        "seed=0",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60

    def run() -> Path | None:
        return next(
            (path.parent for path in tmp_path.glob("outputs/studies/s/*/last.safetensors")), None
        )

    while run() is None or (status.of_last_save(found := run() or tmp_path).step or 0) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(int((found / ".lock").read_text().split()[1]), signal.SIGUSR2)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert "sweep: 1 of 1 cell done" in out
    log = (found / "run.log").read_text()
    assert log.count("going on at step") == 1
    assert (
        run_to_end(
            *SMALL[:-1], "epochs=300", "seed=0", "pictures=never", "out=alone", cwd=tmp_path
        )[0]
        == 0
    )
    assert verify.differences(verify.digests(tmp_path / "alone"), verify.digests(found)) == []


def test_a_launcher_that_is_not_installed_is_told_with_its_extra(
    call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skiplab.config import plugins

    class Nothing:
        class_name_to_class: dict[str, type] = {}  # noqa: RUF012

        @classmethod
        def instance(cls) -> "type[Nothing]":
            return cls

    monkeypatch.setattr(plugins, "Plugins", Nothing)
    for launcher, extra in plugins.EXTRAS.items():
        code, _, err = call("-m", f"hydra/launcher={launcher}", "seed=0,1")
        assert (code, err) == (
            2,
            f"error: hydra/launcher={launcher}: is not installed; pip install 'skiplab[{extra}]'\n",
        )
