"""`skiplab predict`: a table, CSV, JSON and a picture of what a network says of images."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import Cli
from skiplab import predict
from skiplab.config import stored
from skiplab.data import digits
from skiplab.data.catalog import DATASETS
from skiplab.trained import open_trained

RUN = str(Path(__file__).parents[1] / "fixtures/format2")
WEIGHTS = f"{RUN}/best.safetensors"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with the test images of digits as PNG, in the order of their names."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(digits.read_digits(Path(), "test").images):
        Image.fromarray(image[..., 0]).save(folder / f"{i:03}.png")
    return folder


def test_the_test_sets_images_give_the_stored_predictions_to_the_bit(
    images: Path, call: Cli, tmp_path: Path
) -> None:
    """The fixture may be of another processor, so a fresh evaluation is the oracle here."""
    stored = digits.read_digits(Path(), "test").images
    expected = predict.probabilities_of(open_trained(Path(RUN)), stored)
    code, out, err = call("predict", RUN, str(images), "--csv", "--top", "10", command="skiplab")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    found = np.zeros_like(expected)
    for i, row in enumerate(rows):
        assert row["path"] == str(images / f"{i // 10:03}.png")
        assert int(row["rank"]) == i % 10 + 1
        found[i // 10, int(row["class"])] = np.float32(float(row["probability"]))
    assert np.array_equal(found, expected)
    np.save(tmp_path / "all.npy", stored)
    code, out, _ = call(
        "predict", WEIGHTS, str(tmp_path / "all.npy"), "--csv", "--top", "10", command="skiplab"
    )
    assert code == 0
    again = list(csv.DictReader(io.StringIO(out)))
    assert [row["probability"] for row in again] == [row["probability"] for row in rows]
    assert again[-1]["path"].endswith("all.npy[359]")


@pytest.mark.parametrize(
    "name",
    ["digits", *(pytest.param(name, marks=pytest.mark.realdata) for name in ("mnist", "cifar10"))],
)
def test_a_test_set_as_png_files_gives_a_runs_predictions_to_the_bit(
    name: str, call: Cli, tmp_path: Path, real_root: Path
) -> None:
    data = [f"dataset={name}"]
    data += [] if name == "digits" else [f"dataset.root={real_root}"]
    short = ("depth=1", "width=8", "epochs=1", "trainer.limit_steps=4", "pictures=never")
    assert call(*data, *short, "out=run")[0] == 0
    pngs = tmp_path / "pngs"
    pngs.mkdir()
    for i, image in enumerate(DATASETS[name].read(real_root, "test").images):
        Image.fromarray(image.squeeze()).save(pngs / f"{i:05}.png")
    code, out, err = call("predict", "run", str(pngs), "--csv", "--top", "10", command="skiplab")
    assert (code, err) == (0, "")
    classes = stored.load(Path("run/config.yaml")).dataset.classes
    numbers = {label: i for i, label in enumerate(classes)}
    with np.load("run/predictions.npz") as file:
        expected = file["test_probabilities"]
    found = np.full_like(expected, -1)
    for i, row in enumerate(csv.DictReader(io.StringIO(out))):
        found[i // 10, numbers[row["class"]]] = np.float32(float(row["probability"]))
    assert np.array_equal(found, expected)


def test_every_way_to_show_them(images: Path, call: Cli, tmp_path: Path) -> None:
    code, out, _ = call("predict", RUN, str(images / "000.png"), "--top", "2", command="skiplab")
    assert code == 0
    (line,) = out.splitlines()
    first, _, _, second, _, _, path = line.split()
    assert path == str(images / "000.png")
    assert first.isdigit()
    assert second.isdigit()
    for path in sorted(images.iterdir())[12:]:
        path.unlink()
    target = tmp_path / "sheet.png"
    code, out, err = call(
        "predict", RUN, str(images), "--json", "--sheet", str(target), command="skiplab"
    )
    assert code == 0
    document = json.loads(out)
    assert document["classes"] == [str(i) for i in range(10)]
    assert len(document["images"]) == 12
    assert set(document["images"][0]) == {"path", "top"}
    assert set(document["images"][0]["top"][0]) == {"class", "probability"}
    assert err == f"written: {target}\n"
    with Image.open(target) as sheet:
        assert sheet.format == "PNG"


def test_a_list_on_stdin(images: Path, call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{images / '001.png'}\n\n{images / '000.png'}\n"))
    code, out, _ = call("predict", RUN, "-", "--csv", command="skiplab")
    assert code == 0
    assert [row["path"] for row in csv.DictReader(io.StringIO(out))] == [
        str(images / "001.png"),
        str(images / "000.png"),
    ]


def test_what_cannot_be_decoded_is_told_and_the_others_are_predicted(
    images: Path, call: Cli
) -> None:
    for path in sorted(images.iterdir())[5:]:
        path.unlink()
    (images / "001.png").write_bytes(b"no image")
    content = (images / "003.png").read_bytes()
    (images / "003.png").write_bytes(content[: len(content) // 2])
    (images / ".DS_Store").write_bytes(b"x")
    code, out, err = call("predict", RUN, str(images), command="skiplab")
    assert code == 2
    assert len(out.splitlines()) == 3
    first, second, last = err.splitlines()
    assert first.startswith(f"error: {images / '001.png'}: is no image")
    assert second.startswith(f"error: {images / '003.png'}: is damaged")
    assert last == "2 files could not be decoded; the others were predicted"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((RUN, "nowhere.png"), "nowhere.png: there is no such file"),
        ((RUN, "empty"), "empty: holds no images"),
        (("nowhere", "a.png"), "nowhere: no such run folder"),
        ((RUN, "a.png", "--top", "0"), "--top 0: a whole number from 1"),
        ((RUN, "a.png", "--sheet", "s.jpg"), "--sheet s.jpg: a name that ends in .png"),
        ((RUN, "a.png", "--sheet", "no/s.png"), "--sheet no/s.png: cannot be written there"),
        ((RUN, "a.png", "--csv", "--json"), "not allowed with"),
        ((RUN, "a.npz"), "a.npz: holds no array images (it has: x, y)"),
        ((RUN, "b.npy"), "b.npy: images: object: numbers are expected"),
    ],
    ids=str,
)
def test_bad_input_gets_one_line(arguments: tuple[str, ...], line: str, call: Cli) -> None:
    Path("empty").mkdir()
    np.savez("a.npz", x=np.zeros(2), y=np.zeros(2))
    np.save("b.npy", np.array([{}], dtype=object))
    code, out, err = call("predict", *arguments, command="skiplab")
    assert code == 2
    assert out == ""
    assert line in err.splitlines()[0]


def test_memory_does_not_grow_with_the_number_of_images(images: Path) -> None:
    """Answers come while files are still listed: no more than a batch waits."""
    trained = open_trained(Path(RUN))
    trained.predictor.batch_size = 4
    asked: list[str] = []

    paths = sorted(map(str, images.iterdir()))

    def listing() -> Iterator[str]:
        for path in paths:
            asked.append(path)
            yield path

    for i, answer in enumerate(predict.stream(trained, listing())):
        assert answer.name == paths[i]
        assert len(asked) <= i + 4
    assert len(asked) == 360
