"""Reading scikit-learn's digits: any other file is refused in one line that names it."""

import gzip
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from datafiles import EDITS, FUZZ, edited, refusal, survive
from skiplab.data.digits import read_digits
from skiplab.errors import UsageError


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    """1,437 and 360 images: every fifth one, from the first, for the test; 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    # (1797, 64) -> (1797, 8, 8)
    pixels = np.asarray(pixels).reshape(-1, 8, 8)
    fifth = np.arange(1797) % 5 == 0
    for split, rows in (("train", ~fifth), ("test", fifth)):
        arrays = read_digits(tmp_path, split)
        assert arrays.images.shape == ({"train": 1437, "test": 360}[split], 8, 8, 1)
        assert arrays.images.dtype == arrays.labels.dtype == np.uint8
        assert arrays.images.flags.c_contiguous
        assert arrays.labels.flags.c_contiguous
        np.testing.assert_array_equal(np.round(arrays.images[..., 0] * (16 / 255)), pixels[rows])
        np.testing.assert_allclose(
            arrays.images[..., 0] / 255, pixels[rows] / 16, atol=0.5 / 255 + 1e-9
        )
        np.testing.assert_array_equal(arrays.labels, labels[rows])


def test_digits_are_read_without_importing_scikit_learn_or_torch(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from skiplab.data.digits import read_digits
        heavy = {"sklearn", "scipy", "torch"}
        print(len(read_digits(Path("."), "test").labels), sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "360 []\n"), done.stderr


@pytest.fixture(scope="module")
def digits_csv() -> bytes:
    """The content of scikit-learn's own file."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return gzip.decompress((Path(spec.origin).parent / "datasets/data/digits.csv.gz").read_bytes())


@contextmanager
def scikit_learn_at(folder: Path) -> Iterator[Path]:
    """Scikit-learn is found in `folder`. Yields the path of its digits there."""
    path = folder / "datasets/data/digits.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            importlib.util,
            "find_spec",
            lambda _name: ModuleSpec("sklearn", None, origin=str(folder / "__init__.py")),
        )
        yield path


def test_digits_refuse_another_file(tmp_path: Path, digits_csv: bytes) -> None:
    with scikit_learn_at(tmp_path) as path:
        # There is no file yet.
        refusal(lambda: read_digits(tmp_path, "train"), path)
        lines = digits_csv.splitlines(keepends=True)
        for content, said in (
            (b"".join(lines[:-1]), "(1796, 65)"),
            (lines[0], "(65,)"),
            (digits_csv.replace(b"16", b"17", 1), "not scikit-learn's digits"),
            (b"a,b\n", "not scikit-learn's digits"),
        ):
            path.write_bytes(gzip.compress(content, 1))
            assert said in refusal(lambda: read_digits(tmp_path, "train"), path)
        path.write_bytes(gzip.compress(digits_csv)[:-100])
        assert "not scikit-learn's digits" in refusal(lambda: read_digits(tmp_path, "train"), path)


def test_digits_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="scikit-learn, which brings the images, is not installed"):
        read_digits(tmp_path, "train")


def test_fuzz_digits(tmp_path: Path, digits_csv: bytes) -> None:
    @FUZZ
    @given(edits=EDITS, inside=st.booleans())
    def fuzz(edits: list[tuple[int, bytes, int]], inside: bool) -> None:
        content = gzip.compress(edited(digits_csv, edits), 1) if inside else edited(packed, edits)
        survive(lambda _path: read_digits(tmp_path, "train"), path, content)

    packed = gzip.compress(digits_csv, 1)
    with scikit_learn_at(tmp_path) as path:
        fuzz()
