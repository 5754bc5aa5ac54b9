"""The Python interface: the same runs as the command line's, loaded, predicted with, compared."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import skiplab
from helpers import SMALL, Cli, last_of
from skiplab import Run
from skiplab.api.rows import Rows
from skiplab.config import stored
from skiplab.data import digits
from skiplab.data.arrays import Bytes
from skiplab.errors import CheckpointError, SkiplabError, UsageError

TINY = ("depth=1", "width=8", "epochs=1", "pictures=never", "trainer.threads=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A finished run of digits, trained from Python."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("api"))
    try:
        made = skiplab.train(*TINY, seed=3)
        assert made.folder is not None
        made.folder = made.folder.absolute()
        made.path = made.folder
        yield made
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def images() -> Bytes:
    """The test images of digits, uint8 (N, 8, 8, 1)."""
    return digits.read_digits(Path(), "test").images


def folder_of(run: Run) -> Path:
    assert run.folder is not None
    return run.folder


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_has_a_column_per_key(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that lacks a key has None there, in either library; here a library is its call."""
    made: list[tuple[object, dict[str, object]]] = []

    class Library(ModuleType):
        def DataFrame(self, table: object, **options: object) -> str:  # noqa: N802 - theirs
            made.append((table, options))
            return self.__name__

    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, Library(name) if name == library else None)
    assert Rows([{"step": 1, "loss": 2.0}, {"step": 2, "lr": 0.1}]).frame() == library
    ((table, options),) = made
    assert table == {"step": [1, 2], "loss": [2.0, None], "lr": [None, 0.1]}
    assert options == (
        {"columns": ["step", "loss", "lr"]} if library == "pandas" else {"strict": False}
    )


def test_a_frame_without_a_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match="pip install pandas"):
        Rows([{"step": 1}]).frame()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_real_frame_has_the_rows(library: str) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    frame = Rows([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]).frame()
    assert list(frame.columns) == ["step", "loss"]
    assert list(frame["loss"]) == [2.0, 1.5]


