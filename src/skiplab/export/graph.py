"""A trained network from pixels to logits, in plain float32: what is written for other programs."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiplab.trained import Trained
from skiplab.training.evaluation import Predictor

# The names of the input, of its axes, and of the output.
INPUT, OUTPUT = "images", "logits"
AXES = {0: "N", 1: "H", 2: "W"}


class PixelsToLogits(nn.Module):
    """uint8 (N, H, W, C) -> logits float32 (N, K).

    It does what training and evaluation did: resize as `splits.resize_images`, normalise as
    `Normalize`, and the run's test-time augmentation. It computes in float32 on the CPU.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, trained: Trained):
        super().__init__()
        network = copy.deepcopy(trained.model).cpu().float()
        # The run's layout in memory would become that of the file's tensors.
        self.network = network.to(memory_format=torch.contiguous_format).eval()  # pyright: ignore[reportCallIssue]
        self.size = trained.size
        self.predictor = plain_predictor(trained, self.network, tta=trained.config.evaluator.tta)
        dataset = trained.config.dataset
        deviation, centre = torch.tensor(dataset.std), torch.tensor(dataset.mean)
        self.register_buffer("scale", (1 / (255 * deviation)).view(1, -1, 1, 1))
        self.register_buffer("shift", (-centre / deviation).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        # (N, H, W, C) -> (N, C, H, W)
        x = images.permute(0, 3, 1, 2).float()
        x = F.interpolate(x, size=self.size, mode="bilinear", antialias=True, align_corners=False)
        # Training rounds what it has resized to whole pixels. At the network's size this is exact.
        x = x.round().clamp(0, 255)
        return self.predictor.logits(x * self.scale + self.shift)


def plain_predictor(trained: Trained, network: nn.Module, *, tta: str) -> Predictor:
    """Return what predicts with the run's network, but in float32 whatever trainer.amp says."""
    return Predictor(network, autocast=torch.autocast(trained.device.type, enabled=False), tta=tta)


@torch.no_grad()
def trace(module: PixelsToLogits) -> torch.export.ExportedProgram:
    """Trace the network for any batch and any height and width of its images."""
    channels = module.scale.shape[1]
    height, width = module.size
    # Sizes that differ from each other and from the network's, so that none is taken for fixed.
    example = torch.zeros(2, height + 5, width + 3, channels, dtype=torch.uint8)
    with quiet():
        program = torch.export.export(module, (example,), dynamic_shapes={INPUT: axes()})
    # They name the files of the machine that exports.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def axes() -> "dict[int, torch.export.Dim]":
    """Return the axes of the input that may have any length."""
    return {axis: torch.export.Dim(name) for axis, name in AXES.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back the exporters' warnings, which speak of their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
