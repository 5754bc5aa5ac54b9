"""The data sets: one row each. Facts such as size, classes and mean stand in conf/dataset/NAME.yaml."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skiplab.data import cifar, digits, idx, official
from skiplab.data.arrays import Arrays


@dataclass(frozen=True)
class Dataset:
    """How one data set is read. Each function takes the root folder and `train` or `test`.

    `read` gives the images and labels. `find_files`, where official files are published, gives
    their paths, fetched and verified without decoding them; what is decoded from them is cached.
    `find_unverified` gives the files that exist but have no published checksum.
    """

    read: Callable[[Path, str], Arrays]
    find_files: Callable[[Path, str], Sequence[Path]] | None = None
    find_unverified: Callable[[Path, str], Sequence[Path]] | None = None


DATASETS = {
    "digits": Dataset(digits.read_digits),
    "mnist": Dataset(idx.read_mnist, official.mnist_files),
    "fashion_mnist": Dataset(idx.read_fashion_mnist, official.fashion_mnist_files),
    "cifar10": Dataset(cifar.read_cifar10, official.CIFAR10.locate, official.CIFAR10.unverified),
    "cifar100": Dataset(
        cifar.read_cifar100, official.CIFAR100.locate, official.CIFAR100.unverified
    ),
}
