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

# of resized images in memory at once: the whole, and the parts that validation is held out into
RESIZED_COPIES = 2


@dataclass(frozen=True)
class Split:
    """Images of one part of a data set: uint8 (N, H, W, C) and labels int64 (N,), on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """This split on `device`, or in pinned host memory where it would take more than half of what is free there."""
        if device.type == "cuda":
            free, _total = torch.cuda.mem_get_info(device)
            if self.images.numel() > free // 2:
                return Split(self.images.pin_memory(), self.labels.pin_memory())
        return Split(self.images.to(device), self.labels.to(device))


def load(
    name: str,
    split: str,
    *,
    root: Path,
    channels: int,
    size: int,
    num_classes: int,
    num_images: int,
    resize: int | None,
) -> tuple[Split, str]:
    """Split `train` or `test` of data set `name` under `root`, and the SHA-256 of its pixels and labels.

    Raises UsageError naming the file where it is missing, damaged, or not what the data set's
    config states.
    """
    with readable(name, root):
        arrays, digest = read(name, split, root)
    stated = (num_images, size, size, channels)
    if arrays.images.shape != stated:
        raise UsageError(
            f"{arrays.path}: holds images of shape {arrays.images.shape}, conf/dataset states {stated} (images, height, width, channels)"
        )
    if int(arrays.labels.max()) >= num_classes:
        raise UsageError(
            f"{arrays.path}: label {int(arrays.labels.max())} is out of range: {num_classes} classes, so 0 to {num_classes - 1}"
        )
    images = torch.from_numpy(arrays.images)
    if resize is not None and resize != size:
        taken = RESIZED_COPIES * num_images * channels * resize**2
        memory.check(
            taken,
            f"dataset.resize={resize}: {num_images:,} images of {resize}x{resize}",
            "take a smaller one",
        )
        images = resize_images(images, resize)
    return Split(images, torch.from_numpy(arrays.labels.astype(np.int64))), digest


@contextmanager
def readable(name: str, root: Path) -> Iterator[None]:
    """Have what the system refuses raise UsageError naming the file: a folder that may not be searched, a disk that fails."""
    try:
        yield
    except OSError as error:
        advice = "dataset.root or $SKIPLAB_DATA names another folder"
        raise UsageError(
            f"{error.filename or root}: {name} cannot be read ({error.strerror or error}); {advice}"
        ) from None


def read(name: str, split: str, root: Path) -> tuple[Arrays, str]:
    """A split's arrays and their SHA-256: those of official files decoded once and then mapped, the others read each time."""
    dataset = DATASETS[name]
    if dataset.find_files is not None:
        files = dataset.find_files(root, split)
        return cache.read(f"{name}-{split}", files, lambda: dataset.read(root, split))
    arrays = dataset.read(root, split)
    return arrays, cache.digest_of(arrays)


def find(name: str, split: str, *, root: Path) -> None:
    """Fetch and verify the files of a split without reading it. Raises UsageError naming the file."""
    find_files = DATASETS[name].find_files
    if find_files is not None:
        with readable(name, root):
            find_files(root, split)


def find_unverified(name: str, *, root: Path) -> list[Path]:
    """The files of both splits that are read without a checksum: only that of their archive is published."""
    find_files = DATASETS[name].find_unverified
    if find_files is None:
        return []
    with readable(name, root):
        return [path for split in ("train", "test") for path in find_files(root, split)]


def resize_images(images: Tensor, size: int) -> Tensor:
    """Bilinear with antialiasing, as torchvision's Resize: uint8 (N, H, W, C) -> uint8 (N, size, size, C)."""
    resized_images = torch.empty(len(images), size, size, images.shape[3], dtype=torch.uint8)
    for start in range(0, len(images), 1000):
        # (N, H, W, C) -> (N, C, H, W)
        part = images[start : start + 1000].permute(0, 3, 1, 2).float()
        part = F.interpolate(
            part, size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
        resized_images[start : start + 1000] = part.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return resized_images


def hold_out(split: Split, *, fraction: float, seed: int) -> tuple[Split, Split | None]:
    """Part a stratified `fraction` from `split`: (training, validation), both in the files' order; no validation at 0.

    Validation holds round(fraction * N) images; every class gives its share, the largest remainders
    one more.
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
    # NumPy copies whole images; torch's own indexing goes byte by byte and takes seven times as
    # long
    training, validation = (
        torch.from_numpy(split.images.numpy()[mask]) for mask in (~held.numpy(), held.numpy())
    )
    return Split(training, split.labels[~held]), Split(validation, split.labels[held])
