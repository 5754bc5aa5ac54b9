"""Augmentation against an oracle that slices one image at a time in plain Python."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skiplab.data.augment import Augment

# An image is a list of rows, a row a list of pixels.
Image = list[list[tuple[int, ...]]]
FILL = (250, 251, 252)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made_up(num: int, height: int, width: int, channels: int) -> Tensor:
    """Different images whose pixels are all below FILL and, with three channels, all different."""
    return torch.randint(
        1, 250, (num, height, width, channels), dtype=torch.uint8, generator=generator(9)
    )


def augment(*, channels: int = 3, **options: Any) -> Callable[..., Tensor]:
    """An augmentation of whole batches that does nothing but what `options` ask for."""
    chosen: dict[str, Any] = {
        "flip": "none",
        "crop": 0,
        "padding_mode": "zeros",
        "cutout": 0,
        "cutout_inside": False,
    } | options
    augmentation = Augment(**chosen, fill=torch.tensor(FILL[:channels], dtype=torch.uint8))

    def apply(images: Tensor, draws: torch.Generator, mirrored: Tensor | None = None) -> Tensor:
        mirrored = torch.zeros(len(images), dtype=torch.bool) if mirrored is None else mirrored
        return augmentation(images, draws, mirrored=mirrored, total=len(images))

    return apply


def image_of(tensor: Tensor) -> Image:
    """A tensor (H, W, C) as rows of pixels."""
    return [[tuple(pixel) for pixel in row] for row in tensor.tolist()]


def frozen(image: Image) -> tuple[tuple[tuple[int, ...], ...], ...]:
    return tuple(tuple(row) for row in image)


# --------------------------------------------------------------------------------------------------
# The oracles


def crops_and_mirrorings(
    image: Image, *, flip: bool, crop: int, padding_mode: str = "zeros"
) -> dict[object, tuple[int, int, bool]]:
    """Every possible outcome of flip-and-crop -> (row offset, column offset, mirrored)."""
    height, width, black = len(image), len(image[0]), (0,) * len(image[0][0])
    side = [black] * crop
    edge = [[black] * (width + 2 * crop)] * crop
    padded = [*edge, *([*side, *row, *side] for row in image), *edge]
    outcomes: dict[object, tuple[int, int, bool]] = {}
    if padding_mode == "reflect":
        edges = ((crop, crop), (crop, crop), (0, 0))
        padded = image_of(
            torch.from_numpy(np.pad(np.array(image, np.uint8), edges, mode="reflect"))
        )
    for top in range(2 * crop + 1):
        for left in range(2 * crop + 1):
            window = [row[left : left + width] for row in padded[top : top + height]]
            outcomes[frozen(window)] = (top, left, False)
            if flip:
                outcomes[frozen([row[::-1] for row in window])] = (top, left, True)
    return outcomes


def cutouts(image: Image, *, cutout: int, inside: bool = False) -> set[object]:
    """Every possible outcome of cutout.

    The square's centre is a pixel. It is clipped at the edges, or with `inside` never beyond them.
    """
    height, width, fill = len(image), len(image[0]), FILL[: len(image[0][0])]
    outcomes: set[object] = set()
    beyond = (cutout // 2, cutout - cutout // 2 - 1) if inside else (0, 0)
    for y in range(beyond[0], height - beyond[1]):
        for x in range(beyond[0], width - beyond[1]):
            rows = range(y - cutout // 2, y - cutout // 2 + cutout)
            columns = range(x - cutout // 2, x - cutout // 2 + cutout)
            outcomes.add(
                frozen(
                    [
                        [
                            fill if i in rows and j in columns else pixel
                            for j, pixel in enumerate(row)
                        ]
                        for i, row in enumerate(image)
                    ]
                )
            )
    return outcomes


# --------------------------------------------------------------------------------------------------
# Flip and crop


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(5, 5), (5, 7), (4, 3), (6, 6)])
@pytest.mark.parametrize(("flip", "crop"), [(True, 2), (False, 2), (True, 1), (True, 0)])
def test_flip_and_crop_make_every_outcome_and_no_other(
    flip: bool, crop: int, height: int, width: int, channels: int, padding_mode: str
) -> None:
    images = made_up(3, height, width, channels)
    draws = 30 * (2 * crop + 1) ** 2
    batch = images.repeat_interleave(draws, 0)
    results = augment(
        flip="random" if flip else "none", crop=crop, padding_mode=padding_mode, channels=channels
    )(batch, generator())
    assert results.dtype == torch.uint8
    assert results.shape == batch.shape
    for image, parts in zip(images, results.split(draws), strict=True):
        outcomes = crops_and_mirrorings(
            image_of(image), flip=flip, crop=crop, padding_mode=padding_mode
        )
        # Otherwise some crops are alike.
        if crop < width and padding_mode == "zeros":
            assert len(outcomes) == (2 * crop + 1) ** 2 * (2 if flip else 1)
        seen = Counter(outcomes.get(frozen(image_of(part))) for part in parts)
        assert None not in seen
        assert len(seen) == len(outcomes)


def test_without_flip_nothing_is_ever_mirrored() -> None:
    """A bright left edge stays left of a dark right one, wherever the crop lies."""
    image = torch.zeros(1, 6, 6, 1, dtype=torch.uint8)
    image[:, :, 2], image[:, :, 3] = 100, 200
    results = augment(crop=2, channels=1)(image.expand(500, 6, 6, 1), generator())
    # (500, H, W) -> (500, W)
    brightest_row = results[..., 0].amax(1)
    assert bool((brightest_row.argmax(1) >= 1).all())
    for row in brightest_row.tolist():
        assert row[row.index(200) - 1] == 100


def test_flip_alone_mirrors_columns_and_nothing_else() -> None:
    images = made_up(200, 3, 5, 3)
    results = augment(flip="random")(images, generator())
    mirrored = (results == images.flip(2)).flatten(1).all(1)
    same = (results == images).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 70 < int(mirrored.sum()) < 130


def test_a_crop_shows_the_black_border() -> None:
    white = torch.full((400, 4, 4, 3), 255, dtype=torch.uint8)
    results = augment(crop=4)(white, generator())
    # (400, H, W, C) -> (400,)
    lit = (results == 255).all(3).flatten(1).sum(1)
    # The crop may show nothing but the border.
    assert int(lit.min()) == 0
    assert int(lit.max()) == 16
    assert set(results.unique().tolist()) == {0, 255}


# --------------------------------------------------------------------------------------------------
# Cutout


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(5, 5), (4, 7)])
@pytest.mark.parametrize("cutout", [1, 2, 3, 4, 9])
def test_cutout_covers_one_square_and_leaves_the_rest(
    cutout: int, height: int, width: int, channels: int
) -> None:
    images = made_up(3, height, width, channels)
    draws = 15 * height * width
    results = augment(cutout=cutout, channels=channels)(
        images.repeat_interleave(draws, 0), generator()
    )
    assert results.dtype == torch.uint8
    for image, parts in zip(images, results.split(draws), strict=True):
        assert {frozen(image_of(part)) for part in parts} == cutouts(image_of(image), cutout=cutout)


@pytest.mark.parametrize("side", [1, 4, 5])
def test_the_covered_square_has_the_side_asked_for_unless_clipped(side: int) -> None:
    images = made_up(1000, 16, 16, 3)
    results = augment(cutout=side)(images, generator())
    # (1000, H, W)
    covered = (results == torch.tensor(FILL, dtype=torch.uint8)).all(3)
    assert torch.equal(results[~covered], images[~covered])
    heights, widths = covered.any(2).sum(1), covered.any(1).sum(1)
    # What is covered is a rectangle without holes.
    assert torch.equal(covered.flatten(1).sum(1), heights * widths)
    at_edge = (
        covered[:, 0].any(1)
        | covered[:, -1].any(1)
        | covered[:, :, 0].any(1)
        | covered[:, :, -1].any(1)
    )
    assert bool((heights[~at_edge] == side).all())
    assert bool((widths[~at_edge] == side).all())
    assert int(heights.max()) == int(widths.max()) == side
    # Its centre is always inside.
    assert int(heights.min()) == int(widths.min()) == (side + 1) // 2
    assert 0 < int((~at_edge).sum()) < 1000


# --------------------------------------------------------------------------------------------------
# Everything


def test_nothing_configured_gives_the_images_as_they_are() -> None:
    images = made_up(4, 5, 5, 3)
    draws = generator()
    state = draws.get_state()
    assert augment()(images, draws) is images
    assert torch.equal(draws.get_state(), state)


def test_all_together_cut_out_of_a_crop() -> None:
    """Every outcome of the three is a cutout of a crop of a mirroring."""
    images = made_up(40, 4, 3, 3)
    results = augment(flip="random", crop=1, cutout=2)(images, generator())
    for image, result in zip(images, results, strict=True):
        windows = crops_and_mirrorings(image_of(image), flip=True, crop=1)
        assert any(
            frozen(image_of(result)) in cutouts([list(row) for row in window], cutout=2)  # pyright: ignore[reportGeneralTypeIssues]
            for window in windows
        )


@pytest.mark.parametrize(
    "options",
    [{"flip": "random"}, {"crop": 2}, {"cutout": 2}, {"flip": "random", "crop": 2, "cutout": 2}],
)
def test_the_input_is_left_alone_and_the_generator_decides_all(options: dict[str, Any]) -> None:
    images = made_up(64, 5, 5, 3)
    before = images.clone()
    torch.manual_seed(1)
    once = augment(**options)(images, generator(3))
    torch.manual_seed(2)
    assert torch.equal(once, augment(**options)(images, generator(3)))
    assert not torch.equal(once, augment(**options)(images, generator(4)))
    assert torch.equal(images, before)


def test_images_in_memory_of_another_order_come_out_the_same() -> None:
    images = made_up(32, 5, 7, 3)
    strided = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not strided.is_contiguous()
    both = augment(flip="random", crop=2, cutout=2)
    assert torch.equal(both(strided, generator()), both(images, generator()))


# --------------------------------------------------------------------------------------------------
# Statistics


def test_half_are_mirrored_every_offset_is_as_likely_and_all_are_independent() -> None:
    """4,000 draws of one image: each count within four deviations of what is expected."""
    image = made_up(1, 5, 5, 3)
    draws = 4000
    outcomes = crops_and_mirrorings(image_of(image[0]), flip=True, crop=1)
    results = augment(flip="random", crop=1)(image.expand(draws, 5, 5, 3), generator())
    seen = [outcomes[frozen(image_of(result))] for result in results]

    def assert_likely(count: int, probability: float) -> None:
        deviation = (draws * probability * (1 - probability)) ** 0.5
        assert abs(count - draws * probability) < 4 * deviation

    assert_likely(sum(mirrored for _, _, mirrored in seen), 1 / 2)
    for outcome, count in Counter(seen).items():
        assert_likely(count, 1 / 18)
        assert outcome in outcomes.values()
    # Neighbours in the batch are independent, too.
    assert_likely(
        sum(one[2] == other[2] for one, other in zip(seen, seen[1:] + seen[:1], strict=True)), 1 / 2
    )
    assert_likely(
        sum(one == other for one, other in zip(seen, seen[1:] + seen[:1], strict=True)), 1 / 18
    )


def test_centres_of_cutouts_are_spread_evenly() -> None:
    results = augment(cutout=1)(made_up(1, 4, 4, 3).expand(8000, 4, 4, 3), generator())
    # (8000, H, W, C) -> (H, W)
    counts = (results == torch.tensor(FILL, dtype=torch.uint8)).all(3).sum(0)
    assert int(counts.sum()) == 8000
    deviation = (8000 / 16 * 15 / 16) ** 0.5
    assert float((counts - 500).abs().max()) < 4 * deviation


# --------------------------------------------------------------------------------------------------
# Alternating, inside, parts


def test_an_alternating_flip_mirrors_what_it_is_told_to() -> None:
    images = made_up(6, 4, 5, 3)
    told = torch.tensor([True, False, False, True, True, False])
    results = augment(flip="alternating")(images, generator(), told)
    assert torch.equal(results, torch.where(told.view(-1, 1, 1, 1), images.flip(2), images))


@pytest.mark.parametrize("cutout", [1, 2, 3])
def test_a_square_that_stays_inside_lies_everywhere_inside_and_nowhere_else(cutout: int) -> None:
    image = made_up(1, 4, 5, 3)
    results = augment(cutout=cutout, cutout_inside=True)(image.expand(600, 4, 5, 3), generator())
    assert {frozen(image_of(result)) for result in results} == cutouts(
        image_of(image[0]), cutout=cutout, inside=True
    )


@pytest.mark.parametrize("parts", [2, 3])
def test_a_batch_in_parts_is_augmented_as_the_whole(parts: int) -> None:
    """What the images of a part draw depends only on their place in the batch."""
    images = made_up(10, 5, 7, 3)
    options: dict[str, Any] = {
        "flip": "random",
        "crop": 2,
        "padding_mode": "zeros",
        "cutout": 2,
        "cutout_inside": False,
    }
    whole = Augment(**options, fill=torch.tensor(FILL, dtype=torch.uint8))
    none = torch.zeros(10, dtype=torch.bool)
    expected = whole(images, generator(), mirrored=none, total=10)
    first = 0
    for part in images.tensor_split(parts):
        found = whole(part, generator(), mirrored=none[: len(part)], total=10, first=first)
        assert torch.equal(found, expected[first : first + len(part)])
        first += len(part)
