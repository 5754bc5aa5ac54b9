"""The official files of each data set: their names, checksums and sizes, where they belong, and how they are found or fetched.

Whether a file is there and right is said here, before one of its bytes is read for what it means
(idx.py, cifar.py).
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from skiplab.data import surroundings
from skiplab.data.download import (
    Published,
    check_size,
    download,
    ensure_writable,
    extract,
    known_members,
    remember_members,
    verify,
)
from skiplab.data.surroundings import Wanted
from skiplab.errors import UsageError
from skiplab.locations import check_kind

IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# of the plain files of MNIST and its kin
IDX_SIZES = {
    "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}
MNIST_HOSTS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist")
# of the archive, of the plain file
MNIST_MD5 = {
    "train-images-idx3-ubyte": (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "6bbc9ace898e44ae57da46a324031adb",
    ),
    "train-labels-idx1-ubyte": (
        "d53e105ee54ea40749a09fcbcd1e9432",
        "a25bea736e30d166cdddb491f175f624",
    ),
    "t10k-images-idx3-ubyte": (
        "9fb629c4189551a2d022fa330f9573f3",
        "2646ac647ad5339dbf082846283269ea",
    ),
    "t10k-labels-idx1-ubyte": (
        "ec29112dd5afa0611ce80d1b7f02629c",
        "27ae3e4e09519cfbb04c329615203637",
    ),
}
FASHION_HOSTS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",)
# of the archive; no checksum of the plain files is published, so the archive is what is read
FASHION_MD5 = {
    "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", None),
    "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", None),
    "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", None),
    "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", None),
}


def idx_file(
    root: Path, file: Published, plain_md5: str | None, *, dataset: str, afresh: bool = False
) -> Path:
    """The verified IDX file: the plain one, or the published archive (or one packed anew), which is fetched if neither is there."""
    plain, packed = (
        root / file.folder / file.name.removesuffix(".gz"),
        root / file.folder / file.name,
    )
    size = IDX_SIZES.get(plain.name)
    if plain_md5 is not None and plain.is_file():
        verify(plain, plain_md5, size=size, afresh=afresh)
        return plain
    unpacked = (plain_md5, size) if plain_md5 is not None and size is not None else None
    if not packed.is_file():
        if plain_md5 is not None:
            check_kind(plain)
        check_kind(packed)
        wanted = [Wanted(file.folder, packed.name, file.md5, unpacked=unpacked)]
        wanted += (
            [Wanted(file.folder, plain.name, plain_md5, size)] if plain_md5 is not None else []
        )
        surroundings.check(root, wanted, dataset=dataset)
        download(file, root, dataset=dataset)
    verify(
        packed,
        file.md5,
        size=None if size is None else size + size // 1000 + 2**16,
        unpacked=unpacked,
        afresh=afresh,
    )
    return packed


def mnist_files(root: Path, split: str, *, afresh: bool = False) -> list[Path]:
    """The verified files of a split of MNIST, images first."""
    published = [
        (Published("MNIST/raw", f"{name}.gz", MNIST_MD5[name][0], MNIST_HOSTS), MNIST_MD5[name][1])
        for name in IDX_NAMES[split]
    ]
    return [
        idx_file(root, file, plain_md5, dataset="mnist", afresh=afresh)
        for file, plain_md5 in published
    ]


def fashion_mnist_files(root: Path, split: str, *, afresh: bool = False) -> list[Path]:
    """The verified files of a split of Fashion-MNIST, images first."""
    published = [
        Published("FashionMNIST/raw", f"{name}.gz", FASHION_MD5[name][0], FASHION_HOSTS)
        for name in IDX_NAMES[split]
    ]
    return [
        idx_file(root, file, None, dataset="fashion_mnist", afresh=afresh) for file in published
    ]


TORONTO = ("https://www.cs.toronto.edu/~kriz",)


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets: its official archive, and the files that each version holds, by split, with their MD5."""

    name: str
    archive: Published
    binary: dict[str, dict[str, str | None]]
    pickled_folder: str
    pickled: dict[str, dict[str, str]]
    sizes: dict[str, int]
    python: Published

    def locate(self, root: Path, split: str, *, afresh: bool = False) -> list[Path]:
        """The verified files: the binary version if it is there, else the pickled one, else the official archive is unpacked or fetched."""
        files = self.lying_files(root, split)
        if files is None:
            self.unpack(root, split)
            files = self.known(root, self.places(root, split)[0])
        for path, md5 in files.items():
            if md5 is not None:
                verify(path, md5, size=self.sizes.get(path.name), afresh=afresh)
            else:
                check_size(path, path.stat().st_size, self.sizes.get(path.name), exact=True)
        return list(files)

    def lying_files(self, root: Path, split: str) -> dict[Path, str | None] | None:
        """The files to read of those that are there, with their MD5 as far as it is known; None if no version is whole."""
        binary, pickled = self.places(root, split)
        has_pickled = all(path.is_file() for path in pickled)
        if all(path.is_file() for path in binary):
            found = self.known(root, binary)
            # else those that can be verified are better
            if all(found.values()) or not has_pickled:
                return found
        return dict(pickled) if has_pickled else None

    def places(self, root: Path, split: str) -> tuple[dict[Path, str | None], dict[Path, str]]:
        """Where the files of the binary and of the pickled version belong, with their MD5."""
        binary: dict[Path, str | None] = {
            root / self.archive.folder / name: md5 for name, md5 in self.binary[split].items()
        }
        return binary, {
            root / self.pickled_folder / name: md5 for name, md5 in self.pickled[split].items()
        }

    def known(self, root: Path, files: dict[Path, str | None]) -> dict[Path, str | None]:
        """The MD5 of files; where none is published, it is that of the member of the official archive, if that was ever seen here."""
        if all(files.values()):
            return files
        members = known_members(self.archive.md5)
        if not members and (lying := self.lying(root)):
            members = self.members_of(lying[0])
        return {path: md5 or members.get(path.name) for path, md5 in files.items()}

    def unverified(self, root: Path, split: str) -> list[Path]:
        """The files of a split that are read on trust, since nothing tells what they should hold."""
        return [path for path, md5 in (self.lying_files(root, split) or {}).items() if md5 is None]

    def lying(self, root: Path) -> list[Path]:
        """The official archive, in the root or in its folder."""
        places = (root / self.archive.name, root / self.archive.folder / self.archive.name)
        return [path for path in places if path.is_file()]

    def unpack(self, root: Path, split: str) -> None:
        """Unpack the archive, from the root or its folder if it lies there, else fetched."""
        folder, lying = root / self.archive.folder, self.lying(root)
        binary, pickled = self.places(root, split)
        for path in (
            *binary,
            *pickled,
            *(() if lying else (root / self.archive.name, folder / self.archive.name)),
        ):
            check_kind(path)
        if not lying:
            surroundings.check(root, self.wanted(split), dataset=self.name)
        archive = (
            lying[0]
            if lying
            else download(
                self.archive, root, dataset=self.name, missing=lacking(binary) or lacking(pickled)
            )
        )
        verify(archive, self.archive.md5)
        ensure_writable(
            folder,
            f"the content of {archive.name}",
            f"unpack {archive} by hand or set dataset.root",
        )
        remember_members(self.archive.md5, extract(archive, folder, self.names))

    @property
    def names(self) -> list[str]:
        """Of the files of the binary version, in both splits."""
        return [name for each in self.binary.values() for name in each]

    def members_of(self, archive: Path) -> dict[str, str]:
        """The MD5 of the files in the official archive, where it lies beside them; none if it is damaged or there is no room."""
        try:
            verify(archive, self.archive.md5)
            with tempfile.TemporaryDirectory() as private:
                found = extract(archive, Path(private), self.names)
        except (OSError, UsageError):
            return {}
        remember_members(self.archive.md5, found)
        return found

    def wanted(self, split: str) -> list[Wanted]:
        """The files that would do, in either version, packed or not."""
        found = [
            Wanted(self.archive.folder, name, md5, self.sizes.get(name))
            for name, md5 in self.binary[split].items()
        ]
        found += [
            Wanted(self.pickled_folder, name, md5, self.sizes.get(name))
            for name, md5 in self.pickled[split].items()
        ]
        found += [Wanted("", self.archive.name, self.archive.md5)]
        return [
            *found,
            Wanted("", self.python.name, self.python.md5, advice="tar -xzf {path} -C {root}"),
        ]


