"""Strict readers of the official files, in NumPy: IDX for MNIST and its kin, binary (or pickled) CIFAR, scikit-learn's digits.

Each data set is a function (root, split) -> Arrays. A file that is missing is fetched; one that is damaged is an error that
names it. Nothing is unpickled whose MD5 is not the published one.
"""

import gzip
import importlib.util
import io
import math
import pickle
import pickletools
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skiplab.errors import UsageError
from skiplab.files import Published, download, ensure_writable, extract, verify

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Arrays:
    """One split as the files hold it: images uint8 (N, H, W, C), labels uint8 (N,), and the file to name in errors."""

    images: Bytes
    labels: Bytes
    path: Path


# ---------------------------------------------------------------------------------------------------------------- digits


def digits(root: Path, split: str) -> Arrays:
    """scikit-learn's bundled digits (UCI, 1998): 1,797 images of 8x8, values 0..16; every fifth image is the test split."""
    spec = importlib.util.find_spec("sklearn")  # finds the package without paying a second for importing it
    if spec is None or spec.origin is None:
        raise UsageError("dataset=digits: scikit-learn, which brings the images, is not installed")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        table = np.loadtxt(io.BytesIO(gzip.decompress(path.read_bytes())), delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UsageError(f"{path}: not scikit-learn's digits ({error})") from None
    if table.shape != (1797, 65) or int(table[:, :64].max()) > 16:
        raise UsageError(f"{path}: not scikit-learn's digits: a table of shape {table.shape} where (1797, 65) is expected")
    is_test = np.arange(len(table)) % 5 == 0
    rows = table[is_test if split == "test" else ~is_test]
    scaled = np.round(rows[:, :64] * (255 / 16)).astype(np.uint8)
    return Arrays(scaled.reshape(-1, 8, 8, 1), np.ascontiguousarray(rows[:, 64]), path)


# ------------------------------------------------------------------------------------------------------------------- IDX


def read_idx(path: Path, *, num_dimensions: int) -> Bytes:
    """An IDX file of unsigned bytes, plain or (by its name) gzip: uint8 of the shape that its header states.

    Format: bytes 0, 0, 8 (unsigned byte), number of dimensions, then each dimension as a big-endian uint32, then the data.
    Raises UsageError naming the file for a wrong magic number or a size that is not the header's.
    """
    header_size = 4 + 4 * num_dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(header_size)
            if len(header) < header_size or header[:4] != bytes((0, 0, 8, num_dimensions)):
                raise UsageError(f"{path}: not an IDX file of {num_dimensions} dimensions: it begins with {header[:4].hex(' ')}")
            shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
            size = math.prod(shape)
            if size == 0:
                raise UsageError(f"{path}: its header {shape} states that it holds nothing")
            if path.suffix != ".gz" and path.stat().st_size != header_size + size:
                raise UsageError(f"{path}: {path.stat().st_size} bytes, its header {shape} makes {header_size + size}")
            parts, missing = [], size  # piece by piece: a header that lies costs no more memory than the file holds
            while missing and (part := file.read(min(missing, 1 << 24))):
                parts.append(part)
                missing -= len(part)
            if missing or file.read(1):
                raise UsageError(f"{path}: {'fewer' if missing else 'more'} bytes than its header {shape} states ({size})")
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    return np.frombuffer(bytearray().join(parts), np.uint8).reshape(shape)


def idx_file(root: Path, file: Published, plain_md5: str | None, *, dataset: str) -> Path:
    """The verified IDX file: the plain one, or the published archive, which is fetched if neither is there."""
    plain, packed = root / file.folder / file.name.removesuffix(".gz"), root / file.folder / file.name
    if plain.is_file() and plain_md5 is not None:
        verify(plain, plain_md5)
        return plain
    if not packed.is_file():
        download(file, root, dataset=dataset)
    verify(packed, file.md5)
    return packed


def read_idx_pair(images_path: Path, labels_path: Path) -> Arrays:
    """Images (N, H, W) and labels (N,) of two IDX files; UsageError if the counts differ."""
    images, labels = read_idx(images_path, num_dimensions=3), read_idx(labels_path, num_dimensions=1)
    if len(images) != len(labels):
        raise UsageError(f"{labels_path}: {len(labels)} labels for the {len(images)} images of {images_path.name}")
    return Arrays(images[..., np.newaxis], labels, labels_path)


IDX_NAMES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}
MNIST_HOSTS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist")
MNIST_MD5 = {  # of the archive, of the plain file
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
}
FASHION_HOSTS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",)
FASHION_MD5 = {  # of the archive; no checksum of the plain files is published, so the archive is what is read
    "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", None),
    "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", None),
    "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", None),
    "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", None),
}


