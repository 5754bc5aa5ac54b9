"""Plain renderings of loops that people write: yardsticks of bench_documents, bench_dataloader.

They use nothing of Skiplab, but PIL images through torchvision transforms and a DataLoader, torch's
default memory format and optimizers, and `.item()` every step. The lab *Residual and Skip
Connections* has a second pass over the training set for its training accuracy; the notebook is
*Residual Blocks*.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms


class PlainBlock(nn.Module):
    """The lab's residual block."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels // 2)
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.bn1(self.conv1(F.relu(x)))))


class PlainDeepCNN(nn.Module):
    """The lab's Deep_CNN."""

    def __init__(self, width: int = 32, num_blocks: int = 6):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.layers = nn.Sequential(*(PlainBlock(width) for _ in range(num_blocks)))
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(width * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.conv3(self.pool(F.relu(self.bn2(self.conv2(x)))))
        x = self.pool(F.relu(self.layers(x)))
        return self.linear(self.dropout(x.flatten(1)))


class PlainResBlock(nn.Module):
    """The notebook's residual block."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Conv2d(in_channels, out_channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.downsample(x)
        return self.relu(out)


def plain_resnet() -> nn.Module:
    """Return the notebook's ResNet."""
    blocks = (PlainResBlock(1, 32), PlainResBlock(32, 64), PlainResBlock(64, 128, 2))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(128, 10))


class PlainBasicBlock(nn.Module):
    """He et al.'s block for CIFAR, with option A: a shortcut without parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride, self.missing = stride, out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.missing:
            x = F.pad(
                x[:, :, :: self.stride, :: self.stride],
                (0, 0, 0, 0, self.missing // 2, self.missing // 2),
            )
        return F.relu(out + x)


def plain_resnet20() -> nn.Module:
    """Return He et al.'s ResNet-20."""
    widths = (
        [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
    )
    stem = (nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(
        *stem,
        *(PlainBasicBlock(*each) for each in widths),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Linear(64, 10),
    )


def plain_resnet18() -> nn.Module:
    """Return torchvision's ResNet-18 with the stem that is used on CIFAR."""
    model = models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "deepcnn": PlainDeepCNN,
    "resnet": plain_resnet,
    "resnet20": plain_resnet20,
    "resnet18": plain_resnet18,
}
# Images (N, H, W, C) and labels (N,).
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class PilImages(Dataset[tuple[Tensor, int]]):
    """A torchvision-style data set of uint8 images (N, H, W, C) and labels (N,).

    An item is the transform of a PIL image.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        transform: Callable[[Any], Tensor],
    ):
        self.images, self.labels = images, labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self.images[index]
        if picture.shape[2] == 1:
            picture = picture[..., 0]
        return self.transform(Image.fromarray(picture)), int(self.labels[index])


def train_epoch(
    model: nn.Module,
    loader: DataLoader[Any],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> float:
    """Train a pass as both documents do; return the unweighted mean of the batch losses."""
    model.train()
    losses = [
        train_step(model, images.to(device), labels.to(device), optimizer)
        for images, labels in loader
    ]
    return sum(losses) / len(losses)


def train_step(
    model: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer
) -> float:
    """Do one optimizer step, and return its loss."""
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def accuracy(model: nn.Module, loader: DataLoader[Any], device: torch.device) -> float:
    """Evaluate a pass as the lab does; return the accuracy."""
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images.to(device)).argmax(1) == labels.to(device)).sum().item()
    return correct / len(loader.dataset)  # pyright: ignore[reportArgumentType]


def document(
    model_name: str,
    training: Arrays,
    validation: Arrays,
    *,
    batch_size: int,
    warmup: int,
    device: torch.device,
) -> dict[str, float]:
    """Measure seconds of one training pass and of one whole epoch of a document's loop."""
    is_lab = model_name == "deepcnn"
    transform: Callable[[Any], Tensor] = transforms.ToTensor()
    if is_lab:
        normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        transform = transforms.Compose([transforms.Resize(32), transforms.ToTensor(), normalize])
    model = MODELS[model_name]().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4 if is_lab else 1e-3)
    first = PilImages(
        training[0][: warmup * batch_size], training[1][: warmup * batch_size], transform
    )
    train_epoch(model, DataLoader(first, batch_size), optimizer, device)
    loader = DataLoader(PilImages(training[0], training[1], transform), batch_size, shuffle=is_lab)
    began = time.perf_counter()
    train_epoch(model, loader, optimizer, device)
    trained = time.perf_counter()
    if is_lab:
        accuracy(model, loader, device)
        accuracy(
            model,
            DataLoader(PilImages(validation[0], validation[1], transform), batch_size),
            device,
        )
    return {"train": trained - began, "epoch": time.perf_counter() - began}


@dataclass(frozen=True)
class Recipe:
    """How `with_workers` trains."""

    # Per channel, of images scaled to 0 to 1.
    mean: list[float]
    std: list[float]
    batch_size: int
    # A name of OPTIMIZERS, and its options.
    optimizer: str
    options: dict[str, Any]


def with_workers(
    model_name: str,
    training: Arrays,
    recipe: Recipe,
    *,
    warmup: int,
    threads: int,
    device: torch.device,
) -> tuple[float, float]:
    """Measure a training pass with two workers, crop and mirror.

    Returns its seconds without the first `warmup` steps, and the MiB of the workers' own. The
    caller has run nothing on several threads yet: a worker that is forked later would hang in its
    first parallel loop.
    """
    crop = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    normalize = transforms.Normalize(recipe.mean, recipe.std)
    transform = transforms.Compose([*crop, transforms.ToTensor(), normalize])
    batches = iter(
        DataLoader(
            PilImages(*training, transform),
            recipe.batch_size,
            shuffle=True,
            num_workers=2,
            pin_memory=device.type == "cuda",
        )
    )
    torch.set_num_threads(threads)
    model = MODELS[model_name]().to(device).train()
    stepper = OPTIMIZERS[recipe.optimizer](model.parameters(), **recipe.options)
    began, workers = time.perf_counter(), 0.0
    for step, (x, y) in enumerate(batches):
        if step == warmup:
            began = time.perf_counter()
        if step == len(batches) - 1:
            workers = sum(private_mib(process.pid) for process in multiprocessing.active_children())
        train_step(model, x.to(device), y.to(device), stepper)
    return time.perf_counter() - began, workers


def private_mib(pid: int | None) -> float:
    """Return the MiB that a process has for itself, without what it shares with its parent.

    0 where the system does not tell.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) / 1024
    except OSError:
        return 0.0
