"""Odd surroundings: little memory, nested limits, long temporary folders, batch systems' signals.

They end in a line and a code, never in a traceback.
"""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from helpers import Cli, compose, start, system
from skiplab import build, exits
from skiplab.errors import FolderError, OutOfMemory, SkiplabError, UsageError
from skiplab.machine import cpu, devices, memory
from skiplab.machine.decisions import stop_with
from skiplab.machine.signals import EXIT_CODES, StopSignal
from skiplab.runs import folders
from skiplab.study import workers
from skiplab.training.evaluation import BATCH_SIZE

TINY = (
    "depth=1",
    "width=8",
    "batch_size=256",
    "trainer.threads=1",
    "pictures=never",
    "trainer.limit_steps=4",
)
CPU = torch.device("cpu")


# --------------------------------------------------------------------------------------------------
# Memory


def test_memory_is_limited_along_the_whole_path_of_version_2(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        "0::/user.slice/job/step\n",
        **{
            "memory.max": "max",
            "memory.current": 10**9,
            "user.slice/memory.max": 9_000_000,
            "user.slice/memory.current": 2_000_000,
            "user.slice/job/memory.max": 5_000_000,
            "user.slice/job/memory.current": 1_500_000,
            "user.slice/job/memory.stat": "anon 900000\ninactive_file 600000\nactive_file 1",
            "user.slice/job/step/memory.max": "max",
            "user.slice/job/step/memory.current": 1_000_000,
        },
    )
    assert memory.available(root) == 5_000_000 - 1_500_000 + 600_000, (
        "files that are only cached make room"
    )
    (root / "sys/fs/cgroup/user.slice/job/step/memory.high").write_text("1200000\n")
    assert memory.available(root) == 200_000


def test_memory_is_limited_along_the_whole_path_of_version_1(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        "9:name=systemd:/job\n3:cpu,cpuacct:/slurm\n2:memory:/slurm/uid_7/job_5/step_0\n0::/\n",
        **{
            "memory/memory.limit_in_bytes": 2**63 - 4096,
            "memory/memory.usage_in_bytes": 10**9,
            "memory/slurm/uid_7/job_5/memory.limit_in_bytes": 1_500_000_000,
            "memory/slurm/uid_7/job_5/memory.usage_in_bytes": 400_000_000,
            "memory/slurm/uid_7/job_5/memory.stat": "cache 5\ntotal_inactive_file 100000000",
            "memory/slurm/uid_7/job_5/step_0/memory.limit_in_bytes": 2**63 - 4096,
            "memory/slurm/uid_7/job_5/step_0/memory.usage_in_bytes": 1,
        },
    )
    assert memory.available(root) == 1_200_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is read from /proc")
def test_a_limit_of_the_address_space_is_a_limit() -> None:
    script = (
        "import resource; from pathlib import Path; from skiplab.machine import memory\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))\n"
        "print(memory.available())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert 0 < int(done.stdout) <= 2**27


def test_a_network_that_does_not_fit_is_not_even_built(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose("width=4000", "depth=2")
    monkeypatch.setattr(memory, "available", lambda: 2**30)
    before = peak_memory()
    with pytest.raises(
        OutOfMemory,
        match=r"^width=4000: the network takes \d[\d.]* GiB or more, 1.0 GiB are free; "
        "take a smaller width",
    ):
        build.network(config, CPU)
    assert peak_memory() - before < 2**26, "the weights take 1.1 GiB"
    with pytest.raises(
        OutOfMemory, match=r"^width=1000000000000: the weights are too large to be counted"
    ):
        build.network(compose("width=1000000000000"), CPU)


def peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_what_is_checked_before_it_is_built_is_what_is_built() -> None:
    for text in ("model=resnet20", "model=resnet18", "block=skip"):
        config = compose(text, "dataset=cifar10")
        with torch.device("meta"):
            size = memory.weight_bytes(build.build_network(config))
        model = build.network(config, CPU)
        assert size == memory.weight_bytes(model)
        assert size >= 4 * sum(p.numel() for p in model.parameters())


def test_counting_on_the_meta_device_is_counting_the_real_thing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build.network(compose("model=resnet20", "dataset=cifar10"), CPU)

    def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(count, 3, 32, 32), torch.arange(count) % 10

    off = torch.autocast("cpu", enabled=False)
    real = memory.needed(model, batch, num_images=64, autocast=off)
    monkeypatch.setattr(memory, "LARGE", 0)
    assert memory.needed(model, batch, num_images=64, autocast=off) == pytest.approx(real, rel=0.02)
    assert all(parameter.device == CPU for parameter in model.parameters()), (
        "the model stays where it is"
    )


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("width=1000000", "width=1000000: the network takes"),
        ("dataset.resize=100000", "dataset.resize=100000: 1,437 images of 100000x100000 takes"),
    ],
)
def test_what_takes_too_much_is_exit_6_and_leaves_no_folder(
    text: str, fragment: str, call: Cli
) -> None:
    code, _, err = call(*TINY, text)
    assert (code, err.count("\n")) == (6, 1), err
    assert fragment in err
    assert not list(Path("outputs").glob("*/*/config.yaml"))


