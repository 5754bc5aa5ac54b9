"""How durations, counts and long lines are written, wherever a command writes them."""

import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from helpers import SMALL, Cli
from skiplab.machine import streams
from skiplab.words import duration, estimated, with_millions, wrapped


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.84, "0.8 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (41.3, "41 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (65, "1 min 05 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h"),
        (7500, "2 h 05 min"),
        (86_369, "23 h 59 min"),
        (86_371, "1 d"),
        (273_600, "3 d 4 h"),
        (100_000_000, "1,157 d 10 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_duration_is_within_its_last_unit_of_the_seconds() -> None:
    """Read back, with units in seconds as the oracle."""
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    for seconds in (0.05 * 1.13**i for i in range(130)):
        pairs = re.findall(r"([\d.]+) (\w+)", duration(seconds))
        back = sum(float(number) * units[unit] for number, unit in pairs)
        tenth = 0.1 if "." in pairs[0][0] else 1
        finest = {"s": tenth, "min": 1 if seconds < 3600 else 60, "h": 60, "d": 3600}
        assert abs(back - seconds) <= 0.5 * finest[pairs[0][1]] + 1e-9, seconds
        assert all(float(number) < 60 for number, unit in pairs if unit in ("s", "min"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "10 s"),
        (43, "45 s"),
        (100, "2 min"),
        (700, "12 min"),
        (3569, "59 min"),
        (3571, "1 h"),
        (3700, "1 h"),
        (23_400, "6 h 30 min"),
        (86_400 * 3, "3 d"),
    ],
)
def test_an_estimate_is_no_finer_than_it_can_be(seconds: float, text: str) -> None:
    assert estimated(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1 parameter"),
        (9_999, "9,999 parameters"),
        (75_050, "75,050 parameters (about 0.08 million)"),
        (1_727_962, "1,727,962 parameters (about 1.73 million)"),
        (11_173_962, "11,173,962 parameters (about 11.2 million)"),
    ],
)
def test_a_large_count_is_in_millions_too(number: int, text: str) -> None:
    assert with_millions(number, "parameter") == text


# --------------------------------------------------------------------------------------------------
# long lines

RUN = "outputs/2026-11-28/00-27-08-digits-deepcnn-residual"


def test_a_long_line_is_broken_between_words_and_indented() -> None:
    text = "one two three four\nfive six"
    assert wrapped(text, 10) == "one two\n  three\n  four\nfive six"
    assert wrapped(text, 18) == text


def test_a_path_is_never_broken() -> None:
    assert wrapped(f"run folder {RUN}-and-more", 30) == f"run folder\n  {RUN}-and-more"


@pytest.mark.parametrize(
    "command",
    [
        f"skiplab evaluate {RUN}",
        f"train resume={RUN} evaluator.split=test",
        f"train resume='a b/{RUN}'",
        f"skiplab draw 'a b/{RUN}'",
        f"train -m block=conv,residual study={RUN}",
    ],
)
@pytest.mark.parametrize("after", ["", "; resume=never starts afresh", " goes on from it"])
def test_a_command_stays_on_one_line(command: str, after: str) -> None:
    """Whatever stands before and after it, in each width: pasted, it is the command."""
    for width in range(20, 120, 3):
        lines = wrapped(f"again from the folder alone: {command}{after}", width).split("\n")
        assert any(command in line for line in lines)
        # What is longer than the terminal is the command, by itself.
        for line in lines:
            assert len(line) <= width or shlex.split(line.strip(" ;"))[:9] == shlex.split(command)


def test_rows_of_a_table_stay_as_they_are() -> None:
    row = f"{'a class with a long name ' * 4}  0.5000    0.5000"
    assert wrapped(row, 80) == row


def test_a_percent_sign_stays_with_its_number() -> None:
    assert wrapped("accuracy is 98.61 % today", 18) == "accuracy is\n  98.61 % today"


def test_what_is_in_backticks_stays_whole() -> None:
    assert wrapped("and `skiplab list` shows all", 16) == "and\n  `skiplab list`\n  shows all"


def test_words_alone_are_no_command() -> None:
    text = "train longer than before on images of the same kind"
    assert wrapped(text, 20).split("\n")[0] == "train longer than"


def test_only_a_terminal_has_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert streams.columns(io.StringIO()) is None
    assert streams.fitted("word " * 40, io.StringIO()) == "word " * 40
    monkeypatch.setenv("COLUMNS", "100")
    assert streams.columns(io.StringIO()) == 100
    for odd in ("0", "wide", "-3", "\u00b2"):
        monkeypatch.setenv("COLUMNS", odd)
        assert streams.columns(io.StringIO()) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminal")
def test_a_terminal_says_how_wide_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl
    import pty
    import struct
    import termios

    monkeypatch.delenv("COLUMNS", raising=False)
    near, far = pty.openpty()
    with open(near, "rb"), open(far, "w") as stream:
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 72, 0, 0))
        assert streams.columns(stream) == 72
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        assert streams.columns(stream) is None


def test_no_line_of_a_run_is_wider_than_the_terminal(
    call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart from commands, which stay whole; run.log has every line as it was written."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("SKIPLAB_VERBOSE", "")
    out_folder = f"{RUN}-{'x' * 40}"
    texts = (*SMALL, "epochs=1", "norm=none", "val_fraction=0.01", "-v", f"out={out_folder}")
    code, out, err = call(*texts, as_typed=False)
    assert (code, err) == (0, "")
    wide = [line for line in out.splitlines() if len(line) > 80]
    assert [line.strip() for line in wide] == [out_folder, out_folder] or all(
        out_folder in line for line in wide
    )
    assert "\ndeepcnn of residual blocks, depth 1, width 8, norm=none\n" in out
    assert "\n  blocks  8x2x2" in out
    assert f"\n  skiplab evaluate {out_folder}\n" in out
    log = Path(out_folder, "run.log").read_text()
    assert f"again from the folder alone: skiplab evaluate {out_folder}\n" in log
    assert " ".join(out.split()) == " ".join(log.split())


def test_shapes_are_in_the_log_alone_unless_asked_for(call: Cli) -> None:
    code, out, _ = call(*SMALL, "trainer.limit_steps=1", "out=run")
    assert code == 0
    assert "  stem  " not in out
    assert "  stem  " in Path("run/run.log").read_text()
