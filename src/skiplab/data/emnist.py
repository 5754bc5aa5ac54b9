"""The published file of EMNIST, an archive that holds every one of its sets, and its reader."""

import gzip
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from skiplab.data import misplaced
from skiplab.data.arrays import Arrays, Bytes
from skiplab.data.download import Published, download, verify
from skiplab.data.idx import read_content, read_header
from skiplab.data.misplaced import Wanted
from skiplab.errors import UsageError
from skiplab.locations import check_kind

# The MD5 is torchvision's.
ARCHIVE = Published(
    "EMNIST/raw",
    "gzip.zip",
    "58c8d27c78d21e728a6bc7b3cc06412e",
    ("https://biometrics.nist.gov/cs_links/EMNIST",),
)
# Bytes of the archive.
SIZE = 561_753_746


def find_archive(root: Path, split: str, *, reread: bool = False) -> list[Path]:
    """Return the verified archive, which is fetched if it is missing. It holds both splits.

    It is not unpacked: what torchvision unpacks beside it has no published checksum. `reread`
    verifies it even if a good verdict is remembered.
    """
    path = root / ARCHIVE.folder / ARCHIVE.name
    if not path.is_file():
        check_kind(path)
        wanted = Wanted(ARCHIVE.folder, ARCHIVE.name, ARCHIVE.md5, SIZE)
        misplaced.check(root, [wanted], dataset="emnist")
        download(ARCHIVE, root, dataset="emnist")
    verify(path, ARCHIVE.md5, size=SIZE, reread=reread)
    return [path]


def read_emnist(root: Path, split: str, *, name: str, first_label: int) -> Arrays:
    """Read one of EMNIST's sets (Cohen et al. 2017), with its images upright.

    The files hold each image with rows and columns swapped. Labels begin with `first_label`
    there, and with 0 here. Raises UsageError naming the archive.
    """
    (path,) = find_archive(root, split, reread=True)
    images = read_member(path, f"emnist-{name}-{split}-images-idx3-ubyte.gz", num_dimensions=3)
    labels = read_member(path, f"emnist-{name}-{split}-labels-idx1-ubyte.gz", num_dimensions=1)
    if len(images) != len(labels):
        raise UsageError(f"{path}: {name}: {len(labels)} labels for {len(images)} images")
    if int(labels.min()) < first_label:
        raise UsageError(
            f"{path}: {name}: label {int(labels.min())} is out of range: they begin with "
            f"{first_label}"
        )
    # (N, W, H) -> (N, H, W, 1)
    upright = np.ascontiguousarray(images.swapaxes(1, 2))[..., np.newaxis]
    return Arrays(upright, labels - np.uint8(first_label), path)


def read_member(path: Path, name: str, *, num_dimensions: int) -> Bytes:
    """Read the IDX file that a gzip member of the archive holds: uint8, shaped as it states."""
    # The member's path, for messages. Its ending says that its size is not that of the content.
    member = path / "gzip" / name
    try:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(f"gzip/{name}") as packed,
            gzip.open(packed) as opened,
        ):
            file = cast(BinaryIO, opened)
            shape = read_header(file, member, num_dimensions)
            content = read_content(file, member, shape)
    except KeyError:
        raise UsageError(f"{path}: lacks gzip/{name}") from None
    # NotImplementedError and RuntimeError: a compression that is unknown, or a password.
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{path}: {name} cannot be read ({said})") from None
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_emnist_letters(root: Path, split: str) -> Arrays:
    """Read EMNIST Letters: 26 classes, upper and lower case together. Labels begin with 1."""
    return read_emnist(root, split, name="letters", first_label=1)


def read_emnist_balanced(root: Path, split: str) -> Arrays:
    """Read EMNIST Balanced: 47 classes, digits and letters."""
    return read_emnist(root, split, name="balanced", first_label=0)
