"""Kuzushiji-MNIST, EMNIST, SVHN and STL-10: torchvision reads the same bytes to the same images."""

import gzip
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from scipy.io import savemat
from torchvision import datasets

from datafiles import (
    EDITS,
    FUZZ,
    Bytes,
    edited,
    idx_bytes,
    lay,
    little_memory,
    made_up,
    md5,
    refusal,
    survive,
    tar_of,
)
from helpers import SMALL, Cli
from skiplab.data import emnist, official, splits, stl10, svhn
from skiplab.data.arrays import Arrays
from skiplab.data.catalog import DATASETS
from skiplab.data.download import Published
from skiplab.data.emnist import read_emnist_letters
from skiplab.data.stl10 import read_pair
from skiplab.data.svhn import read_mat

SPLITS = ("train", "test")
# Images of each split of the small sets.
COUNTS = {"train": 30, "test": 12}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKIPLAB_MIRROR", raising=False)
    monkeypatch.delenv("SKIPLAB_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "*")


def labels_of(count: int, classes: int, *, first: int = 0) -> Bytes:
    """Labels that begin with `first`; every class occurs if there are enough."""
    return (np.arange(count) % classes + first).astype(np.uint8)


def mat_of(**arrays: object) -> bytes:
    """A file of MATLAB 5, compressed as SVHN's are."""
    file = io.BytesIO()
    savemat(file, arrays, do_compression=True)
    return file.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"gzip/{name}", content)
    return packed.getvalue()


def published(file: Published, content: bytes) -> Published:
    return Published(file.folder, file.name, md5(content), ("http://127.0.0.1:9",))


Make = Callable[[pytest.MonkeyPatch], dict[str, bytes]]


def make_kmnist(patched: pytest.MonkeyPatch) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for split, (images, labels) in official.IDX_NAMES.items():
        files[images] = idx_bytes(made_up(COUNTS[split], 28, 28))
        files[labels] = idx_bytes(labels_of(COUNTS[split], 10))
    for name, content in files.items():
        packed = gzip.compress(content, mtime=0)
        patched.setitem(official.KMNIST_MD5, name, md5(packed))
    patched.setattr(official, "KMNIST_HOSTS", ("http://127.0.0.1:9",))
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}
    return {f"KMNIST/raw/{name}": content for name, content in (files | packed).items()}


def make_emnist(patched: pytest.MonkeyPatch) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name, classes, first in (("letters", 26, 1), ("balanced", 47, 0)):
        for split, count in COUNTS.items():
            prefix = f"emnist-{name}-{split}"
            files[f"{prefix}-images-idx3-ubyte"] = idx_bytes(made_up(count, 28, 28))
            files[f"{prefix}-labels-idx1-ubyte"] = idx_bytes(labels_of(count, classes, first=first))
    archive = zip_of({f"{name}.gz": gzip.compress(each) for name, each in files.items()})
    patched.setattr(emnist, "ARCHIVE", published(emnist.ARCHIVE, archive))
    patched.setattr(emnist, "SIZE", len(archive))
    return {f"EMNIST/raw/{name}": each for name, each in (files | {"gzip.zip": archive}).items()}


def make_svhn(patched: pytest.MonkeyPatch) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for split, count in COUNTS.items():
        labels = labels_of(count, 10, first=1).reshape(-1, 1)
        content = mat_of(X=made_up(32, 32, 3, count), y=labels)
        name = f"{split}_32x32.mat"
        files[name] = content
        patched.setitem(svhn.FILES, split, published(svhn.FILES[split], content))
        patched.setitem(svhn.SIZES, name, len(content))
        patched.setitem(datasets.SVHN.split_list, split, ["", name, md5(content)])
    return files


def make_stl10(patched: pytest.MonkeyPatch) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for split, count in COUNTS.items():
        files[f"{split}_X.bin"] = made_up(count, 3, 96, 96).tobytes()
        files[f"{split}_y.bin"] = labels_of(count, 10, first=1).tobytes()
        listed = [[name, md5(files[name])] for name in stl10.FILES[split]]
        patched.setitem(stl10.FILES, split, dict(listed))
        extra = [["", ""]] if split == "train" else []
        patched.setattr(datasets.STL10, f"{split}_list", listed + extra)
    patched.setattr(stl10, "SIZES", {name: len(content) for name, content in files.items()})
    patched.setattr(datasets.STL10, "_check_integrity", lambda _self: True)
    archive = tar_of(files | {"unlabeled_X.bin": bytes(999)})
    patched.setattr(stl10, "ARCHIVE", published(stl10.ARCHIVE, archive))
    patched.setattr(stl10, "ARCHIVE_SIZE", len(archive))
    return {f"stl10_binary/{name}": each for name, each in files.items()} | {
        "stl10_binary.tar.gz": archive
    }


