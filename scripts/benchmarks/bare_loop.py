"""The yardstick of `scripts/bench overhead`: a training loop by hand, as fast as a page can be.

It has no log, metric, schedule or checkpoint, and never waits for the device. It uses nothing of
Skiplab; the network is passed in.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class Recipe:
    """How a loop trains."""

    # Per channel, of images scaled to 0 to 1.
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_size: int
    shuffle: bool
    # Pixels of the border; 0 for no crop.
    crop: int
    flip: bool
    # Arguments of `fused_optimizer`.
    optimizer: dict[str, Any]


class BareLoop(nn.Module):
    """Trains `model` on uint8 images (N, H, W, C) that stay on the device."""

    stored: Tensor
    labels: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe):
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
        self.batch_size = recipe.batch_size
        self.shuffle = recipe.shuffle
        self.crop = crop = recipe.crop
        self.flip = recipe.flip
        self.shape = tuple(images.shape)
        # Images are padded and mirrored once, for speed at the cost of memory: crop and mirror of a
        # batch are then one gather of rows of pixels.
        padded = F.pad(images, (0, 0, crop, crop, crop, crop)) if crop else images
        stored = torch.cat((padded, padded.flip(2))) if recipe.flip else padded
        pixels = self.shape[1] * self.shape[2]
        self.register_buffer("stored", stored.flatten())
        self.register_buffer("labels", labels)
        mean, std = torch.tensor(recipe.mean), torch.tensor(recipe.std)
        self.register_buffer("scale", (1 / (255 * std)).repeat(pixels).to(images.device))
        self.register_buffer("shift", (-mean / std).repeat(pixels).to(images.device))
        self.order, self.position = torch.empty(0, dtype=torch.int64), 0
        self.optimizer = fused_optimizer(model, **recipe.optimizer)
        if images.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            # "high" allows TF32.
            torch.set_float32_matmul_precision("high")
            # This mode records forward and backward as CUDA graphs.
            self.compile(mode="max-autotune")

    def batch(self, index: Tensor) -> Tensor:
        """Return images `index`, cropped and mirrored at random, and normalised.

        They are float32 (B, C, H, W), channels last.
        """
        _, height, width, channels = self.shape
        # An image that is not cropped is copied as a single row.
        num_rows = height if self.crop else 1
        # Bytes of a row that is copied, and of a stored row.
        row, pitch = height * width * channels // num_rows, (width + 2 * self.crop) * channels
        first = index * (pitch * (height + 2 * self.crop))
        if self.flip:
            first = first + torch.randint(0, 2, index.shape, device=index.device) * (
                len(self.stored) // 2
            )
        if self.crop:
            top, left = torch.randint(0, 2 * self.crop + 1, (2, len(index)), device=index.device)
            first = first + top * pitch + left * channels
        # Shape (B, H).
        begin = first.unsqueeze(1) + torch.arange(num_rows, device=index.device) * pitch
        # The rows of a view in which one row begins at every byte.
        every_row = self.stored.as_strided((len(self.stored) - row + 1, row), (1, 1))
        images = (
            every_row.index_select(0, begin.flatten())
            .view(len(index), -1)
            .float()
            .mul_(self.scale)
            .add_(self.shift)
        )
        return images.view(len(index), height, width, channels).permute(0, 3, 1, 2)

    def forward(self, index: Tensor) -> Tensor:
        """Return the mean loss over the images `index`."""
        with torch.autocast(index.device.type, torch.bfloat16, enabled=index.device.type == "cuda"):
            logits = self.model(self.batch(index))
            return F.cross_entropy(logits.float(), self.labels.index_select(0, index))

    def step(self) -> Tensor:
        """Do one optimizer step; return its loss, which stays on the device."""
        if self.position + self.batch_size > len(self.order):
            shuffled = torch.randperm if self.shuffle else torch.arange
            self.order, self.position = shuffled(self.shape[0], device=self.labels.device), 0
        loss = self(self.order[self.position : self.position + self.batch_size])
        self.position += self.batch_size
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def fused_optimizer(
    model: nn.Module,
    *,
    name: str,
    weight_decay: float,
    decay_norm_and_bias: bool,
    **options: float | bool,
) -> torch.optim.Optimizer:
    """Return torch's own optimizer, fused. Norms and biases decay only if asked to."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights},
        {"params": others, "weight_decay": weight_decay if decay_norm_and_bias else 0.0},
    ]
    return OPTIMIZERS[name](groups, weight_decay=weight_decay, fused=True, **options)


def warm_allocator() -> None:
    """Have glibc keep freed blocks up to 128 MiB: a step then finds the pages of the one before."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 128 * 2**20)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
