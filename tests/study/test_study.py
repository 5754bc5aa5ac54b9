"""Studies as a user runs them: processes, kills, widening, failures; what their folders hold."""

import ctypes
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import Cli, Train, start
from skiplab.cli import verify
from skiplab.runs import checkpoint, folders, lock, status
from skiplab.study import record

SMALL = ("width=8", "batch_size=256", "trainer.threads=1", "trainer.limit_steps=6", "jobs=2")
LONG = ("width=8", "batch_size=256", "epochs=300", "trainer.threads=1", "jobs=2")
NAME = re.compile(r"block-(conv|skip)_depth-[12]_seed-0_[0-9a-f]{8}")


def cells(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/config.yaml"))


def wait_for(condition: Any, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def test_a_study_its_folder_its_second_call_and_its_widening(tmp_path: Path, call: Cli) -> None:
    command = ("-m", *SMALL, "study=first", "block=conv,skip")
    code, out, err = call(*command, "depth=1")
    assert (code, err) == (0, "")
    study = tmp_path / "outputs/studies/first"
    assert "sweep: 2 of 2 cells done\n" in out
    runs = cells(study)
    assert [path.name.rsplit("_", 1)[0] for path in runs] == [
        "block-conv_seed-0",
        "block-skip_seed-0",
    ]
    assert all(folders.is_finished(path) for path in runs)
    assert all(
        path.name.endswith("_" + json.loads((path / folders.RESULT).read_text())["identity"][:8])
        for path in runs
    )
    assert (study / "logs" / f"{runs[0].name}.log").read_text().count("digits test set") == 1
    assert {"compare.csv", "compare.json", "compare.md", "compare.html", "compare.png"} <= {
        path.name for path in study.iterdir()
    }
    before = {path: verify.digests(path) for path in runs}

    code, out, err = call(*command, "depth=1,2")
    assert code == 0, err
    assert "4 cells, 2 done before" in out
    assert "sweep: 4 of 4 cells done (2 before)\n" in out
    assert {path: verify.digests(path) for path in runs} == before
    assert all(NAME.fullmatch(path.name) for path in cells(study) if path not in runs)
    assert "one seed each, so no claim" in out
    assert f"more seeds: train -m {' '.join(command[1:])} depth=1,2 seed=0,1,2\n" in out


def test_a_study_is_shown_before_it_is_run_and_listed_after(call: Cli) -> None:
    command = (*SMALL, "study=s", "depth=1", "seed=0,1")
    code, out, _ = call("-m", *command, "--cfg", "job")
    assert code == 0
    assert not Path("outputs/studies/s").exists()
    assert re.search(
        r"^not begun  seed=1  outputs/studies/s/seed-1_[0-9a-f]{8}$", out, re.MULTILINE
    )
    assert re.search(
        r"^study outputs/studies/s: 2 cells, 2 to run, about \d+ s here, by an estimate$",
        out,
        re.MULTILINE,
    )
    one = (
        "the config of one: train --cfg job width=8 batch_size=256 trainer.threads=1 "
        "trainer.limit_steps=6 depth=1 seed=0"
    )
    assert out.rstrip().endswith(one)
    assert call("-m", *command)[0] == 0
    planned = " ".join(re.findall(r"\S+seed-\d_[0-9a-f]{8}$", out, re.MULTILINE))
    assert planned == " ".join(map(str, cells(Path("outputs/studies/s"))))
    code, out, _ = call("list", "study=s", command="skiplab")
    assert out.rstrip().endswith(f"outputs/studies/s\n  its command: train -m {' '.join(command)}")
    assert re.search(r"^study +digits +2 of 2 done .* seed +outputs/studies/s$", out, re.MULTILINE)
    record.write(
        Path("outputs/studies/s"),
        command="train -m x",
        cells=[*cells(Path("outputs/studies/s")), Path("outputs/studies/s/c")],
    )
    out = call("list", command="skiplab")[1]
    assert re.search(r" 2 of 3 done .* outputs/studies/s\n  its command: train -m x$", out, re.M)
    Path("outputs/studies/s", record.RECORD).write_text("{")
    assert (
        "outputs/studies/s/study.json: not what a study writes"
        in call("list", command="skiplab")[1]
    )


def test_a_cell_that_cannot_be_started_has_failed(
    call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("outputs/studies/s").mkdir(parents=True)
    Path("outputs/studies/s/logs").touch()
    code, _, err = call("-m", *SMALL, "depth=1", "study=s", "seed=0,1")
    assert (code, err.count("\n")) == (4, 1)
    assert "outputs/studies/s/logs: not a folder" in err
    Path("outputs/studies/s/logs").unlink()

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable", "a new process")

    monkeypatch.setattr("skiplab.study.workers.start", refused)
    code, out, err = call("-m", *SMALL, "depth=1", "study=s", "seed=0,1")
    assert (code, err) == (1, "")
    assert (
        "FAILED   seed=0: cannot be started: Resource temporarily unavailable (a new process)"
        in out
    )
    assert "sweep: 0 of 2 cells done, 2 failed" in out


def test_a_damaged_result_is_made_anew_and_a_refused_command_leaves_the_record(call: Cli) -> None:
    command = ("-m", *SMALL, "depth=1", "study=s", "seed=0,1")
    assert call(*command)[0] == 0
    run = cells(Path("outputs/studies/s"))[0]
    before, kept = verify.digests(run), Path("outputs/studies/s", record.RECORD).read_bytes()
    (run / folders.RESULT).write_text('{"state": "fin')
    code, _, err = call(
        "-m", *SMALL[1:], "depth=1", "study=s", "seed=0,1", "match=params", "target=10"
    )
    assert (code, err.startswith("error: target=10: no width")) == (2, True)
    assert Path("outputs/studies/s", record.RECORD).read_bytes() == kept
    code, out, _ = call(*command)
    assert code == 0
    assert "2 cells, 1 done before, 1 to go on with" in out
    assert verify.differences(verify.digests(run), before) == []
    assert folders.is_finished(run)


@pytest.mark.slow
def test_what_cells_done_before_lack_is_told(call: Cli) -> None:
    """A probe and pictures change no number, so the runs are not run again for them."""
    command = ("-m", *SMALL, "study=s", "depth=1")
    code, out, _ = call(*command, "seed=0")
    assert code == 0
    assert out.startswith("no key was given several values, so this sweep is one run")
    code, out, _ = call(*command, "seed=0,1", "trainer.probe=gradients", "pictures=always")
    assert code == 0
    assert (
        "note: 1 cell done before without this trainer.probe; "
        "another study=NAME runs all afresh, with it\n" in out
    )
    assert (
        "note: 1 cell done before without pictures; skiplab draw outputs/studies/s makes them\n"
        in out
    )
    assert "note: " not in call(*command, "seed=0,1")[1]
    code, out, _ = call(*command, "seed=0,1", "trainer.probe=gradients,updates")
    assert "note: 2 cells done before without this trainer.probe" in out
    assert "at a time" not in out


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_study_that_is_ended_goes_on_and_ends_equal_to_the_bit(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Its runs save and stop, also where the sweep itself is killed.

    The same command goes on with each.
    """
    command = ("-m", *LONG, "epochs=20", "depth=1", "study=s", "seed=0,1,2")
    process = start(*command, cwd=tmp_path)
    study = tmp_path / "outputs/studies/s"
    wait_for(lambda: len([path for path in cells(study) if folders.has_state(path)]) == 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (
        process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    ), err
    wait_for(lambda: not any(lock.is_locked(path) for path in cells(study)), seconds=20)
    if number != signal.SIGKILL:
        assert "sweep: 0 of 3 cells done, 2 stopped, 1 not begun" in out
        assert "the same command again goes on" in out
    stood = [status.of_last_save(path).step or 0 for path in cells(study)]
    assert len(stood) == 2
    assert all(step > 0 for step in stood) or number == signal.SIGKILL
    process = start(*command, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "2 to go on with" in out
    alone = start(
        "epochs=20", *LONG[:2], "trainer.threads=1", "depth=1", "seed=1", "out=alone", cwd=tmp_path
    )
    alone.communicate(timeout=60)
    (run,) = (path for path in cells(study) if path.name.startswith("seed-1_"))
    assert verify.differences(verify.digests(tmp_path / "alone"), verify.digests(run)) == []


def test_a_run_that_fails_crashes_or_is_killed_spares_the_others(tmp_path: Path) -> None:
    """One diverges, one is killed as the system does where memory is out.

    Each is printed with its log, and a retry finishes the killed one.
    """
    command = (
        "-m",
        *LONG,
        "depth=1",
        "study=s",
        "optimizer.lr=0.05,1e18",
        "scheduler=constant",
        "seed=0",
    )
    process = start(*command, "epochs=60", "retries=1", cwd=tmp_path)
    study = tmp_path / "outputs/studies/s"
    wait_for(
        lambda: [
            path for path in cells(study) if "lr-0.05" in path.name and folders.has_state(path)
        ]
    )
    (good,) = (path for path in cells(study) if "lr-0.05" in path.name)
    pid = int((good / ".lock").read_text().split()[1])
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert (
        "again    optimizer.lr=0.05 after ended by SIGKILL, "
        "as the system does where memory is out (attempt 2)" in out
    )
    (line,) = (line for line in out.splitlines() if "FAILED" in line)
    log = re.search(r"log (\S+)$", line)
    assert log is not None
    assert "exit code 5: " in line
    assert "error: the loss is" in (tmp_path / log[1]).read_text()
    assert "sweep: 1 of 2 cells done, 1 failed" in out
    assert folders.is_finished(good)


@pytest.mark.slow
def test_on_error_stop_saves_and_stops_the_others(tmp_path: Path) -> None:
    command = (
        "-m",
        *LONG,
        "epochs=3000",
        "depth=1",
        "study=s",
        "optimizer.lr=1e18,0.05",
        "scheduler=constant",
        "on_error=stop",
    )
    process = start(*command, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "sweep: 0 of 2 cells done, 1 failed, 1 stopped" in out


def test_an_exception_and_a_crash_in_native_code_leave_their_traceback_in_the_log(
    tmp_path: Path,
) -> None:
    from helpers import compose
    from skiplab.study import supervisor, workers
    from skiplab.study.plan import Cell
    from skiplab.study.slots import Slot

    config = compose("width=8", f"out={tmp_path}/run")
    cell = Cell("seed=0", config, tmp_path / "run", tmp_path / "logs/run.log")
    process = workers.context(workers.PRELOADED).Process(target=crash, args=(str(cell.log),))
    cell.log.parent.mkdir()
    process.start()
    process.join()
    assert process.exitcode is not None
    assert (
        supervisor.reason_of(cell, process.exitcode) == "ended by SIGSEGV, a crash in native code"
    )
    assert "Fatal Python error: Segmentation fault" in cell.log.read_text()
    del Slot


def crash(log: str) -> None:
    """End in a segmentation fault, as native code would."""
    import ctypes
    import faulthandler

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    faulthandler.enable()
    ctypes.string_at(0)


@pytest.mark.slow
def test_two_sweeps_on_one_study_at_once(tmp_path: Path) -> None:
    command = ("-m", *LONG, "epochs=3000", "depth=1", "study=s", "seed=0,1")
    first = start(*command, cwd=tmp_path)
    wait_for(lambda: cells(tmp_path / "outputs/studies/s"))
    second = start(*command, cwd=tmp_path)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 4
    assert re.fullmatch(r"error: outputs/studies/s: in use by pid \d+ on \S+; .*\n", err)
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 143


def test_bad_sweeps_get_one_line(call: Cli, tmp_path: Path) -> None:
    def refusal(*texts: str) -> str:
        code, _, err = call("-m", *texts)
        assert code == 2, err
        assert len(err.splitlines()) == 1, err
        return err

    assert re.match(
        r"error: 100,000 cells would take about [\d,]+ d( [\d]+ h)? here, .*; "
        r"with more than 1,000, add force=true to run them all the same",
        refusal("seed=range(0,10000)", "depth=range(1,11)"),
    )
    assert "resume=never: what a study has done stays done" in refusal("seed=0,1", "resume=never")
    assert "sweep=degradaton: no such sweep; did you mean degradation?" in refusal(
        "sweep=degradaton"
    )
    assert (
        "study=a/b: a name of at most 100 letters, digits, dots, dashes and underscores is expected"
        in refusal("seed=0,1", "study=a/b")
    )
    assert "jobs=0: must be at least 1" in refusal("seed=0,1", "jobs=0")
    Path("outputs/studies").mkdir(parents=True)
    Path("outputs/studies/taken").write_text("")
    assert "is a file, not a folder; take another name" in refusal("seed=0,1", "study=taken")


@pytest.mark.slow
def test_a_cell_edited_by_hand_is_told_and_nothing_is_lost(tmp_path: Path, train: Train) -> None:
    command = ("-m", *SMALL, "depth=1", "study=s", "seed=0,1")
    assert train(*command).returncode == 0
    one, other = cells(tmp_path / "outputs/studies/s")
    text = (one / folders.CONFIG).read_text()
    (one / folders.CONFIG).write_text(text.replace("width: 8", "width: 16"))
    before = checkpoint.load(other / folders.LAST)[1]
    refused = train("compare", "outputs/studies/s", command="skiplab")
    assert refused.returncode == 2
    assert re.fullmatch(
        r"error: outputs/studies/s/seed-0_\w+/config.yaml: "
        r"edited by hand \(width=16, was 8\); .*\n",
        refused.stderr,
    )
    again = train(*command)
    assert "2 done before" in again.stdout
    assert "no comparison: " in again.stdout
    assert checkpoint.load(other / folders.LAST)[1] == before


def test_the_name_of_a_study_comes_from_what_is_swept() -> None:
    from helpers import compose
    from skiplab.config import grid
    from skiplab.study import plan

    def name(*texts: str, sweep: str | None = None) -> str:
        return plan.name_of(grid.parsed(texts), compose(), sweep=sweep)

    assert name("block=conv,skip", "depth=2,6", "seed=0,1") == "block-depth"
    # A wider grid, on more cores, is the same study.
    assert name("block=conv,skip", "depth=2,6,18", "seed=0,1,2", "jobs=3") == "block-depth"
    assert re.fullmatch(
        r"block-depth-[0-9a-f]{4}", name("block=conv,skip", "depth=2,6", "epochs=3")
    )
    assert name("seed=0,1") == "seed"
    assert (
        len(
            {
                name("block=conv,skip", "match=params", f"target={target}")
                for target in ("80k", "90k")
            }
        )
        == 2
    )
    assert name("optimizer.lr=0.1,0.2") == "lr"
    assert name("block=conv,skip", "depth=2", sweep="blocks") != name(
        "block=conv,skip", "depth=3", sweep="blocks"
    )


@pytest.mark.slow
def test_out_may_tell_the_cells_of_a_sweep_apart_and_must(call: Cli) -> None:
    """It does so by other keys, whatever their order.

    The folder of two cells, or of another run, is refused before anything is run.
    """
    from skiplab.study import plan

    def cells_of(*jobs: tuple[str, ...]) -> list[plan.Cell]:
        return plan.cells_of(jobs, folder=Path("s"), fixed=["out"])

    found = cells_of(
        *(
            ("out=runs/${block.name}-${seed}", f"block={block}", f"seed={seed}")
            for block in ("conv", "skip")
            for seed in (0, 1)
        )
    )
    assert [str(cell.folder) for cell in found] == [
        "runs/conv-0",
        "runs/conv-1",
        "runs/skip-0",
        "runs/skip-1",
    ]
    assert len({cell.log for cell in found}) == 4
    code, _, err = call("-m", *SMALL, "depth=1", "out=runs/${block.name}", "block=conv", "seed=0,1")
    assert (code, err) == (
        2,
        "error: out=runs/conv: is the folder of both seed=0 and seed=1; "
        "tell them apart, or leave it out\n",
    )
    code, out, _ = call(
        "-m", *SMALL, "depth=1", "out=runs/${block.name}", "block=conv,skip", "study=o"
    )
    assert code == 0
    assert "written: outputs/studies/o/compare.html" in out
    assert call("compare", "outputs/studies/o", command="skiplab")[0] == 0
    out = call("list", command="skiplab")[1]
    assert re.search(r"^study +digits +2 of 2 done .* outputs/studies/o$", out, re.MULTILINE)
    code, out, _ = call(
        "-m", *SMALL, "depth=1", "out=runs/${block.name}", "block=conv,skip", "epochs=7"
    )
    assert code == 1
    assert "holds another run (epochs differ)" in out


def test_slots_share_the_cores_and_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers import compose
    from skiplab.errors import UsageError
    from skiplab.study import slots

    monkeypatch.setattr(slots, "shared_cores", lambda: (8, "cores"))
    monkeypatch.setattr(slots, "visible_gpus", list)
    plain, pinned = compose(), compose("trainer.threads=4")
    assert slots.slots_for([plain], jobs="auto") == [slots.Slot(1)] * 8
    assert slots.slots_for([pinned], jobs="auto") == [slots.Slot(4)] * 2
    assert slots.slots_for([plain], jobs=3) == [slots.Slot(2)] * 3
    monkeypatch.setattr(slots, "visible_gpus", lambda: ["0", "3"])
    assert slots.slots_for([plain], jobs="auto") == [slots.Slot(4, "0"), slots.Slot(4, "3")]
    assert [slot.device for slot in slots.slots_for([plain], jobs=4)] == ["0", "3", "0", "3"]
    assert slots.Slot(1, "3").environment == {"CUDA_VISIBLE_DEVICES": "3", "SKIPLAB_THREADS": "1"}
    assert slots.slots_for([compose("device=cpu")], jobs="auto") == [slots.Slot(1)] * 8
    # One device runs one job at a time.
    assert slots.slots_for([compose("device=cuda:1")], jobs="auto") == [slots.Slot(8)]
    several = compose("trainer.devices=2", "device=cpu")
    assert slots.slots_for([several], jobs="auto") == [slots.Slot(None)]
    with pytest.raises(UsageError, match="takes the whole machine"):
        slots.slots_for([several], jobs=2)


def test_gpus_are_counted_without_a_cuda_context(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a stand-in for NVML that says there are three."""
    from skiplab.study import slots

    def count_gpus(count: Any) -> int:
        count._obj.value = 3
        return 0

    nvml = SimpleNamespace(nvmlInit_v2=lambda: 0, nvmlDeviceGetCount_v2=count_gpus)
    monkeypatch.setattr(slots, "torch_has_cuda", lambda: True)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slots.visible_gpus() == ["0", "1", "2"]
    for told, found in (
        ("2,0", ["2", "0"]),
        ("", []),
        ("-1", []),
        ("7", []),
        ("GPU-abc,1", ["GPU-abc", "1"]),
        ("1,-1,0", ["1"]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
        assert slots.visible_gpus() == found, told


@pytest.mark.slow
def test_the_live_table_shows_running_done_failed_and_the_best(tmp_path: Path) -> None:
    """On a terminal of its own, whose last screen is read."""
    train = str(Path(sys.executable).parent / "train")
    script = f"import pty, sys; sys.exit(pty.spawn([{train!r}, *sys.argv[1:]]) >> 8)"
    environment = os.environ | {
        "TERM": "xterm-256color",
        "COLUMNS": "150",
        "LINES": "40",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-c",
        script,
        "-m",
        *SMALL,
        "depth=1",
        "study=s",
        "optimizer.lr=0.05,1e18",
        "seed=0,1",
        "scheduler=constant",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout)
    assert done.returncode == 1, text
    assert re.search(r"running +optimizer\.lr=0\.05 seed=0", text)
    assert re.search(r"FAILED +optimizer\.lr=1e\+18 seed=0: exit code 5", text)
    assert "best on validation so far" in text
    assert "sweep: 2 of 4 cells done, 2 failed" in text
    # This sequence shows the cursor again.
    assert done.stdout.rfind("\x1b[?25h") > done.stdout.rfind("\x1b[?25l")


def test_a_presets_grid_is_overridden_key_by_key() -> None:
    from skiplab import paths
    from skiplab.config import grid

    for name in paths.groups()["sweep"]:
        assert grid.count_cells(grid.parsed(grid.with_preset([f"sweep={name}"]))) >= 15
    assert grid.values_of_preset(["sweep=depth_vs_width", "target=40k"]) == ["match=params"]
    flow = ["trainer.probe='gradients,activations,updates'", "trainer.probe_every=50", "steps=200"]
    assert grid.values_of_preset(["sweep=gradient_flow"]) == flow
    assert (
        grid.for_people(flow)
        == "trainer.probe=gradients,activations,updates trainer.probe_every=50 steps=200"
    )
    texts = grid.with_preset(["sweep=blocks", "seed=7", "epochs=2"])
    assert texts == ["block=conv,residual,residual_down,skip", "sweep=blocks", "seed=7", "epochs=2"]
    assert grid.combinations(grid.parsed(["block=conv,skip", "depth=range(1,4)", "seed=0"]))[
        -1
    ] == ["block=skip", "depth=3", "seed=0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["blocks", "blocks_equal_params", "degradation", "depth_vs_width", "gradient_flow"]
)
def test_a_ready_study_runs_without_m_and_ends_in_a_verdict(
    tmp_path: Path, train: Train, name: str
) -> None:
    """With one seed and one epoch."""
    short = ["steps=10" if name == "gradient_flow" else "epochs=1", "batch_size=256", "seed=0"]
    short += ["depth=2,6"] if name in ("degradation", "gradient_flow") else []
    done = train(f"sweep={name}", *short)
    assert done.returncode == 0, done.stderr
    (study,) = (tmp_path / "outputs/studies").iterdir()
    assert study.name.startswith(f"{name}-")
    assert "sweep: " in done.stdout
    assert json.loads((study / "compare.json").read_text())["verdict"]
    assert (study / "gradient_flow.png").exists() == (name == "gradient_flow")
    assert (study / "update_flow.png").exists() == (name == "gradient_flow")
    if "equal" in name or "width" in name:
        assert re.search(
            r"^\S+: width=\d+: [\d,]+ params, [+-]\d+\.\d % of the target$",
            done.stdout,
            re.MULTILINE,
        )