# Each makes the small files of a set, and has the published checksums be theirs.
MAKERS: dict[str, Make] = {
    "kmnist": make_kmnist,
    "emnist_letters": make_emnist,
    "emnist_balanced": make_emnist,
    "svhn": make_svhn,
    "stl10": make_stl10,
}
# What is fetched for each, of the files above.
FETCHED = {
    "kmnist": [f"KMNIST/raw/{name}.gz" for names in official.IDX_NAMES.values() for name in names],
    "emnist_letters": ["EMNIST/raw/gzip.zip"],
    "emnist_balanced": ["EMNIST/raw/gzip.zip"],
    "svhn": ["train_32x32.mat", "test_32x32.mat"],
    "stl10": ["stl10_binary.tar.gz"],
}


def put(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = root / name
        lay(path.parent, {path.name: content})


def by_torchvision(name: str, root: Path, split: str) -> tuple[Bytes, Bytes]:
    """What torchvision reads: images (N, H, W, C), upright, and labels from 0."""
    is_train = split == "train"
    if name == "kmnist":
        found = datasets.KMNIST(root, train=is_train)
        return found.data.numpy()[..., None], found.targets.numpy()
    if name.startswith("emnist"):
        found = datasets.EMNIST(root, split=name.removeprefix("emnist_"), train=is_train)
        # Torchvision leaves the images transposed, and the labels of letters as they are.
        labels = found.targets.numpy() - (name == "emnist_letters")
        return found.data.numpy().transpose(0, 2, 1)[..., None], labels
    if name == "svhn":
        found = datasets.SVHN(root, split=split)
        return found.data.transpose(0, 2, 3, 1), found.labels
    found = datasets.STL10(root, split=split)
    assert found.labels is not None
    return found.data.transpose(0, 2, 3, 1), found.labels


@pytest.mark.parametrize("name", MAKERS)
def test_torchvision_reads_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, MAKERS[name](monkeypatch))
    for split in SPLITS:
        found = DATASETS[name].read(tmp_path, split)
        images, labels = by_torchvision(name, tmp_path, split)
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.labels, labels)
        assert found.images.dtype == found.labels.dtype == np.uint8
        assert found.images.flags.c_contiguous
        assert found.labels.flags.c_contiguous
        assert found.labels.min() == 0


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files $SKIPLAB_MIRROR serves, on this machine."""
    folder = lay(tmp_path / "mirror", {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    monkeypatch.setenv("SKIPLAB_MIRROR", f"http://127.0.0.1:{server.server_port}")
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", MAKERS)
def test_a_set_is_fetched_checked_and_read(
    name: str, tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = MAKERS[name](monkeypatch)
    for each in FETCHED[name]:
        lay(mirror, {Path(each).name: files[each]})
    root = tmp_path / "root"
    for split in SPLITS:
        assert len(DATASETS[name].read(root, split).labels) == COUNTS[split]
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    unpacked = {path for path in files if path.endswith(".bin")} if name == "stl10" else set()
    assert there == {*FETCHED[name], *unpacked}
    # What is there is not fetched again, and what is damaged is not read.
    for path in mirror.iterdir():
        path.unlink()
    splits.find(name, "test", root=root)
    damaged = root / ("stl10_binary/test_X.bin" if name == "stl10" else FETCHED[name][-1])
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert "damaged: its MD5 is" in refusal(lambda: DATASETS[name].read(root, "test"), damaged)


@pytest.mark.parametrize("name", MAKERS)
def test_a_set_that_lies_elsewhere_or_nowhere_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = MAKERS[name](monkeypatch)
    root = tmp_path / "base"
    said = refusal(lambda: DATASETS[name].read(root, "train"))
    assert "could not be fetched from 127.0.0.1:9" in said
    assert said.startswith(f"{name.partition('_')[0]}: ")
    needed = [each for each in FETCHED[name] if "t10k" not in each]
    put(root / "deeper", {each: files[each] for each in needed})
    assert f"set dataset.root={root / 'deeper'}" in refusal(
        lambda: DATASETS[name].read(root, "train")
    )


def test_a_run_on_stl10_goes_to_its_end(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of it, shrunk, with class weights."""
    put(Path("data"), make_stl10(monkeypatch))
    code, out, err = call(
        *SMALL, "dataset=stl10", "dataset.root=data", "dataset.resize=16",
        "dataset.train_images=30", "dataset.test_images=12", "dataset.per_class=2",
        "trainer.class_weights=balanced", "batch_size=10", "epochs=1", "out=run",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "stl10: 20 training, 3 validation, 12 test images\n2 steps of 10 images on" in out


# --------------------------------------------------------------------------------------------------
# Files that are not what they should be


def read_first(root: Path, archive: bytes, patched: pytest.MonkeyPatch) -> Callable[[], Arrays]:
    path = lay(root / "EMNIST/raw", {"gzip.zip": archive}) / "gzip.zip"
    patched.setattr(emnist, "ARCHIVE", published(emnist.ARCHIVE, path.read_bytes()))
    return lambda: read_emnist_letters(root, "train")


def test_emnist_refuses_what_its_archive_should_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = (
        f"emnist-letters-train-{end}.gz" for end in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    good = {
        images: gzip.compress(idx_bytes(made_up(5, 28, 28))),
        labels: gzip.compress(idx_bytes(labels_of(5, 26, first=1))),
    }
    cases = {
        "not a zip": (b"PK no", "cannot be read"),
        "lacks gzip/emnist-letters-train-labels": (zip_of({images: good[images]}), "lacks gzip/"),
        "not gzip": (zip_of(good | {labels: b"plain"}), "cannot be read"),
        "cut off": (zip_of(good | {images: good[images][:-9]}), "cannot be read"),
        "other magic": (zip_of(good | {labels: good[images]}), "not an IDX file of 1 dimensions"),
        "fewer labels": (
            zip_of(good | {labels: gzip.compress(idx_bytes(labels_of(4, 26, first=1)))}),
            "4 labels for 5 images",
        ),
        "a label 0": (
            zip_of(good | {labels: gzip.compress(idx_bytes(labels_of(5, 26)))}),
            "label 0 is out of range",
        ),
    }
    assert len(read_first(tmp_path, zip_of(good), monkeypatch)().labels) == 5
    for archive, said in cases.values():
        read = read_first(tmp_path, archive, monkeypatch)
        assert said in refusal(read)


GOOD = {"X": made_up(32, 32, 3, 4), "y": labels_of(4, 10, first=1).reshape(-1, 1)}
MATLAB_4 = io.BytesIO()
savemat(MATLAB_4, {"X": np.zeros((2, 2))}, format="4")
BAD_MATS = {
    "empty": (b"", "not a file of MATLAB 5"),
    "version 7.3": (b"MATLAB 7.3 MAT-file" + bytes(200), "not a file of MATLAB 5"),
    "version 4": (MATLAB_4.getvalue(), "not a file of MATLAB 5"),
    "a pickle": (b"\x80\x04\x95" + bytes(200), "not a file of MATLAB 5"),
    "cut off": (mat_of(**GOOD)[:-40], "not a file of SVHN"),
    "header alone": (mat_of(**GOOD)[:128], "not a file of SVHN (KeyError: 'X')"),
    "no labels": (mat_of(X=GOOD["X"]), "not a file of SVHN (KeyError: 'y')"),
    "float images": (mat_of(X=GOOD["X"] / 255, y=GOOD["y"]), "X is no array of uint8"),
    "objects": (
        mat_of(X=np.array([{"a": 1}, "b"], dtype=object), y=GOOD["y"]),
        "X is no array of uint8",
    ),
    "text labels": (mat_of(X=GOOD["X"], y="abcd"), "y is no array of uint8"),
    "labels in a row": (mat_of(X=GOOD["X"], y=GOOD["y"].T), "y has shape (1, 4)"),
    "fewer labels": (mat_of(X=GOOD["X"], y=GOOD["y"][:3]), "(32, 32, 3, 3) is expected"),
    "other axes": (
        mat_of(X=GOOD["X"].transpose(3, 0, 1, 2), y=GOOD["y"]),
        "X has shape (4, 32, 32, 3)",
    ),
    "a label 0": (mat_of(X=GOOD["X"], y=GOOD["y"] - 1), "a label is out of range"),
    "a label 11": (mat_of(X=GOOD["X"], y=GOOD["y"] + 7), "a label is out of range"),
}


@pytest.mark.parametrize("case", BAD_MATS)
def test_svhn_refuses(tmp_path: Path, case: str) -> None:
    content, said = BAD_MATS[case]
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(content)
    assert said in refusal(lambda: read_mat(path), path)


@pytest.mark.slow
def test_fuzz_svhn(tmp_path: Path) -> None:
    content = mat_of(**GOOD)

    @FUZZ
    @given(edits=EDITS)
    def fuzz(edits: list[tuple[int, bytes, int]]) -> None:
        survive(read_mat, tmp_path / "a.mat", edited(content, edits))

    # SciPy is imported before memory is short.
    read_mat(lay(tmp_path, {"good.mat": content}) / "good.mat")
    with little_memory(1 << 30):
        fuzz()


BAD_PAIRS = {
    "no images": (b"", b"", "no whole number of images"),
    "a byte too few": (bytes(stl10.IMAGE_SIZE - 1), b"\x01", "no whole number of images"),
    "fewer labels": (bytes(2 * stl10.IMAGE_SIZE), b"\x01", "1 labels for the 2 images"),
    "a label 0": (bytes(stl10.IMAGE_SIZE), b"\x00", "out of range: 10 classes, so 1 to 10"),
    "a label 11": (bytes(stl10.IMAGE_SIZE), b"\x0b", "out of range: 10 classes, so 1 to 10"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_stl10_refuses(tmp_path: Path, case: str) -> None:
    images, labels, said = BAD_PAIRS[case]
    lay(tmp_path, {"X.bin": images, "y.bin": labels})
    assert said in refusal(lambda: read_pair(tmp_path / "X.bin", tmp_path / "y.bin"))
