"""Splits: validation that is held out, what a data set's config states, and resizing."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional as transforms

from datafiles import numbered, pixels
from skiplab.data import splits
from skiplab.data.arrays import Arrays
from skiplab.data.catalog import DATASETS, Dataset
from skiplab.data.splits import Expected, Split, hold_out, resize_images
from skiplab.errors import UsageError


def numbers(split: Split) -> list[int]:
    """Which of the numbered images a split holds, in its order."""
    return (split.images[:, 0, 0, 0].long() + 256 * split.images[:, 0, 0, 1].long()).tolist()


# --------------------------------------------------------------------------------------------------
# Hold out


def test_hold_out_of_cifar_takes_500_of_every_class() -> None:
    # There are 5,000 of each class, mixed.
    labels = torch.arange(50_000) * 7919 % 50_000 % 10
    split = Split(torch.arange(50_000).view(-1, 1, 1, 1), labels)
    training, validation = hold_out(split, fraction=0.1, seed=0)
    assert validation is not None
    assert len(training) == 45_000
    assert validation.labels.bincount().tolist() == [500] * 10
    assert training.labels.bincount().tolist() == [4500] * 10


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=80),
    fraction=st.one_of(
        st.floats(0.01, 0.99), st.sampled_from((0.1, 0.2, 0.25, 0.29, 0.3, 0.5, 0.57, 0.9))
    ),
    seed=st.integers(0, 1 << 40),
)
def test_hold_out_is_exact_stratified_and_disjoint(
    labels: list[int], fraction: float, seed: int
) -> None:
    split = numbered(len(labels), torch.tensor(labels))
    training, validation = hold_out(split, fraction=fraction, seed=seed)
    assert validation is not None
    assert len(validation) == round(fraction * len(labels))
    assert sorted(numbers(training) + numbers(validation)) == list(range(len(labels)))
    for part in (training, validation):
        # Both parts are in the files' order.
        assert numbers(part) == sorted(numbers(part))
        assert part.labels.tolist() == [labels[i] for i in numbers(part)]
        assert torch.equal(part.images, split.images[numbers(part)])
    for label in set(labels):
        share = fraction * labels.count(label)
        assert abs(validation.labels.tolist().count(label) - share) < 1


def test_hold_out_of_nothing() -> None:
    split = numbered(10)
    training, validation = hold_out(split, fraction=0, seed=0)
    assert training is split
    assert validation is None


def test_hold_out_depends_on_the_seed_alone() -> None:
    split = numbered(300, torch.arange(300) % 3)
    torch.manual_seed(1)
    once = hold_out(split, fraction=0.2, seed=5)[1]
    torch.manual_seed(2)
    again, other = (
        hold_out(split, fraction=0.2, seed=5)[1],
        hold_out(split, fraction=0.2, seed=6)[1],
    )
    assert once is not None
    assert again is not None
    assert other is not None
    assert numbers(once) == numbers(again)
    assert numbers(once) != numbers(other)
    chosen = [[i // 3 for i in numbers(once) if i % 3 == label] for label in range(3)]
    # Every class draws its own.
    assert chosen[0] != chosen[1] != chosen[2] != chosen[0]


def test_hold_out_gives_the_largest_remainders_one_more() -> None:
    # A tenth of each is 1.4, 1.6, 2.0, 5.0.
    counts = (14, 16, 20, 50)
    split = numbered(100, torch.repeat_interleave(torch.arange(4), torch.tensor(counts)))
    _training, validation = hold_out(split, fraction=0.1, seed=0)
    assert validation is not None
    assert validation.labels.bincount().tolist() == [1, 2, 2, 5]


@pytest.mark.parametrize(
    ("labels", "fraction", "held"),
    [
        ([0, 1], 0.5, 1),
        ([0, 0], 0.5, 1),
        ([3], 0.2, 0),
        # The second class has one image, and its share is a tenth of an image.
        ([0] * 99 + [1], 0.1, 10),
        ([0] * 95 + [1] * 5, 0.02, 2),
        # Classes 0 and 1 have no image at all.
        ([2, 2, 2, 2], 0.25, 1),
    ],
)
def test_hold_out_of_tiny_sets_and_classes(labels: list[int], fraction: float, held: int) -> None:
    training, validation = hold_out(
        numbered(len(labels), torch.tensor(labels)), fraction=fraction, seed=0
    )
    assert validation is not None
    assert (len(training), len(validation)) == (len(labels) - held, held)
    assert set(training.labels.tolist()) == set(labels) or len(labels) == 2


# --------------------------------------------------------------------------------------------------
# Load

Load = Callable[..., tuple[Split, str]]
MADE_UP = Expected(channels=1, size=8, num_classes=4, num_images=6)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """splits.load of a made-up set of 6 images of 8x8x1 with 4 classes.

    Its arrays and the stated facts may be changed.
    """

    def call(
        *,
        images: NDArray[np.uint8] | None = None,
        labels: tuple[int, ...] = (0, 1, 2, 3, 3, 0),
        resize: int | None = None,
        **facts: int,
    ) -> tuple[Split, str]:
        held = pixels(6, 8, 8, 1).numpy() if images is None else images
        arrays = Arrays(held, np.array(labels, np.uint8), tmp_path / "file")
        monkeypatch.setitem(DATASETS, "made_up", Dataset(lambda _root, _split: arrays))
        expected = replace(MADE_UP, **facts)
        return splits.load("made_up", "train", root=tmp_path, expected=expected, resize=resize)

    return call


def test_load_gives_images_labels_and_their_checksum(load: Load) -> None:
    split, checksum = load()
    assert torch.equal(split.images, pixels(6, 8, 8, 1))
    assert split.labels.dtype == torch.int64
    assert split.labels.tolist() == [0, 1, 2, 3, 3, 0]
    assert (
        checksum
        == hashlib.sha256(
            pixels(6, 8, 8, 1).numpy().tobytes() + bytes((0, 1, 2, 3, 3, 0))
        ).hexdigest()
    )
    assert load(labels=(1, 1, 2, 3, 3, 0))[1] != checksum


@pytest.mark.parametrize("resize", [None, 8, 12])
def test_load_resizes_where_asked(load: Load, resize: int | None) -> None:
    split, checksum = load(resize=resize)
    assert torch.equal(
        split.images, resize_images(pixels(6, 8, 8, 1), 12) if resize == 12 else pixels(6, 8, 8, 1)
    )
    # The checksum is that of what the files hold.
    assert checksum == load()[1]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"num_images": 7}, "holds images of shape (6, 8, 8, 1), conf/dataset states (7, 8, 8, 1)"),
        ({"size": 28}, "conf/dataset states (6, 28, 28, 1)"),
        ({"channels": 3}, "conf/dataset states (6, 8, 8, 3)"),
        ({"num_classes": 3}, "label 3 is out of range: 3 classes, so 0 to 2"),
        ({"labels": (0, 1, 2, 255, 3, 0)}, "label 255 is out of range: 4 classes, so 0 to 3"),
        ({"images": np.zeros((6, 8, 7, 1), np.uint8)}, "holds images of shape (6, 8, 7, 1)"),
        (
            {"images": np.zeros((0, 8, 8, 1), np.uint8), "labels": ()},
            "holds images of shape (0, 8, 8, 1)",
        ),
    ],
)
def test_load_refuses_what_the_config_does_not_state(
    load: Load, tmp_path: Path, facts: dict[str, int], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load(**facts)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'file'}: ")
    assert said in message
    assert "\n" not in message


def test_load_names_a_folder_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(root: Path, split: str) -> Arrays:
        raise PermissionError(13, "Permission denied", str(root / split))

    monkeypatch.setitem(DATASETS, "made_up", Dataset(unreadable))
    advice = "dataset.root or $SKIPLAB_DATA names another folder"
    with pytest.raises(UsageError) as caught:
        splits.load("made_up", "train", root=tmp_path, expected=MADE_UP, resize=None)
    assert (
        str(caught.value)
        == f"{tmp_path / 'train'}: made_up cannot be read (Permission denied); {advice}"
    )


def test_digits_load_as_their_config_states() -> None:
    expected = Expected(channels=1, size=8, num_classes=10, num_images=360)
    split, checksum = splits.load(
        "digits", "test", root=Path("nowhere"), expected=expected, resize=None
    )
    assert split.images.shape == (360, 8, 8, 1)
    assert set(split.labels.tolist()) == set(range(10))
    assert len(checksum) == 64


# --------------------------------------------------------------------------------------------------
# Resizing


def triangles(size: int, new_size: int) -> Tensor:
    """Row i: the weights of `size` pixels in new pixel i, by the antialiased bilinear filter."""
    scale = size / new_size
    centres = (torch.arange(new_size, dtype=torch.float64) + 0.5) * scale
    distance = (torch.arange(size, dtype=torch.float64) + 0.5 - centres.view(-1, 1)).abs()
    weights = (1 - distance / max(scale, 1.0)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "new_size"), [(8, 32), (28, 32), (32, 28), (32, 8), (5, 3), (7, 7), (32, 1), (1, 4)]
)
def test_resized_is_torchvisions_resize(size: int, new_size: int, channels: int) -> None:
    images = pixels(20, size, size, channels)
    expected = transforms.resize(
        images.permute(0, 3, 1, 2), [new_size, new_size], InterpolationMode.BILINEAR, antialias=True
    )
    ours = resize_images(images, new_size)
    assert ours.dtype == torch.uint8
    assert ours.is_contiguous()
    # Torchvision rounds twice, rows then columns.
    assert (ours.short() - expected.permute(0, 2, 3, 1).short()).abs().max() <= 1
    weights = triangles(size, new_size)
    exact = torch.einsum("ih,nhwc,jw->nijc", weights, images.double(), weights)
    # Ours is the nearest whole grey level.
    assert (ours.double() - exact).abs().max() <= 0.5 + 1e-3


def test_resized_in_pieces_is_resized_at_once() -> None:
    images = pixels(2003, 4, 4, 3)
    expected = torch.cat([resize_images(part, 6) for part in images.split(700)])
    assert torch.equal(resize_images(images, 6), expected)
    assert len(expected) == 2003


# --------------------------------------------------------------------------------------------------
# The real data


@pytest.mark.realdata
def test_the_real_data_are_what_everybody_knows(real_root: Path) -> None:
    """MNIST and CIFAR-10: counts of labels, mean and deviation of the channels."""
    facts: dict[str, dict[str, int]] = {
        "cifar10": {"channels": 3, "size": 32, "num_classes": 10},
        "mnist": {"channels": 1, "size": 28, "num_classes": 10},
    }

    def read(name: str, split: str, num_images: int) -> Split:
        expected = Expected(num_images=num_images, **facts[name])
        return splits.load(name, split, root=real_root, expected=expected, resize=None)[0]

    def statistics(images: Tensor) -> tuple[list[float], list[float]]:
        values = torch.arange(256, dtype=torch.float64) / 255
        means, deviations = [], []
        for channel in images.unbind(3):
            share = channel.flatten().bincount(minlength=256).double() / channel.numel()
            means.append(float(share @ values))
            deviations.append(float((share @ values**2 - (share @ values) ** 2).sqrt()))
        return means, deviations

    cifar, cifar_test = read("cifar10", "train", 50_000), read("cifar10", "test", 10_000)
    assert cifar.labels.bincount().tolist() == [5000] * 10
    assert cifar_test.labels.bincount().tolist() == [1000] * 10
    means, deviations = statistics(cifar.images)
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)
    assert deviations == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-3)
    # They show a frog, two trucks, a deer ...
    assert cifar.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]

    mnist, mnist_test = read("mnist", "train", 60_000), read("mnist", "test", 10_000)
    assert mnist.labels.bincount().tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert mnist_test.labels.bincount().tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    means, deviations = statistics(mnist.images)
    assert means == pytest.approx([0.1307], abs=1e-3)
    assert deviations == pytest.approx([0.3081], abs=1e-3)
    assert mnist.labels[:5].tolist() == [5, 0, 4, 1, 9]
