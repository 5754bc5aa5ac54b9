"""A part of the training images: a fraction of them, or a number per class, drawn by the seed."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skiplab.data.splits import Split
from skiplab.errors import UsageError
from skiplab.randomness import generator


def take(
    training: Split, *, fraction: float, per_class: int | None, classes: Sequence[str], seed: int
) -> Split:
    """Return round(fraction * N) of the N training images, or `per_class` of each class.

    They are stratified, in the files' order, and depend on the seed only. A smaller part lies in
    each larger one of the same seed. With a fraction of 1 and no `per_class` it is the split
    itself. `classes` names the labels. Raises UsageError where a class has too few images, or
    where the fraction leaves none of it.
    """
    if fraction == 1 and per_class is None:
        return training
    counts = training.labels.bincount(minlength=len(classes))
    places = draw_places(training.labels, counts, seed=seed)
    if per_class is not None:
        check_per_class(per_class, counts, classes)
        is_taken = places < per_class
    else:
        order = order_by_share(training.labels, counts, places)
        taken = order[: round(fraction * len(training))]
        check_fraction(fraction, order, taken, training.labels, classes)
        is_taken = torch.zeros(len(training), dtype=torch.bool)
        is_taken[taken] = True
    # NumPy copies whole images. Torch's indexing copies byte by byte and takes seven times as long.
    images = np.asarray(training.images)[is_taken.numpy()]
    return Split(torch.from_numpy(images), training.labels[is_taken])


def draw_places(labels: Tensor, counts: Tensor, *, seed: int) -> Tensor:
    """Return each image's place in a random order of its class: int64 (N,), 0 for the first.

    `counts` has the images of each class: int64 (K,).
    """
    places = torch.empty_like(labels)
    for label, count in enumerate(counts.tolist()):
        draws = generator(seed, "subset", label)
        places[labels == label] = torch.randperm(count, generator=draws)
    return places


def order_by_share(labels: Tensor, counts: Tensor, places: Tensor) -> Tensor:
    """Return the images in an order whose every beginning is stratified: int64 (N,).

    Image j of a class of n comes at (j + 1/2) / n of the way (the method of Sainte-Lague). Unlike
    that of the largest remainders, it never gives a larger part fewer images of a class.
    """
    share = (places.double() + 0.5) / counts[labels]
    # Where two are equal, the lower label comes first.
    by_label = torch.argsort(labels, stable=True)
    return by_label[torch.argsort(share[by_label], stable=True)]


def check_per_class(per_class: int, counts: Tensor, classes: Sequence[str]) -> None:
    """Raise UsageError unless every class has `per_class` images."""
    least = int(counts.min())
    if per_class > least:
        name = classes[int(counts.argmin())]
        raise UsageError(
            f"dataset.per_class={per_class}: class {name!r} has {least:,} training images, "
            f"without those held out for validation; take at most {least}"
        )


def check_fraction(
    fraction: float, order: Tensor, taken: Tensor, labels: Tensor, classes: Sequence[str]
) -> None:
    """Raise UsageError if the images `taken`, the first of `order`, lack a class of the whole."""
    missing = set(labels.tolist()) - set(labels[taken].tolist())
    if not missing:
        return
    in_order = labels[order].tolist()
    needed = 1 + max(in_order.index(label) for label in missing)
    least = math.ceil(10_000 * needed / len(order)) / 10_000
    raise UsageError(
        f"dataset.fraction={fraction:g}: {len(taken):,} of {len(order):,} training images leave "
        f"none of class {classes[min(missing)]!r}; take at least {least:g}"
    )
