"""Evaluation: a confusion matrix over a split, and the metrics that follow from it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiplab.data.batches import Normalize, in_order
from skiplab.data.splits import Split
from skiplab.machine.ranks import ALONE, Ranks

# Images that an evaluation takes at once, whatever the training batch. A GPU needs more to be busy.
BATCH_SIZE, GPU_BATCH_SIZE = 500, 2000


@dataclass(frozen=True)
class Scores:
    """Counts over one split, and its mean cross-entropy `loss` in nats.

    `confusion`: int64 (K, K), rows are true classes, columns predictions.
    """

    confusion: Tensor
    loss: float

    @property
    def accuracy(self) -> float:
        """Share of the images on the diagonal, 0 .. 1."""
        return self.confusion.diagonal().sum().item() / self.confusion.sum().item()


def largest_batch(device: torch.device) -> int:
    """Return how many images an evaluation takes at once on a device."""
    return GPU_BATCH_SIZE if device.type == "cuda" else BATCH_SIZE


def first_batch(split: Split, size: int) -> Split:
    """Return the first `size` images of a split."""
    return Split(split.images[:size], split.labels[:size])


class Predictor:
    """A network under the trainer's precision: images (B, C, H, W) -> logits float32 (B, K).

    `tta` (test-time augmentation) takes means of logits: `flip` of the image and its mirror image;
    `multicrop` (Jordan 2024) of that, by one half, and of the same for the image moved by one pixel
    up and left, and down and right, by a quarter each. `batch_size`: images that an evaluation
    takes at once. The caller sets evaluation mode.
    """

    def __init__(
        self, model: nn.Module, *, autocast: torch.autocast, tta: str, batch_size: int = BATCH_SIZE
    ):
        self.model, self.autocast, self.tta, self.batch_size = model, autocast, tta, batch_size

    def __call__(self, images: Tensor) -> Tensor:
        with self.autocast:
            return self.logits(images)

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits, in the precision that is set around the call."""
        if self.tta == "none":
            return self.model(images).float()
        logits = self.mirrored(images)
        if self.tta == "multicrop":
            moved = [self.mirrored(view) for view in moved_by_one_pixel(images)]
            logits = (logits + (moved[0] + moved[1]) / 2) / 2
        return logits

    def mirrored(self, images: Tensor) -> Tensor:
        """Return the mean of the logits of the images and of their mirror images."""
        # A recorded graph writes its next output where this one is.
        logits = self.model(images).float().clone()
        return (logits + self.model(images.flip(3)).float()) / 2


def moved_by_one_pixel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images moved down and right, and up and left, mirrored at the border.

    Each is (B, C, H, W).
    """
    height, width = images.shape[2:]
    # (B, C, H + 2, W + 2)
    padded = F.pad(images, (1, 1, 1, 1), "reflect")
    views = padded[:, :, :height, :width], padded[:, :, 2:, 2:]
    if not images.is_cuda:
        return views
    # Compiled code is made for one layout in memory, so give it the layout of the images.
    first, second = (torch.empty_like(images).copy_(view) for view in views)
    return first, second


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Scores the weights that count, the average where there is one, on a run's own splits."""

    predictor: Predictor
    training: Split
    validation: Split | None
    normalize: Normalize
    num_classes: int
    ranks: Ranks = ALONE

    def score(self, split: Split) -> Scores:
        """Return confusion matrix and mean loss over a split."""
        return evaluate(
            self.predictor, split, self.normalize, num_classes=self.num_classes, ranks=self.ranks
        )


@torch.inference_mode()
def evaluate(
    predictor: Predictor,
    split: Split,
    normalize: Normalize,
    *,
    num_classes: int,
    ranks: Ranks = ALONE,
) -> Scores:
    """Return the scores over `split`. Sets the model to evaluation mode and back.

    Several ranks share the batches among them. Each batch is computed whole, so every number is bit
    for bit that of one process. Waits for the device once, at the end.
    """
    was_training = predictor.model.training
    predictor.model.eval()
    device, num_cells = normalize.device, num_classes * num_classes
    # Each image's cell of the matrix. They are counted at the end: bincount waits for the device.
    cells = [torch.empty(0, dtype=torch.int64, device=device)]
    # Each batch's loss. The batches of other ranks stay zero.
    losses = torch.zeros(-(-len(split) // predictor.batch_size), device=device)
    own, size = ranks.place.rank, ranks.size
    for number, (images, labels) in enumerate(
        in_order(split, normalize, batch_size=predictor.batch_size, rank=own, ranks=size)
    ):
        logits = predictor(images)
        losses[own + number * size] = F.cross_entropy(logits, labels, reduction="sum")
        cells.append(labels * num_classes + logits.argmax(1))
    predictor.model.train(was_training)
    confusion = ranks.sum(torch.bincount(torch.cat(cells), minlength=num_cells))
    losses = ranks.sum(losses)
    loss = losses.double().sum().item() if device.type != "mps" else losses.sum().item()
    return Scores(confusion.cpu().view(num_classes, num_classes), loss / len(split))


@torch.inference_mode()
def predict(predictor: Predictor, split: Split, normalize: Normalize) -> tuple[Tensor, Tensor]:
    """Return class probabilities, float32 (N, K), and cross-entropies in nats, float64 (N,).

    Both are of the images of `split`, on the CPU. The latter come from the logits, since a
    probability below 1e-38 is 0 in float32. Sets the model to evaluation mode and back.
    """
    was_training = predictor.model.training
    predictor.model.eval()
    batches = in_order(split, normalize, batch_size=predictor.batch_size)
    # A recorded graph writes its next output where this one is, so keep copies.
    found = [(predictor(images).clone(), labels) for images, labels in batches]
    predictor.model.train(was_training)
    logits = torch.cat([each for each, _ in found])
    labels = torch.cat([each for _, each in found])
    losses = F.cross_entropy(logits.cpu().double(), labels.cpu(), reduction="none")
    return logits.softmax(1).cpu(), losses
