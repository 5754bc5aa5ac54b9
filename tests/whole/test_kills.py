"""Real processes, killed: a run ends bit for bit identical to one to which nothing happened."""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import SMALL, Cli, compose, last_of, start
from skiplab import launch
from skiplab.cli import verify
from skiplab.errors import FolderError
from skiplab.runs import atomic, checkpoint, folders, lock, status

FORMAT_2 = Path(__file__).parents[1] / "fixtures/format2"
LONG = last_of((*SMALL, "epochs=3000", "trainer.eval_every=1000", "trainer.save_every=1000"))


def wait_until(
    condition: Callable[[], object], *, process: subprocess.Popen[str], seconds: float = 60
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def finish(*arguments: str, cwd: Path) -> tuple[str, str]:
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


# --------------------------------------------------------------------------------------------------
# Kill -9


@pytest.mark.slow
def test_the_command_killed_three_times_and_given_again(
    tmp_path: Path, straight: dict[str, str]
) -> None:
    """Kill while it starts, between two saves, and in the report; the same command goes on."""
    process = start(*SMALL, cwd=tmp_path)
    time.sleep(0.05)
    process.kill()
    process.communicate()

    def found() -> list[Path]:
        return folders.runs_under(tmp_path / "outputs")

    process = start(*SMALL, cwd=tmp_path)
    wait_until(
        lambda: (
            found()
            and (found()[0] / "metrics.jsonl").exists()
            and (found()[0] / folders.BEST).exists()
        ),
        process=process,
    )
    process.kill()
    process.communicate()
    process = start(*SMALL, cwd=tmp_path)
    wait_until(lambda: (found()[0] / "report.txt").exists(), process=process)
    process.kill()
    out, _ = process.communicate()
    assert out.startswith("going on with ")
    (folder,) = found()
    finish(*SMALL, cwd=tmp_path)
    assert found() == [folder]
    assert folders.is_finished(folder)
    assert verify.differences(straight, verify.digests(folder)) == []
    assert not list(tmp_path.rglob(f"*{atomic.TEMPORARY}"))


@pytest.mark.parametrize("kills", [5, pytest.param(17, marks=pytest.mark.slow)])
def test_kills_of_warm_processes(kills: int) -> None:
    """At any moment and inside saves; every end is equal to the bit."""
    verdict = verify.verify(compose(*SMALL, "epochs=12"), kills=kills, per_run=kills, seed=1)
    assert verdict.different == []
    assert len(verdict.killed.steps) == kills
    assert verdict.killed.inside_save > 0


def test_verify_tells_its_verdict(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = call("verify", *SMALL[:5], "--kills", "1", "--steps", "6", command="skiplab")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "equal to the bit"
    assert re.search(r"^predictions.npz +[0-9a-f]{16}  equal  \(6 parts\)$", out, re.MULTILINE)
    monkeypatch.setattr(
        verify,
        "verify",
        lambda *_, **__: verify.Verdict(
            verify.Killed(), 1, 1.0, {"report.txt": "0"}, ["report.txt"]
        ),
    )
    code, out, err = call("verify", *SMALL[:5], command="skiplab")
    assert code == 1
    assert out.splitlines()[-1] == "not equal: report.txt"
    assert call("verify", "lr=3", command="skiplab")[0] == 2
    assert call("verify", "--steps", "0", command="skiplab")[0] == 2


def test_what_differs_is_found(tmp_path: Path) -> None:
    shutil.copytree(FORMAT_2, tmp_path / "run")
    expected = verify.digests(tmp_path / "run")
    assert verify.differences(expected, verify.digests(FORMAT_2)) == []
    tensors, facts = checkpoint.load(tmp_path / "run" / folders.LAST)
    tensors["model/head.2.bias"][3] += 1e-6
    checkpoint.save(tmp_path / "run" / folders.LAST, tensors, facts | {"num_steps": 13})
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write("\n")
    (tmp_path / f"run/.last.safetensors-x{atomic.TEMPORARY}").touch()
    different = verify.differences(expected, verify.digests(tmp_path / "run"))
    assert different == [
        f".last.safetensors-x{atomic.TEMPORARY}: left behind",
        "last.safetensors: facts",
        "last.safetensors: model/head.2.bias",
        "metrics.jsonl",
    ]


# --------------------------------------------------------------------------------------------------
# Signals


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_while_data_are_fetched_ends_at_once(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This server takes the connection and answers nothing.
    with socket.create_server(("127.0.0.1", 0)) as host:
        monkeypatch.setenv("SKIPLAB_MIRROR", f"http://127.0.0.1:{host.getsockname()[1]}")
        process = start("dataset=mnist", "dataset.root=root", "out=run", cwd=tmp_path)
        host.settimeout(60)
        connection, _ = host.accept()
        began = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        connection.close()
    assert time.monotonic() - began < 2
    assert process.returncode == 128 + number
    assert err.strip() == "stopped; go on with: train resume=run"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_in_training_saves_and_tells_how_to_go_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    process = start(*LONG, "out=run", cwd=tmp_path)
    wait_until(lambda: folders.has_state(tmp_path / "run"), process=process)
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 2
    assert process.returncode == 128 + number
    assert re.fullmatch(
        r"stopped and saved at step [\d,]+ of 18,000; go on with: train resume=run\n", err
    )
    assert checkpoint.peek(tmp_path / "run" / folders.LAST)["progress"]["step"] > 0


def test_a_signal_in_the_final_report_loses_nothing(
    tmp_path: Path, straight: dict[str, str]
) -> None:
    config, folder = compose(*SMALL), tmp_path / "run"
    process = verify.start(config, folder)
    while process.is_alive() and not (folder / "report.txt").exists():
        time.sleep(0.002)
    process.terminate()
    process.join()
    assert process.exitcode == 143
    assert verify.last_words(folder) == f"stopped; go on with: train resume={folder}"
    verify.run_to_end(config, folder)
    assert verify.differences(straight, verify.digests(folder)) == []


def test_sigusr1_saves_and_goes_on(tmp_path: Path) -> None:
    process = start(*LONG, "out=run", cwd=tmp_path)
    last = tmp_path / "run" / folders.LAST
    wait_until(last.exists, process=process)
    for _ in range(2):
        before = checkpoint.peek(last)["progress"]["step"]
        process.send_signal(signal.SIGUSR1)
        wait_until(
            lambda before=before: checkpoint.peek(last)["progress"]["step"] > before,
            process=process,
        )
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    script = (
        "import time; from skiplab.machine.signals import StopSignal\n"
        "with StopSignal() as signal, signal.heeded():\n"
        "    print('ready', flush=True)\n"
        "    for _ in range(600): time.sleep(0.1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "\n"
    assert process.stdout.readline().startswith("stopping after this step")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "forkpty"), reason="pseudo-terminals are needed")
def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """In the middle of training: the run saves, as on Ctrl-C, and ends with 128 + SIGHUP."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    process = subprocess.Popen(
        ["setsid", "--ctty", str(Path(sys.executable).parent / "train"), *LONG, "out=run"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        text=True,
        # The tests themselves may run under nohup.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    os.close(slave)
    wait_until(
        lambda: (read_or_nothing(master), folders.has_state(tmp_path / "run"))[1], process=process
    )
    os.close(master)
    process.wait(timeout=20)
    assert process.returncode == 129
    assert status.of_last_save(tmp_path / "run").step
    assert not lock.is_locked(tmp_path / "run")


def read_or_nothing(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    # Nothing is written yet.
    except OSError:
        return b""


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_end_the_run(
    tmp_path: Path, straight: dict[str, str]
) -> None:
    """`train | head -1`: the run goes on."""
    process = start(*SMALL, "out=run", cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert verify.differences(straight, verify.digests(tmp_path / "run")) == []
    assert process.stderr is not None
    process.stderr.close()


# --------------------------------------------------------------------------------------------------
# Two runs, one folder


@pytest.mark.slow
def test_a_second_run_in_a_folder_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    first = start(*LONG, "out=run", cwd=tmp_path)
    wait_until(lambda: folders.has_state(tmp_path / "run"), process=first)
    for command in ((*LONG, "out=run"), ("resume=run", "optimizer.lr=0.01")):
        began = time.monotonic()
        second = start(*command, cwd=tmp_path)
        _, err = second.communicate(timeout=60)
        assert second.returncode == 4
        assert f"run: in use by pid {first.pid} on " in err
        # It takes under 3 s on an idle machine, most of it to import torch.
        assert time.monotonic() - began < 8
    assert "optimizer:\n  name: sgd\n  lr: 0.05" in (tmp_path / "run/config.yaml").read_text()
    first.kill()
    first.communicate()
    assert not lock.is_locked(tmp_path / "run")


@pytest.mark.slow
def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    command = (*SMALL, "trainer.max_time=1e-9")
    # A leftover of another day stays untouched.
    (tmp_path / "outputs/2020-01-01/00-00-00-digits-deepcnn-conv").mkdir(parents=True)
    runs = [start(*command, cwd=tmp_path) for _ in range(2)]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [7, 7], outputs
    # A run that starts after another has stopped goes on with it. No two are ever in one folder
    # at once.
    assert 1 <= len(folders.runs_under(tmp_path / "outputs")) <= 2
    steps = [
        checkpoint.peek(folder / folders.LAST)["progress"]["step"]
        for folder in folders.runs_under(tmp_path / "outputs")
    ]
    assert sum(steps) == 2


@pytest.mark.slow
def test_leftovers_of_a_start_that_was_killed_are_removed(tmp_path: Path) -> None:
    day = tmp_path / "outputs" / time.strftime("%Y-%m-%d")
    leftover, kept = day / "00-00-00-digits-deepcnn-residual", day / "notes"
    for folder in (leftover, kept):
        folder.mkdir(parents=True)
    (leftover / f".config.yaml-x{atomic.TEMPORARY}").touch()
    process = start(*SMALL, "trainer.max_time=1e-9", cwd=tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 7
    assert not leftover.exists()
    assert kept.exists()


# --------------------------------------------------------------------------------------------------
# The disk


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))


def test_a_full_disk_loses_nothing(tmp_path: Path, straight: dict[str, str]) -> None:
    """A limit on the size of files stands for it: last.safetensors does not fit."""
    command = [str(Path(sys.executable).parent / "train"), *SMALL, "out=run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=small_files,
    )
    assert done.returncode == 4, done.stderr
    assert re.search(
        r"run: cannot write [\w.]+, [\d,]+ bytes are needed \(File too large\)", done.stderr
    ), done.stderr
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "run").glob(f".*{atomic.TEMPORARY}"))
    verify.run_to_end(compose(*SMALL), tmp_path / "run")
    assert verify.differences(straight, verify.digests(tmp_path / "run")) == []


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="a small file system can only be mounted by root on Linux",
)
def test_a_full_file_system_in_the_middle_of_a_run(
    tmp_path: Path, straight: dict[str, str]
) -> None:
    (tmp_path / "disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path / "disk")],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        filler = tmp_path / "disk/filler"
        # There is room for some saves, not for all.
        filler.write_bytes(bytes((1 << 20) - 90_000))
        process = start(*SMALL, "out=disk/run", cwd=tmp_path)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 4, err
        assert "disk/run: cannot " in err
        assert "No space left on device" in err
        assert err.count("\n") == 1
        assert status.of_last_save(tmp_path / "disk/run").step is not None
        filler.unlink()
        finish(*SMALL, "out=disk/run", cwd=tmp_path)
        assert verify.differences(straight, verify.digests(tmp_path / "disk/run")) == []
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    (tmp_path / "file").touch()
    tmp_path.chmod(0o755)
    as_root = os.geteuid() == 0
    # Compose first: perhaps only root can read the checkout.
    wanted = [compose(*SMALL, "out=run"), compose(*SMALL)]
    monkeypatch.chdir(tmp_path / "closed")
    # Root writes everywhere.
    if as_root:
        os.seteuid(65534)
    try:
        for config in wanted:
            with (
                pytest.raises(FolderError, match=r"Permission denied"),
                launch.hold_folder(config, Path("outputs/day"), "0"),
            ):
                pass
        with pytest.raises(FolderError, match=r"run: cannot be made"):
            launch.make_out(tmp_path / "file/run")
    finally:
        if as_root:
            os.seteuid(0)


# --------------------------------------------------------------------------------------------------
# The writer


def test_a_save_does_not_wait_for_the_disk_and_its_failure_is_raised_at_the_next_call() -> None:
    gate = threading.Event()

    def slow() -> None:
        gate.wait(10)
        raise OSError("disk")

    def checked() -> None:
        with checkpoint.Writer() as writer:
            writer.submit(slow)
            # The write goes on, so it has not failed yet.
            writer.check()
            gate.set()
            while writer.job is not None:
                time.sleep(0.001)
                writer.check()

    with pytest.raises(OSError, match="disk"):
        checked()
