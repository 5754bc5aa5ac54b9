"""Plain renderings of loops that people write, yardsticks of `scripts/bench documents` and `dataloader`. Nothing of Skiplab is used here.

PIL images through torchvision transforms and a DataLoader, torch's default memory format and
optimizers, `.item()` every step; for the lab a second pass over the training set for its
training accuracy.
"""

import multiprocessing
import time
from collections.abc import Callable
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
    """The notebook's ResNet."""
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
    """He et al.'s ResNet-20."""
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
    """torchvision's ResNet-18 with the stem that is used on CIFAR."""
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
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class PilImages(Dataset[tuple[Tensor, int]]):
    """uint8 images (N, H, W, C) and labels (N,) as a torchvision-style data set: a PIL image and its transform for each item."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        transform: Callable[[Any], Tensor],
    ):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self.images[index]
        return self.transform(
            Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
        ), int(self.labels[index])


def train_epoch(
    model: nn.Module,
    loader: DataLoader[Any],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> float:
    """One pass as the documents train; the unweighted mean of the batch losses."""
    model.train()
    losses = [
        train_step(model, images.to(device), labels.to(device), optimizer)
        for images, labels in loader
    ]
    return sum(losses) / len(losses)


def train_step(
    model: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer
) -> float:
    """One optimizer step; its loss."""
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def accuracy(model: nn.Module, loader: DataLoader[Any], device: torch.device) -> float:
    """One pass as the lab evaluates."""
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images.to(device)).argmax(1) == labels.to(device)).sum().item()
    return correct / len(loader.dataset)  # pyright: ignore[reportArgumentType]


def document(
    model_name: str,
    training: Any,
    validation: Any,
    *,
    batch_size: int,
    warmup: int,
    device: torch.device,
) -> dict[str, float]:
    """Seconds of one training pass and of one whole epoch of a document's loop over (images, labels) pairs."""
    is_first = model_name == "deepcnn"
    normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    transform = (
        transforms.Compose([transforms.Resize(32), transforms.ToTensor(), normalize])
        if is_first
        else transforms.ToTensor()
    )
    model = MODELS[model_name]().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4 if is_first else 1e-3)
    first = PilImages(
        training[0][: warmup * batch_size], training[1][: warmup * batch_size], transform
    )
    train_epoch(model, DataLoader(first, batch_size), optimizer, device)
    loader = DataLoader(
        PilImages(training[0], training[1], transform), batch_size, shuffle=is_first
    )
    began = time.perf_counter()
    train_epoch(model, loader, optimizer, device)
    trained = time.perf_counter()
    if is_first:
        accuracy(model, loader, device)
        accuracy(
            model,
            DataLoader(PilImages(validation[0], validation[1], transform), batch_size),
            device,
        )
    return {"train": trained - began, "epoch": time.perf_counter() - began}


def with_workers(
    model_name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    mean: list[float],
    std: list[float],
    batch_size: int,
    warmup: int,
    threads: int,
    optimizer: str,
    options: dict[str, Any],
    device: torch.device,
) -> tuple[float, float]:
    """Seconds of one training pass without its first `warmup` steps, with two workers, crop and mirror; MiB of the workers' own.

    The caller has run nothing on several threads yet: a worker that is forked later would hang in
    its first parallel loop.
    """
    crop = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    transform = transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(mean, std)])
    dataset = PilImages(images, labels, transform)
    batches = iter(
        DataLoader(
            dataset, batch_size, shuffle=True, num_workers=2, pin_memory=device.type == "cuda"
        )
    )
    torch.set_num_threads(threads)
    model = MODELS[model_name]().to(device).train()
    stepper = OPTIMIZERS[optimizer](model.parameters(), **options)
    began, workers = time.perf_counter(), 0.0
    for step, (x, y) in enumerate(batches):
        if step == warmup:
            began = time.perf_counter()
        if step == len(batches) - 1:
            workers = sum(private_mib(process.pid) for process in multiprocessing.active_children())
        train_step(model, x.to(device), y.to(device), stepper)
    return time.perf_counter() - began, workers


def private_mib(pid: int | None) -> float:
    """MiB that a process has for itself: what it shares with the one that it was forked from is not counted; 0 where none tells."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) / 1024
    except OSError:
        return 0.0
