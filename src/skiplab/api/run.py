"""A run in Python: its network, config, result, metrics and pictures, and predictions."""

import base64
import html
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skiplab import regular
from skiplab.api.rows import Rows
from skiplab.errors import UsageError
from skiplab.runs import contents, folders, result
from skiplab.runs.result import RunResult

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from skiplab.config.schema import Config
    from skiplab.trained import Trained

    OneInput = str | Path | NDArray[Any] | Tensor | Image
    Inputs = OneInput | Iterable[OneInput]

# The pictures that a notebook shows below the report.
SHOWN = ("curves.png", "confusion.png")


@dataclass(frozen=True)
class Predictions:
    """What a network says of images. `probabilities` is float32 (N, K), in the order of `classes`.

    `images` names each: its path, or its number.
    """

    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    images: list[str]

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The number of the most probable class of each image, int64 (N,)."""
        return self.probabilities.argmax(1)

    @property
    def names(self) -> list[str]:
        """The name of the most probable class of each image."""
        return [self.classes[label] for label in self.labels]

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The probability of the most probable class of each image, float32 (N,)."""
        return self.probabilities.max(1, initial=0)

    @property
    def rows(self) -> Rows:
        """A row per image: image, class, probability."""
        found = zip(self.images, self.names, self.confidence.tolist(), strict=True)
        return Rows([{"image": image, "class": name, "probability": p} for image, name, p in found])

    def frame(self) -> Any:  # noqa: ANN401 - either library's
        """Return `rows` as a data frame."""
        return self.rows.frame()

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name} {p:.0%}"
            for name, p in zip(self.names[:5], self.confidence.tolist()[:5], strict=True)
        )
        return f"<{len(self):,} predictions: {shown}{', ...' if len(self) > 5 else ''}>"

    def _repr_html_(self) -> str:
        return self.rows._repr_html_()