def mnist_files(root: Path, split: str) -> list[Path]:
    """The verified files of a split of MNIST, images first."""
    published = [(Published("MNIST/raw", f"{name}.gz", MNIST_MD5[name][0], MNIST_HOSTS), MNIST_MD5[name][1]) for name in IDX_NAMES[split]]
    return [idx_file(root, file, plain_md5, dataset="mnist") for file, plain_md5 in published]


def mnist(root: Path, split: str) -> Arrays:
    """MNIST (LeCun et al. 1998), in torchvision's layout: ROOT/MNIST/raw."""
    return read_idx_pair(*mnist_files(root, split))


def fashion_mnist_files(root: Path, split: str) -> list[Path]:
    """The verified files of a split of Fashion-MNIST, images first."""
    published = [Published("FashionMNIST/raw", f"{name}.gz", FASHION_MD5[name][0], FASHION_HOSTS) for name in IDX_NAMES[split]]
    return [idx_file(root, file, None, dataset="fashion_mnist") for file in published]


def fashion_mnist(root: Path, split: str) -> Arrays:
    """Fashion-MNIST (Xiao et al. 2017), in torchvision's layout: ROOT/FashionMNIST/raw."""
    return read_idx_pair(*fashion_mnist_files(root, split))


# ----------------------------------------------------------------------------------------------------------------- CIFAR


def read_cifar_binary(path: Path, *, num_label_bytes: int, num_classes: int) -> Arrays:
    """The binary version: records of label bytes (CIFAR-100: coarse, fine), then a red, a green and a blue 32x32 plane.

    Raises UsageError naming the file for a size that is no whole number of records or a label that is out of range.
    """
    record_size = num_label_bytes + 3 * 32 * 32
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) == 0 or len(content) % record_size:
        raise UsageError(f"{path}: {len(content)} bytes are no whole number of {record_size}-byte CIFAR records")
    records = content.reshape(-1, record_size)
    return cifar_arrays(records[:, num_label_bytes:], records[:, num_label_bytes - 1], path, num_classes=num_classes)


def cifar_arrays(planes: Bytes, labels: Bytes, path: Path, *, num_classes: int) -> Arrays:
    """Planes (N, 3072) and labels (N,) as Arrays: images (N, 32, 32, 3)."""
    if int(labels.max()) >= num_classes:
        raise UsageError(f"{path}: label {int(labels.max())} is out of range: {num_classes} classes, so 0 to {num_classes - 1}")
    images = np.empty((len(planes), 32 * 32, 3), np.uint8)  # (N, 3 * 1024) -> (N, 1024, 3)
    for start in range(0, len(planes), 500):  # plane by plane, so many images as fit the processor's cache: a third of transpose's time
        for channel, plane in enumerate(np.split(planes[start : start + 500], 3, axis=1)):
            images[start : start + 500, :, channel] = plane
    return Arrays(images.reshape(-1, 32, 32, 3), np.ascontiguousarray(labels), path)


