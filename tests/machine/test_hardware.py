"""The threads that a run takes: by affinity and by the CPU quota of its cgroup, on file systems that are made up."""

import os
from pathlib import Path

import pytest

from helpers import system
from skiplab.machine import threads
from skiplab.machine.cpu import num_cores
from skiplab.runs.facts import Outline

CORES = 16


@pytest.fixture(autouse=True)
def _large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(CORES)), raising=False)


def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert num_cores(tmp_path) == CORES
    assert 1 <= num_cores() <= CORES


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("200000 100000", 2),
        # a part of a core is a core
        ("250000 100000", 3),
        ("10000 100000", 1),
        ("400000 200000", 2),
        # more than there are
        ("3200000 100000", CORES),
        ("max 100000", CORES),
        ("max", CORES),
        ("", CORES),
        # nonsense limits nothing
        ("0 100000", CORES),
        ("100000 0", CORES),
        ("two cores", CORES),
    ],
)
def test_a_quota_of_version_2(tmp_path: Path, limit: str, cores: int) -> None:
    assert num_cores(system(tmp_path, "0::/\n", **{"cpu.max": limit + "\n"})) == cores


def test_the_least_of_the_own_group_and_those_above_counts(tmp_path: Path) -> None:
    files = {
        "user.slice/cpu.max": "300000 100000",
        "user.slice/job/cpu.max": "max 100000",
        "other/cpu.max": "100000 100000",
    }
    assert num_cores(system(tmp_path, "0::/user.slice/job\n", **files)) == 3
    (tmp_path / "sys/fs/cgroup/user.slice/job/cpu.max").write_text("150000 100000")
    assert num_cores(tmp_path) == 2


def test_a_container_that_is_told_its_name_outside_has_its_limit_at_the_root(
    tmp_path: Path,
) -> None:
    assert num_cores(system(tmp_path, "0::/docker/0123abc\n", **{"cpu.max": "200000 100000"})) == 2


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("150000", "100000", 2), ("-1", "100000", CORES), ("50000", "25000", 2)],
)
def test_a_quota_of_version_1(
    tmp_path: Path, folder: str, quota: str, period: str, cores: int
) -> None:
    membership = "9:name=systemd:/job\n3:cpuset:/\n4:cpu,cpuacct:/job\n2:memory:/job\n0::/\n"
    files = {f"{folder}/job/cpu.cfs_quota_us": quota, f"{folder}/job/cpu.cfs_period_us": period}
    assert num_cores(system(tmp_path, membership, **files)) == cores


def test_an_unreadable_membership_limits_nothing(tmp_path: Path) -> None:
    assert num_cores(system(tmp_path, "nonsense\n\n0:\n", **{"cpu.max": "100000 100000"})) == CORES


# --------------------------------------------------------------------------------------------------------------
# threads


@pytest.mark.parametrize(
    ("environment", "processes", "expected"),
    [
        ({}, 1, (16, "cores for this process")),
        ({}, 3, (5, "cores for this process")),
        ({}, 99, (1, "cores for this process")),
        ({"OMP_NUM_THREADS": "4"}, 1, (4, "OMP_NUM_THREADS=4")),
        ({"OMP_NUM_THREADS": "4,2"}, 1, (4, "OMP_NUM_THREADS=4,2")),
        # of each process
        ({"OMP_NUM_THREADS": "4"}, 2, (4, "OMP_NUM_THREADS=4")),
        ({"OMP_NUM_THREADS": "100000"}, 1, (16, "cores for this process")),
        ({"OMP_NUM_THREADS": "0"}, 1, (16, "cores for this process")),
        ({"OMP_NUM_THREADS": "many"}, 1, (16, "cores for this process")),
        ({"OMP_NUM_THREADS": ""}, 1, (16, "cores for this process")),
        ({"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "3"}, 1, (3, "MKL_NUM_THREADS=3")),
        ({"SLURM_CPUS_PER_TASK": "6"}, 1, (6, "SLURM_CPUS_PER_TASK=6")),
        # of all of the task's
        ({"SLURM_CPUS_PER_TASK": "6"}, 2, (3, "SLURM_CPUS_PER_TASK=6")),
    ],
)
def test_threads_are_the_least_of_cores_and_environment(
    tmp_path: Path, environment: dict[str, str], processes: int, expected: tuple[int, str]
) -> None:
    assert threads.limit(processes=processes, environment=environment, root=tmp_path) == expected


def test_a_quota_is_named_as_what_limits_the_threads(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/\n", **{"cpu.max": "150000 100000"})
    assert threads.limit(environment={}, root=root) == (2, "CPU quota of its control group")
    assert threads.limit(environment={"OMP_NUM_THREADS": "1"}, root=root) == (
        1,
        "OMP_NUM_THREADS=1",
    )


def test_threads_follow_the_work_of_a_step() -> None:
    work = threads.LEAST_WORK
    assert [
        threads.for_work(flops, most=4)
        for flops in (0, work, 1.9 * work, 2 * work, 3.5 * work, 99 * work)
    ] == [1, 1, 1, 2, 3, 4]
    assert threads.for_work(99 * work, most=1) == 1


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu, 2 threads", 2),
        ("2 x cpu, 3 threads", 3),
        ("NVIDIA H100", None),
        (None, None),
        (7, None),
    ],
)
def test_a_checkpoint_tells_the_threads_that_a_run_had(
    device: object, expected: int | None
) -> None:
    found = Outline.of_tree({"history": {"machine": {"device": device}}}).device
    assert (None if found is None else threads.of_device(found)) == expected
    assert Outline.of_tree({}).device is None


def test_threads_wait_asleep_unless_the_environment_says_how() -> None:
    environment: dict[str, str] = {}
    threads.wait_asleep(environment)
    assert environment == threads.WAITING
    for name in threads.WISHES:
        environment = {name: "x"}
        threads.wait_asleep(environment)
        assert environment == {name: "x"}
