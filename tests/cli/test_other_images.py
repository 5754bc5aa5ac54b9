"""`skiplab evaluate RUN --data`: the report on images that are not the run's own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import Cli
from skiplab.data import digits
from skiplab.trained import open_trained

FIXTURE = Path(__file__).parents[1] / "fixtures/format2"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of digits."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "run"))


def write(folder: Path, names: tuple[str, ...] = tuple("0123456789")) -> None:
    """Write the test images of digits, a folder per class."""
    arrays = digits.read_digits(Path(), "test")
    for i, (image, label) in enumerate(zip(arrays.images, arrays.labels, strict=True)):
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / names[label] / f"{i:03}.png")


def figures(out: str) -> str:
    report, loss, rest = out.split("\n", 1)[1].partition("\nloss ")
    return report + loss + rest.splitlines()[0]


def test_the_same_images_have_the_same_report(run: Path, call: Cli) -> None:
    write(Path("photos"))
    code, out, err = call("evaluate", str(run), "--data", "photos", command="skiplab")
    assert (code, err) == (0, "")
    assert out.startswith("photos, 360 images, deepcnn of residual blocks")
    before = (run / "test_reads.jsonl").read_bytes()
    weights = str(run / "best.safetensors")
    code, alone, _ = call("evaluate", weights, "--data", "photos", command="skiplab")
    assert (code, figures(alone)) == (0, figures(out))
    assert (run / "test_reads.jsonl").read_bytes() == before
    code, own, _ = call("evaluate", str(run), command="skiplab")
    assert code == 0
    assert figures(own) == figures(out)


def test_one_document(run: Path, call: Cli) -> None:
    arrays = digits.read_digits(Path(), "test")
    np.savez("some.npz", images=arrays.images[:50], labels=arrays.labels[:50])
    code, out, _ = call("evaluate", str(run), "--data", "some.npz", "--json", command="skiplab")
    assert code == 0
    found = json.loads(out)
    assert (found["data"], found["split"], found["images"]) == ("some.npz", None, 50)
    trained = open_trained(run)
    x = trained.normalize(torch.from_numpy(arrays.images[:50]))
    hits = trained.model(x).argmax(1).numpy() == arrays.labels[:50]
    assert found["accuracy"] == pytest.approx(hits.mean())


def test_classes_are_matched_by_name(run: Path, call: Cli) -> None:
    write(Path("all/test"))
    shutil.rmtree("all/test/3")
    # A training part is left out where there is a test part.
    shutil.copytree("all/test/4", "all/train/4")
    code, out, _ = call("evaluate", str(run), "--data", "all", command="skiplab")
    assert code == 0
    assert "note: no images of 3" in out
    write(Path("words"), ("zero", "one", *"23456789"))
    code, _, err = call("evaluate", str(run), "--data", "words", command="skiplab")
    assert code == 2
    assert err == (
        "error: --data words: has classes that the network does not know: one, zero; "
        "it knows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n"
    )


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("digits", "--data digits: is the run's own data set, whose test set is sealed"),
        (
            "mnits",
            "--data mnits: there is no such folder or file, nor data set; did you mean mnist",
        ),
        ("a.txt.gz", "a.txt.gz: a folder, or a .csv, .jsonl or .npz file is expected"),
        ("broken", "broken/0/a.png: is no image that can be decoded"),
    ],
)
def test_bad_data_gets_one_line(data: str, line: str, run: Path, call: Cli) -> None:
    Path("a.txt.gz").touch()
    Path("broken/0").mkdir(parents=True)
    Path("broken/0/a.png").write_bytes(b"no image")
    code, out, err = call("evaluate", str(run), "--data", data, command="skiplab")
    assert (code, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1


def test_data_and_split_are_two_things(run: Path, call: Cli) -> None:
    arguments = ("evaluate", str(run), "--data", "x", "--split", "val")
    code, _, err = call(*arguments, command="skiplab")
    assert code == 2
    assert "not allowed with" in err
