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

# bytes of scikit-learn's file, unpacked; it holds 267,000
LARGEST_DIGITS = 2**20


def read_digits(root: Path, split: str) -> Arrays:
    """scikit-learn's bundled digits (UCI, 1998): 1,797 images of 8x8, values 0..16; every fifth image is the test split."""
    # finds the package without paying a second for importing it
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
            f"{path}: not scikit-learn's digits: a table of shape {table.shape} where (1797, 65) is expected"
        )
    is_test = np.arange(len(table)) % 5 == 0
    rows = table[is_test if split == "test" else ~is_test]
    scaled = np.round(rows[:, :64] * (255 / 16)).astype(np.uint8)
    return Arrays(scaled.reshape(-1, 8, 8, 1), np.ascontiguousarray(rows[:, 64]), path)
