"""Predict images with a trained network: arrays at once, files in a stream of batches."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skiplab.data import inputs
from skiplab.data.arrays import Bytes
from skiplab.data.splits import Split
from skiplab.errors import UsageError
from skiplab.trained import Trained
from skiplab.training import evaluation


class Answer(NamedTuple):
    """What the network says of one image. `problem` says why a file could not be decoded.

    `probabilities` is float32 (K,), `pixels` what the network saw, uint8 (H, W, C); both are empty
    for a file that could not be decoded.
    """

    name: str
    probabilities: NDArray[np.float32]
    pixels: Bytes
    problem: str = ""

    def best(self, classes: Sequence[str], number: int) -> list[tuple[str, float]]:
        """Return the `number` most probable classes with their probabilities, the best first."""
        order: list[int] = np.argsort(-self.probabilities, kind="stable")[:number].tolist()
        return [(classes[i], float(self.probabilities[i])) for i in order]


def probabilities_of(trained: Trained, pixels: Bytes) -> NDArray[np.float32]:
    """Return the class probabilities, float32 (N, K), of images, uint8 (N, H, W, C).

    They are computed as the run's report was: the same precision, test-time augmentation and
    number of images at once.
    """
    if not len(pixels):
        return np.empty((0, len(trained.classes)), np.float32)
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    split = Split(torch.from_numpy(np.require(pixels, requirements="W")), labels)
    found, _losses = evaluation.predict(
        trained.predictor, split.to(trained.device), trained.normalize
    )
    return found.numpy()


def stream(trained: Trained, paths: Iterable[str]) -> Iterator[Answer]:
    """Yield an answer per image of the files, in their order; memory does not grow with them.

    An .npy or .npz file has many images. A file that cannot be decoded yields its problem, after
    the images before it.
    """
    waiting: list[tuple[str, Bytes]] = []
    for path in paths:
        try:
            found = inputs.decode_file(path, size=trained.size, channels=trained.channels)
        except UsageError as error:
            yield from answers(trained, waiting)
            waiting = []
            yield Answer(path, np.empty(0, np.float32), np.empty(0, np.uint8), str(error))
            continue
        for image in found:
            waiting.append(image)
            if len(waiting) == trained.predictor.batch_size:
                yield from answers(trained, waiting)
                waiting = []
    yield from answers(trained, waiting)


def answers(trained: Trained, images: Sequence[tuple[str, Bytes]]) -> Iterator[Answer]:
    """Yield the answers of named images, which the network sees at once."""
    if not images:
        return
    found = probabilities_of(trained, np.stack([pixels for _, pixels in images]))
    for (name, pixels), probabilities in zip(images, found, strict=True):
        yield Answer(name, probabilities, pixels)
