"""Augment batches of uint8 images on their device. Every image draws its own values."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from skiplab.errors import UsageError

# Takes uint8 (B, H, W, C) and a generator on the same device, and returns such images.
Own = Callable[[Tensor, torch.Generator], Tensor]
WANTED = "uint8 images (B, H, W, C) of the same shape and device are expected"


class Augment:
    """Mirror images, crop from a border, cover a square: uint8 (B, H, W, C) -> uint8 (B, H, W, C).

    `flip` is none, random (each image is mirrored with probability 1/2, drawn each time) or
    alternating (half of the images, drawn once, and the others in every second epoch: Jordan 2024).
    `crop` is the border in pixels (0: no crop), black or, with padding_mode=reflect, mirrored.
    `cutout` is the side of the covered square in pixels (0: none), `fill` its colour, uint8 (C,) on
    the images' device. With `cutout_inside` the square never sticks out of the image. Every image
    has its own mirroring, offset and square; torchvision's transforms decide once per batch. `own`
    comes after all of these; it must be given whole batches, since it draws as it likes.
    """

    def __init__(
        self,
        *,
        flip: str,
        crop: int,
        padding_mode: str,
        cutout: int,
        cutout_inside: bool,
        fill: Tensor,
        own: Own | None = None,
    ):
        self.flip = flip
        self.crop = crop
        self.padding_mode = padding_mode
        self.cutout = cutout
        self.cutout_inside = cutout_inside
        self.fill = fill
        self.own = own

    def __call__(
        self,
        images: Tensor,
        generator: torch.Generator,
        *,
        mirrored: Tensor | None,
        total: int,
        first: int = 0,
    ) -> Tensor:
        """Augment images first .. first + B of a batch of `total`.

        The draws do not depend on how a batch is parted. `mirrored`, bool (B,), says which images
        an alternating flip mirrors now; it needs no value for other flips.
        """
        if self.flip != "none" or self.crop:
            images = self.flip_and_crop(images, generator, mirrored, total, first)
        if self.cutout:
            images = self.cut_out(images, generator, total, first)
        return images if self.own is None else self.apply_own(images, generator)

    def apply_own(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Apply the user's own augmentation to a whole batch.

        Raises UsageError if it gives something else than uint8 images of the same shape.
        """
        assert self.own is not None
        changed = self.own(images, generator)
        shape, device = images.shape, images.device
        if not isinstance(changed, Tensor):
            raise UsageError(f"augment: gives {type(changed).__name__}; {WANTED}")
        if (changed.shape, changed.dtype, changed.device) != (shape, torch.uint8, device):
            given = f"{changed.dtype} {tuple(changed.shape)} on {changed.device}".removeprefix(
                "torch."
            )
            raise UsageError(
                f"augment: gives {given} for uint8 {tuple(shape)} on {device}; {WANTED}"
            )
        return changed

    def flip_and_crop(
        self,
        images: Tensor,
        generator: torch.Generator,
        mirrored: Tensor | None,
        total: int,
        first: int,
    ) -> Tensor:
        """Mirror and crop by one gather of whole pixels.

        One core does 134,000 images of 32x32x3 per second.
        """
        batch, height, width, channels = images.shape
        device, border = images.device, self.crop
        own = slice(first, first + batch)
        # (2, B, 1, 1): columns, rows
        offset = torch.randint(
            0, 2 * border + 1, (2, total, 1, 1), generator=generator, device=device
        )[:, own]
        # The draws are made for any flip, so that the squares of cut_out() do not depend on it.
        draws = torch.rand((total, 1, 1), generator=generator, device=device)[own]
        is_mirrored = mirrored if self.flip == "alternating" else None
        if self.flip == "random":
            is_mirrored = draws < 0.5
        # (W,), or with mirroring (B, 1, W)
        columns = progression(0, 1, width, device)
        if is_mirrored is not None:
            backwards = progression(width - 1, -1, width, device)
            columns = torch.where(is_mirrored.view(batch, 1, 1), backwards, columns)
        if self.padding_mode == "reflect":
            rows = progression(0, 1, height, device).view(height, 1)
            columns = reflect(columns + (offset[0] - border), width)
            rows = reflect(rows + (offset[1] - border), height) * width
        else:
            images = F.pad(images, (0, 0, border, border, border, border))
            stride = images.shape[2]
            rows = progression(0, stride, height, device).view(height, 1)
            columns = columns + torch.add(offset[0], offset[1], alpha=stride)
        image_size = images.shape[1] * images.shape[2]
        starts = progression(0, image_size, batch, device).view(batch, 1, 1)
        # (B, H, W), an index into all pixels of the padded batch
        pixels = (starts + rows) + columns
        gathered = images.reshape(-1, channels).index_select(0, pixels.view(-1))
        return gathered.view(batch, height, width, channels)

    def cut_out(self, images: Tensor, generator: torch.Generator, total: int, first: int) -> Tensor:
        """Cover a square of each image (DeVries & Taylor 2017).

        Its centre lies anywhere in the image, so the square may stick out, unless `cutout_inside`.
        """
        batch, height, width, _ = images.shape
        device = images.device
        own = slice(first, first + batch)
        # (places, H) and (places, W)
        rows = covered_pixels(height, self.cutout, self.cutout_inside, device)
        columns = covered_pixels(width, self.cutout, self.cutout_inside, device)
        top = torch.randint(0, len(rows), (total,), generator=generator, device=device)[own]
        left = torch.randint(0, len(columns), (total,), generator=generator, device=device)[own]
        # (B, H, 1, 1) and (B, 1, W, 1)
        in_rows = rows.index_select(0, top).view(batch, height, 1, 1)
        in_columns = columns.index_select(0, left).view(batch, 1, width, 1)
        return torch.where(in_rows & in_columns, self.fill, images)


def reflect(positions: Tensor, size: int) -> Tensor:
    """Reflect positions about the outermost pixels: -1 becomes 1, `size` becomes size - 2."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


# Both tables below are made once: on a GPU, every operation of a step costs a launch.


@functools.lru_cache(maxsize=64)
def progression(first: int, difference: int, count: int, device: torch.device) -> Tensor:
    """Return `count` whole numbers from `first` on: int64 (count,)."""
    return torch.arange(first, first + count * difference, difference, device=device)


@functools.lru_cache(maxsize=64)
def covered_pixels(size: int, side: int, inside: bool, device: torch.device) -> Tensor:
    """Return which of `size` pixels in a line each place of a square covers: bool (places, size).

    With `inside` the square lies in the line; without, its centre does.
    """
    if inside:
        starts = torch.arange(size - side + 1, device=device)
    else:
        starts = torch.arange(size, device=device) - side // 2
    pixels, starts = torch.arange(size, device=device), starts.view(-1, 1)
    return (pixels >= starts) & (pixels < starts + side)
