"""Splits of a data set: read and checked, resized, with validation images held out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from skiplab.data import cache
from skiplab.data.arrays import Arrays
from skiplab.data.catalog import DATASETS
from skiplab.errors import UsageError
from skiplab.machine import memory
from skiplab.randomness import generator

# Copies of the resized images in memory at once: the whole, and the parts that hold_out() makes.
RESIZED_COPIES = 2
# Images that are resized at once.
CHUNK = 1000


@dataclass(frozen=True)
class Split:
    """Images of one part of a data set: uint8 (N, H, W, C) and labels int64 (N,), on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """Copy this split to `device`.

        If it would take more than half of what is free there, copy it to pinned host memory.
        """
        if device.type == "cuda":
            free, _total = torch.cuda.mem_get_info(device)
            if self.images.numel() > free // 2:
                return Split(self.images.pin_memory(), self.labels.pin_memory())
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Expected:
    """What conf/dataset states of a split: `num_images` of `size` x `size` pixels."""

    channels: int
    size: int
    num_classes: int
    num_images: int


def load(
    name: str, split: str, *, root: Path, expected: Expected, resize: int | None
) -> tuple[Split, str]:
    """Load split `train` or `test` of data set `name` under `root`.

    Returns it on the host, and the SHA-256 of its pixels and labels before resizing. Raises
    UsageError naming the file where it is missing, damaged, or not what the data set's config
    states.
    """
    with naming_unreadable_files(name, root):
        arrays, digest = read(name, split, root)
    check(arrays, expected)
    images = torch.from_numpy(arrays.images)
    if resize is not None and resize != expected.size:
        memory.check(
            RESIZED_COPIES * expected.num_images * expected.channels * resize**2,
            f"dataset.resize={resize}: {expected.num_images:,} images of {resize}x{resize}",
            "take a smaller one",
        )
        images = resize_images(images, resize)
    return Split(images, torch.from_numpy(arrays.labels.astype(np.int64))), digest


def check(arrays: Arrays, expected: Expected) -> None:
    """Raise UsageError naming the file if it does not hold what the data set's config states."""
    stated = (expected.num_images, expected.size, expected.size, expected.channels)
    if arrays.images.shape != stated:
        raise UsageError(
            f"{arrays.path}: holds images of shape {arrays.images.shape}, "
            f"conf/dataset states {stated} (images, height, width, channels)"
        )
    largest = int(arrays.labels.max())
    if largest >= expected.num_classes:
        raise UsageError(
            f"{arrays.path}: label {largest} is out of range: "
            f"{expected.num_classes} classes, so 0 to {expected.num_classes - 1}"
        )


@contextmanager
def naming_unreadable_files(name: str, root: Path) -> Iterator[None]:
    """Turn an OSError into a UsageError that names the file.

    It comes from a folder that may not be searched, say, or from a disk that fails.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{error.filename or root}: {name} cannot be read ({error.strerror or error}); "
            "dataset.root or $SKIPLAB_DATA names another folder"
        ) from None


def read(name: str, split: str, root: Path) -> tuple[Arrays, str]:
    """Read a split's arrays and their SHA-256.

    Those of published files are decoded once and then mapped; others are read each time.
    """
    dataset = DATASETS[name]
    if dataset.find_files is not None:
        files = dataset.find_files(root, split)
        return cache.read(f"{name}-{split}", files, lambda: dataset.read(root, split))
    arrays = dataset.read(root, split)
    return arrays, cache.digest_of(arrays)


def find(name: str, split: str, *, root: Path) -> None:
    """Fetch and verify a split's files without reading them. Raises UsageError naming the file."""
    find_files = DATASETS[name].find_files
    if find_files is not None:
        with naming_unreadable_files(name, root):
            find_files(root, split)


def find_unverified(name: str, *, root: Path) -> list[Path]:
    """Return the files of both splits that are read without a checksum.

    These are files for which none is published, only one for their archive.
    """
    find_files = DATASETS[name].find_unverified
    if find_files is None:
        return []
    with naming_unreadable_files(name, root):
        return [path for split in ("train", "test") for path in find_files(root, split)]


def resize_images(images: Tensor, size: int) -> Tensor:
    """Resize uint8 (N, H, W, C) to (N, size, size, C), as torchvision's Resize does.

    The filter is bilinear with antialiasing.
    """
    resized = torch.empty(len(images), size, size, images.shape[3], dtype=torch.uint8)
    for start in range(0, len(images), CHUNK):
        # (N, H, W, C) -> (N, C, H, W)
        part = images[start : start + CHUNK].permute(0, 3, 1, 2).float()
        part = F.interpolate(
            part, size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
        resized[start : start + CHUNK] = part.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return resized


def hold_out(split: Split, *, fraction: float, seed: int) -> tuple[Split, Split | None]:
    """Part a stratified `fraction` from a split on the host: (training, validation).

    Both are in the files' order. With a fraction of 0 there is no validation. It holds
    round(fraction * N) images; every class gives its share, the largest remainders one more.
    """
    if fraction == 0:
        return split, None
    total = round(fraction * len(split))
    members = [
        torch.nonzero(split.labels == label).flatten()
        for label in range(int(split.labels.max()) + 1)
    ]
    shares = [fraction * len(m) for m in members]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda label: counts[label] - shares[label])
    for label in by_remainder[: total - sum(counts)]:
        counts[label] += 1
    held = torch.zeros(len(split), dtype=torch.bool)
    for label, (member, count) in enumerate(zip(members, counts, strict=True)):
        chosen = torch.randperm(len(member), generator=generator(seed, "split", label))[:count]
        held[member[chosen]] = True
    # NumPy copies whole images. Torch's indexing copies byte by byte and takes seven times as long.
    images, is_held = split.images.numpy(), held.numpy()
    training = Split(torch.from_numpy(images[~is_held]), split.labels[~held])
    validation = Split(torch.from_numpy(images[is_held]), split.labels[held])
    return training, validation
