"""Read scikit-learn's digits, which need no download."""

import gzip
import importlib.util
import io
import zlib
from pathlib import Path

import numpy as np

from skiplab.data.arrays import Arrays
from skiplab.data.download import check_size
from skiplab.errors import UsageError
from skiplab.locations import check_kind

# Bytes of scikit-learn's file, unpacked, at most. It holds 267,000.
LARGEST_DIGITS = 2**20


def read_digits(root: Path, split: str) -> Arrays:
    """Read scikit-learn's digits (UCI, 1998): 1,797 images of 8x8. Every fifth one is for the test.

    Their values 0..16 are scaled to 0..255. `root` is not used: scikit-learn brings the file.
    Raises UsageError if scikit-learn is missing or its file is not the one that it ships.
    """
    # find_spec() finds the package without the second that importing it takes.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UsageError("dataset=digits: scikit-learn, which brings the images, is not installed")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        check_kind(path)
        check_size(path, path.stat().st_size, LARGEST_DIGITS)
        with gzip.open(path) as file:
            content = file.read(LARGEST_DIGITS)
        table = np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UsageError(f"{path}: not scikit-learn's digits ({error})") from None
    if table.shape != (1797, 65) or int(table[:, :64].max()) > 16:
        raise UsageError(
            f"{path}: not scikit-learn's digits: "
            f"a table of shape {table.shape} where (1797, 65) is expected"
        )
    is_test = np.arange(len(table)) % 5 == 0
    rows = table[is_test if split == "test" else ~is_test]
    scaled = np.round(rows[:, :64] * (255 / 16)).astype(np.uint8)
    return Arrays(scaled.reshape(-1, 8, 8, 1), np.ascontiguousarray(rows[:, 64]), path)