@pytest.mark.parametrize("text", ["trainer.threads=100000", "jobs=1000000000", "depth=1000000"])
def test_what_no_machine_can_do_is_refused_by_the_schema(text: str, call: Cli) -> None:
    code, _, err = call(*TINY, text, "-m", "seed=0,1")
    assert (code, err.count("\n")) == (2, 1), err
    assert "must be at most" in err


def test_buffers_follow_what_a_run_can_use(call: Cli) -> None:
    huge = ("trainer.log_every=1000000000000", "trainer.eval_every=1e9", "steps=1000000000000")
    code, _, err = call(*TINY, *huge, "out=run")
    assert code == 0, err


def test_losses_are_read_before_their_buffer_is_full(
    call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(*TINY, "trainer.log_every=1000", "out=one")[0] == 0
    monkeypatch.setattr("skiplab.training.step.MOST_PENDING", 3)
    assert call(*TINY, "trainer.log_every=1000", "out=other")[0] == 0
    assert Path("one/metrics.jsonl").read_bytes() == Path("other/metrics.jsonl").read_bytes()


# --------------------------------------------------------------------------------------------------
# What nobody foresaw


@pytest.mark.parametrize(
    ("error", "code", "fragment"),
    [
        (
            OSError(errno.EFBIG, "File too large"),
            4,
            "the system refuses an operation (File too large)",
        ),
        (
            OSError(errno.EMFILE, "Too many open files", "x"),
            4,
            "x: cannot be written or read (Too many open files)",
        ),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", "run/run.log"),
            4,
            "run/run.log: cannot be written or read (Is a directory)",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 6, "the system gives no more memory"),
        (MemoryError(), 6, "memory is out; take a smaller"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            6,
            "memory is out (",
        ),
        (
            ImportError("libtorch.so: failed to map segment from shared object"),
            6,
            "failed to map segment",
        ),
        (SkiplabError("ours"), 1, "error: ours"),
        (UsageError("ours"), 2, "error: ours"),
    ],
)
def test_what_goes_wrong_is_a_line_and_a_code(
    error: Exception, code: int, fragment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error

    assert exits.guard(command) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert fragment in err


def broken(*_: object, **__: object) -> None:
    raise ValueError("two\nlines")


def test_an_unforeseen_error_names_its_log(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skiplab.describe.log_start", broken)
    code, _, err = call(*TINY, "out=run")
    assert (code, err.count("\n")) == (1, 1), err
    assert (
        "error: unforeseen, ValueError: two lines; "
        "its traceback is in run/run.log; SKIPLAB_TRACEBACK=1" in err
    )
    assert "go on with: train resume=run" in err
    assert "in broken" in Path("run/run.log").read_text()
    monkeypatch.setenv("SKIPLAB_TRACEBACK", "1")
    code, _, err = call("resume=run")
    assert "in broken" in err
    assert "SKIPLAB_TRACEBACK" not in err.splitlines()[-1]


def test_an_unforeseen_error_before_there_is_a_run_has_a_log_too(
    call: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skiplab.launch.choose_folder", broken)
    monkeypatch.setattr("skiplab.cli.info.facts", broken)
    for arguments, command in ((TINY, "train"), (("info",), "skiplab")):
        code, _, err = call(*arguments, command=command)
        assert (code, err.count("\n")) == (1, 1), err
        assert f"its traceback is in {tmp_path}/cache/skiplab/errors.log" in err
    assert (tmp_path / "cache/skiplab/errors.log").read_text().count("in broken") == 2


def test_a_fresh_folder_goes_when_the_machine_refuses(
    call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded", "x")

    monkeypatch.setattr("skiplab.launch.write_hydra_record", refused)
    code, _, err = call(*TINY)
    assert (code, err.count("\n")) == (4, 1), err
    assert not list(Path("outputs").glob("*/*/config.yaml"))
    monkeypatch.undo()


def test_a_study_whose_folder_cannot_be_written_is_a_line(
    call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr("skiplab.study.record.write", refused)
    code, _, err = call("-m", *TINY, "seed=0,1", "study=x")
    assert (code, err.count("\n")) == (4, 1), err
    assert "outputs/studies/x: cannot be written (File too large)" in err
    assert not Path("outputs/studies/x").exists()


# --------------------------------------------------------------------------------------------------
# Signals


@pytest.mark.parametrize("number", EXIT_CODES)
def test_every_signal_that_asks_to_leave_is_answered_by_a_save(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in EXIT_CODES}
    with StopSignal() as asked, asked.heeded():
        os.kill(os.getpid(), number)
        assert asked() == stop_with(128 + number)
    assert {each: signal.getsignal(each) for each in EXIT_CODES} == before


def test_batch_systems_are_heard() -> None:
    assert {"SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR2", "SIGXCPU"} <= {
        number.name for number in EXIT_CODES
    }


def test_the_limit_of_cpu_time_is_told_again_and_again(capfd: pytest.CaptureFixture[str]) -> None:
    with StopSignal() as asked, asked.heeded():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGXCPU)
        assert asked() == stop_with(128 + signal.SIGXCPU)


def test_submitit_keeps_its_own_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    for name in ("USR2", "USR1"):
        monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", name)
        own = signal.getsignal(getattr(signal, f"SIG{name}"))
        with StopSignal():
            assert signal.getsignal(getattr(signal, f"SIG{name}")) is own


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGUSR2", "SIGXCPU", "SIGQUIT"])
def test_a_run_that_is_told_to_leave_saves(name: str, tmp_path: Path) -> None:
    long = (*TINY[:-1], "epochs=3000", "trainer.eval_every=1000", "trainer.save_every=1000")
    process = start(*long, "out=run", cwd=tmp_path)
    while not (tmp_path / "run" / folders.LAST).exists():
        time.sleep(0.01)
    number = signal.Signals[name]
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "stopped and saved at step" in err


# --------------------------------------------------------------------------------------------------
# Other surroundings


@pytest.mark.skipif(sys.platform == "win32", reason="no sockets in files there")
def test_a_long_temporary_folder_leaves_room_for_sockets(tmp_path: Path) -> None:
    script = (
        "import tempfile; from multiprocessing import util; from skiplab.study import workers\n"
        "usual = tempfile.gettempdir(); workers.context([]); print(util.get_temp_dir())\n"
        "assert tempfile.gettempdir() == usual"
    )
    folder = tmp_path / ("t" * 129)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.strip()) < 75
    assert len(tempfile.gettempdir()) <= workers.LONGEST_TMPDIR


def test_the_instruction_set_is_part_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "model name\t: X\nflags\t\t: fpu sse4_2 smep avx avx2 fma\nflags\t\t: fpu\n"
    )
    assert cpu.instructions(tmp_path) == "avx avx2 fma sse4_2"
    for name in cpu.LIMITS:
        monkeypatch.delenv(name, raising=False)
    before = devices.comparable(CPU)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    (told,) = devices.differences(before, devices.comparable(CPU))
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in told
    assert list(devices.differences(before, before)) == []


def test_a_run_that_moved_says_so(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(*TINY, "trainer.max_time=1e-9", "out=run")[0] == 7
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    code, out, err = call("resume=run", "trainer.max_time=null")
    assert code == 0, err
    assert "the end will not be equal to the bit" in out
    import json

    (moved,) = json.loads(Path("run/result.json").read_text())["moved"]
    assert moved["step"] == 1
    assert "ATEN_CPU_CAPABILITY=default" in moved["what"]


def test_errors_of_the_system_are_errors_of_ours() -> None:
    assert isinstance(
        exits.explain_os_error(OSError(errno.ENOSPC, "No space left on device", "x")), FolderError
    )
    assert isinstance(
        exits.explain_os_error(OSError(errno.ENOMEM, "Cannot allocate memory")), OutOfMemory
    )


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("dataset=cifar10",), BATCH_SIZE),
        (("dataset=cifar10", "model=resnet50"), BATCH_SIZE),
        (("dataset=cifar10", "model=resnet18", "dataset.resize=160"), BATCH_SIZE),
        (("dataset=cifar10", "model=resnet18", "dataset.resize=800"), 2**32 // (4 * 64 * 800**2)),
        (("dataset.resize=2000", "width=8"), 2**32 // (4 * 8 * 2000**2)),
        (("dataset.resize=20000", "width=8"), 1),
    ],
)
def test_an_evaluation_takes_fewer_images_only_where_they_are_huge(
    texts: tuple[str, ...], expected: int
) -> None:
    assert build.images_at_once(compose(*texts), torch.device("cpu")) == expected
