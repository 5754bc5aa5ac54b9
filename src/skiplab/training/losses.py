"""The losses of the steps since the last log point.

They stay on the device, because reading them waits for it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skiplab.machine.ranks import Ranks


class StepLoss(NamedTuple):
    """Figures of one optimizer step. The losses are means over its images, in nats."""

    lr: float
    num_images: int
    loss: float
    # Without label smoothing.
    plain_loss: float
    num_correct: int


class LossBuffer:
    """Losses and correct predictions of up to `size` steps, summed part by part, on the device."""

    def __init__(self, size: int, *, device: torch.device, smoothed: bool):
        self.size, self.smoothed = size, smoothed
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
        if self.smoothed:
            self.plain_losses[slot].zero_()
        self.slot = slot if counts else -1

    def add(self, loss: Tensor, num_correct: Tensor) -> None:
        """Add one part of the step's batch: its share of the mean loss, and its correct images.

        Both are tensors ().
        """
        self.losses[self.slot] += loss
        self.corrects[self.slot] += num_correct

    def add_plain(self, loss: Tensor) -> None:
        """Add the part's share of the mean loss without label smoothing."""
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
        plain = ranks.mean(self.plain_losses[:count]).tolist() if self.smoothed else losses
        return [
            StepLoss(*step)
            for step in zip(self.rates, self.images, losses, plain, corrects, strict=True)
        ]

    def clear(self) -> None:
        """Forget the steps."""
        self.rates.clear()
        self.images.clear()
