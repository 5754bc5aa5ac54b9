"""The published files of SVHN, and their strict reader. Nothing in them is unpickled or run."""

from pathlib import Path

import numpy as np

from skiplab.data import misplaced
from skiplab.data.arrays import Arrays
from skiplab.data.download import Published, download, verify
from skiplab.data.misplaced import Wanted
from skiplab.errors import UsageError
from skiplab.locations import check_kind

HOSTS = ("http://ufldl.stanford.edu/housenumbers",)
# The MD5 are torchvision's.
FILES = {
    "train": Published("", "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", HOSTS),
    "test": Published("", "test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", HOSTS),
}
# Bytes of the files.
SIZES = {"train_32x32.mat": 182_040_794, "test_32x32.mat": 64_275_384}
# How a file of MATLAB's version 5 begins, and what ends its header of 128 bytes: little endian.
MATLAB_5, LITTLE_ENDIAN = b"MATLAB 5.0 MAT-file", b"\x00\x01IM"


def find_svhn_files(root: Path, split: str, *, reread: bool = False) -> list[Path]:
    """Return the verified file of a split, which is fetched if it is missing.

    `reread` verifies it even if a good verdict is remembered.
    """
    file = FILES[split]
    path, size = root / file.name, SIZES.get(file.name)
    if not path.is_file():
        check_kind(path)
        misplaced.check(root, [Wanted("", file.name, file.md5, size)], dataset="svhn")
        download(file, root, dataset="svhn")
    verify(path, file.md5, size=size, reread=reread)
    return [path]


def read_svhn(root: Path, split: str) -> Arrays:
    """Read SVHN's cropped digits (Netzer et al. 2011), in torchvision's layout: ROOT."""
    (path,) = find_svhn_files(root, split, reread=True)
    return read_mat(path)


def read_mat(path: Path) -> Arrays:
    """Read `X`, uint8 (32, 32, 3, N), and `y`, uint8 (N, 1), of a verified file of MATLAB 5.

    Images become (N, 32, 32, 3). The label 10 stands for the digit 0, and becomes 0. Raises
    UsageError naming the file, whatever is wrong with it.
    """
    # It takes a tenth of a second, which a run whose images are cached spares.
    from scipy.io import loadmat

    try:
        with path.open("rb") as file:
            header = file.read(128)
            if not header.startswith(MATLAB_5) or header[124:] != LITTLE_ENDIAN:
                raise UsageError(f"{path}: not a file of MATLAB 5: it begins with {header[:19]!r}")
            file.seek(0)
            found = loadmat(file, variable_names=("X", "y"))
        images, labels = found["X"], found["y"]
    except UsageError:
        raise
    # Reading can fail in any way. Each means that the file is not what it should be.
    except Exception as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{path}: not a file of SVHN ({type(error).__name__}: {said})") from None
    for name, array in (("X", images), ("y", labels)):
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
            raise UsageError(f"{path}: not a file of SVHN: {name} is no array of uint8")
    if labels.ndim != 2 or labels.shape[1] != 1 or len(labels) == 0:
        raise UsageError(f"{path}: y has shape {labels.shape} where (N, 1) is expected")
    if images.shape != (32, 32, 3, len(labels)):
        raise UsageError(
            f"{path}: X has shape {images.shape} where (32, 32, 3, {len(labels)}) is expected"
        )
    if labels.min() < 1 or labels.max() > 10:
        raise UsageError(f"{path}: a label is out of range: 1 to 9, and 10 for the digit 0")
    # (H, W, C, N) -> (N, H, W, C)
    return Arrays(np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels[:, 0] % 10, path)
