"""Augment batches of uint8 images on their device. Every image draws its own values."""

import torch
from torch import Tensor
from torch.nn import functional as F


class Augment:
    """Mirror images, crop from a border, cover a square: uint8 (B, H, W, C) -> uint8 (B, H, W, C).

    `flip` is none, random (each image is mirrored with probability 1/2, drawn each time) or
    alternating (half of the images, drawn once, and the others in every second epoch: Jordan 2024).
    `crop` is the border in pixels (0: no crop), black or, with padding_mode=reflect, mirrored.
    `cutout` is the side of the covered square in pixels (0: none), `fill` its colour, uint8 (C,) on
    the images' device. With `cutout_inside` the square never sticks out of the image. Every image
    has its own mirroring, offset and square; torchvision's transforms decide once per batch.
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
    ):
        self.flip = flip
        self.crop = crop
        self.padding_mode = padding_mode
        self.cutout = cutout
        self.cutout_inside = cutout_inside
        self.fill = fill

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
        return images

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
        # (2, B, 1, 1): rows, columns
        offset = torch.randint(
            0, 2 * border + 1, (2, total, 1, 1), generator=generator, device=device
        )[:, own]
        # The draws are made for any flip, so that the squares of cut_out() do not depend on it.
        draws = torch.rand((total, 1, 1), generator=generator, device=device)[own]
        is_mirrored = draws < (0.5 if self.flip == "random" else 0.0)
        if self.flip == "alternating" and mirrored is not None:
            is_mirrored = mirrored.view(batch, 1, 1)
        columns = torch.arange(width, device=device)
        # (B, 1, W)
        columns = torch.where(is_mirrored, width - 1 - columns, columns) + offset[0]
        # (B, H, 1)
        rows = torch.arange(height, device=device).view(1, height, 1) + offset[1]
        if self.padding_mode == "reflect":
            columns = reflect(columns - border, width)
            rows = reflect(rows - border, height)
        else:
            images = F.pad(images, (0, 0, border, border, border, border))
        stride = images.shape[2]
        start = torch.arange(batch, device=device).view(batch, 1, 1) * (images.shape[1] * stride)
        # (B, H, W), an index into all pixels of the padded batch
        pixels = start + rows * stride + columns
        gathered = images.reshape(-1, channels).index_select(0, pixels.view(-1))
        return gathered.view(batch, height, width, channels)

    def cut_out(self, images: Tensor, generator: torch.Generator, total: int, first: int) -> Tensor:
        """Cover a square of each image (DeVries & Taylor 2017).

        Its centre lies anywhere in the image, so the square may stick out, unless `cutout_inside`.
        """
        batch, height, width, _ = images.shape
        device, side = images.device, self.cutout
        own = slice(first, first + batch)
        beyond, outside = 0, side // 2
        if self.cutout_inside:
            beyond, outside = side - 1, 0
        size = (total, 1, 1)
        tops = torch.randint(0, height - beyond, size, generator=generator, device=device)
        lefts = torch.randint(0, width - beyond, size, generator=generator, device=device)
        # (B, 1, 1)
        top, left = tops[own] - outside, lefts[own] - outside
        row = torch.arange(height, device=device).view(1, height, 1)
        column = torch.arange(width, device=device).view(1, 1, width)
        # (B, H, W)
        covered = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
        return torch.where(covered.unsqueeze(-1), self.fill, images)


def reflect(positions: Tensor, size: int) -> Tensor:
    """Reflect positions about the outermost pixels: -1 becomes 1, `size` becomes size - 2."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()
