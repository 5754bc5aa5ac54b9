"""The table of evaluations: its columns fit the terminal, and its numbers are those of the rows."""

from dataclasses import replace
from pathlib import Path

import pytest

from helpers import SMALL, Cli
from skiplab.runs.epochs import Evaluated, lines

ROW = {
    "epoch": 3,
    "step": 12_345,
    "train_loss": 1.23456,
    "train_accuracy": 0.5,
    "val_loss": 0.98765,
    "val_accuracy": 1.0,
}
SHOWN = Evaluated(
    row=ROW, lr=0.0158, images_per_second=1060.4, seconds=200, left=7500, is_best=True, loss_name=""
)
SMOOTHED = replace(SHOWN, row=ROW | {"train_plain_loss": 0.75}, loss_name="smoothed")


def test_a_line_is_under_its_heading() -> None:
    heading, line = lines(SHOWN, width=79)
    assert heading == (
        "epoch    step       lr  train loss accuracy  val loss accuracy   img/s  best"
    )
    assert line == ("    3  12,345   0.0158      1.2346  50.00 %    0.9877 100.00 %   1,060  best")
    assert len(line) == 76
    assert lines(replace(SHOWN, is_best=False), width=79)[1] == line.removesuffix("  best")


def test_a_wide_terminal_has_the_time_too() -> None:
    heading, line = lines(SHOWN, width=119)
    assert heading.split()[-4:] == ["img/s", "time", "left", "best"]
    assert line.endswith("  1,060   3 min 20 s   2 h 05 min  best")
    assert len(lines(SHOWN, width=101)[0]) == 89


@pytest.mark.parametrize("shown", [SHOWN, SMOOTHED])
def test_no_line_is_wider_than_the_terminal(shown: Evaluated) -> None:
    for width in range(5, 140):
        heading, line = lines(shown, width=width)
        assert max(len(heading), len(line)) <= width
        assert heading.startswith("epoch")
    # The last columns to go are those that say how good the network is.
    assert lines(shown, width=24)[0].split() == ["epoch", "val", "loss", "accuracy"]


def test_the_loss_that_is_minimised_has_its_own_column() -> None:
    heading, line = lines(SMOOTHED, width=86)
    assert "train loss  smoothed accuracy" in heading
    assert "    0.7500    1.2346  50.00 %" in line
    assert "0.7500" in lines(SMOOTHED, width=79)[1]
    assert "1.2346" not in lines(SMOOTHED, width=79)[1]


def test_without_validation_there_is_no_column_of_it() -> None:
    row = {name: value for name, value in ROW.items() if not name.startswith("val")}
    heading, line = lines(replace(SHOWN, row=row), width=79)
    assert "val" not in heading
    assert "best" not in heading + line


def test_a_part_of_an_epoch_is_short() -> None:
    for epoch, text in ((1 / 3, "0.33"), (12.5, "12.5"), (1200, "1200")):
        assert lines(replace(SHOWN, row=ROW | {"epoch": epoch}), width=79)[1].split()[0] == text


def test_each_session_writes_the_heading_once(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in run.log; and a terminal's width counts."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = call(*SMALL, "out=run", "trainer.max_time=1e-9")
    assert code == 7
    code, more, _ = call("resume=run", "trainer.max_time=null")
    assert code == 0
    headings = [line for line in (out + more).splitlines() if line.startswith("epoch  ")]
    log = Path("run/run.log").read_text().splitlines()
    assert len(headings) == 1
    assert [line for line in log if line.startswith("epoch  ")] == headings
    at = more.splitlines().index(headings[0])
    assert all(len(line) == len(headings[0]) for line in more.splitlines()[at : at + 2])
    assert max(map(len, (out + more).splitlines())) <= 80
