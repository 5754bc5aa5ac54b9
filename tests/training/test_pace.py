"""How long a run takes and why it is slow, on a clock that the test holds."""

import time
from pathlib import Path

import pytest

from helpers import Cli
from skiplab.runs.log import Silence
from skiplab.training import pace
from skiplab.training.pace import Pace


class Clock:
    """A clock that is put forward by hand: seconds of the wall, computed, waited for a core."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.wall = self.computed = self.waited = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.wall)
        monkeypatch.setattr(Pace, "clocks", lambda _: (self.wall, self.computed, self.waited))

    def forward(self, seconds: float, *, computed: float = 1.0, waited: float = 0.0) -> None:
        self.wall += seconds
        self.computed += seconds * computed
        self.waited += seconds * waited


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Notes(Silence):
    """A log that keeps its lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def told(
    clock: Clock,
    *,
    per_step: float,
    epochs: int | None,
    stop_at: int,
    first: int = 0,
    threads: int = 2,
    synced: bool = True,
) -> list[str]:
    log = Notes()
    made = Pace(log, steps_per_epoch=100, epochs=epochs, stop_at=stop_at, threads=threads)
    for step in range(first + 1, first + 12):
        # The first step prepares the others.
        clock.forward(20 * per_step if step == first + 1 else per_step)
        made.after(step, is_synced=synced)
    return log.lines


def test_a_long_run_says_how_long_and_offers_an_hour(clock: Clock) -> None:
    assert told(clock, per_step=3.6, epochs=65, stop_at=6500) == [
        "about 6 h 30 min to go, evaluations not counted; epochs=10 would take about 1 h"
    ]


def test_a_run_of_an_hour_is_offered_ten_minutes(clock: Clock) -> None:
    assert told(clock, per_step=2, epochs=15, stop_at=1500) == [
        "about 50 min to go, evaluations not counted; epochs=3 would take about 10 min"
    ]


def test_what_is_offered_is_fewer_epochs_or_nothing(clock: Clock) -> None:
    assert told(clock, per_step=60, epochs=2, stop_at=200) == [
        "about 3 h 15 min to go, evaluations not counted; epochs=1 would take about 1 h 40 min"
    ]
    assert told(clock, per_step=60, epochs=1, stop_at=100) == [
        "about 1 h 35 min to go, evaluations not counted"
    ]
    assert told(clock, per_step=6, epochs=None, stop_at=1000) == [
        "about 1 h 40 min to go, evaluations not counted"
    ]
    assert told(clock, per_step=6, epochs=10, stop_at=1000, first=300) == [
        "about 1 h 10 min to go, evaluations not counted"
    ]


def test_a_short_run_says_nothing(clock: Clock) -> None:
    assert told(clock, per_step=1, epochs=5, stop_at=500) == []


def test_a_device_is_asked_only_where_it_was_waited_for(clock: Clock) -> None:
    assert told(clock, per_step=3, epochs=65, stop_at=6500, threads=0, synced=False) == []
    assert len(told(clock, per_step=3, epochs=65, stop_at=6500, threads=0, synced=True)) == 1


@pytest.mark.parametrize(
    ("computed", "waited", "threads", "expected"),
    [
        (1.9, 0.0, 2, None),
        (1.1, 0.3, 2, None),
        (
            1.0,
            0.5,
            2,
            "slow: 50 % of the last 5 s went by waiting for a core, "
            "since other processes use them; a run with trainer.threads=1",
        ),
        (
            0.6,
            0.4,
            1,
            "slow: 40 % of the last 5 s went by waiting for a core, "
            "since other processes use them; run fewer at once",
        ),
        # The system does not tell how long a thread waits.
        (0.2, 0.0, 1, "slow: 80 % of the last 5 s"),
    ],
)
def test_a_run_that_waits_for_a_core_says_so_once(
    clock: Clock, computed: float, waited: float, threads: int, expected: str | None
) -> None:
    log = Notes()
    made = Pace(log, steps_per_epoch=100, epochs=1, stop_at=100, threads=threads)
    for step in range(1, 40):
        clock.forward(0.5, computed=computed, waited=waited)
        made.after(step, is_synced=False)
    assert len(log.lines) == (expected is not None)
    assert expected is None or log.lines[0].startswith(expected)


def test_the_system_tells_how_long_this_thread_waited(tmp_path: Path) -> None:
    wall, computed, waited = Pace.clocks()
    assert wall > 0
    assert computed > 0
    assert waited >= 0


def test_a_run_writes_it_into_its_log(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(pace, "LONG", 0)
    assert (
        call(
            "depth=1",
            "width=8",
            "trainer.threads=1",
            "trainer.limit_steps=8",
            "pictures=never",
            "out=run",
        )[0]
        == 0
    )
    assert "about 10 s to go, evaluations not counted" in Path("run/run.log").read_text()
