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
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from numpy.typing import NDArray

from skiplab.runs import curves, layers, plots, sheet

BLUE, ORANGE, DARKEST, PALEST = (47, 109, 179), (181, 93, 0), (8, 48, 107), (247, 251, 255)
LONG = [f"a class with a rather long name {i}" for i in range(20)]
TITLE = (
    "fashion_mnist, imagenet_resnet of residual_down blocks, depth 18, width 64: 92.00 % on test"
)


def read(path: Path) -> NDArray[np.uint8]:
    """The picture as uint8 (H, W, 3); a PNG, opaque, of a size for a screen."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = np.round(255 * imread(path)).astype(np.uint8)
    assert picture.shape[2] == 3 or (picture[..., 3] == 255).all()
    height, width = picture.shape[:2]
    assert 80 <= height <= 2400
    assert 400 <= width <= 2400
    border = np.concatenate(
        [side.reshape(-1, side.shape[2]) for side in (picture[:8], picture[-8:], picture[:, :8])]
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


def draw_curves(
    folder: Path,
    rows: list[Any],
    *,
    name: str = "curves",
    tested: int = 1,
    every: int = 20,
    kind: str = "",
) -> NDArray[np.uint8]:
    """Draw the curves of a history into FOLDER/NAME.png, and read the picture."""
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / f"{name}.png"
    curves.draw(
        folder / "metrics.jsonl",
        path,
        title=TITLE,
        tested=tested,
        steps_per_epoch=every,
        kind=kind,
    )
    return read(path)


def axes_of(
    rows: list[Any], monkeypatch: pytest.MonkeyPatch, folder: Path, **options: Any
) -> list[Any]:
    """Return the panels of a history's curves, without writing the picture."""
    figures: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(curves, "save", lambda figure, *_, **__: figures.append(figure))
        patch.setattr(f"{__name__}.read", lambda _: None)
        draw_curves(folder, rows, **options)
    figures[0].draw_without_rendering()
    return figures[0].axes


def texts_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


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
    picture = draw_curves(tmp_path, rows)
    # Two or three panels are side by side.
    assert picture.shape[1] > 1.6 * picture.shape[0] or not rows
    assert (share_of(picture, BLUE) > 0) == bool(rows)
    assert (share_of(picture, ORANGE) > 0) == any("val_loss" in row for row in rows)


def test_curves_are_over_epochs_with_the_steps_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loss, accuracy, rate = axes_of(history(400, 20), monkeypatch, tmp_path)
    for axes in (loss, accuracy, rate):
        assert axes.get_xlabel() == "epoch"
        (above,) = axes.child_axes
        assert above.get_xlabel() == "optimizer step"
        assert above.get_xlim() == pytest.approx(np.multiply(axes.get_xlim(), 20))
    drawn = [line for line in accuracy.lines if line.get_marker() == "."]
    assert [list(line.get_xdata()) for line in drawn] == 2 * [list(range(1, 21))]


def test_a_constant_learning_rate_takes_no_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [row | ({"lr": 0.25} if "lr" in row else {}) for row in history(60, 20)]
    axes = axes_of(rows, monkeypatch, tmp_path)
    assert [each.get_title(loc="left") for each in axes] == ["loss (nats)", "accuracy (%)"]
    assert axes[0].figure.get_suptitle().split()[-3:] == ["learning", "rate", "0.25"]


def test_the_best_value_is_written_at_its_line_and_the_chosen_epoch_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = history(100, 20)
    evaluations = [row for row in rows if "val_loss" in row]
    for row, share, loss in zip(
        evaluations, (0.5, 0.9, 0.8, 0.9, 0.7), range(5, 0, -1), strict=True
    ):
        row |= {"val_accuracy": share, "val_loss": loss / 10, "train_accuracy": share / 2}
    loss, accuracy, _ = axes_of(rows, monkeypatch, tmp_path, tested=80)
    # Epochs 2 and 4 have the same accuracy, and 4 was chosen.
    found = {text.get_text(): text.xy for text in accuracy.texts}
    assert found == {"90.00 %": (4.0, 90.0), "45.00 %": (4.0, 45.0)}
    assert {text.get_text(): text.xy for text in loss.texts}["0.1"] == (5.0, pytest.approx(0.1))
    assert "chosen epoch: 4" in loss.get_legend_handles_labels()[1]
    assert "training (running mean)" in loss.get_legend_handles_labels()[1]


def test_one_evaluation_is_points_with_names_and_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = history(20, 20)
    rows[-1] |= {"train_accuracy": 0.25, "val_accuracy": 0.375}
    _, accuracy, _ = axes_of(rows, monkeypatch, tmp_path)
    assert sorted(texts_of(accuracy)) == ["training (running mean) 25.00 %", "validation 37.50 %"]
    low, high = accuracy.get_ylim()
    assert low < 25
    assert high > 37.5


