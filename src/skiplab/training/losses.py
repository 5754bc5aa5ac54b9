"""The loss of a run, and the losses of the steps since the last log point.

The latter stay on the device, because reading them waits for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from skiplab.errors import UsageError
from skiplab.machine.ranks import Ranks


@dataclass(frozen=True, eq=False)
class Loss:
    """The cross-entropy that a run minimises.

    `smoothing` is the share of the target that is spread over all classes. `class_weights`,
    float32 (K,) on the device, weights each image by its class; with None all count the same.
    """

    smoothing: float = 0.0
    class_weights: Tensor | None = None

    @property
    def name(self) -> str:
        """What sets it apart from the plain cross-entropy, which validation has; else empty."""
        names = ["smoothed"] if self.smoothing else []
        if self.class_weights is not None:
            names.append("weighted")
        return " and ".join(names)

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss (), in nats: the sum over the sum of weights.

        Takes logits float32 (B, K) and labels int64 (B,).
        """
        return F.cross_entropy(
            logits, labels, weight=self.class_weights, label_smoothing=self.smoothing
        )

    def each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image (B,), times the weight of its class."""
        return F.cross_entropy(
            logits,
            labels,
            weight=self.class_weights,
            label_smoothing=self.smoothing,
            reduction="none",
        )

    def total(self, labels: Tensor) -> float | Tensor:
        """Return what a sum of losses is divided by: the number of images, or their weights.

        A part's mean loss, times its total over that of the batch, is its share of the batch's.
        """
        if self.class_weights is None:
            return len(labels)
        return self.class_weights.index_select(0, labels).sum()

    def total_of(self, count: int, labels: Callable[[], Tensor]) -> float | Tensor:
        """Return `total` of a batch of `count` images, whose labels are gathered only if needed."""
        return count if self.class_weights is None else self.total(labels())

    def mean_of(self, losses: Tensor, labels: Tensor) -> Tensor:
        """Return the mean of what `each` has returned for images of these labels."""
        if self.class_weights is None:
            return losses.mean()
        return losses.sum() / self.total(labels)


def balanced_weights(labels: Tensor, classes: tuple[str, ...]) -> Tensor:
    """Return N / (K n) for each class of n of the N labels: float32 (K,), on their device.

    That is class_weight="balanced" of scikit-learn; the mean weight of an image is 1. `classes`
    names the K classes. Raises UsageError if one of them has no image.
    """
    counts = labels.bincount(minlength=len(classes))
    for name, count in zip(classes, counts.tolist(), strict=True):
        if count == 0:
            raise UsageError(
                f"trainer.class_weights=balanced: class {name!r} has no training image; "
                "take trainer.class_weights=none"
            )
    return (len(labels) / (len(classes) * counts.double())).float()


class StepLoss(NamedTuple):
    """Figures of one optimizer step. The losses are means over its images, in nats."""

    lr: float
    num_images: int
    loss: float
    # Without label smoothing and class weights.
    plain_loss: float
    num_correct: int


class LossBuffer:
    """Losses and correct predictions of up to `size` steps, summed part by part, on the device."""

    def __init__(self, size: int, *, device: torch.device, is_plain: bool):
        self.size, self.is_plain = size, is_plain
        # The last slot is never read. Ranks that compute a part for nothing write there.
        self.losses = torch.zeros(size + 1, device=device)
        self.plain_losses = torch.zeros_like(self.losses)
        self.corrects = torch.zeros(size + 1, dtype=torch.int64, device=device)
        self.rates: list[float] = []
        self.images: list[int] = []
        self.slot = 0

    def __len__(self) -> int:
        return len(self.rates)

    @property
    def is_full(self) -> bool:
        """Whether there is no slot for another step."""
        return len(self) == self.size

    def begin(self, *, counts: bool) -> None:
        """Make room for a step. Without `counts` its losses go to the slot that is never read."""
        slot = len(self)
        # A number assigned to a device's tensor is copied to it, which waits for the device.
        self.losses[slot].zero_()
        self.corrects[slot].zero_()
        if not self.is_plain:
            self.plain_losses[slot].zero_()
        self.slot = slot if counts else -1

    def add(self, loss: Tensor, num_correct: Tensor) -> None:
        """Add one part of the step's batch: its share of the mean loss, and its correct images.

        Both are tensors ().
        """
        self.losses[self.slot] += loss
        self.corrects[self.slot] += num_correct

    def add_plain(self, loss: Tensor) -> None:
        """Add the part's share of the mean loss without label smoothing and class weights."""
        self.plain_losses[self.slot] += loss

    def end(self, *, lr: float, num_images: int) -> None:
        """Finish the step. `num_images` is the size of its whole batch."""
        self.rates.append(lr)
        self.images.append(num_images)

    def read(self, ranks: Ranks) -> list[StepLoss]:
        """Return the steps in order. Waits for the device.

        Several ranks add up what each has of a batch.
        """
        count = len(self)
        losses = ranks.mean(self.losses[:count]).tolist()
        corrects = ranks.sum(self.corrects[:count]).tolist()
        plain = losses if self.is_plain else ranks.mean(self.plain_losses[:count]).tolist()
        return [
            StepLoss(*step)
            for step in zip(self.rates, self.images, losses, plain, corrects, strict=True)
        ]

    def clear(self) -> None:
        """Forget the steps."""
        self.rates.clear()
        self.images.clear()