def test_importing_skiplab_loads_nothing() -> None:
    """Torch takes seconds, so the interface is loaded when it is first used."""
    script = """
        import sys, skiplab
        assert {"load", "train", "study", "compare", "runs"} <= set(dir(skiplab))
        loaded = {name for name in sys.modules if name.startswith("skiplab")}
        assert loaded == {"skiplab"}, loaded
        assert callable(skiplab.runs) and callable(skiplab.study)
        assert "torch" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_none() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        skiplab.tarin  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_of_python_is_that_of_the_command_line(run: Run, call: Cli) -> None:
    code, _, err = call(*TINY, "seed=3", "out=there")
    assert code == 0, err
    there = skiplab.load("there")
    assert stored.identity(there.config) == stored.identity(run.config)
    ours, theirs = run.model.state_dict(), there.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert run.report == there.report


def test_a_run_has_what_its_folder_has(run: Run) -> None:
    assert isinstance(run.model, nn.Module)
    assert not run.model.training
    assert run.classes == tuple("0123456789")
    assert run.config.seed == 3
    assert run.result is not None
    assert run.result.test is not None
    assert f"{run.result.test['accuracy']:.2%}" in repr(run)
    assert run.metrics[0]["step"] == 1
    assert run.metrics[-1]["val_accuracy"] == run.result.best_val_accuracy
    assert "precision" in run._repr_html_()


def test_predictions_are_those_of_the_report_to_the_bit(run: Run, images: Bytes) -> None:
    stored = np.load(folder_of(run) / "predictions.npz")
    found = run.predict(images)
    assert np.array_equal(found.probabilities, stored["test_probabilities"])
    assert np.array_equal(found.labels, stored["test_predictions"])
    assert [run.classes[label] for label in found.labels] == found.names
    assert found.rows[0]["class"] == found.names[0]


def test_the_weights_alone_are_enough(run: Run, images: Bytes, tmp_path: Path) -> None:
    moved = tmp_path / "weights.safetensors"
    moved.write_bytes((folder_of(run) / "best.safetensors").read_bytes())
    alone = skiplab.load(moved)
    assert alone.folder is None
    assert alone.classes == run.classes
    assert stored.identity(alone.config) == stored.identity(run.config)
    found, expected = (each.predict(images[:9]).probabilities for each in (alone, run))
    assert np.array_equal(found, expected)
    with pytest.raises(UsageError, match=r"weights alone; metrics\.jsonl lies in the run's folder"):
        _ = alone.metrics


def test_every_kind_of_image_is_the_same_image(
    run: Run, images: Bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("some").mkdir()
    for i in range(3):
        Image.fromarray(images[i, ..., 0]).save(f"some/{i}.png")
    np.save("some.npy", images[:3])
    np.savez("some.npz", images=images[:3, ..., 0])
    tensor = torch.from_numpy(images[:3]).permute(0, 3, 1, 2)
    expected = run.predict(images[:3]).probabilities
    for given in (
        "some",
        Path("some"),
        [Path(f"some/{i}.png") for i in range(3)],
        "some.npy",
        "some.npz",
        images[:3, ..., 0],
        images[:3].astype(np.int64),
        images[:3].astype(np.float32) / 255,
        images[:3].repeat(3, axis=3),
        [images[0], images[1, ..., 0], images[2]],
        tensor,
        tensor.double() / 255,
        list(tensor),
        [Image.fromarray(image[..., 0]) for image in images[:3]],
    ):
        found = run.predict(given)
        assert np.array_equal(found.probabilities, expected), given
    assert run.predict("some").images == ["some/0.png", "some/1.png", "some/2.png"]
    assert len(run.predict([])) == 0


def test_preprocess_is_the_networks_input(run: Run, images: Bytes) -> None:
    x = run.preprocess(images[:5])
    mean, std = run.config.dataset.mean[0], run.config.dataset.std[0]
    oracle = (torch.from_numpy(images[:5]).permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(x, oracle)
    with torch.inference_mode():
        logits = run.model(x)
    assert torch.equal(logits.argmax(1), torch.from_numpy(run.predict(images[:5]).labels))


def test_an_image_of_another_size_is_resized(run: Run) -> None:
    photo = np.zeros((50, 30, 3), np.uint8)
    photo[10:40, 5:25] = 255
    oracle = np.asarray(
        Image.fromarray(photo).convert("L").resize((8, 8), Image.Resampling.BILINEAR)
    )
    assert torch.equal(run.preprocess(photo), run.preprocess(oracle))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (3, "int: paths, images, arrays or tensors are expected"),
        (np.full((8, 8), 7.0), "images: values from 7 to 7; floating point is expected in"),
        (np.full((8, 8), -1), "images: int64: whole numbers from 0 to 255"),
        (np.full((8, 8), np.nan), "floating point is expected in"),
        (np.zeros((2, 3, 4, 5, 6), np.uint8), "images: shape"),
        (np.zeros((0, 8), np.uint8), "images: shape"),
        (np.array(["a"]), "images: <U1: whole numbers"),
        (torch.zeros(8), "a tensor of shape (8,): (channels, height, width)"),
        ("nowhere.png", "nowhere.png: there is no such file"),
        (["nowhere"], "nowhere: there is no such file"),
    ],
    ids=str,
)
def test_what_is_no_image_gets_one_line(given: object, line: str, run: Run) -> None:
    with pytest.raises(UsageError) as caught:
        run.predict(given)  # pyright: ignore[reportArgumentType]
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_is_raised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="modle: no such key; did you mean model"):
        skiplab.train("modle=resnet")
    with pytest.raises(UsageError, match="-m: KEY=VALUE is expected"):
        skiplab.train("-m")
    with pytest.raises(UsageError, match="no such run folder"):
        skiplab.load("nowhere")
    with pytest.raises(UsageError, match="checkpoint=lats: best or last"):
        skiplab.load("nowhere", checkpoint="lats")
    with pytest.raises(UsageError, match="metric=accuracy: did you mean"):
        skiplab.compare("x", metric="accuracy")
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="not a Skiplab checkpoint"):
        _ = skiplab.load(tmp_path / "a.safetensors").model
    assert issubclass(CheckpointError, SkiplabError)


def test_values_become_what_the_command_line_takes(run: Run) -> None:
    made = skiplab.train(
        *TINY,
        "trainer=debug",
        **{"optimizer.lr": 1e-3, "trainer.clip": None, "shortcut": False, "dataset.mean": [0.5]},
    )
    assert made.config.optimizer.lr == 1e-3
    assert made.config.trainer.clip is None
    assert not made.config.shortcut
    assert made.config.dataset.mean == (0.5,)
    rows = skiplab.runs()
    assert [row["folder"] for row in rows] == [str(made.folder)]
    assert rows[0]["state"] == "finished"
    assert rows[0]["optimizer.lr"] == 1e-3
    assert "finished" in rows._repr_html_()
    assert run.folder != made.folder


def test_resume_goes_on_with_a_run() -> None:
    made = skiplab.train(*TINY)
    more = skiplab.train(resume=str(made.folder), epochs=2)
    assert more.folder == made.folder
    assert more.result is not None
    assert more.result.epochs == 2


def test_an_interrupt_saves_and_python_goes_on(tmp_path: Path) -> None:
    """As a notebook's stop button sends it: the cell ends, the kernel stays."""
    script = f"""
        import os, signal, threading, time, glob
        import skiplab
        from skiplab.errors import Stopped

        def stop():
            while not glob.glob("run/metrics.jsonl") or os.path.getsize("run/metrics.jsonl") < 300:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        before = signal.getsignal(signal.SIGINT)
        threading.Thread(target=stop, daemon=True).start()
        arguments = {last_of((*SMALL, "epochs=2000", "out=run", "trainer.log_every=1"))!r}
        try:
            skiplab.train(*arguments)
        except Stopped as error:
            print("went on:", error)
        assert signal.getsignal(signal.SIGINT) == before
        rows = skiplab.runs(".")
        assert rows[0]["state"] == "stopped" and rows[0]["step"] > 0
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "stopping after this step" in done.stdout
    assert "went on: " in done.stdout
    assert "go on with: train resume=run" in done.stdout


@pytest.mark.slow
def test_a_study_returns_its_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    found = skiplab.study(*TINY, block=["conv", "residual"], study="x")
    assert "2 of 2 cells done" in capsys.readouterr().out
    assert [row["block.name"] for row in found.rows] == ["conv", "residual"]
    assert [row["n"] for row in found.rows] == [1, 1]
    assert any("block=" in line for line in found.sentences)
    assert found.differences[0]["n"] == 1
    latex = found.latex().splitlines()
    assert latex[:2] == [r"% needs \usepackage{booktabs}", r"\begin{tabular}{lrrrrrrrr}"]
    assert latex[3].startswith(r"group & n & test.accuracy, \% & ")
    assert latex[5].startswith("block=conv & 1 & ")
    assert [run["seed"] for run in found.runs] == [0, 0]
    assert {run["status"] for run in found.runs} == {"finished"}
    assert len(found.effects) == 0
    assert "<td>block=conv</td>" in found._repr_html_()
    again = skiplab.compare("outputs/studies/x", metric="val.accuracy")
    assert again.rows[0]["metric"] == "val.accuracy"
    with pytest.raises(UsageError, match="no such key"):
        skiplab.study(blokc=["conv"])


@pytest.mark.slow
def test_an_interrupted_study_leaves_no_child(tmp_path: Path) -> None:
    script = f"""
        import os, signal, threading, time, glob
        import skiplab

        def stop():
            while not glob.glob("outputs/studies/x/*/metrics.jsonl"):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=stop, daemon=True).start()
        arguments = {last_of((*SMALL, "epochs=5000", "trainer.log_every=1"))!r}
        try:
            skiplab.study(*arguments, seed=[0, 1], study="x")
        except KeyboardInterrupt:
            print("went on")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "went on" in done.stdout
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in listed.stdout
