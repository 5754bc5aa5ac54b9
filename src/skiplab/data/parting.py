"""Split images of one's own into training, validation and test. Imports no torch."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skiplab.data.decoding import Outcome
from skiplab.data.folder import PARTS, Item, listed, order_of
from skiplab.errors import UsageError
from skiplab.words import counted


@dataclass(frozen=True)
class Parts:
    """Which images are in which part, by their numbers, in the order of the source.

    `labels` has the number of each image's class, -1 for one that is left out. `sha256` is that of
    all files, classes and parts.
    """

    members: dict[str, list[int]]
    labels: Sequence[int]
    classes: tuple[str, ...]
    sha256: str
    notes: Sequence[str]

    @property
    def train(self) -> list[int]:
        """The numbers of the training images."""
        return self.members["train"]


def split(
    items: Sequence[Item], outcomes: Sequence[Outcome], *, fraction: float, seed: int
) -> Parts:
    """Return the parts of the images that could be decoded.

    The source says the part of each; otherwise `fraction` of each class is for the test, drawn by
    `seed`. Classes are those of the training part. Raises UsageError if another part has one more.
    """
    good = [i for i, outcome in enumerate(outcomes) if not outcome.problem]
    is_given = bool(items[0].part)
    by_part: dict[str, list[int]] = defaultdict(list)
    tested = set() if is_given else draw_test(items, outcomes, good, fraction=fraction, seed=seed)
    for i in good:
        by_part[items[i].part or ("test" if i in tested else "train")].append(i)
    members = {part: by_part[part] for part in PARTS if by_part[part]}
    if "train" not in members:
        raise UsageError("no image of the training part can be read")
    classes = order_of(items[i].label for i in members["train"])
    check_classes(items, members, classes)
    number = {label: place for place, label in enumerate(classes)}
    labels = [-1] * len(items)
    for i in good:
        labels[i] = number[items[i].label]
    return Parts(
        members,
        labels,
        classes,
        digest_of(items, outcomes, members),
        [*missing_classes(items, members, classes), *duplicates(items, outcomes, members)],
    )


def draw_test(
    items: Sequence[Item],
    outcomes: Sequence[Outcome],
    good: Sequence[int],
    *,
    fraction: float,
    seed: int,
) -> set[int]:
    """Draw the images for the test: of each class round(fraction * N), at least one of two.

    An image's place in the draw is a hash of its bytes and the seed. So copies of a file are in one
    part together, and an image keeps its part when others are added or all are renamed.
    """
    by_class: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i in good:
        by_class[items[i].label][outcomes[i].sha256].append(i)
    tested: set[int] = set()
    for copies in by_class.values():
        count = sum(map(len, copies.values()))
        wanted = round(fraction * count)
        if fraction > 0:
            wanted = min(max(wanted, 1), count - 1)
        drawn: list[int] = []
        for sha256 in sorted(copies, key=lambda content: place_in_draw(content, seed)):
            if len(drawn) + len(copies[sha256]) <= wanted:
                drawn += copies[sha256]
        tested.update(drawn)
    return tested


def place_in_draw(content: str, seed: int) -> bytes:
    """Return a pseudo-random place for a file's SHA-256."""
    return hashlib.sha256(f"{seed} {content}".encode()).digest()


def check_classes(
    items: Sequence[Item], members: dict[str, list[int]], classes: Sequence[str]
) -> None:
    """Raise UsageError if validation or test has a class that the training part lacks."""
    for part, numbers in members.items():
        others = sorted({items[i].label for i in numbers} - set(classes))
        if others:
            raise UsageError(
                f"{listed(others)}: in the {part} part, but not in train; "
                "every class needs training images"
            )


def digest_of(
    items: Sequence[Item], outcomes: Sequence[Outcome], members: dict[str, list[int]]
) -> str:
    """Return the SHA-256 of each image's part, class and bytes, in order. Paths do not count."""
    digest = hashlib.sha256()
    for part, numbers in members.items():
        for i in numbers:
            digest.update(os.fsencode(f"{part}\0{items[i].label}\0{outcomes[i].sha256}\n"))
    return digest.hexdigest()


def missing_classes(
    items: Sequence[Item], members: dict[str, list[int]], classes: Sequence[str]
) -> Iterator[str]:
    """Yield a note on each part that lacks classes."""
    for part, numbers in members.items():
        there = {items[i].label for i in numbers}
        missing = [label for label in classes if label not in there]
        if missing:
            yield f"the {part} part has no image of {listed(missing)}"


def duplicates(
    items: Sequence[Item], outcomes: Sequence[Outcome], members: dict[str, list[int]]
) -> Iterator[str]:
    """Yield a note on files that are in two parts, byte for byte: they break the seal."""
    seen: dict[str, tuple[str, str]] = {}
    for part in members:
        shared: list[str] = []
        for i in members[part]:
            first = seen.setdefault(outcomes[i].sha256, (part, items[i].path))
            if first[0] != part:
                shared.append(f"{items[i].path} = {first[1]}")
        if shared:
            rule = "the test is no test for them" if part == "test" else "they are validated on"
            yield (
                f"{counted(len(shared), 'image')} of the {part} part "
                f"{'is' if len(shared) == 1 else 'are'} in another part too, byte for byte, "
                f"so {rule}: {listed(shared, 3)}"
            )
