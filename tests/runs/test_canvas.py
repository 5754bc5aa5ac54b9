"""Pictures under hostile settings of Matplotlib, and the end of a run whose pictures fail.

Nothing is lost, and one line says what failed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from helpers import SMALL, Cli
from skiplab import pictures
from skiplab.runs import canvas, plots, report

# The fixture `call` leaves the pictures out.
DRAW, DRAW_START = pictures.draw, pictures.draw_start
HOSTILE: Any = {
    "text.usetex": True,
    "savefig.dpi": 5000,
    "savefig.format": "pdf",
    "savefig.transparent": True,
    "figure.facecolor": "red",
    "font.size": 40.0,
    "lines.linewidth": 9.0,
    "image.origin": "lower",
}
# TeX and mathtext stumble over these.
ODD = ["a_b", "$x$", r"\frac{", "100 %", "$", "a^b", "#&~", "運行", "$\\alpha"]


def confusion(path: Path, classes: list[str]) -> bytes:
    plots.confusion(np.diag(range(1, len(classes) + 1)), classes, path, title=" ".join(classes))
    return path.read_bytes()


def test_pictures_are_the_same_whatever_the_callers_settings_are(tmp_path: Path) -> None:
    expected = confusion(tmp_path / "a.png", ODD)
    with matplotlib.rc_context(HOSTILE):
        assert confusion(tmp_path / "b.png", ODD) == expected
        # The settings of the caller are back.
        assert all(dict(matplotlib.rcParams)[name] == value for name, value in HOSTILE.items())
    assert matplotlib.rcParams["text.parse_math"] is True


def test_text_is_drawn_as_it_is_written(tmp_path: Path) -> None:
    """Mathtext would make `$x$` an x without its signs, and so as wide as an x."""
    pictures = {name: confusion(tmp_path / "a.png", [name, "b"]) for name in ("x", "$x$", "$y$")}
    assert len(set(pictures.values())) == 3
    made = plots.figure(4, 1)
    with canvas.plain():
        drawn = [made.text(0, 0, text).get_window_extent().width for text in ("x", "$x$")]
    assert drawn[1] > 2 * drawn[0]


def test_warnings_are_kept_back_unless_they_are_asked_for_as_errors() -> None:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        with canvas.plain():
            warnings.warn("a layout that does not fit", UserWarning, stacklevel=1)
    # Warnings are errors, as in these tests.
    with canvas.plain(), pytest.raises(UserWarning):
        warnings.warn("a layout that does not fit", UserWarning, stacklevel=1)


PROGRAM = """
import os, sys
import numpy as np
from pathlib import Path
from skiplab.runs import plots
plots.confusion(np.eye(3, dtype=np.int64), ["a", "$b$", "c_d"], Path("confusion.png"), title="a")
import matplotlib
width = matplotlib.rcParams["lines.linewidth"]
print(os.environ["MPLBACKEND"], width, "matplotlib.pyplot" in sys.modules)
"""


@pytest.mark.parametrize(
    ("content", "width"),
    [
        pytest.param(
            b"text.usetex: True\nimage.cmap: nosuch\nsavefig.dpi: 5000\nno colon\n"
            b"lines.linewidth: 7\n",
            "7.0",
            id="bad values",
        ),
        pytest.param(b"a\xff\xfe: b\n", "1.5", id="not to be read"),
    ],
)
def test_a_file_of_settings_and_a_backend_of_elsewhere_and_no_home(
    content: bytes, width: str, tmp_path: Path
) -> None:
    (tmp_path / "matplotlibrc").write_bytes(content)
    hostile = {
        "MPLBACKEND": "module://not_installed.backend",
        "MPLCONFIGDIR": "/dev/null/nowhere",
        "HOME": "/nonexistent",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, **hostile},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"module://not_installed.backend {width} False\n"
    assert (tmp_path / "confusion.png").read_bytes() == confusion_of_program(tmp_path / "again.png")


def confusion_of_program(path: Path) -> bytes:
    plots.confusion(np.eye(3, dtype=np.int64), ["a", "$b$", "c_d"], path, title="a")
    return path.read_bytes()


# --------------------------------------------------------------------------------------------------
# The end of a run


@pytest.mark.slow
def test_a_picture_that_fails_is_one_line_and_the_test_set_is_read_once(
    call: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "draw", DRAW)
    run = tmp_path / "run"
    assert call(*SMALL, "trainer.limit_steps=4", "out=run")[0] == 0
    kept = {
        name: (run / name).read_bytes()
        for name in ("report.txt", "metrics.jsonl", "best.safetensors")
    }
    for name in ("result.json", "test_reads.jsonl"):
        # Without these files the end is done again, with pictures this time.
        (run / name).unlink()
    (run / "curves.png").mkdir()
    (run / "mistakes.png").mkdir()
    code, out, err = call("resume=run", "pictures=always")
    assert (code, err) == (0, "")
    told = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert len(told) == 1
    assert "curves.png not drawn" in told[0]
    assert "mistakes.png not drawn" in told[0]
    assert "skiplab draw run" in told[0]
    # The result comes before the warning.
    assert out.index("accuracy") < out.index("warning: ")
    assert told[0] in (run / "run.log").read_text(encoding="utf-8")
    assert (run / "confusion.png").is_file()
    assert (run / "samples.png").is_file()
    assert kept == {name: (run / name).read_bytes() for name in kept}
    assert json.loads((run / "result.json").read_text())["steps"] == 4
    code, out, _ = call("resume=run", "pictures=always")
    assert code == 0
    assert "is finished; its report" in out
    assert len((run / "test_reads.jsonl").read_text().splitlines()) == 1
    code, out, err = call("draw", "run", command="skiplab")
    assert (code, out) == (1, "")
    assert err.startswith(
        "error: run: curves.png not drawn (run: cannot write curves.png (Is a directory)); "
        "mistakes.png"
    )
    (run / "curves.png").rmdir()
    (run / "mistakes.png").rmdir()
    assert call("draw", "run", command="skiplab")[0] == 0
    assert (run / "curves.png").is_file()


def test_pictures_without_matplotlib_are_one_line(
    call: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "draw", DRAW)
    monkeypatch.delattr("skiplab.runs.plots")
    # An import that fails finds this.
    monkeypatch.setitem(sys.modules, "skiplab.runs.plots", None)
    monkeypatch.delattr("skiplab.runs.curves", raising=False)
    monkeypatch.delitem(sys.modules, "skiplab.runs.curves", raising=False)
    code, out, err = call(*SMALL, "trainer.limit_steps=4", "out=run", "pictures=always")
    assert (code, err) == (0, "")
    (told,) = (line for line in out.splitlines() if line.startswith("warning: "))
    assert told.startswith("warning: curves.png, confusion.png not drawn (")


def test_a_run_has_its_samples_before_it_trains(
    call: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "draw_start", DRAW_START)
    code, out, err = call(*SMALL, "trainer.limit_steps=4", "out=run", "pictures=always")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    told = lines.index("the first images, as the network is fed them: run/samples.png")
    assert told < next(i for i, line in enumerate(lines) if line.startswith("epoch "))
    assert (tmp_path / "run/samples.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_probed_run_has_its_pictures_and_draw_makes_the_same(
    call: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "draw", DRAW)
    monkeypatch.setattr(pictures, "draw_start", DRAW_START)
    probe = ("trainer.probe='gradients,updates'", "trainer.probe_every=2")
    words = (*SMALL, "trainer.limit_steps=4", *probe, "out=run", "pictures=always")
    assert call(*words)[0] == 0
    run = tmp_path / "run"
    drawn = {path.name: path.read_bytes() for path in run.glob("*.png")}
    names = {"curves", "confusion", "mistakes", "samples", "gradient_flow", "update_flow"}
    assert set(drawn) == {f"{name}.png" for name in names}
    for path in run.glob("*.png"):
        path.unlink()
    code, out, err = call("draw", "run", command="skiplab")
    assert (code, err) == (0, "")
    assert {path.name: path.read_bytes() for path in run.glob("*.png")} == drawn
    assert all(f"run/{name}" in out for name in drawn)


def test_samples_that_cannot_be_drawn_are_one_line_and_the_run_goes_on(
    call: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "draw_start", DRAW_START)
    monkeypatch.setattr("skiplab.runs.sheet.font", lambda size: [][size])
    code, out, err = call(*SMALL, "trainer.limit_steps=4", "out=run", "pictures=always")
    assert (code, err) == (0, "")
    (told,) = (line for line in out.splitlines() if line.startswith("warning: "))
    assert told.startswith("warning: samples.png not drawn (IndexError")
    assert not (tmp_path / "run/samples.png").exists()


def test_mistakes_are_four_of_a_pair_at_most() -> None:
    labels = np.array([0] * 9 + [1] * 2 + [2])
    shares = np.full((12, 3), 0.01, np.float32)
    # Images 0 to 8 are 0 as 1, 9 and 10 are 1 as 0, ever less confidently; 11 is right.
    for i in range(12):
        shares[i, 1 if i < 9 else 0 if i < 11 else 2] = 0.9 - 0.05 * i
    chosen = pictures.worst_mistakes(report.Predictions(labels, shares))
    assert chosen.tolist() == [0, 1, 2, 3, 9, 10]


@pytest.mark.parametrize(
    "name",
    [
        "report.txt",
        "predictions.npz",
        "result.json",
        "metrics.jsonl",
        "run.log",
        "test_reads.jsonl",
    ],
)
def test_a_folder_in_the_place_of_a_file_is_told_before_the_test_set_is_read(
    name: str, call: Cli, tmp_path: Path
) -> None:
    assert call(*SMALL, "trainer.max_time=1e-9", "out=run")[0] == 7
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).mkdir()
    stood = (tmp_path / "run/last.safetensors").read_bytes()
    code, _, err = call("resume=run", "trainer.max_time=null")
    assert (code, err) == (4, f"error: run/{name}: a folder, not a file; move it away\n")
    assert (tmp_path / "run/last.safetensors").read_bytes() == stood
    assert not (tmp_path / "run/test_reads.jsonl").is_file()


@pytest.mark.skipif(os.name == "nt", reason="a limit of Unix")
def test_a_disk_without_room_for_the_end_is_told_before_the_test_set_is_read(
    call: Cli, tmp_path: Path
) -> None:
    import resource

    assert call(*SMALL, "trainer.limit_steps=4", "out=run")[0] == 0
    for name in ("result.json", "test_reads.jsonl"):
        (tmp_path / "run" / name).unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code, _, err = call("resume=run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 4
    told = (
        r"error: run: cannot write its report and predictions, [\d,]+ bytes are needed "
        r"\(File too large\); go on with: train resume=run\n"
    )
    assert re.fullmatch(told, err), err
    assert not (tmp_path / "run/test_reads.jsonl").exists()
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert call("resume=run")[0] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_on_a_full_disk_ends_no_run(call: Cli, tmp_path: Path) -> None:
    assert call(*SMALL, "trainer.max_time=1e-9", "out=run")[0] == 7
    (tmp_path / "run/run.log").unlink()
    (tmp_path / "run/run.log").symlink_to("/dev/full")
    code, out, err = call("resume=run", "trainer.max_time=null")
    assert (code, err) == (0, "")
    assert "best validation accuracy" in out
    shutil.rmtree(tmp_path / "run")