def lacking(files: Iterable[Path]) -> str:
    """Which of a version's files are not there, in words; empty if all are missing."""
    files = list(files)
    missing = [path.name for path in files if not path.is_file()]
    if len(missing) == len(files):
        return ""
    return f"{', '.join(missing)} missing in {files[0].parent}, where {len(files) - len(missing)} of {len(files)} files are"


CIFAR10 = Cifar(
    name="cifar10",
    archive=Published(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        TORONTO,
    ),
    binary={
        "train": {
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        },
        "test": {"test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d"},
    },
    pickled_folder="cifar-10-batches-py",
    pickled={
        "train": {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
    },
    sizes={
        **dict.fromkeys(
            (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"), 10_000 * (1 + 3072)
        ),
        "data_batch_1": 31_035_704,
        "data_batch_2": 31_035_320,
        "data_batch_3": 31_035_999,
        "data_batch_4": 31_035_696,
        "data_batch_5": 31_035_623,
        "test_batch": 31_035_526,
    },
    python=Published("", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", TORONTO),
)
CIFAR100 = Cifar(
    name="cifar100",
    archive=Published(
        "cifar-100-binary", "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", TORONTO
    ),
    # only the archive's checksum is published
    binary={"train": {"train.bin": None}, "test": {"test.bin": None}},
    pickled_folder="cifar-100-python",
    pickled={
        "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
        "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    },
    sizes={
        "train.bin": 50_000 * (2 + 3072),
        "test.bin": 10_000 * (2 + 3072),
        "train": 155_249_918,
        "test": 31_049_707,
    },
    python=Published("", "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", TORONTO),
)
