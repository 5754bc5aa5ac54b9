"""A part of the training images: stratified, nested, drawn by the seed; validation stays."""

import json
import re
from collections import Counter
from pathlib import Path

import torch
from hypothesis import given, settings, strategies as st

from datafiles import numbered, refusal
from helpers import SMALL, Cli, compose
from skiplab import build
from skiplab.data.splits import Split
from skiplab.data.subset import take

CPU = torch.device("cpu")
NAMES = tuple("abcdefg")


def part(
    split: Split, *, fraction: float = 1.0, per_class: int | None = None, seed: int = 0
) -> Split:
    """Take a part of a split whose labels are those of NAMES that occur."""
    names = NAMES[: int(split.labels.max()) + 1]
    return take(split, fraction=fraction, per_class=per_class, classes=names, seed=seed)


def numbers(split: Split) -> list[int]:
    """Which of the numbered images a split holds, in its order."""
    return (split.images[:, 0, 0, 0].long() + 256 * split.images[:, 0, 0, 1].long()).tolist()


def labelled(counts: list[int]) -> Split:
    """Numbered images of classes of these sizes, mixed."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    return numbered(len(labels), labels[order])


def test_neutral_values_take_the_split_itself() -> None:
    split = labelled([3, 4])
    assert part(split) is split


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    counts=st.lists(st.integers(8, 40), min_size=1, max_size=7),
    fractions=st.tuples(st.floats(0.15, 1), st.floats(0.15, 1)),
    seed=st.integers(0, 1 << 40),
)
def test_a_fraction_is_exact_stratified_in_order_and_nested(
    counts: list[int], fractions: tuple[float, float], seed: int
) -> None:
    split = labelled(counts)
    small, large = (part(split, fraction=f, seed=seed) for f in sorted(fractions))
    for taken, fraction in ((small, min(fractions)), (large, max(fractions))):
        assert len(taken) == round(fraction * len(split))
        assert numbers(taken) == sorted(numbers(taken))
        assert taken.labels.tolist() == split.labels[numbers(taken)].tolist()
        assert torch.equal(taken.images, split.images[numbers(taken)])
        for label, count in enumerate(counts):
            # The method of Sainte-Lague may give an image more or less than the share rounded.
            assert abs(taken.labels.tolist().count(label) - fraction * count) < 2
    assert set(numbers(small)) <= set(numbers(large))


def test_equal_classes_give_equal_parts() -> None:
    assert part(labelled([50] * 7), fraction=0.1).labels.bincount().tolist() == [5] * 7


def test_per_class_takes_so_many_of_each_and_more_adds_to_them() -> None:
    split = labelled([9, 30, 12])
    five, nine = part(split, per_class=5), part(split, per_class=9)
    assert five.labels.bincount().tolist() == [5, 5, 5]
    assert nine.labels.bincount().tolist() == [9, 9, 9]
    assert set(numbers(five)) < set(numbers(nine))
    assert numbers(five) == sorted(numbers(five))


def test_the_part_depends_on_the_seed_alone() -> None:
    split = labelled([100, 100])

    def drawn(seed: int) -> tuple[list[int], list[int]]:
        return (
            numbers(part(split, fraction=0.2, seed=seed)),
            numbers(part(split, per_class=20, seed=seed)),
        )

    torch.manual_seed(1)
    once = drawn(5)
    torch.manual_seed(2)
    assert drawn(5) == once
    assert drawn(6)[0] != once[0]
    assert drawn(6)[1] != once[1]


def test_a_class_with_too_few_images_is_named() -> None:
    assert refusal(lambda: part(labelled([9, 4, 12]), per_class=5)) == (
        "dataset.per_class=5: class 'b' has 4 training images, "
        "without those held out for validation; take at most 4"
    )


def test_a_fraction_that_leaves_none_of_a_class_says_which_would_do() -> None:
    split = labelled([100, 3])
    said = refusal(lambda: part(split, fraction=0.1))
    assert said.startswith(
        "dataset.fraction=0.1: 10 of 103 training images leave none of class 'b'; take at least "
    )
    least = float(said.rpartition(" ")[2])
    assert part(split, fraction=least).labels.bincount().tolist()[1] == 1
    assert "leave none of class" in refusal(lambda: part(split, fraction=least - 0.01))


def test_validation_and_checksum_are_those_of_the_whole() -> None:
    whole, held, checksum = build.training_data(compose(), CPU)
    for text, counts in (("dataset.fraction=0.5", None), ("dataset.per_class=20", [20] * 10)):
        training, same, again = build.training_data(compose(text), CPU)
        assert held is not None
        assert same is not None
        assert torch.equal(held.images, same.images)
        assert torch.equal(held.labels, same.labels)
        assert checksum == again
        assert counts is None or training.labels.bincount().tolist() == counts
        rows = Counter(bytes(image.numpy()) for image in whole.images)
        assert Counter(bytes(image.numpy()) for image in training.images) <= rows


def test_a_run_takes_the_steps_of_its_part_and_tests_on_the_whole_test_set(call: Cli) -> None:
    code, out, err = call(*SMALL, "dataset.per_class=30", "batch_size=100", "out=run")
    assert (code, err) == (0, "")
    assert "digits: 300 training, 144 validation, 360 test images\n9 steps of 100 images on" in out
    assert "note: dataset.per_class=30: 300 of 1,293 training images are used" in out
    assert "(360 images)" in out
    assert json.loads(Path("run/result.json").read_text())["steps"] == 9


def test_a_part_that_the_files_do_not_hold_is_refused_in_one_line(call: Cli) -> None:
    code, _, err = call(*SMALL, "dataset.per_class=126", "out=run")
    assert code == 2
    assert re.fullmatch(r"error: dataset.per_class=126: class '\d' has 1\d\d training .*\n", err)