class Run:
    """A run folder, or the weights of a run as one file; then `folder` is None.

    Nothing is loaded before it is used.
    """

    def __init__(
        self,
        path: Path,
        *,
        checkpoint: str = "best",
        device: str = "auto",
        trust_code: bool = False,
    ):
        self.path, self.checkpoint, self.device = path, checkpoint, device
        self.trust_code = trust_code
        self.folder: Path | None = None if path.is_file() else folders.of_path(path)

    @cached_property
    def config(self) -> "Config":
        """The run's config, typed: `run.config.optimizer.lr`."""
        from skiplab import provenance

        if self.folder is not None:
            return provenance.load(self.folder)
        return self.trained.config

    @cached_property
    def trained(self) -> "Trained":
        """The network with all that it takes to use it."""
        from skiplab.trained import open_trained

        return open_trained(
            self.path,
            checkpoint_name=self.checkpoint,
            device_name=self.device,
            trust_code=self.trust_code,
            say="trust_code=True",
        )

    @property
    def model(self) -> "nn.Module":
        """The network, in evaluation mode: float32 (N, C, H, W) as `preprocess` gives to logits."""
        return self.trained.model

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the network's outputs."""
        return self.config.dataset.classes

    # ----------------------------------------------------------------------------------------------
    # Predicting

    def preprocess(self, images: "Inputs") -> "Tensor":
        """Return images as the network takes them: float32 (N, C, H, W), scaled, on its device.

        Takes paths, images of Pillow, arrays (H, W), (H, W, C), (N, H, W) or (N, H, W, C), tensors
        (C, H, W) or (N, C, H, W); uint8, or floating point in [0, 1]. Each is resized. Raises
        UsageError for anything else.
        """
        import torch

        pixels, _names = self.pixels_of(images)
        return self.trained.normalize(torch.from_numpy(pixels))

    def predict(self, images: "Inputs") -> Predictions:
        """Return the class probabilities of images; `preprocess` says what they can be.

        A folder stands for the images below it. Precision, test-time augmentation and threads are
        those of the run's own report.
        """
        from skiplab import predict

        pixels, names = self.pixels_of(images)
        with self.threads():
            found = predict.probabilities_of(self.trained, pixels)
        return Predictions(found, self.trained.classes, names)

    def pixels_of(self, images: "Inputs") -> tuple[NDArray[np.uint8], list[str]]:
        """Return images as uint8 (N, H, W, C) of the network's size, and a name for each."""
        from skiplab.data import inputs

        found: list[tuple[str, NDArray[np.uint8]]] = []
        size, channels = self.trained.size, self.trained.channels
        for each in each_of(images):
            if isinstance(each, (str, Path)):
                for path in inputs.find_files([str(each)]):
                    found += inputs.decode_file(path, size=size, channels=channels)
                continue
            name = str(len(found))
            if hasattr(each, "getexif"):
                image: Image = each  # pyright: ignore[reportAssignmentType]
                found.append((name, inputs.from_image(image, size=size, channels=channels)))
                continue
            decoded = inputs.from_array(as_array(each), size=size, channels=channels)
            found += [(str(int(name) + i), pixels) for i, pixels in enumerate(decoded)]
        if not found:
            return np.empty((0, *size, channels), np.uint8), []
        return np.stack([pixels for _, pixels in found]), [name for name, _ in found]

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Use the run's number of threads inside the `with`: numbers depend on it."""
        import torch

        from skiplab import provenance

        wanted = self.config.trainer.threads
        if wanted is None and self.folder is not None:
            wanted = provenance.threads_before(self.folder)
        before = torch.get_num_threads()
        if wanted is not None:
            torch.set_num_threads(wanted)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    # ----------------------------------------------------------------------------------------------
    # What the run left

    @property
    def result(self) -> RunResult | None:
        """The content of result.json; None for a run that is not finished."""
        return None if self.folder is None else result.read(self.folder)

    @property
    def metrics(self) -> Rows:
        """The rows of metrics.jsonl: a row per step, and one per evaluation."""
        path = self.in_folder(contents.METRICS)
        try:
            lines = regular.read_text(path, most=2**30).splitlines()
            return Rows([json.loads(line) for line in lines])
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({regular.why(path, error)})") from None
        except ValueError:
            raise UsageError(f"{path}: a row is not JSON") from None

    @property
    def report(self) -> str:
        """The text of report.txt. Raises UsageError if there is none yet."""
        path = self.in_folder(contents.REPORT)
        try:
            return regular.read_text(path, most=contents.LARGEST)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({regular.why(path, error)})") from None

    def in_folder(self, name: str) -> Path:
        """Return the path of a file of the run. Raises UsageError where only weights are known."""
        if self.folder is None:
            raise UsageError(f"{self.path}: weights alone; {name} lies in the run's folder")
        return self.folder / name

    def __repr__(self) -> str:
        ended = self.result
        if ended is None:
            return f"<Run {self.path}>"
        tested = "" if ended.test is None else f", test accuracy {ended.test['accuracy']:.2%}"
        return f"<Run {self.path}: {ended.model} on {ended.dataset}{tested}>"

    def _repr_html_(self) -> str:
        if self.folder is None or self.result is None:
            return f"<p>{html.escape(repr(self))}</p>"
        pages = [f"<p>{html.escape(repr(self))}</p>", f"<pre>{html.escape(self.report)}</pre>"]
        for name in SHOWN:
            path = self.folder / name
            if path.is_file():
                content = base64.b64encode(path.read_bytes()).decode()
                pages.append(f'<img alt="{name}" src="data:image/png;base64,{content}">')
        return "\n".join(pages)


def each_of(images: "Inputs") -> "Iterable[OneInput]":
    """Return the inputs one by one: a list of them, or the one that is given."""
    if isinstance(images, (str, Path)) or hasattr(images, "shape") or hasattr(images, "getexif"):
        return [images]  # pyright: ignore[reportReturnType]
    if isinstance(images, Sequence) or hasattr(images, "__iter__"):
        return images  # pyright: ignore[reportReturnType]
    raise UsageError(f"{type(images).__name__}: paths, images, arrays or tensors are expected")


def as_array(given: object) -> NDArray[Any]:
    """Return an array, or a tensor (C, H, W) or (N, C, H, W), with its planes as last dimension."""
    if isinstance(given, np.ndarray):
        return given
    if hasattr(given, "detach"):
        tensor: Tensor = given  # pyright: ignore[reportAssignmentType]
        if tensor.ndim not in (3, 4):
            raise UsageError(
                f"a tensor of shape {tuple(tensor.shape)}: (channels, height, width) or "
                "(images, channels, height, width) is expected"
            )
        if tensor.is_floating_point():
            tensor = tensor.float()
        array = tensor.detach().cpu().movedim(-3, -1).numpy()
        return array if array.ndim == 4 else array[np.newaxis]
    raise UsageError(f"{type(given).__name__}: paths, images, arrays or tensors are expected")
