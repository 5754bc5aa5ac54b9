"""Several processes train as one: the same numbers, the same decisions, one folder.

They end together, whatever ends one of them.
"""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from helpers import Cli, compose, last_of
from skiplab import build, capacity, launch
from skiplab.cli import verify
from skiplab.data.augment import Augment
from skiplab.data.batches import Batches, Normalize
from skiplab.data.splits import Split
from skiplab.errors import RankFailed, UsageError
from skiplab.machine import devices, memory, processes, torchrun
from skiplab.machine.cpu import num_cores
from skiplab.machine.ranks import ALONE, Ranks, Team
from skiplab.machine.torchrun import Place
from skiplab.runs import checkpoint, folders, lock, status
from skiplab.runs.log import Log, Silence
from skiplab.training.evaluation import BATCH_SIZE, evaluate
from skiplab.weights import load_weights

# 719 training images and 718 for validation, which are two batches of the evaluation. There are 7
# steps per epoch, the last of them over 89 images.
SMALL = (
    *(
        "depth=1",
        "width=8",
        "batch_size=105",
        "val_fraction=0.5",
        "device=cpu",
        "trainer.threads=2",
        "model.dropout=0.3",
    ),
    *(
        "augment=cutout",
        "augment.crop=2",
        "augment.cutout=3",
        "trainer.save_every=0.5",
        "trainer.eval_every=1",
        "trainer.log_every=3",
    ),
    "pictures=never",
)
TWO = (*SMALL, "epochs=6", "trainer.ema=0.9", "trainer.devices=2")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def children_of(pid: int, *, mark: bytes = b"spawn_main") -> list[int]:
    """The ranks that the process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = stat.with_name("cmdline").read_bytes()
        # The process has ended.
        except OSError:
            continue
        if parent == pid and mark in command:
            found.append(int(stat.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Any, *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def begun(process: BaseProcess, folder: Path) -> list[int]:
    """Wait until the run has made steps and saved; return the ranks that it has started."""
    before = verify.step_of(folder)
    wait_until(lambda: not process.is_alive() or verify.step_of(folder) > max(before, 0))
    assert process.is_alive(), verify.last_words(folder)
    assert process.pid is not None
    return children_of(process.pid)


# --------------------------------------------------------------------------------------------------
# The numbers


@pytest.mark.slow
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_two_processes_are_one_in_a_sweep_too(class_weights: str, call: Cli) -> None:
    """Odd batches, parts, clipping, averages: all but BatchNorm is the same.

    Only one process can compute the last batch.
    """
    small = [
        text
        for text in SMALL
        if not text.startswith(("batch_size", "val_fraction", "model.dropout"))
    ]
    # 1,293 images are six batches of 215 and one of 3.
    small += ["batch_size=215", "norm=none", "model.dropout=0", "epochs=2"]
    options = [
        "trainer.accumulate=3",
        "trainer.clip=0.5",
        "trainer.ema=0.9",
        "trainer.lookahead=3",
        "trainer.eval_train=true",
        f"trainer.class_weights={class_weights}",
    ]
    code, _, err = call("-m", "trainer.devices=1,2", *small, *options)
    assert (code, err) == (0, "")
    one, two = sorted(
        folders.runs_under(Path("outputs")), key=lambda folder: "devices-2" in folder.name
    )
    for log in Path("outputs").glob("studies/*/logs/*.log"):
        # The line is written at begin and end by the first rank only.
        assert len(re.findall("^run folder outputs/", log.read_text(), re.MULTILINE)) == 2
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    ours, theirs = rows_of(one), rows_of(two)
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    assert len(ours) == 14 + 2
    for row, other in zip(ours, theirs, strict=True):
        for key, value in row.items():
            assert other[key] == pytest.approx(
                value, rel=1e-5, abs=2 / 1293 if "accuracy" in key else 0
            ), key
    facts = json.loads((two / folders.RESULT).read_text())
    assert (facts["devices"], facts["threads"]) == (2, 1)
    assert facts["hardware"].startswith("2 x ")
    weights, others = (checkpoint.load(folder / folders.LAST)[0] for folder in (one, two))
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-4, atol=1e-6, msg=name)


PARTS = [
    # Images, ranks, images of each rank that count.
    (10, 2, [5, 5]),
    (11, 2, [5, 6]),
    (4, 2, [2, 2]),
    (3, 2, [3, 0]),
    (2, 2, [2, 0]),
    (1, 2, [1, 0]),
    (5, 3, [2, 3, 0]),
    (14, 4, [3, 4, 3, 4]),
    (7, 4, [2, 2, 3, 0]),
]


@pytest.mark.parametrize(("num_images", "size", "expected"), PARTS)
def test_every_image_counts_once_and_no_part_is_too_small(
    num_images: int, size: int, expected: list[int]
) -> None:
    images = torch.arange(num_images, dtype=torch.uint8).view(-1, 1, 1, 1)
    normalize = Normalize(
        mean=(0.0,), std=(1 / 255,), size=(1, 1), channels_last=False, device=torch.device("cpu")
    )
    config = compose()
    augment = Augment(
        flip="none",
        crop=0,
        padding_mode="zeros",
        cutout=0,
        cutout_inside=False,
        fill=torch.zeros(1, dtype=torch.uint8),
    )
    split = Split(images, torch.arange(num_images))
    batches = Batches(
        split,
        batch_size=num_images,
        seed=config.seed,
        shuffle=True,
        drop_last=False,
        augment=augment,
        normalize=normalize,
    )
    seen, counts = [], []
    for rank in range(size):
        team = Team(
            HashStore(),
            Place(rank, size, rank, size),
            device=torch.device("cpu"),
            check=lambda: None,
        )
        part, ranks, weight = team.part_of(num_images)
        _, labels = batches.at(0, rank=part, ranks=ranks)
        assert weight in (0, size)
        # Parts that do not count have two images too: BatchNorm cannot normalise one value.
        assert len(labels) >= min(2, num_images)
        counts.append(len(labels) if weight else 0)
        seen += labels.tolist() if weight else []
    assert counts == expected
    assert sorted(seen) == list(range(num_images))
    assert ALONE.part_of(num_images) == (0, 1, 1)


def test_a_process_alone_adds_and_shares_nothing() -> None:
    tensor = torch.arange(3.0)
    assert ALONE.sum(tensor) is ALONE.mean(tensor) is tensor
    ALONE.share([tensor])
    assert ALONE.agreed(lambda: 5) == 5
    assert ALONE.agreed(lambda: None) == 0
    model = torch.nn.BatchNorm2d(3)
    assert ALONE.replicate(model, sync_bn=True) is model
    assert ALONE.is_main


# --------------------------------------------------------------------------------------------------
# Ends, and goes on


@pytest.mark.slow
@on_linux
def test_whatever_ends_it_the_end_is_equal(tmp_path: Path) -> None:
    """Killed whole, then one rank, then stopped by Ctrl-C, the run ends as a straight one.

    Its evaluation is that of one process, bit for bit.
    """
    config, straight, folder = compose(*TWO), tmp_path / "straight", tmp_path / "run"
    verify.run_to_end(config, straight)
    assert_evaluated_as_by_one_process(straight)

    # Kill the first rank.
    process = verify.start(config, folder)
    assert process.pid is not None
    wait_until(lambda: children_of(process.pid or 0))
    (child,) = children_of(process.pid)
    # The signals come while the interpreter of the second rank starts.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child, number)
    assert begun(process, folder) == [child]
    process.kill()
    process.join()
    wait_until(lambda: not is_alive(child), seconds=10)
    assert not lock.is_locked(folder)

    # Kill the second rank.
    process = verify.start(config, folder)
    (child,) = begun(process, folder)
    os.kill(child, signal.SIGKILL)
    began = time.monotonic()
    process.join()
    assert time.monotonic() - began < 15
    assert process.exitcode == 1
    assert re.fullmatch(
        rf"error: rank 1 \(pid {child}\) was ended by SIGKILL; go on with: train resume=\S+",
        verify.last_words(folder),
    )
    assert "Traceback" not in Path(f"{folder}.log").read_text()

    # Ctrl-C reaches both ranks.
    process = verify.start(config, folder)
    (child,) = begun(process, folder)
    assert process.pid is not None
    for pid in (child, process.pid):
        os.kill(pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert re.fullmatch(
        r"stopped and saved at step \d+ of 42; go on with: train resume=\S+",
        verify.last_words(folder),
    )
    assert not is_alive(child)

    verify.run_to_end(config, folder)
    assert verify.differences(verify.digests(straight), verify.digests(folder)) == []
    assert {path.name for path in folder.iterdir()} == {path.name for path in straight.iterdir()}


def assert_evaluated_as_by_one_process(folder: Path) -> None:
    """The best weights' row of metrics.jsonl is that of an evaluation here, bit for bit."""
    config, device = compose(*TWO), torch.device("cpu")
    torch.set_num_threads(1)
    _, validation, _ = build.training_data(config, device)
    assert validation is not None
    assert len(validation) > BATCH_SIZE
    model = build.network(config, device)
    facts = load_weights(folder / folders.BEST, model, config)
    scores = evaluate(
        build.predictor_of(config, model, device),
        validation,
        build.normalizer(config, device),
        num_classes=10,
    )
    (row,) = (row for row in rows_of(folder) if row["step"] == facts.step and "val_loss" in row)
    assert (scores.loss, scores.accuracy) == (row["val_loss"], row["val_accuracy"])


