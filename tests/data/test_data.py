"""From arrays to batches: the split, resizing, normalisation, and batches that depend on (seed, step) alone."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional as transforms

from skiplab.data import batches as data
from skiplab.data.augment import Augment
from skiplab.data.batches import Batches, Normalize, Split, hold_out, in_order, resized
from skiplab.data.formats import Arrays
from skiplab.errors import UsageError

CPU = torch.device("cpu")
NOT_AUGMENTED = Augment(
    flip="none",
    crop=0,
    padding_mode="zeros",
    cutout=0,
    cutout_inside=False,
    fill=torch.zeros(3, dtype=torch.uint8),
)
AUGMENTED = Augment(
    flip="random",
    crop=1,
    padding_mode="zeros",
    cutout=2,
    cutout_inside=False,
    fill=torch.tensor([9, 8, 7], dtype=torch.uint8),
)
PLAIN = Normalize(
    mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), size=4, channels_last=False, device=CPU
)


def pixels(*shape: int) -> Tensor:
    """The same pseudo-random bytes every time."""
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def numbered(num: int, labels: Tensor | None = None) -> Split:
    """`num` images of 4x4x3 whose first two bytes are their number; labels are the number too unless given."""
    images = pixels(num, 4, 4, 3)
    images[:, 0, 0, 0] = torch.arange(num) % 256
    images[:, 0, 0, 1] = torch.arange(num) // 256
    return Split(images, torch.arange(num) if labels is None else labels)


def numbers(split: Split) -> list[int]:
    """Which of the numbered images a split holds, in its order."""
    return (split.images[:, 0, 0, 0].long() + 256 * split.images[:, 0, 0, 1].long()).tolist()


# ------------------------------------------------------------------------------------------------------------------
# hold out


def test_hold_out_of_cifar_takes_500_of_every_class() -> None:
    # 5,000 of each, mixed
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
        # the files' order
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
    # every class draws its own
    assert chosen[0] != chosen[1] != chosen[2] != chosen[0]


def test_hold_out_gives_the_largest_remainders_one_more() -> None:
    # a tenth: 1.4, 1.6, 2.0, 5.0
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
        # a class of one image, whose share is a tenth of an image
        ([0] * 99 + [1], 0.1, 10),
        ([0] * 95 + [1] * 5, 0.02, 2),
        # classes 0 and 1 have no image at all
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


# ----------------------------------------------------------------------------------------------------------------------
# load

Load = Callable[..., tuple[Split, str]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """data.load of a made-up set of 6 images of 8x8x1 with 4 classes, any of whose arrays and stated facts may be changed."""

    def call(
        *,
        images: NDArray[np.uint8] | None = None,
        labels: tuple[int, ...] = (0, 1, 2, 3, 3, 0),
        **facts: int | None,
    ) -> tuple[Split, str]:
        held = pixels(6, 8, 8, 1).numpy() if images is None else images
        arrays = Arrays(held, np.array(labels, np.uint8), tmp_path / "file")
        monkeypatch.setitem(data.DATASETS, "made_up", lambda root, split: arrays)
        stated = {
            "channels": 1,
            "size": 8,
            "num_classes": 4,
            "num_images": 6,
            "resize": None,
        } | facts
        return data.load("made_up", "train", root=tmp_path, **stated)  # pyright: ignore[reportArgumentType]

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
        split.images, resized(pixels(6, 8, 8, 1), 12) if resize == 12 else pixels(6, 8, 8, 1)
    )
    # of what the files hold
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

    monkeypatch.setitem(data.DATASETS, "made_up", unreadable)
    ADVICE = "dataset.root or $SKIPLAB_DATA names another folder"
    with pytest.raises(UsageError) as caught:
        data.load(
            "made_up",
            "train",
            root=tmp_path,
            channels=1,
            size=8,
            num_classes=4,
            num_images=6,
            resize=None,
        )
    assert (
        str(caught.value)
        == f"{tmp_path / 'train'}: made_up cannot be read (Permission denied); {ADVICE}"
    )


def test_digits_load_as_their_config_states() -> None:
    split, checksum = data.load(
        "digits",
        "test",
        root=Path("nowhere"),
        channels=1,
        size=8,
        num_classes=10,
        num_images=360,
        resize=None,
    )
    assert split.images.shape == (360, 8, 8, 1)
    assert set(split.labels.tolist()) == set(range(10))
    assert len(checksum) == 64


# -----------------------------------------------------------------------------------------------------------------
# resizing


def triangles(size: int, new_size: int) -> Tensor:
    """Row i: how much each of `size` pixels counts for new pixel i, by the definition of the antialiased bilinear filter."""
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
    ours = resized(images, new_size)
    assert ours.dtype == torch.uint8
    assert ours.is_contiguous()
    # torchvision rounds twice, rows then columns
    assert (ours.short() - expected.permute(0, 2, 3, 1).short()).abs().max() <= 1
    weights = triangles(size, new_size)
    exact = torch.einsum("ih,nhwc,jw->nijc", weights, images.double(), weights)
    # the nearest whole grey level
    assert (ours.double() - exact).abs().max() <= 0.5 + 1e-3


def test_resized_in_pieces_is_resized_at_once() -> None:
    images = pixels(2003, 4, 4, 3)
    expected = torch.cat([resized(part, 6) for part in images.split(700)])
    assert torch.equal(resized(images, 6), expected)
    assert len(expected) == 2003


# ------------------------------------------------------------------------------------------------------------
# normalisation

STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": ((0.1307,), (0.3081,)),
    "digits": ((0.3053,), (0.3761,)),
    "as they are": ((0.0,), (1.0,)),
}


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", STATISTICS)
def test_normalize_is_the_formula_for_every_value(name: str, channels_last: bool) -> None:
    mean, std = STATISTICS[name]
    channels = len(mean)
    # (256, C)
    values = torch.stack([torch.arange(256).roll(50 * c) for c in range(channels)], 1).byte()
    images = torch.stack([values, values.flip(0)]).view(2, 16, 16, channels)
    before = images.clone()
    ours = Normalize(mean=mean, std=std, size=16, channels_last=channels_last, device=CPU)(images)
    expected = (images.double() / 255 - torch.tensor(mean, dtype=torch.float64)) / torch.tensor(
        std, dtype=torch.float64
    )
    assert ours.dtype == torch.float32
    assert ours.shape == (2, channels, 16, 16)
    assert (ours.double() - expected.permute(0, 3, 1, 2)).abs().max() < 1e-6
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_lays_out_memory_as_asked(channels: int) -> None:
    """Exact strides, because with one channel is_contiguous() holds for both layouts, and a convolution would take the wrong one."""
    images = pixels(5, 4, 4, channels)
    layouts = [
        Normalize(
            mean=(0.5,) * channels,
            std=(0.5,) * channels,
            size=4,
            channels_last=channels_last,
            device=CPU,
        )(images)
        for channels_last in (True, False)
    ]
    last, first = layouts
    assert last.stride() == (16 * channels, 1, 4 * channels, channels)
    assert first.stride() == (16 * channels, 16, 4, 1)
    assert torch.equal(last, first)
    assert last.is_contiguous(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(channels, 8, 3)
    assert convolution(first).is_contiguous()
    assert convolution.to(memory_format=torch.channels_last)(last).is_contiguous(
        memory_format=torch.channels_last
    )  # pyright: ignore[reportCallIssue]


# ------------------------------------------------------------------------------------------------------------------
# batches


def make(
    num: int,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    augment: Augment = NOT_AUGMENTED,
) -> Batches:
    return Batches(
        numbered(num),
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        drop_last=drop_last,
        augment=augment,
        normalize=PLAIN,
    )


def epoch_of(batches: Batches, epoch: int) -> list[list[int]]:
    """Which images every step of an epoch trains on."""
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    return [batches.index(step).tolist() for step in steps]


def joined(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("num", "batch_size", "sizes"),
    [
        (12, 4, [4, 4, 4]),
        (14, 4, [4, 4, 4, 2]),
        # the last batch of one joins the one before
        (13, 4, [4, 4, 5]),
        (9, 8, [9]),
        # a batch is an epoch
        (8, 8, [8]),
        (7, 8, [7]),
        # none before to join
        (1, 8, [1]),
        (3, 1, [1, 1, 1]),
        (5, 2, [2, 3]),
    ],
)
def test_an_epoch_shows_every_image_once(
    num: int, batch_size: int, sizes: list[int], shuffle: bool
) -> None:
    batches = make(num, batch_size, shuffle=shuffle)
    assert batches.steps_per_epoch == len(sizes)
    for epoch in range(3):
        shown = epoch_of(batches, epoch)
        assert [len(batch) for batch in shown] == sizes
        assert sorted(joined(shown)) == list(range(num))


@pytest.mark.parametrize(
    ("num", "batch_size", "steps"), [(12, 4, 3), (14, 4, 3), (13, 4, 3), (8, 8, 1), (15, 8, 1)]
)
def test_drop_last_leaves_out_what_fills_no_batch(num: int, batch_size: int, steps: int) -> None:
    batches = make(num, batch_size, drop_last=True)
    assert batches.steps_per_epoch == steps
    left_out: set[int] = set()
    for epoch in range(20):
        shown = epoch_of(batches, epoch)
        assert [len(batch) for batch in shown] == [batch_size] * steps
        assert len(set(joined(shown))) == batch_size * steps
        left_out |= set(range(num)) - set(joined(shown))
    # not the same ones every time
    assert (len(left_out) > num % batch_size) == (num % batch_size > 0)


def test_without_shuffling_the_files_order_comes_again_every_epoch() -> None:
    batches = make(10, 4, shuffle=False)
    assert epoch_of(batches, 0) == epoch_of(batches, 7) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_every_epoch_and_every_seed_has_an_order_of_its_own() -> None:
    orders = [
        tuple(joined(epoch_of(make(40, 7, seed=seed), epoch)))
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9
    assert all(order != tuple(range(40)) for order in orders)
    # the same whatever the batch size
    assert tuple(joined(epoch_of(make(40, 13, seed=2), 1))) == orders[7]


def test_a_batch_holds_the_images_and_labels_of_its_index() -> None:
    batches = make(300, 32)
    # the last of an epoch is step 9
    for step in (0, 9, 10, 25):
        images, labels = batches.at(step)
        index = batches.index(step)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, index)
        assert torch.equal(images, PLAIN(numbered(300).images[index]))
        assert images.shape == (32 if step != 9 else 12, 3, 4, 4)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    """Bit-equal in whatever order steps are asked for, by a fresh object, and whatever torch's own generator does."""
    straight = make(50, 8, augment=AUGMENTED)
    expected = [straight.at(step) for step in range(3 * straight.steps_per_epoch)]
    wild = make(50, 8, augment=AUGMENTED)
    order = torch.randperm(len(expected), generator=torch.Generator().manual_seed(3)).tolist()
    for step in (*order, *reversed(order), 0, 0):
        torch.manual_seed(step)
        torch.rand(step)
        for batches in (wild, make(50, 8, augment=AUGMENTED)):
            images, labels = batches.at(step)
            assert torch.equal(images, expected[step][0])
            assert torch.equal(labels, expected[step][1])


