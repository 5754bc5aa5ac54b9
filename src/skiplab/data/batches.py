"""From verified files to batches: read a split, hold out validation, feed uint8 images that live on the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from skiplab.data import cache, formats, official
from skiplab.data.augment import Augment
from skiplab.errors import UsageError
from skiplab.machine import memory
from skiplab.randomness import fold, generator

# A data set is a function (root, split) -> formats.Arrays; its facts (size, classes, mean ...)
# stand in conf/dataset/NAME.yaml.
DATASETS = {
    "digits": formats.digits,
    "mnist": formats.mnist,
    "fashion_mnist": formats.fashion_mnist,
    "cifar10": formats.cifar10,
    "cifar100": formats.cifar100,
}
# Where a data set's files are found and verified without reading them: a run that lacks its test
# files says so before it trains.
FILES = {
    "mnist": official.mnist_files,
    "fashion_mnist": official.fashion_mnist_files,
    "cifar10": official.CIFAR10.locate,
    "cifar100": official.CIFAR100.locate,
}
# Of which files nothing is published that they could be verified by.
UNVERIFIED = {"cifar10": official.CIFAR10.unverified, "cifar100": official.CIFAR100.unverified}


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
        images = resized(images, resize)
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


def read(name: str, split: str, root: Path) -> tuple[formats.Arrays, str]:
    """A split's arrays and their SHA-256: those of official files decoded once and then mapped, the others read each time."""
    if name in FILES:
        return cache.read(
            f"{name}-{split}", FILES[name](root, split), lambda: DATASETS[name](root, split)
        )
    arrays = DATASETS[name](root, split)
    return arrays, cache.digest_of(arrays)


def find(name: str, split: str, *, root: Path) -> None:
    """Fetch and verify the files of a split without reading it. Raises UsageError naming the file."""
    if name in FILES:
        with readable(name, root):
            FILES[name](root, split)


def unverified(name: str, *, root: Path) -> list[Path]:
    """The files of both splits that are read without a checksum: only that of their archive is published."""
    if name not in UNVERIFIED:
        return []
    with readable(name, root):
        return [path for split in ("train", "test") for path in UNVERIFIED[name](root, split)]


def resized(images: Tensor, size: int) -> Tensor:
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


class Normalize:
    """(x / 255 - mean) / std per channel: uint8 (B, H, W, C) on any device -> float32 (B, C, H, W) on `device`."""

    def __init__(
        self,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        size: int,
        channels_last: bool,
        device: torch.device,
    ):
        deviation, centre = torch.tensor(std), torch.tensor(mean)
        # over whole flat images, because a (C,)-vector broadcast over pixels is far slower
        self.scale = (1 / (255 * deviation)).repeat(size * size).to(device)
        self.shift = (-centre / deviation).repeat(size * size).to(device)
        self.channels_last = channels_last
        self.device = device

    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        x = images.flatten(1).float().mul_(self.scale).add_(self.shift)
        # (B, H, W, C) -> (B, C, H, W), channels last in memory
        x = x.view(images.shape).permute(0, 3, 1, 2)
        # one grey plane already counts as contiguous, so .contiguous() would keep strides that
        # convolutions take for channels last
        return x if self.channels_last else x.clone(memory_format=torch.contiguous_format)


class Batches:
    """The training images as an array of batches: `at(step)` depends on the step and the seed alone.

    An epoch is a fresh permutation (or with shuffle=False the files' order) cut into batches; the
    last, smaller one counts, unless drop_last; a last batch of one joins the batch before, since
    BatchNorm cannot normalise one value.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        augment: Augment,
        normalize: Normalize,
    ):
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.shuffle, self.augment, self.normalize = shuffle, augment, normalize
        whole, rest = divmod(len(split), batch_size)
        self.steps_per_epoch = (
            whole if drop_last or rest == 0 or (rest == 1 and whole > 0) else whole + 1
        )
        self.last_batch_ends = whole * batch_size if drop_last else len(split)
        self.generator = torch.Generator(split.images.device)
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.int64)
        # for an alternating flip
        self.mirrored_first = (torch.rand(len(split), generator=generator(seed, "flip")) < 0.5).to(
            split.images.device
        )

    def index(self, step: int) -> Tensor:
        """Which images step `step` trains on: int64 (B,)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            # there, and not copied to it
            device = self.split.images.device
            self.epoch, self.order = epoch, torch.arange(len(self.split), device=device)
            if self.shuffle:
                draws = generator(self.seed, "order", epoch, device=device)
                self.order = torch.randperm(len(self.split), generator=draws, device=device)
        is_last = position == self.steps_per_epoch - 1
        return self.order[
            position * self.batch_size : self.last_batch_ends
            if is_last
            else (position + 1) * self.batch_size
        ]

    def at(
        self, step: int, *, chosen: Tensor | None = None, rank: int = 0, ranks: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Step `step`'s images, augmented and normalised, float32 (B, C, H, W), and labels, int64 (B,), on the device.

        Of `ranks` parts of the batch, in order and of nearly equal size, part `rank`; none is empty
        if the batch has `ranks` images. With `chosen`, positions int (n,), of these images alone,
        each augmented as in the whole batch.
        """
        whole = self.index(step)
        first, last = (
            len(whole if chosen is None else chosen) * r // ranks for r in (rank, rank + 1)
        )
        if chosen is not None:
            images, labels = (
                self.augmented(step, whole, first=0, total=len(whole)),
                self.split.labels.index_select(0, whole),
            )
            images, labels = (
                t.index_select(0, chosen[first:last].to(t.device)) for t in (images, labels)
            )
        else:
            index = whole[first:last]
            images, labels = (
                self.augmented(step, index, first=first, total=len(whole)),
                self.split.labels.index_select(0, index),
            )
        images = self.normalize(images)
        return images, labels.to(images.device, non_blocking=True)

    def augmented(self, step: int, index: Tensor, *, first: int, total: int) -> Tensor:
        """The images `index`, which are first .. first + B of the step's `total`, augmented: uint8 (B, H, W, C)."""
        images = self.split.images.index_select(0, index)
        self.generator.manual_seed(fold(self.seed, "augment", step))
        mirrored = self.mirrored_first.index_select(0, index) ^ (
            step // self.steps_per_epoch % 2 == 1
        )
        return self.augment(images, self.generator, mirrored=mirrored, total=total, first=first)


def in_order(
    split: Split, normalize: Normalize, *, batch_size: int, rank: int = 0, ranks: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """The split once, as it stands, without augmentation: float32 (B, C, H, W) and labels int64 (B,). Each of n ranks has every n-th."""
    for start in range(rank * batch_size, len(split), ranks * batch_size):
        images = normalize(split.images[start : start + batch_size])
        yield images, split.labels[start : start + batch_size].to(images.device, non_blocking=True)