@pytest.mark.parametrize("where", ["one step", "some steps", "an evaluation"])
def test_a_spike_is_marked_at_the_edge_and_does_not_flatten_the_rest(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = history(200, 20)
    calm = axes_of(rows, monkeypatch, tmp_path)[0].get_ylim()[1]
    for row in rows:
        if where == "an evaluation" and row["step"] == 100 and "val_loss" in row:
            row["val_loss"] = 812.0
        if "loss" in row and row["step"] in {"one step": (77,), "some steps": (76, 77, 78)}.get(
            where, ()
        ):
            row["loss"] = 812.0
    loss = axes_of(rows, monkeypatch, tmp_path)[0]
    assert loss.get_ylim()[1] == pytest.approx(calm, rel=0.01)
    assert "up to 812" in texts_of(loss)
    marks = [line for line in loss.lines if line.get_marker() == "^"]
    assert [line.get_ydata()[0] for line in marks] == [pytest.approx(loss.get_ylim()[1])]


def test_what_stays_high_is_no_spike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first losses are seen, and so is a validation loss that rises while training falls."""
    rows = history(200, 20)
    for row in rows:
        if "val_loss" in row:
            row["val_loss"] = 0.5 + row["step"] / 40
    loss = axes_of(rows, monkeypatch, tmp_path)[0]
    assert loss.get_ylim()[1] > 5.5
    assert not [line for line in loss.lines if line.get_marker() == "^"]


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
    made = {
        kind: axes_of(rows, monkeypatch, tmp_path, kind=kind)[0] for kind in ("label-smoothed", "")
    }
    named = {line.get_label(): list(line.get_ydata()) for line in made["label-smoothed"].lines}
    assert (
        made["label-smoothed"].get_title(loc="left") == "loss (nats), label-smoothed where named so"
    )
    assert made[""].get_title(loc="left") == "loss (nats)"
    assert "each training batch, label-smoothed" in named
    expected = [
        row.get("train_plain_loss", row["train_loss"]) for row in rows if "train_loss" in row
    ]
    assert named["training (running mean)" + ("" if is_plain else ", label-smoothed")] == expected


def test_an_evaluation_without_a_second_pass_among_others_with_one(tmp_path: Path):
    """eval_train was set when the run went on."""
    rows = [*history(20, 20), *history(40, 20, second_pass=True)]
    assert share_of(draw_curves(tmp_path, rows), BLUE) > 0


def test_the_tested_weights_are_marked_at_their_step(tmp_path: Path):
    columns = [
        draw_curves(tmp_path, history(400, 20), tested=step)[100:500].astype(int)
        for step in (0, 100, 300)
    ]
    plain, early, late = columns
    shift = (
        np.flatnonzero((early != plain).any((0, 2)))[0],
        np.flatnonzero((late != plain).any((0, 2)))[0],
    )
    # The mark is in the first panel, further right for the later step.
    assert 0 < shift[0] < shift[1] < plain.shape[1] / 3


def test_a_point_at_100_percent_is_whole_and_no_tick_is_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = history(60, 20)
    for row in rows:
        if "val_loss" in row:
            row["val_accuracy"] = 1.0
    _, accuracy, _ = axes_of(rows, monkeypatch, tmp_path)
    low, high = accuracy.get_ylim()
    # The panel is some 230 points high, and the text some 15 with its distance.
    assert (high - 100) / (high - low) > 15 / 230
    assert all(float(tick.get_text() or 0) <= 100 for tick in accuracy.get_yticklabels())
    assert not any(line.get_clip_on() for line in accuracy.lines if line.get_marker() == ".")


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


def ratio(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The contrast of two colours, by the formula of WCAG 2.2, of channels from 0 to 1."""

    def light(colour: tuple[float, ...]) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_count_can_be_read_on_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All shades of the scale, from a row with one image of 400 in a cell to one with all."""
    assert ratio((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, *_, **__: figures.append(figure))
    matrix = np.array([[i, 400 - i] for i in range(1, 401, 21)])
    square = np.zeros((20, 20), np.int64)
    square[: len(matrix), :2] = matrix
    plots.confusion(square, [str(i) for i in range(20)], tmp_path / "a.png", title="a")
    (axes,) = figures[0].axes
    (bar,) = axes.child_axes
    (image,) = axes.images
    assert bar.get_ylabel().startswith("share of the true class (%)")
    assert len(axes.texts) == np.count_nonzero(square)
    for text in axes.texts:
        column, row = text.get_position()
        cell = image.to_rgba(image.get_array())[int(row), int(column)]
        assert ratio(to_rgb(text.get_color()), tuple(cell)) >= 4.5


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
    sheet.draw(
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
    sheet.draw(images, captions, tmp_path / "a.png", title=TITLE)
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
    sheet.draw(random_images(1, 8, 1)[:0], [], tmp_path / "none.png", title=TITLE)
    assert (read(tmp_path / "none.png") < 100).any()


def test_titles_wrap():
    assert plots.wrapped("short", inches=5, points=10) == "short"
    lines = plots.wrapped(TITLE, inches=3, points=10).splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 37
    assert " ".join(lines) == TITLE
    assert plots.wrapped("a\nb", inches=5, points=10) == "a\nb"
    assert plots.wrapped("", inches=5, points=10) == ""


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], []),
        ([5.0], [5.0]),
        ([0.0, 100.0], [0.0, 100.0]),
        # Two that meet move by the same amount, and keep their order.
        ([50.0, 50.0], [45.0, 55.0]),
        ([56.0, 50.0], [58.0, 48.0]),
        # A third one is pushed on.
        ([0.0, 0.0, 12.0], [-6.0, 4.0, 14.0]),
    ],
)
def test_texts_are_moved_apart(places: list[float], expected: list[float]):
    assert plots.spread(places, least=10.0) == pytest.approx(expected)


# --------------------------------------------------------------------------------------------------
# Layers


def over_layers(*factors: float) -> dict[int, NDArray[np.float64]]:
    """Records at steps 1, 51 ... of 11 layers whose last value is 1 and first value a factor."""
    return {1 + 50 * i: np.geomspace(factor, 1.0, 11) for i, factor in enumerate(factors)}


def test_the_title_says_how_gradients_change_where_they_change_most():
    flows = {
        name: layers.Line(name, over_layers(first), "red")
        for name, first in (("conv", 1e-30), ("residual", 0.4), ("skip", 25.0), ("same", 1.0))
    }
    panels = {
        "depth=6": [flows["residual"], flows["same"]],
        "depth=34": [flows["residual"], flows["conv"]],
    }
    gradient = layers.FLOWS["gradient_norm"]
    assert layers.finding(panels, gradient) == (
        "gradients shrink 10^30-fold with conv, 2.5-fold with residual, "
        "from the last layer to the first, at the first step (depth=34)"
    )
    assert layers.finding({"a": [flows["skip"], flows["same"]]}, gradient) == (
        "gradients grow 25-fold with skip, stay the same with same, "
        "from the last layer to the first, at the first step"
    )
    assert (
        layers.finding(
            {"a": [layers.Line("", over_layers(0.5), "red")]}, layers.FLOWS["activation_deviation"]
        )
        == "activations grow 2.0-fold, from the first layer to the last, at the first step"
    )
    values = np.array([0.0, 1.0])
    assert layers.change(values, is_backward=True) == "vanish"
    assert layers.change(np.array([np.nan, 1.0]), is_backward=True) == "are not finite"


def test_lines_over_layers_are_named_at_their_ends_and_share_an_axis_if_they_fit():
    deep = [layers.Line("conv", over_layers(1e-30, 1e-20), "red")]
    flat = [layers.Line("conv", over_layers(0.5, 0.4), "red")]
    for panels, is_shared in (({"a": flat, "b": flat}, True), ({"a": flat, "b": deep}, False)):
        made, (one, other) = layers.draw(panels, "gradient_norm", columns=2)
        made.draw_without_rendering()
        assert texts_of(one) == ["conv, first step", "conv, step 51"]
        assert (one.get_ylim() == other.get_ylim()) == is_shared
        low = min(text.get_window_extent().x0 for text in one.texts)
        assert low > one.lines[0].get_window_extent().x1 - 1
        assert made.get_suptitle().startswith("gradients shrink")
    only = [layers.Line(name, over_layers(0.5), "red") for name in ("conv", "skip")]
    assert texts_of(layers.draw({"a": only}, "gradient_norm", columns=1)[1][0]) == ["conv", "skip"]


def test_a_probe_without_finite_values_is_drawn(tmp_path: Path):
    rows = [{"step": 1, "update_ratio": {"a": None, "b": 0.0}}, {"step": 2, "loss": 1.0}]
    found = layers.probed(rows)
    assert list(found) == ["update_ratio"]
    layers.draw_run(found["update_ratio"], "update_ratio", tmp_path / "a.png", title=TITLE)
    assert (read(tmp_path / "a.png") < 100).any()


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
from skiplab.runs import sheet
sheet.draw(np.zeros((2, 8, 8, 1), np.uint8), ["a", "b"], Path("images.png"), title="a")
assert "matplotlib" not in sys.modules
from skiplab.runs import curves, plots
curves.draw(Path("metrics.jsonl"), Path("curves.png"), title="a", tested=0, steps_per_epoch=2)
plots.confusion(np.eye(3, dtype=np.int64), ["a", "b", "c"], Path("confusion.png"), title="a")
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
