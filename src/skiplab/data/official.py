"""The published files of each data set: names, checksums, sizes, and how they are found or fetched.

Whether a file is there and right is decided here, before idx.py or cifar.py read what it means.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from skiplab.data import misplaced
from skiplab.data.download import (
    Published,
    check_size,
    download,
    ensure_writable,
    extract,
    read_members,
    remember_members,
    verify,
)
from skiplab.data.misplaced import Wanted
from skiplab.errors import UsageError
from skiplab.locations import check_kind

IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Bytes of the plain files of MNIST and its kin.
IDX_SIZES = {
    "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}
MNIST_HOSTS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist")
# The MD5 of the archive and of the plain file.
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
# The MD5 of the archives. None of the plain files is published, so only the archives are read.
FASHION_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
KMNIST_HOSTS = ("http://codh.rois.ac.jp/kmnist/dataset/kmnist",)
# The MD5 of the archives, from torchvision. None of the plain files is published.
KMNIST_MD5 = {
    "train-images-idx3-ubyte": "bdb82020997e1d708af4cf47b453dcf7",
    "train-labels-idx1-ubyte": "e144d726b3acfaa3e44228e80efcd344",
    "t10k-images-idx3-ubyte": "5c965bf0a639b31b8f53240b1b52f4d7",
    "t10k-labels-idx1-ubyte": "7320c461ea6c1c855c0b718fb2a4b134",
}


def find_idx_file(
    root: Path, file: Published, plain_md5: str | None, *, dataset: str, reread: bool = False
) -> Path:
    """Return the verified IDX file: the plain one if it can be verified, else the archive.

    An archive that was packed again is as good. If neither is there, the archive is fetched.
    `reread` verifies a file even if a good verdict is remembered.
    """
    folder = root / file.folder
    plain, packed = folder / file.name.removesuffix(".gz"), folder / file.name
    size = IDX_SIZES.get(plain.name)
    if plain_md5 is not None and plain.is_file():
        verify(plain, plain_md5, size=size, reread=reread)
        return plain
    unpacked = (plain_md5, size) if plain_md5 is not None and size is not None else None
    if not packed.is_file():
        wanted = [Wanted(file.folder, packed.name, file.md5, unpacked=unpacked)]
        if plain_md5 is not None:
            check_kind(plain)
            wanted.append(Wanted(file.folder, plain.name, plain_md5, size))
        check_kind(packed)
        misplaced.check(root, wanted, dataset=dataset)
        download(file, root, dataset=dataset)
    # What gzip cannot compress it makes a little larger.
    largest = None if size is None else size + size // 1000 + 2**16
    verify(packed, file.md5, size=largest, unpacked=unpacked, reread=reread)
    return packed


def find_mnist_files(root: Path, split: str, *, reread: bool = False) -> list[Path]:
    """Return the verified files of a split of MNIST, images first."""
    paths = []
    for name in IDX_NAMES[split]:
        packed_md5, plain_md5 = MNIST_MD5[name]
        file = Published("MNIST/raw", f"{name}.gz", packed_md5, MNIST_HOSTS)
        paths.append(find_idx_file(root, file, plain_md5, dataset="mnist", reread=reread))
    return paths


def find_fashion_mnist_files(root: Path, split: str, *, reread: bool = False) -> list[Path]:
    """Return the verified files of a split of Fashion-MNIST, images first."""
    paths = []
    for name in IDX_NAMES[split]:
        file = Published("FashionMNIST/raw", f"{name}.gz", FASHION_MD5[name], FASHION_HOSTS)
        paths.append(find_idx_file(root, file, None, dataset="fashion_mnist", reread=reread))
    return paths


def find_kmnist_files(root: Path, split: str, *, reread: bool = False) -> list[Path]:
    """Return the verified files of a split of Kuzushiji-MNIST, images first."""
    paths = []
    for name in IDX_NAMES[split]:
        file = Published("KMNIST/raw", f"{name}.gz", KMNIST_MD5[name], KMNIST_HOSTS)
        paths.append(find_idx_file(root, file, None, dataset="kmnist", reread=reread))
    return paths


TORONTO = ("https://www.cs.toronto.edu/~kriz",)


@dataclass(frozen=True)
class Cifar:
    """The files of CIFAR-10 or CIFAR-100: the official archive, and those of each version.

    `binary` and `pickled` have a split's files with their MD5; it is None where none is published.
    `sizes` has their bytes by name. `python` is the archive of the pickled version, which is
    reported if it lies there, but never unpacked.
    """

    name: str
    archive: Published
    binary: dict[str, dict[str, str | None]]
    pickled_folder: str
    pickled: dict[str, dict[str, str]]
    sizes: dict[str, int]
    python: Published

    def find_files(self, root: Path, split: str, *, reread: bool = False) -> list[Path]:
        """Return the verified files: those of the binary version, or else of the pickled one.

        If neither version is there, the official archive is unpacked; it is fetched if missing.
        `reread` verifies a file even if a good verdict is remembered.
        """
        files = self.find_present(root, split)
        if files is None:
            self.unpack(root, split)
            files = self.add_checksums(root, self.list_binary(root, split))
        for path, md5 in files.items():
            size = self.sizes.get(path.name)
            if md5 is not None:
                verify(path, md5, size=size, reread=reread)
            else:
                check_size(path, path.stat().st_size, size, exact=True)
        return list(files)

    def find_present(self, root: Path, split: str) -> dict[Path, str | None] | None:
        """Return the files to read of those that are there; None if no version is complete.

        Their MD5 is given where it is known.
        """
        binary, pickled = self.list_binary(root, split), self.list_pickled(root, split)
        has_pickled = all(path.is_file() for path in pickled)
        if all(path.is_file() for path in binary):
            found = self.add_checksums(root, binary)
            # Files that cannot be verified are read only if the other version is not there.
            if all(found.values()) or not has_pickled:
                return found
        return dict(pickled) if has_pickled else None

    def list_binary(self, root: Path, split: str) -> dict[Path, str | None]:
        """Return where the files of the binary version belong, with their published MD5."""
        folder = root / self.archive.folder
        return {folder / name: md5 for name, md5 in self.binary[split].items()}

    def list_pickled(self, root: Path, split: str) -> dict[Path, str]:
        """Return where the files of the pickled version belong, with their published MD5."""
        folder = root / self.pickled_folder
        return {folder / name: md5 for name, md5 in self.pickled[split].items()}

    def add_checksums(self, root: Path, files: dict[Path, str | None]) -> dict[Path, str | None]:
        """Return files with the MD5 of the archive's members where no MD5 is published.

        It stays None if the official archive was never unpacked here and does not lie here.
        """
        if all(files.values()):
            return files
        members = read_members(self.archive.md5)
        if not members and (archives := self.find_archives(root)):
            members = self.hash_members(archives[0])
        return {path: md5 or members.get(path.name) for path, md5 in files.items()}

    def find_unverified(self, root: Path, split: str) -> list[Path]:
        """Return a split's files that are read on trust, since no checksum is known for them."""
        files = self.find_present(root, split) or {}
        return [path for path, md5 in files.items() if md5 is None]

    def find_archives(self, root: Path) -> list[Path]:
        """Return the official archive where it lies: in the root, in its folder, or in both."""
        places = (root / self.archive.name, root / self.archive.folder / self.archive.name)
        return [path for path in places if path.is_file()]

    def unpack(self, root: Path, split: str) -> None:
        """Unpack the official archive, which is fetched if it lies neither in root nor folder."""
        folder = root / self.archive.folder
        binary, pickled = self.list_binary(root, split), self.list_pickled(root, split)
        for path in (*binary, *pickled):
            check_kind(path)
        if archives := self.find_archives(root):
            archive = archives[0]
        else:
            for path in (root / self.archive.name, folder / self.archive.name):
                check_kind(path)
            misplaced.check(root, self.list_wanted(split), dataset=self.name)
            missing = describe_missing(binary) or describe_missing(pickled)
            archive = download(self.archive, root, dataset=self.name, missing=missing)
        verify(archive, self.archive.md5)
        ensure_writable(
            folder,
            f"the content of {archive.name}",
            f"unpack {archive} by hand or set dataset.root",
        )
        remember_members(self.archive.md5, extract(archive, folder, self.member_names))

    @property
    def member_names(self) -> list[str]:
        """The names of the binary version's files, in both splits."""
        return [name for files in self.binary.values() for name in files]

    def hash_members(self, archive: Path) -> dict[str, str]:
        """Return the MD5 of the files in the official archive, by name, and remember them.

        Returns nothing if the archive is damaged or there is no room to unpack it.
        """
        try:
            verify(archive, self.archive.md5)
            with tempfile.TemporaryDirectory() as private:
                found = extract(archive, Path(private), self.member_names)
        except (OSError, UsageError):
            return {}
        remember_members(self.archive.md5, found)
        return found

    def list_wanted(self, split: str) -> list[Wanted]:
        """Return the files that would do, of either version, packed or not."""
        wanted = [
            Wanted(self.archive.folder, name, md5, self.sizes.get(name))
            for name, md5 in self.binary[split].items()
        ]
        wanted += [
            Wanted(self.pickled_folder, name, md5, self.sizes.get(name))
            for name, md5 in self.pickled[split].items()
        ]
        wanted.append(Wanted("", self.archive.name, self.archive.md5))
        advice = "tar -xzf {path} -C {root}"
        wanted.append(Wanted("", self.python.name, self.python.md5, advice=advice))
        return wanted


def describe_missing(files: Iterable[Path]) -> str:
    """Say which of a version's files are missing; return "" unless only some are."""
    files = list(files)
    missing = [path.name for path in files if not path.is_file()]
    found = len(files) - len(missing)
    if found in (0, len(files)):
        return ""
    names = ", ".join(missing)
    return f"{names} missing in {files[0].parent}, where {found} of {len(files)} files are"


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
    # Only the archive's checksum is published.
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
