"""The data sets, one row each. conf/dataset/NAME.yaml states their facts: size, classes, mean."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skiplab.data import cifar, digits, emnist, idx, official, stl10, svhn
from skiplab.data.arrays import Arrays


@dataclass(frozen=True)
class Dataset:
    """How one data set is read. Each function takes the root folder and `train` or `test`.

    `read` returns the images and labels. `find_files` returns the paths of the published files:
    fetched and verified, but not decoded. A run that lacks its test files can say so before it
    trains, and what is decoded from such files is cached. `find_unverified` returns those of the
    files that are read without a checksum, because none is published.
    """

    read: Callable[[Path, str], Arrays]
    find_files: Callable[[Path, str], Sequence[Path]] | None = None
    find_unverified: Callable[[Path, str], Sequence[Path]] | None = None


DATASETS = {
    "digits": Dataset(digits.read_digits),
    "mnist": Dataset(idx.read_mnist, official.find_mnist_files),
    "fashion_mnist": Dataset(idx.read_fashion_mnist, official.find_fashion_mnist_files),
    "kmnist": Dataset(idx.read_kmnist, official.find_kmnist_files),
    "emnist_letters": Dataset(emnist.read_emnist_letters, emnist.find_archive),
    "emnist_balanced": Dataset(emnist.read_emnist_balanced, emnist.find_archive),
    "svhn": Dataset(svhn.read_svhn, svhn.find_svhn_files),
    "stl10": Dataset(stl10.read_stl10, stl10.find_stl10_files),
    "cifar10": Dataset(
        cifar.read_cifar10, official.CIFAR10.find_files, official.CIFAR10.find_unverified
    ),
    "cifar100": Dataset(
        cifar.read_cifar100, official.CIFAR100.find_files, official.CIFAR100.find_unverified
    ),
}