def with_torchrun(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """`train` in two processes."""
    script = str(Path(sys.executable).parent / "train")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            f"--master-port={port}",
            script,
            *last_of(arguments),
        ],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("seeds", ["0", "0,1"])
def test_torchrun_makes_one_folder_a_run(seeds: str, tmp_path: Path) -> None:
    """In a sweep too, where both processes meet twice; the second one is silent."""
    is_sweep = ["-m"] if "," in seeds else []
    process = with_torchrun(*is_sweep, f"seed={seeds}", *SMALL, "epochs=1", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = folders.runs_under(tmp_path / "outputs")
    assert len(found) == len(seeds.split(","))
    assert {status.read(folder).state for folder in found} == {"finished"}
    assert len(re.findall("^run folder outputs/", out, re.MULTILINE)) == 2 * len(found)
    assert out.count("digits test set, ") == len(found)
    assert all("devices: 2\n" in (folder / folders.CONFIG).read_text() for folder in found)
    assert not is_sweep or "sweep: 2 of 2 cells done\n" in out


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("victim", ["0", "1"])
def test_torchrun_with_a_rank_killed_and_given_again(victim: str, tmp_path: Path) -> None:
    """All end and leave nothing behind. The end is that of the same run with our own processes."""
    config, folder = compose(*TWO), tmp_path / "run"
    verify.run_to_end(config, tmp_path / "straight")
    process = with_torchrun(*TWO, "out=run", cwd=tmp_path)
    wait_until(lambda: process.poll() is not None or verify.step_of(folder) > 0)
    ranks = {rank_of(pid): pid for pid in children_of(process.pid, mark=b"train")}
    assert set(ranks) == {"0", "1"}, process.communicate()
    os.kill(ranks[victim], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 1
    wait_until(lambda: not any(map(is_alive, ranks.values())), seconds=60)
    process = with_torchrun(*TWO, "out=run", cwd=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert verify.differences(verify.digests(tmp_path / "straight"), verify.digests(folder)) == []


def rank_of(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(
        variable.decode() for variable in variables if variable.startswith(b"RANK=")
    ).removeprefix("RANK=")


@pytest.mark.slow
def test_three_ranks_go_on_in_the_layout_that_they_had(tmp_path: Path) -> None:
    """Three floats have more than one sum, by the order of adding.

    DistributedDataParallel adds gradients in another order in its first step than later.
    """
    config = compose(*SMALL, "width=16", "trainer.devices=3", "trainer.accumulate=2", "steps=14")
    verify.run_to_end(config, tmp_path / "straight")
    short = replace(config, trainer=replace(config.trainer, max_time=1e-9))
    for step in (1, 2):
        process = verify.start(short, tmp_path / "run")
        process.join()
        assert process.exitcode == 7
        assert verify.step_of(tmp_path / "run") == step
    verify.run_to_end(config, tmp_path / "run")
    assert (
        verify.differences(verify.digests(tmp_path / "straight"), verify.digests(tmp_path / "run"))
        == []
    )


@pytest.mark.slow
def test_decisions_are_the_same_on_all_ranks(call: Cli) -> None:
    """A loss that is not finite, early stopping, a changed number of processes: no rank waits.

    All take the same way.
    """
    two = (*SMALL, "trainer.devices=2", "epochs=3")
    code, out, err = call(
        *two, "optimizer.lr=1e30", "trainer.on_nonfinite=rollback", "out=diverged"
    )
    assert code == 5
    assert out.count("going back to step 0") == 5
    assert err.count("\n") == 1
    code, out, err = call(
        *two, "epochs=30", "optimizer.lr=1e-12", "trainer.early_stop=2", "out=early"
    )
    assert (code, err) == (0, "")
    assert status.read(Path("early")).step == 3 * 7
    code, out, err = call("resume=diverged", "optimizer.lr=0.01", "trainer.devices=1")
    assert (code, err) == (0, "")
    assert (
        "device was 2 x cpu, 1 threads, is cpu, 2 threads: the end will not be equal to the bit"
        in out
    )


def misbehave(ranks: Ranks, told: processes.Told) -> None:
    """What the second rank does in the test below."""
    for number in itertools.count():
        if number == 20 and ranks.position == (1,):
            if told["how"] == "bug":
                raise ValueError("of\ntwo lines")
            if told["how"] == "usage":
                raise UsageError("FILE: damaged")
            os.kill(os.getpid(), signal.SIGSEGV)
        ranks.agreed(lambda: 0)


@pytest.mark.slow
def test_what_ends_one_rank_ends_all_and_is_said_by_the_first() -> None:
    for how, code, words in (
        ("bug", 1, "rank 1: ValueError: of two lines; ADVICE"),
        ("usage", 2, "rank 1: FILE: damaged; ADVICE"),
        ("crash", 1, r"rank 1 \(pid \d+\) was ended by SIGSEGV; ADVICE"),
        ("mine", None, "of the first rank"),
    ):
        began = time.monotonic()
        with pytest.raises((RankFailed, KeyError), match=words) as caught:
            lead(how)
        assert getattr(caught.value, "exit_code", None) == code
        assert ('raise ValueError("of' in getattr(caught.value, "trace", "")) == (how == "bug")
        assert time.monotonic() - began < 40


def lead(how: str) -> None:
    with processes.leading(3, misbehave, {"how": how, "device": "cpu"}, advice="ADVICE") as ranks:
        for number in itertools.count():
            if number == 20 and how == "mine":
                raise KeyError("of the first rank")
            ranks.agreed(lambda: 0)


# --------------------------------------------------------------------------------------------------
# What is refused, and why


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is needed")
def test_devices_that_are_not_there_are_refused_before_a_folder_is_made(call: Cli) -> None:
    many = max(num_cores(), devices.FEW_PROCESSES) + 1
    for texts, fragment in (
        (("device=cuda", "trainer.devices=3"), "device=cuda: this machine has no CUDA device"),
        (
            ("device=cpu", f"trainer.devices={many}"),
            f"trainer.devices={many}: this machine has {num_cores()} core",
        ),
        (
            ("device=cpu", "trainer.devices=2", "trainer.sync_bn=true"),
            "trainer.sync_bn=true: torch has it for CUDA devices alone",
        ),
    ):
        code, out, err = call(*SMALL, *texts)
        assert (code, out) == (2, "")
        assert fragment in err
        assert err.count("\n") == 1
    assert not folders.runs_under(Path("outputs"))
    assert launch.resolve_machine(compose("trainer.devices=auto")).trainer.devices == 1


def test_devices_mean_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    def number(name: str, wanted: int | str, started: Place | None = None) -> int:
        return devices.num_devices(name, wanted, started=started, sync_bn=name != "cpu")

    assert [number(name, "auto") for name in ("auto", "cuda", "cuda:2", "cpu")] == [4, 4, 1, 1]
    assert number("cuda", 3) == 3
    assert number("auto", 1, Place(0, 4, 0, 4)) == 4
    assert number("cuda", "auto", Place(0, 8, 0, 4)) == 8
    for name, wanted, started, words in (
        ("cuda", 5, None, "trainer.devices=5: this machine has 4 CUDA device(s); take at most 4"),
        (
            "cuda:1",
            2,
            None,
            "trainer.devices=2: device=cuda:1 is one device; take device=cuda or device=cpu",
        ),
        (
            "cuda",
            3,
            Place(0, 4, 0, 4),
            "trainer.devices=3: torchrun has started 4 process(es); leave it out",
        ),
        (
            "cuda",
            1,
            Place(0, 6, 0, 6),
            "trainer.devices=6: this machine has 4 CUDA device(s); take at most 4",
        ),
    ):
        with pytest.raises(UsageError, match=re.escape(words)):
            number(name, wanted, started)


def test_processes_on_one_host_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has half of it for half of the batch."""
    config, device = compose("batch_size=256", "trainer.accumulate=auto"), torch.device("cpu")
    training, _, _ = build.training_data(config, device)
    model = build.network(config, device)
    found = set()
    for free in (2**30, 2**22, 2**21):
        monkeypatch.setattr(memory, "available", lambda free=free: free)
        alone = capacity.count_parts(replace(config, batch_size=128), model, training, device)
        monkeypatch.setattr(memory, "available", lambda free=free: 2 * free)
        assert (
            capacity.count_parts(config, model, training, device, place=Place(0, 2, 0, 2)) == alone
        )
        found.add(alone)
    assert len(found) > 1


def test_torchrun_is_known_by_all_that_it_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "RANK": "3",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert torchrun.place() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert torchrun.place() == Place(3, 8, 1, 2)


def test_the_log_of_the_other_ranks_writes_nothing(tmp_path: Path) -> None:
    with closing(Log(tmp_path)) as log, closing(Silence()) as silence:
        before = {path.name for path in tmp_path.iterdir()}
        for each in (silence, log):
            each.start_bar(step=0, num_steps=3)
            each.advance()
            each.metric([{"step": 1}])
            each.time(step=1)
            each.record("a")
            each.line("b")
            each.show({"step": "1"}, always=True)
            assert each.truncate_metrics(0)
            assert each.metrics_size() == 0
        assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "run.log").read_text() == "a\nb\nstep 1\n"
