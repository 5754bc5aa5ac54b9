"""Batches of the training images: augmented, normalised, on the device, and addressed by step."""

from collections.abc import Iterator

import torch
from torch import Tensor

from skiplab.data.augment import Augment
from skiplab.data.splits import Split
from skiplab.randomness import fold, generator


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to `device` without waiting for the work that is queued there.

    CUDA copies from pageable host memory only after that work, so the tensor is pinned first.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


class Normalize:
    """Compute (x / 255 - mean) / std per channel, on `device`.

    Takes uint8 (B, H, W, C) of `size` (H, W) on any device; returns float32 (B, C, H, W).
    """

    def __init__(
        self,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        size: tuple[int, int],
        channels_last: bool,
        device: torch.device,
    ):
        deviation, centre = torch.tensor(std), torch.tensor(mean)
        # They cover a whole flat image, because broadcasting (C,) over pixels is far slower.
        num_pixels = size[0] * size[1]
        self.scale = (1 / (255 * deviation)).repeat(num_pixels).to(device)
        self.shift = (-centre / deviation).repeat(num_pixels).to(device)
        self.channels_last = channels_last
        self.device = device

    def __call__(self, images: Tensor) -> Tensor:
        images = upload(images, self.device)
        x = images.flatten(1).float().mul_(self.scale).add_(self.shift)
        # (B, H, W, C) -> (B, C, H, W), channels last in memory
        x = x.view(images.shape).permute(0, 3, 1, 2)
        if self.channels_last:
            return x
        # One grey plane counts as contiguous already. So contiguous() would keep its strides, which
        # convolutions take for channels last.
        return x.clone(memory_format=torch.contiguous_format)


class Batches:
    """The training images as an array of batches: `at(step)` depends only on the step and the seed.

    An epoch is a new permutation (with shuffle=False the files' order), cut into batches. The
    last, smaller batch counts unless drop_last. A last batch of one image joins the batch before,
    because BatchNorm cannot normalise one value.
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
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.augment = augment
        self.normalize = normalize
        whole, rest = divmod(len(split), batch_size)
        has_no_rest = rest == 0 or (rest == 1 and whole > 0)
        self.steps_per_epoch = whole if drop_last or has_no_rest else whole + 1
        self.last_batch_ends = whole * batch_size if drop_last else len(split)
        device = split.images.device
        self.generator = torch.Generator(device)
        # `order` is that of `epoch`.
        self.epoch = -1
        self.order = torch.empty(0, dtype=torch.int64)
        # The images that an alternating flip mirrors in even epochs.
        draws = torch.rand(len(split), generator=generator(seed, "flip"))
        self.mirrored_first = (draws < 0.5).to(device)

    def index(self, step: int) -> Tensor:
        """Return which images step `step` trains on: int64 (B,)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self.draw_order(epoch)
        start = position * self.batch_size
        if position == self.steps_per_epoch - 1:
            return self.order[start : self.last_batch_ends]
        return self.order[start : start + self.batch_size]

    def draw_order(self, epoch: int) -> Tensor:
        """Return the order of all images in an epoch: int64 (N,), drawn where the images are."""
        device, count = self.split.images.device, len(self.split)
        if not self.shuffle:
            return torch.arange(count, device=device)
        draws = generator(self.seed, "order", epoch, device=device)
        return torch.randperm(count, generator=draws, device=device)

    def at(
        self, step: int, *, chosen: Tensor | None = None, rank: int = 0, ranks: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Return step `step`'s images and labels on the device, augmented and normalised.

        Images are float32 (B, C, H, W), labels int64 (B,). Of `ranks` parts of the batch, in order
        and of nearly equal size, only part `rank` is returned; none is empty if the batch has
        `ranks` images. With `chosen`, positions int (n,), the batch is only these images, each
        augmented as in the whole batch.
        """
        whole = self.index(step)
        count = len(whole) if chosen is None else len(chosen)
        first, last = count * rank // ranks, count * (rank + 1) // ranks
        if chosen is None and self.augment.own is not None:
            index = whole[first:last]
            images = self.gather(step, whole, first=0, total=len(whole))[first:last]
        elif chosen is None:
            index = whole[first:last]
            images = self.gather(step, index, first=first, total=len(whole))
        else:
            positions = chosen[first:last].to(whole.device)
            index = whole.index_select(0, positions)
            # An augmentation draws for a whole batch, so choose from it afterwards.
            images = self.gather(step, whole, first=0, total=len(whole)).index_select(0, positions)
        labels = self.split.labels.index_select(0, index)
        return self.normalize(images), upload(labels, self.normalize.device)

    def labels_at(self, step: int, *, chosen: Tensor | None = None) -> Tensor:
        """Return the labels of step `step`'s whole batch on the device: int64 (B,).

        With `chosen`, positions int (n,), it is only those of these images.
        """
        index = self.index(step)
        if chosen is not None:
            index = index.index_select(0, chosen.to(index.device))
        return upload(self.split.labels.index_select(0, index), self.normalize.device)

    def gather(self, step: int, index: Tensor, *, first: int, total: int) -> Tensor:
        """Gather the images `index` (B,) and augment them: uint8 (B, H, W, C).

        They are images first .. first + B of the step's `total`.
        """
        images = self.split.images.index_select(0, index)
        self.generator.manual_seed(fold(self.seed, "augment", step))
        mirrored = None
        if self.augment.flip == "alternating":
            is_odd_epoch = step // self.steps_per_epoch % 2 == 1
            mirrored = self.mirrored_first.index_select(0, index) ^ is_odd_epoch
        return self.augment(images, self.generator, mirrored=mirrored, total=total, first=first)


def in_order(
    split: Split, normalize: Normalize, *, batch_size: int, rank: int = 0, ranks: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of a split once, in its order, without augmentation.

    Images are float32 (B, C, H, W), labels int64 (B,), on the device. Of n ranks, each gets every
    n-th batch.
    """
    for start in range(rank * batch_size, len(split), ranks * batch_size):
        images = normalize(split.images[start : start + batch_size])
        yield images, upload(split.labels[start : start + batch_size], normalize.device)
