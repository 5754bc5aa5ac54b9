"""What a start and an end cost: modules loaded by when, the garbage collector, and CPU time.

CPU time is measured against `import torch`.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import SMALL, Train, compose, last_of
from skiplab.config import stored

# Runs `train` and writes down what is loaded when; importing the trainer before loads nothing that
# a run does not.
PROBE = """
import gc, json, sys
# Python 3.12 is born with some frozen objects.
born = gc.get_freeze_count()
import torch
own = sorted({"torch._inductor"} & set(sys.modules))
from skiplab.cli import main
from skiplab.training.step import Step
from skiplab.training.trainer import Trainer

def now():
    loaded = {name.split(".")[0] for name in sys.modules}
    loaded |= {"torch._dynamo", "torch._inductor"} & set(sys.modules)
    frozen = gc.get_freeze_count() > born
    return {"loaded": sorted(loaded), "collects": gc.isenabled(), "frozen": frozen}

def update(self, step, of_old=Step.update, **options):
    of_old(self, step, **options)
    seen.setdefault("first step", now())

def fit(self, of_old=Trainer.fit):
    of_old(self)
    seen["end of training"] = now()

seen = {"import torch": {"loaded": own}}
Step.update, Trainer.fit = update, fit
try:
    main.train()
except SystemExit as error:
    seen["exit code"] = error.code
seen["end"] = now()
with open("seen.json", "w") as file:
    json.dump(seen, file)
"""
FOR_THE_END = {"matplotlib"}
NEVER = {"torchvision", "sklearn", "pandas", "scipy", "torch._dynamo", "torch._inductor", "triton"}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a run on digits had loaded at its first step, the end of training and its end."""
    folder = tmp_path_factory.mktemp("seen")
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *last_of((*SMALL, "pictures=always", "epochs=1", "out=run"))],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "seen.json").read_text())


def torchs_own(seen: dict[str, Any]) -> set[str]:
    """Return what `import torch` itself loads: torch 2.5 loads torch._inductor, later ones not."""
    return set(seen["import torch"]["loaded"])


@pytest.mark.parametrize("when", ["first step", "end of training"])
def test_what_the_end_needs_is_not_loaded_before(seen: dict[str, Any], when: str) -> None:
    loaded = set(seen[when]["loaded"])
    assert {"torch", "numpy", "skiplab"} <= loaded
    assert loaded & (FOR_THE_END | NEVER) <= torchs_own(seen)


def test_a_run_never_loads_what_it_has_no_use_for(seen: dict[str, Any]) -> None:
    loaded = set(seen["end"]["loaded"])
    assert seen["exit code"] == 0
    assert "matplotlib" in loaded
    assert loaded & NEVER <= torchs_own(seen)


def test_the_collector_rests_at_the_start_and_at_the_end_only(seen: dict[str, Any]) -> None:
    assert seen["first step"]["collects"]
    assert not seen["end of training"]["frozen"]
    # A triton binding would report leaks on stderr.
    assert seen["end"]["frozen"] == ("triton" not in seen["end"]["loaded"])


# --------------------------------------------------------------------------------------------------
# CPU time


def cpu_seconds(*command: str, **environment: str) -> float:
    """Return a process's user and system time, which other processes hardly change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        command,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_what_needs_no_torch_answers_in_a_fraction_of_its_import() -> None:
    """Allow twice what is promised, because machines are noisy.

    Promised are 0.1 of `import torch` for help and version, and 0.25 for a mistake and a tab.
    """
    train, tab = (
        str(Path(sys.executable).parent / "train"),
        {"COMP_LINE": "train mod", "COMP_POINT": "9", "COMP_TYPE": "9"},
    )
    whole = cpu_seconds(sys.executable, "-c", "import torch")
    for limit, arguments in (
        (0.1, ("--help",)),
        (0.1, ("--version",)),
        (0.25, ("depth=x",)),
        (0.25, ("-sc", "query=bash")),
    ):
        taken = cpu_seconds(train, *arguments, **tab)
        if taken >= 2 * limit * whole:
            taken = min(taken, cpu_seconds(train, *arguments, **tab))
        assert taken < 2 * limit * whole, (
            f"train {' '.join(arguments)}: {taken:.2f} s of CPU time, import torch {whole:.2f} s"
        )


# --------------------------------------------------------------------------------------------------
# Launchers of Hydra's

FORKED = """
import os, sys
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus

class Forked(BasicLauncher):
    def launch(self, job_overrides, initial_job_idx):
        numbered = enumerate(job_overrides, start=initial_job_idx)
        return [self.launch_one(overrides, number) for number, overrides in numbered]

    def launch_one(self, overrides, number):
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            ended = super().launch([overrides], number)[0]
            sys.stdout.flush()
            os._exit(ended.status != JobStatus.COMPLETED)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ended = JobReturn(status=JobStatus.FAILED if code else JobStatus.COMPLETED)
        ended.return_value = RuntimeError("of the run") if code else None
        return ended

node = {"_target_": "hydra_plugins.forked.Forked"}
ConfigStore.instance().store(group="hydra/launcher", name="forked", node=node)
"""


@pytest.mark.slow
def test_a_launcher_may_run_a_sweep_in_other_processes(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "extra/hydra_plugins").mkdir(parents=True)
    (tmp_path / "extra/hydra_plugins/forked.py").write_text(FORKED)
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join(filter(None, (str(tmp_path / "extra"), os.environ.get("PYTHONPATH")))),
    )
    (tmp_path / "run-1/foreign").mkdir(parents=True)
    finished = tmp_path / "run-0"
    finished.mkdir()
    for name, text in (
        ("config.yaml", stored.dump(compose(*SMALL))),
        ("report.txt", "its report\n"),
        ("result.json", "{}\n"),
    ):
        (finished / name).write_text(text)
    sweep = ("-m", "hydra/launcher=forked", *SMALL, "out=run-${seed}")
    failed = train(*sweep, "seed=0,1")
    assert failed.returncode == 1
    assert "done before: seed=0" in failed.stdout
    assert "error: out=run-1: exists and is not a run folder" in failed.stderr
    assert "sweep: 1 of 2 cells done, 1 failed" in failed.stdout
    done = train(*sweep, "seed=0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("sweep: 1 of 1 cell done\n")
