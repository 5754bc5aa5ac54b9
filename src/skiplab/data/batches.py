"""Batches of uint8 images that live on the device: augmented, normalised, addressed by step."""

from collections.abc import Iterator

import torch
from torch import Tensor

from skiplab.data.augment import Augment
from skiplab.data.splits import Split
from skiplab.randomness import fold, generator


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
