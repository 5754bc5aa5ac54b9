"""Plain renderings of the two documents' networks and loops, the yardstick of bench_step.py.

PIL images through torchvision transforms and a DataLoader, `.item()` every step, and for document 1 a second pass over the
training set for its training accuracy. Nothing of Skiplab is used here.
"""

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
from torchvision import transforms


class PlainBlock(nn.Module):
    """Document 1's residual block."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels // 2)
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.bn1(self.conv1(F.relu(x)))))


class PlainDeepCNN(nn.Module):
    """Document 1's Deep_CNN."""

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
    """Document 2's residual block."""

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
    """Document 2's ResNet."""
    blocks = (PlainResBlock(1, 32), PlainResBlock(32, 64), PlainResBlock(64, 128, 2))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(128, 10))


class PilImages(Dataset[tuple[Tensor, int]]):
    """uint8 images (N, H, W, C) and labels (N,) as a torchvision-style data set: a PIL image and its transform for each item."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], transform: Callable[[Any], Tensor]):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self.images[index]
        return self.transform(Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)), int(self.labels[index])


def train_epoch(model: nn.Module, loader: DataLoader[Any], optimizer: torch.optim.Optimizer) -> float:
    """One pass as the documents train; the unweighted mean of the batch losses."""
    model.train()
    losses = []
    for images, labels in loader:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def accuracy(model: nn.Module, loader: DataLoader[Any]) -> float:
    """One pass as document 1 evaluates."""
    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(1) == labels).sum().item()
    return correct / len(loader.dataset)  # pyright: ignore[reportArgumentType]


def measure(case: str, training: Any, validation: Any, *, batch_size: int, warmup: int) -> dict[str, float]:
    """Seconds of one training pass and of one whole epoch of the document's loop over (images, labels) pairs."""
    if case == "deepcnn":
        normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        transform = transforms.Compose([transforms.Resize(32), transforms.ToTensor(), normalize])
        model, lr = PlainDeepCNN(), 1e-4
    else:
        transform = transforms.ToTensor()
        model, lr = plain_resnet(), 1e-3
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    first = PilImages(training[0][: warmup * batch_size], training[1][: warmup * batch_size], transform)
    train_epoch(model, DataLoader(first, batch_size), optimizer)
    loader = DataLoader(PilImages(training[0], training[1], transform), batch_size, shuffle=case == "deepcnn")
    began = time.perf_counter()
    train_epoch(model, loader, optimizer)
    trained = time.perf_counter()
    if case == "deepcnn":
        accuracy(model, loader)
        accuracy(model, DataLoader(PilImages(validation[0], validation[1], transform), batch_size))
    return {"train": trained - began, "epoch": time.perf_counter() - began}
