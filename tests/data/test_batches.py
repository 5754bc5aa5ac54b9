"""Batches: normalisation, and batches that depend only on (seed, step)."""

import pytest
import torch

from datafiles import numbered, pixels
from skiplab.data.augment import Augment
from skiplab.data.batches import Batches, Normalize, in_order
from skiplab.data.splits import Split

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
    mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), size=(4, 4), channels_last=False, device=CPU
)


# --------------------------------------------------------------------------------------------------
# Normalisation

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
    ours = Normalize(mean=mean, std=std, size=(16, 16), channels_last=channels_last, device=CPU)(
        images
    )
    expected = (images.double() / 255 - torch.tensor(mean, dtype=torch.float64)) / torch.tensor(
        std, dtype=torch.float64
    )
    assert ours.dtype == torch.float32
    assert ours.shape == (2, channels, 16, 16)
    assert (ours.double() - expected.permute(0, 3, 1, 2)).abs().max() < 1e-6
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_lays_out_memory_as_asked(channels: int) -> None:
    """The strides are exact, because a convolution chooses its layout by them.

    With one channel, is_contiguous() holds for both layouts.
    """
    images = pixels(5, 4, 4, channels)
    layouts = [
        Normalize(
            mean=(0.5,) * channels,
            std=(0.5,) * channels,
            size=(4, 4),
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


# --------------------------------------------------------------------------------------------------
# Batches


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
        # A last batch of one joins the one before.
        (13, 4, [4, 4, 5]),
        (9, 8, [9]),
        # One batch is an epoch.
        (8, 8, [8]),
        (7, 8, [7]),
        # There is no batch before to join.
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
    # The images that are left out change from epoch to epoch.
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
    # The order does not depend on the batch size.
    assert tuple(joined(epoch_of(make(40, 13, seed=2), 1))) == orders[7]


def test_a_batch_holds_the_images_and_labels_of_its_index() -> None:
    batches = make(300, 32)
    # Step 9 is the last of its epoch.
    for step in (0, 9, 10, 25):
        images, labels = batches.at(step)
        index = batches.index(step)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, index)
        assert torch.equal(images, PLAIN(numbered(300).images[index]))
        assert images.shape == (32 if step != 9 else 12, 3, 4, 4)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    """Batches are the same to the bit, whatever the order of steps and torch's own generator."""
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


@pytest.mark.gpu
def test_batches_in_host_memory_do_not_wait_for_the_device() -> None:
    """A batch is handed over while the device still works, and is the one that the CPU makes."""
    images, labels = pixels(2000, 32, 32, 3), torch.arange(2000)
    crop = Augment(
        flip="random",
        crop=4,
        padding_mode="zeros",
        cutout=0,
        cutout_inside=False,
        fill=torch.zeros(3, dtype=torch.uint8),
    )

    def batches_for(split: Split, device: torch.device) -> Batches:
        return Batches(
            split,
            batch_size=500,
            seed=0,
            shuffle=True,
            drop_last=False,
            augment=crop,
            normalize=Normalize(
                mean=(0.5,) * 3, std=(0.25,) * 3, size=(32, 32), channels_last=False, device=device
            ),
        )

    def all_of(batches: Batches) -> list[tuple[torch.Tensor, torch.Tensor]]:
        in_files_order = in_order(batches.split, batches.normalize, batch_size=500)
        return [*map(batches.at, range(4)), *in_files_order]

    pinned = Split(images.pin_memory(), labels.pin_memory())
    batches, found, is_busy = batches_for(pinned, torch.device("cuda")), [], False
    # The first round allocates pinned memory, which may wait; the second one uses it again.
    for _ in range(2):
        torch.cuda.synchronize()
        torch.cuda._sleep(2 * 10**9)
        done = torch.cuda.Event()
        done.record()
        found = all_of(batches)
        is_busy = not done.query()
    assert is_busy
    for ours, theirs in zip(found, all_of(batches_for(Split(images, labels), CPU)), strict=True):
        assert torch.equal(ours[0].cpu(), theirs[0])
        assert torch.equal(ours[1].cpu(), theirs[1])
