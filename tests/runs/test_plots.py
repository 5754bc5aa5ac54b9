"""The pictures, usual and odd, read back pixel by pixel where that says something.

Warnings, for example of layout, are errors.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from skiplab.runs import plots

BLUE, ORANGE, DARKEST, PALEST = (47, 109, 179), (217, 130, 43), (8, 48, 107), (247, 251, 255)
LONG = [f"a class with a rather long name {i}" for i in range(20)]
TITLE = (
    "fashion_mnist, imagenet_resnet of residual_down blocks, depth 18, width 64: 92.00 % on test"
)


def read(path: Path) -> NDArray[np.uint8]:
    """The picture as uint8 (H, W, 3); a PNG, opaque, of a size for a screen."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = np.round(255 * imread(path)).astype(np.uint8)
    assert (picture[..., 3] == 255).all()
    height, width = picture.shape[:2]
    assert 80 <= height <= 2400
    assert 400 <= width <= 2400
    border = np.concatenate(
        [picture[:8].reshape(-1, 4), picture[-8:].reshape(-1, 4), picture[:, :8].reshape(-1, 4)]
    )
    # Nothing is cut off at the border.
    assert (border == 255).all()
    return picture[..., :3]


def share_of(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> float:
    return float((picture == colour).all(-1).mean())


# --------------------------------------------------------------------------------------------------
# Curves


def history(
    num_steps: int,
    every: int,
    *,
    lr: float = 0.1,
    val: bool = True,
    second_pass: bool = False,
    scale: float = 1.0,
) -> list[Any]:
    """The rows of a metrics.jsonl: `num_steps` steps, an evaluation after each `every`."""
    rows: list[dict[str, float]] = []
    for step in range(1, num_steps + 1):
        loss = scale * float(np.exp(-3 * step / num_steps))
        rows.append({"step": step, "lr": lr * (1 - step / (num_steps + 1)), "loss": loss})
        if step % every == 0:
            row = {
                "step": step,
                "epoch": step / every,
                "train_loss": loss,
                "train_accuracy": max(0.0, 1 - loss),
            }
            if second_pass:
                row |= {
                    "train_eval_loss": 0.9 * loss,
                    "train_eval_accuracy": max(0.0, 1 - 0.9 * loss),
                }
            if val:
                row |= {"val_loss": 1.1 * loss, "val_accuracy": max(0.0, 1 - 1.1 * loss)}
            rows.append(row)
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(history(400, 20), id="usual"),
        pytest.param(
            history(400, 20, second_pass=True, lr=1e-4),
            id="a second pass and a small learning rate",
        ),
        pytest.param(history(40, 20, val=False), id="no validation", marks=pytest.mark.slow),
        pytest.param(history(40, 40), id="one evaluation"),
        pytest.param(history(1, 1), id="one step", marks=pytest.mark.slow),
        pytest.param(
            history(3, 1, scale=0.0, lr=0.0), id="all zero and all correct", marks=pytest.mark.slow
        ),
        pytest.param(history(10, 20), id="no evaluation yet", marks=pytest.mark.slow),
        pytest.param([], id="nothing yet"),
    ],
)
def test_curves(rows: list[dict[str, float]], tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plots.curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", title=TITLE, tested=1)
    picture = read(tmp_path / "curves.png")
    # There are three panels side by side.
    assert picture.shape[1] > 2 * picture.shape[0]
    assert (share_of(picture, BLUE) > 0) == any("train_loss" in row for row in rows)
    assert (share_of(picture, ORANGE) > 0) == any("val_loss" in row for row in rows)


@pytest.mark.parametrize(
    "is_plain", [True, False], ids=["recorded without too", "of an older version"]
)
def test_a_loss_that_is_label_smoothed_is_named_so(
    is_plain: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = history(40, 20)
    for row in rows:
        if "train_loss" in row and is_plain:
            row["train_plain_loss"] = row["train_loss"] / 2
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {}
    for smoothed in (True, False):
        figures: list[Any] = []
        monkeypatch.setattr(
            plots, "save", lambda figure, *_, found=figures, **__: found.append(figure)
        )
        plots.curves(
            tmp_path / "metrics.jsonl",
            tmp_path / "curves.png",
            title="a",
            tested=20,
            kind="label-smoothed" if smoothed else "",
        )
        made[smoothed] = figures[0].axes[0]
    named = {line.get_label(): list(line.get_ydata()) for line in made[True].lines}
    assert made[True].get_title(loc="left") == "loss (nats), label-smoothed where named so"
    assert made[False].get_title(loc="left") == "loss (nats)"
    assert "each training batch, label-smoothed" in named
    expected = [
        row.get("train_plain_loss", row["train_loss"]) for row in rows if "train_loss" in row
    ]
    assert (
        named["training, mean over the pass" + ("" if is_plain else ", label-smoothed")] == expected
    )


def test_an_evaluation_without_a_second_pass_among_others_with_one(tmp_path: Path):
    """eval_train was set when the run went on."""
    rows = [*history(20, 20), *history(40, 20, second_pass=True)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plots.curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", title=TITLE, tested=1)
    assert share_of(read(tmp_path / "curves.png"), BLUE) > 0


def test_the_tested_weights_are_marked_at_their_step(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in history(400, 20))
    )
    columns = []
    for step in (0, 100, 300):
        plots.curves(tmp_path / "metrics.jsonl", tmp_path / f"{step}.png", title=TITLE, tested=step)
        columns.append(read(tmp_path / f"{step}.png")[:300].astype(int))
    plain, early, late = columns
    shift = (
        np.flatnonzero((early != plain).any((0, 2)))[0],
        np.flatnonzero((late != plain).any((0, 2)))[0],
    )
    # The mark is in the first panel, further right for the later step.
    assert 0 < shift[0] < shift[1] < plain.shape[1] / 3


def test_a_point_at_100_percent_is_whole(tmp_path: Path):
    """Half of its marker lies above the axes."""
    for name, accuracy in (("top", 1.0), ("middle", 0.5)):
        rows = [
            {"step": 1, "lr": 0.1, "loss": 1.0},
            {"step": 1, "epoch": 1, "train_loss": 1.0, "train_accuracy": accuracy},
        ]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        plots.curves(tmp_path / "metrics.jsonl", tmp_path / f"{name}.png", title="a", tested=1)
    pictures = [read(tmp_path / f"{name}.png").astype(int) for name in ("top", "middle")]
    # Count pixels that are rather blue, so that it does not matter where in a pixel the edge of a
    # marker lies.
    top, middle = (int((picture[..., 2] - picture[..., 0] > 60).sum()) for picture in pictures)
    # A marker has some 40 pixels.
    assert abs(top - middle) <= 8


# --------------------------------------------------------------------------------------------------
# Confusion


def matrix_of(num_classes: int, num_images: int, accuracy: float) -> NDArray[np.int64]:
    random = np.random.default_rng(0)
    true = random.integers(0, num_classes, num_images)
    predicted = np.where(
        random.random(num_images) < accuracy, true, random.integers(0, num_classes, num_images)
    )
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (true, predicted), 1)
    return matrix


@pytest.mark.parametrize(
    ("matrix", "classes"),
    [
        pytest.param(matrix_of(10, 360, 0.98), [str(i) for i in range(10)], id="digits"),
        pytest.param(
            matrix_of(10, 10_000, 0.4),
            [*"abcdefgh", "automobile", "airplane"],
            id="cifar10",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            matrix_of(100, 10_000, 0.7),
            [f"pickup_truck {i}" for i in range(100)],
            id="a hundred classes",
            marks=pytest.mark.slow,
        ),
        pytest.param(matrix_of(20, 2_000_000, 0.7), LONG, id="long names and large counts"),
        pytest.param(matrix_of(2, 50, 0.9), ["no", "yes"], id="two classes"),
        pytest.param(
            np.array([[5, 1, 0], [0, 0, 0], [0, 2, 0]]),
            ["a", "absent", "never right"],
            id="an absent class",
        ),
    ],
)
def test_confusion(matrix: NDArray[np.int64], classes: list[str], tmp_path: Path):
    plots.confusion(matrix, classes, tmp_path / "confusion.png", title=TITLE)
    picture = read(tmp_path / "confusion.png")
    assert 0.7 < picture.shape[1] / picture.shape[0] < 1.5
    # Most of the picture is the matrix, not the room around it.
    assert share_of(picture, (255, 255, 255)) < 0.6


def test_confusion_is_shaded_by_the_share_of_the_true_class(tmp_path: Path):
    """All correct: a diagonal of the darkest colour, the rest the palest, whatever the counts."""
    classes = [str(i) for i in range(10)]
    plots.confusion(np.diag(10 ** np.arange(10)), classes, tmp_path / "right.png", title="a")
    picture = read(tmp_path / "right.png")
    dark, pale = share_of(picture, DARKEST), share_of(picture, PALEST)
    # The counts cover a little of the diagonal.
    assert dark / (dark + pale) == pytest.approx(0.1, rel=0.2)
    plots.confusion(np.zeros((10, 10), np.int64), classes, tmp_path / "empty.png", title="a")
    picture = read(tmp_path / "empty.png")
    assert share_of(picture, DARKEST) < 0.01
    assert share_of(picture, PALEST) > 0.3


# --------------------------------------------------------------------------------------------------
# Images


def random_images(number: int, size: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (number, size, size, channels), dtype=np.uint8)


def find(picture: NDArray[np.uint8], image: NDArray[np.uint8], scale: int) -> tuple[int, int]:
    """Where `image`, enlarged, stands: (row, column)."""
    enlarged = np.kron(image, np.ones((scale, scale, 1), np.uint8)).repeat(3 // image.shape[-1], -1)
    height, width = enlarged.shape[:2]
    # Candidates are the corners of a frame, one pixel before the image.
    red = picture[..., 0]
    for row, column in (
        np.argwhere((red[:-1, :-1] == 208) & (red[1:, 1:] == enlarged[0, 0, 0])) + 1
    ).tolist():
        if np.array_equal(picture[row : row + height, column : column + width], enlarged):
            return row, column
    raise AssertionError("not in the picture, or not as squares of one size")


@pytest.mark.parametrize(
    ("number", "size", "channels", "scale"),
    [
        (17, 8, 1, 25),
        (9, 28, 1, 7),
        (3, 28, 1, 7),
        (8, 32, 3, 6),
        (1, 32, 3, 6),
        (5, 29, 3, 7),
        (3, 224, 3, 1),
    ],
)
def test_images_are_enlarged_to_sharp_squares_in_reading_order(
    number: int, size: int, channels: int, scale: int, tmp_path: Path
):
    images = random_images(number, size, channels)
    plots.images(
        images,
        [f"{name}\nas {name} 99%" for name in "ab" * number][:number],
        tmp_path / "a.png",
        title=TITLE,
    )
    picture = read(tmp_path / "a.png")
    places = [find(picture, image, scale) for image in images]
    assert places == sorted(places)
    side = scale * size
    columns = min(8, number)
    assert len({column for _, column in places}) == columns
    assert len({row for row, _ in places}) == -(-number // 8)
    assert all(
        right - left > side for (_, left), (_, right) in itertools.pairwise(places[:columns])
    )
    for row, column in places:
        above = picture[row - 40 : row - 4, column : column + side]
        # There is a caption above.
        assert (above.min(-1) < 100).any()
        assert (above[:, :4] == 255).all()
        assert (above[:, -4:] == 255).all()


def test_long_captions_stay_in_their_column(tmp_path: Path):
    images = random_images(10, 32, 3)
    captions = [f"{LONG[i]}\nas {LONG[i + 1]} 99%" for i in range(9)] + ["supercalifragilistic" * 3]
    plots.images(images, captions, tmp_path / "a.png", title=TITLE)
    picture = read(tmp_path / "a.png")
    places = [find(picture, image, 6) for image in images]
    top = places[8][0]
    for (_, left), (_, right) in itertools.pairwise(places[:8]):
        # Nothing is drawn between two columns.
        assert (picture[places[0][0] - 60 :, left + 196 : right - 4] == 255).all()
    # Four lines stand above the second row.
    assert (picture[top - 200 : top - 100, :, :].min(-1) < 100).any()
    # They do not touch the first row.
    assert (picture[places[0][0] + 193 : places[0][0] + 205] == 255).all()


def test_no_images_say_so(tmp_path: Path):
    plots.images(random_images(1, 8, 1)[:0], [], tmp_path / "none.png", title=TITLE)
    assert (read(tmp_path / "none.png") < 100).any()


def test_titles_wrap():
    assert plots.wrapped("short", inches=5, points=10) == "short"
    lines = plots.wrapped(TITLE, inches=3, points=10).splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 37
    assert " ".join(lines) == TITLE
    assert plots.wrapped("a\nb", inches=5, points=10) == "a\nb"
    assert plots.wrapped("", inches=5, points=10) == ""


# --------------------------------------------------------------------------------------------------
# Imports


def test_pyplot_torch_and_sklearn_are_never_imported(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in history(4, 2))
    )
    program = """
import sys
from pathlib import Path
import numpy as np
from skiplab.runs import plots
plots.curves(Path("metrics.jsonl"), Path("curves.png"), title="a", tested=0)
plots.confusion(np.eye(3, dtype=np.int64), ["a", "b", "c"], Path("confusion.png"), title="a")
plots.images(np.zeros((2, 8, 8, 1), np.uint8), ["a", "b"], Path("images.png"), title="a")
slow = ("matplotlib.pyplot", "torch", "sklearn", "tkinter")
print([name for name in slow if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)
    assert all((tmp_path / f"{name}.png").is_file() for name in ("curves", "confusion", "images"))
