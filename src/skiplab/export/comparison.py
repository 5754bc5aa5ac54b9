"""What a written file computes, held against the network that it is of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from skiplab import build
from skiplab.data import download
from skiplab.errors import SkiplabError
from skiplab.export.graph import plain_predictor
from skiplab.trained import Trained

# The most images of the run's data that are compared, and those of another size.
MOST, FEW = 1000, 16
BATCH = 100
# How far logits may be apart, as a share of the largest one. Sums of float32 in another order stay
# far below the first. A resized pixel may be rounded the other way, by 1 of 255.
EXACT, RESIZED = 1e-4, 2e-2


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Logits of a file and of the network on the same images."""

    # What they are, as `144 validation images`.
    images: str
    count: int
    # Images for which the same class has the largest logit.
    equal: int
    largest_difference: float
    # Of the difference: what was allowed.
    tolerance: float
    # Whether every decision had to be the same.
    is_strict: bool

    @property
    def is_good(self) -> bool:
        """Whether the file may be trusted. A difference that is no number is none."""
        near = self.largest_difference <= self.tolerance
        return near and (self.equal == self.count or not self.is_strict)

    def as_tree(self) -> dict[str, object]:
        """Return what is stored of it."""
        return {
            "images": self.images,
            "decisions": self.count,
            "equal": self.equal,
            "largest_difference": self.largest_difference,
            "tolerance": self.tolerance,
        }

    def in_words(self) -> str:
        """Return it in one line."""
        return (
            f"{self.images}: {self.equal:,} of {self.count:,} decisions are equal, logits differ "
            f"by at most {self.largest_difference:.2g} (allowed {self.tolerance:.2g})"
        )


def compare(
    found: Sequence[Tensor], wanted: Sequence[Tensor], *, images: str, share: float, is_strict: bool
) -> Comparison:
    """Compare logits, batch by batch float32 (B, K). `share` of the largest may be the difference.

    Raises SkiplabError if their shapes differ.
    """
    shapes = [[tuple(each.shape) for each in batches] for batches in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise SkiplabError(f"{images}: the file gives logits {shapes[0]}, not {shapes[1]}")
    ours, theirs = torch.cat(list(wanted)), torch.cat(list(found))
    return Comparison(
        images=images,
        count=len(ours),
        equal=int((ours.argmax(1) == theirs.argmax(1)).sum()),
        # max() passes a NaN on.
        largest_difference=(ours - theirs).abs().max().item(),
        tolerance=share * ours.abs().max().item(),
        is_strict=is_strict,
    )


def images_of(trained: Trained) -> tuple[Tensor, str]:
    """Return up to MOST images to compare on, uint8 (N, H, W, C) of the network's size, in words.

    They are the run's validation images, training images where it has none, and random ones where
    its data are not there. Nothing is fetched, and the test set is not read.
    """
    try:
        with download.forbidden():
            training, validation, _checksum = build.training_data(
                trained.config, torch.device("cpu")
            )
    except SkiplabError:
        draws = torch.Generator().manual_seed(0)
        shape = (FEW * 4, *trained.size, trained.channels)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)
        return images, f"{len(images):,} random images, since the run's data are not here"
    chosen, kind = (validation, "validation") if validation else (training, "training")
    count = min(MOST, len(chosen))
    # Spread over the split, whose classes may lie one after the other.
    index = torch.arange(count) * len(chosen) // count
    return chosen.images[index], f"{count:,} {kind} images"


def of_another_size(images: Tensor) -> Tensor:
    """Return a few of the images enlarged, uint8 (B, 2H + 3, 3W + 1, C)."""
    height, width = images.shape[1:3]
    return resized(images[:FEW], (2 * height + 3, 3 * width + 1))


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 (N, H, W, C) to (N, *size, C) as `splits.resize_images` does."""
    x = images.permute(0, 3, 1, 2).float()
    x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
    return x.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def batches_of(images: Tensor) -> list[Tensor]:
    """Cut images into batches. The last one is smaller, so the file's batch is not fixed."""
    # 1 image, then the rest.
    return [images[:1], *images[1:].split(BATCH)]


@torch.inference_mode()
def logits_of(trained: Trained, batches: Sequence[Tensor], *, tta: str) -> list[Tensor]:
    """Return the network's own logits, in float32, through the code that trained it."""
    predictor = plain_predictor(trained, trained.model, tta=tta)
    found: list[Tensor] = []
    # Convolutions on a GPU would round to 10 bits.
    with torch.backends.cudnn.flags(allow_tf32=False):
        for batch in batches:
            if batch.shape[1:3] != trained.size:
                batch = resized(batch, trained.size)
            found.append(predictor(trained.normalize(batch)).cpu())
    return found