class Inert:
    """Stands in for NumPy's classes while a pickle is read: it keeps what it was given and does nothing."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


LARGEST_MEMO = 2**20  # numbered objects in a pickled file; CIFAR-100 names 50,000 images


class CifarUnpickler(pickle.Unpickler):
    """Allows what the pickled CIFAR files hold, dicts, lists, bytes and uint8 arrays, and nothing else."""

    ALLOWED = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return Inert  # NumPy's own would trust the state that it finds, and crash on a bad one


def read_cifar_pickle(path: Path, *, label_key: bytes, num_classes: int) -> Arrays:
    """One file of the Python version, which the caller has verified: images (N, 32, 32, 3) and its labels under `label_key`."""
    try:
        for opcode, argument, _ in pickletools.genops(pickled := path.read_bytes()):
            if opcode.name in ("LONG_BINPUT", "PUT") and (argument or 0) > LARGEST_MEMO:  # the unpickler makes room for all below it
                raise ValueError(f"an object numbered {argument}")
        content = CifarUnpickler(io.BytesIO(pickled), encoding="bytes").load()
        _version, shape, dtype, is_fortran, pixels = content[b"data"].state
        if dtype.arguments[0] != b"u1":
            raise TypeError(f"its images are of type {dtype.arguments[0]!r}, not b'u1'")
        planes = np.frombuffer(bytearray(pixels), np.uint8).reshape(shape, order="F" if is_fortran else "C")
        labels = np.array(content[label_key], np.int64)
    except Exception as error:  # a pickle can fail in any way; each is a file that is not what it should be
        said = " ".join(str(error).split())  # some of pickle's messages have two lines
        raise UsageError(f"{path}: not a pickled CIFAR file ({type(error).__name__}: {said})") from None
    if labels.ndim != 1 or planes.shape != (len(labels), 3072) or len(labels) == 0:
        raise UsageError(f"{path}: not a pickled CIFAR file: no uint8 array of shape (N, 3072) with N labels")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UsageError(f"{path}: a label is out of range: {num_classes} classes, so 0 to {num_classes - 1}")
    return cifar_arrays(planes, labels.astype(np.uint8), path, num_classes=num_classes)


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets: its official archive, and the files that each version holds, by split, with their MD5."""

    name: str
    num_classes: int
    num_label_bytes: int
    label_key: bytes
    archive: Published
    binary: dict[str, dict[str, str | None]]
    pickled_folder: str
    pickled: dict[str, dict[str, str]]

    def locate(self, root: Path, split: str) -> list[Path]:
        """The verified files: the binary version if it is there, else the pickled one, else the official archive is unpacked or fetched."""
        files: dict[Path, str | None] = {root / self.archive.folder / name: md5 for name, md5 in self.binary[split].items()}
        if not all(path.is_file() for path in files):
            pickled = {root / self.pickled_folder / name: md5 for name, md5 in self.pickled[split].items()}
            if all(path.is_file() for path in pickled):
                files = dict(pickled)
            else:
                self.unpack(root)
        for path, md5 in files.items():
            if md5 is not None:
                verify(path, md5)
        return list(files)

    def read(self, root: Path, split: str) -> Arrays:
        """The split, from files that `locate` has verified: before a byte is unpickled."""
        return joined([self.read_file(path) for path in self.locate(root, split)])

    def read_file(self, path: Path) -> Arrays:
        """One file of either version."""
        if path.suffix == ".bin":
            return read_cifar_binary(path, num_label_bytes=self.num_label_bytes, num_classes=self.num_classes)
        return read_cifar_pickle(path, label_key=self.label_key, num_classes=self.num_classes)

    def unpack(self, root: Path) -> None:
        """Unpack the archive, from the root or its folder if it lies there, else fetched."""
        folder = root / self.archive.folder
        lying = [path for path in (root / self.archive.name, folder / self.archive.name) if path.is_file()]
        archive = lying[0] if lying else download(self.archive, root, dataset=self.name)
        verify(archive, self.archive.md5)
        ensure_writable(folder, f"the content of {archive.name}", f"unpack {archive} by hand or set dataset.root")
        extract(archive, folder, [name for split in self.binary.values() for name in split])


def joined(parts: list[Arrays]) -> Arrays:
    """Several files as one split."""
    if len(parts) == 1:
        return parts[0]
    return Arrays(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]), parts[0].path.parent)


CIFAR10 = Cifar(
    name="cifar10",
    num_classes=10,
    num_label_bytes=1,
    label_key=b"labels",
    archive=Published(
        "cifar-10-batches-bin", "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", ("https://www.cs.toronto.edu/~kriz",)
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
)
CIFAR100 = Cifar(
    name="cifar100",
    num_classes=100,
    num_label_bytes=2,
    label_key=b"fine_labels",
    archive=Published(
        "cifar-100-binary", "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", ("https://www.cs.toronto.edu/~kriz",)
    ),
    binary={"train": {"train.bin": None}, "test": {"test.bin": None}},  # only the archive's checksum is published
    pickled_folder="cifar-100-python",
    pickled={"train": {"train": "16019d7e3df5f24257cddd939b257f8d"}, "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}},
)


def cifar10(root: Path, split: str) -> Arrays:
    """CIFAR-10 (Krizhevsky 2009): ROOT/cifar-10-batches-bin, or torchvision's ROOT/cifar-10-batches-py."""
    return CIFAR10.read(root, split)


def cifar100(root: Path, split: str) -> Arrays:
    """CIFAR-100 with its fine labels: ROOT/cifar-100-binary, or torchvision's ROOT/cifar-100-python."""
    return CIFAR100.read(root, split)