def test_batches_leave_torchs_generator_and_the_data_alone() -> None:
    batches = make(50, 8, augment=AUGMENTED)
    before = batches.split.images.clone()
    state = torch.get_rng_state()
    for step in range(10):
        batches.at(step)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(batches.split.images, before)


def test_augmentation_differs_from_step_to_step_and_from_seed_to_seed() -> None:
    same = Split(
        pixels(1, 4, 4, 3).expand(16, 4, 4, 3).contiguous(), torch.zeros(16, dtype=torch.int64)
    )
    seen = []
    for seed in (0, 1):
        batches = Batches(
            same,
            batch_size=8,
            seed=seed,
            shuffle=False,
            drop_last=False,
            augment=AUGMENTED,
            normalize=PLAIN,
        )
        seen += [batches.at(step)[0] for step in range(4)]
    assert len({images.numpy().tobytes() for images in seen}) == 8


@pytest.mark.parametrize(("num", "batch_size"), [(10, 4), (8, 4), (3, 8), (1, 1), (5, 5)])
def test_in_order_gives_the_split_once_as_it_stands(num: int, batch_size: int) -> None:
    split = numbered(num)
    parts = list(in_order(split, PLAIN, batch_size=batch_size))
    assert len(parts) == -(-num // batch_size)
    assert all(len(images) == len(labels) <= batch_size for images, labels in parts)
    assert torch.equal(torch.cat([labels for _, labels in parts]), split.labels)
    assert torch.equal(torch.cat([images for images, _ in parts]), PLAIN(split.images))


# ------------------------------------------------------------------------------------------------------------
# the real data


@pytest.mark.realdata
def test_the_real_data_are_what_everybody_knows(real_root: Path) -> None:
    """MNIST and CIFAR-10: counts of labels, mean and deviation of the channels."""
    facts: dict[str, dict[str, int]] = {
        "cifar10": {"channels": 3, "size": 32, "num_classes": 10},
        "mnist": {"channels": 1, "size": 28, "num_classes": 10},
    }

    def read(name: str, split: str, num_images: int) -> Split:
        return data.load(
            name, split, root=real_root, num_images=num_images, resize=None, **facts[name]
        )[0]

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
    # a frog, two trucks, a deer ...
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
