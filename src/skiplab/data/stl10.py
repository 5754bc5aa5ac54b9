"""The published files of STL-10, and their strict reader."""

from pathlib import Path

import numpy as np

from skiplab.data import misplaced
from skiplab.data.arrays import Arrays, Bytes
from skiplab.data.download import Published, check_size, download, ensure_writable, extract, verify
from skiplab.data.misplaced import Wanted
from skiplab.errors import UsageError
from skiplab.locations import check_kind

FOLDER = "stl10_binary"
# The MD5 of archive and files are torchvision's.
ARCHIVE = Published(
    "",
    "stl10_binary.tar.gz",
    "91f7769df0f17e558f3565bffb0c7dfb",
    ("http://ai.stanford.edu/~acoates/stl10",),
)
ARCHIVE_SIZE = 2_640_397_119
# The files of each split, images first, with their MD5. Images without labels are not used.
FILES = {
    "train": {
        "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
        "train_y.bin": "5a34089d4802c674881badbb80307741",
    },
    "test": {
        "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
        "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
    },
}
IMAGE_SIZE = 3 * 96 * 96
SIZES = {
    "train_X.bin": 5_000 * IMAGE_SIZE,
    "train_y.bin": 5_000,
    "test_X.bin": 8_000 * IMAGE_SIZE,
    "test_y.bin": 8_000,
}


def find_stl10_files(root: Path, split: str, *, reread: bool = False) -> list[Path]:
    """Return the verified files of a split, images first.

    If one is missing, the official archive is unpacked; it is fetched if missing. `reread`
    verifies a file even if a good verdict is remembered.
    """
    files = {root / FOLDER / name: md5 for name, md5 in FILES[split].items()}
    if not all(path.is_file() for path in files):
        unpack(root, split)
    for path, md5 in files.items():
        verify(path, md5, size=SIZES.get(path.name), reread=reread)
    return list(files)


def unpack(root: Path, split: str) -> None:
    """Unpack the labelled images of the official archive, which is fetched if missing."""
    folder, archive = root / FOLDER, root / ARCHIVE.name
    for path in (archive, *(folder / name for name in FILES[split])):
        check_kind(path)
    if not archive.is_file():
        wanted = [Wanted(FOLDER, name, md5, SIZES.get(name)) for name, md5 in FILES[split].items()]
        wanted.append(Wanted("", ARCHIVE.name, ARCHIVE.md5, ARCHIVE_SIZE))
        misplaced.check(root, wanted, dataset="stl10")
        download(ARCHIVE, root, dataset="stl10")
    verify(archive, ARCHIVE.md5, size=ARCHIVE_SIZE)
    ensure_writable(
        folder,
        f"the content of {archive.name}",
        f"unpack {archive} by hand or set dataset.root",
    )
    extract(archive, folder, [name for files in FILES.values() for name in files])


def read_stl10(root: Path, split: str) -> Arrays:
    """Read STL-10 (Coates et al. 2011), in torchvision's layout: ROOT/stl10_binary."""
    return read_pair(*find_stl10_files(root, split, reread=True))


def read_pair(images_path: Path, labels_path: Path) -> Arrays:
    """Read verified files of images and labels: images (N, 96, 96, 3), labels 0 to 9.

    An image has a red, a green and a blue plane, each column by column. Labels begin with 1 in the
    file. Raises UsageError naming the file.
    """
    images, labels = read_bytes(images_path), read_bytes(labels_path)
    if len(images) == 0 or len(images) % IMAGE_SIZE:
        raise UsageError(
            f"{images_path}: {len(images)} bytes are no whole number of images "
            f"of {IMAGE_SIZE} bytes"
        )
    if len(labels) != len(images) // IMAGE_SIZE:
        raise UsageError(
            f"{labels_path}: {len(labels)} labels for the {len(images) // IMAGE_SIZE} images "
            f"of {images_path.name}"
        )
    if labels.min() < 1 or labels.max() > 10:
        raise UsageError(f"{labels_path}: a label is out of range: 10 classes, so 1 to 10")
    # (N, C, W, H) -> (N, H, W, C)
    upright = np.ascontiguousarray(images.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1))
    return Arrays(upright, labels - np.uint8(1), labels_path)


def read_bytes(path: Path) -> Bytes:
    """Read a file as uint8 (N,). Raises UsageError naming it."""
    try:
        check_kind(path)
        check_size(path, path.stat().st_size, None)
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
