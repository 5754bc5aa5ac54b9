"""The official files: which are read, and how missing, misplaced or bad ones are reported."""

import gzip
import os
import shutil
import socket
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from datafiles import NOWHERE, lay, md5, refusal, tar_of
from skiplab.data import download, official, splits
from skiplab.data.catalog import DATASETS, Dataset
from skiplab.data.digits import read_digits
from skiplab.data.download import Published
from skiplab.locations import cache_folder

RECORD = 1 + 3072


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKIPLAB_MIRROR", raising=False)
    monkeypatch.delenv("SKIPLAB_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "*")


# --------------------------------------------------------------------------------------------------
# IDX

IMAGES = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2, 3, 3) + bytes(range(18))
PLAIN, PACKED = "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"
FILE = Published("MNIST/raw", PACKED, md5(b"the published archive"), NOWHERE)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(official.IDX_SIZES, PLAIN, len(IMAGES))


def idx(root: Path) -> Path:
    """Find the images of an MNIST of two."""
    return official.find_idx_file(root, FILE, md5(IMAGES), dataset="mnist")


def test_a_gzip_file_that_was_packed_anew_is_taken(tmp_path: Path) -> None:
    raw = lay(tmp_path / "MNIST/raw", {PACKED: gzip.compress(IMAGES, 1)})
    assert idx(tmp_path) == raw / PACKED
    lay(raw, {PACKED: gzip.compress(IMAGES[:-1] + b"x")})
    assert "damaged: its MD5 is" in refusal(lambda: idx(tmp_path))


def test_a_gzip_file_that_unpacks_to_more_is_not_unpacked_to_its_end(tmp_path: Path) -> None:
    lay(tmp_path / "MNIST/raw", {PACKED: gzip.compress(bytes(1 << 24))})
    assert "damaged: its MD5 is" in refusal(lambda: idx(tmp_path))


@pytest.mark.parametrize("name", [PLAIN, PACKED])
def test_an_idx_file_that_is_too_large_is_not_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "md5_of", pytest.fail)
    path = lay(tmp_path / "MNIST/raw", {name: b""}) / name
    os.truncate(path, 12 * 10**9)
    assert refusal(lambda: idx(tmp_path)).startswith(
        f"{path}: damaged: 12,000,000,000 bytes, the published file has "
    )


# Where the file lies, and under which root it is looked for.
PLACES = {
    "a dot for a dash": ("MNIST/raw/train-images.idx3-ubyte", "."),
    "upper case": ("MNIST/raw/TRAIN-IMAGES-IDX3-UBYTE", "."),
    "an underscore": ("MNIST/raw/train_images-idx3-ubyte", "."),
    "in the root": ("train-images-idx3-ubyte", "."),
    "in MNIST": ("MNIST/train-images-idx3-ubyte", "."),
    "a folder in lower case": ("mnist/raw/train-images-idx3-ubyte", "."),
    "too deep by one": ("MNIST/raw/train-images-idx3-ubyte", "MNIST"),
    "too deep by two": ("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw"),
    "too deep, and not there": ("MNIST/raw/train-images-idx3-ubyte", "more"),
    "too shallow": ("data/MNIST/raw/train-images-idx3-ubyte", "."),
    "above a root": ("train-images-idx3-ubyte", "MNIST"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("case", PLACES)
def test_what_lies_near_is_told_with_what_to_do(tmp_path: Path, case: str, packed: bool) -> None:
    """The advice helps: the command as it stands, or the root."""
    place, root = PLACES[case]
    base = tmp_path / "base"
    path = base / (place + (".gz" if packed else ""))
    lay(path.parent, {path.name: gzip.compress(IMAGES, mtime=0) if packed else IMAGES})
    message = refusal(lambda: idx(base / root))
    assert f"but {path} is that file; " in message
    advice = message.rpartition("; ")[2]
    if advice.startswith("set dataset.root="):
        assert idx(Path(advice.removeprefix("set dataset.root="))) == path
    else:
        assert os.system(advice) == 0
        assert idx(base / root).read_bytes() in (IMAGES, gzip.compress(IMAGES, mtime=0))


def test_another_file_of_that_name_is_none(tmp_path: Path) -> None:
    """Fashion-MNIST's files have the same names as MNIST's, and lie in the same root."""
    lay(tmp_path / "FashionMNIST/raw", {PLAIN: IMAGES[::-1], PACKED: gzip.compress(IMAGES[::-1])})
    lay(tmp_path, {"train-images.idx3-ubyte": b"x"})
    os.mkfifo(tmp_path / "train_images-idx3-ubyte")
    assert "could not be fetched from 127.0.0.1:9" in refusal(lambda: idx(tmp_path))


def test_nobody_chose_the_default_root_so_nothing_above_it_counts(tmp_path: Path) -> None:
    lay(tmp_path / "cache/MNIST/raw", {PLAIN: IMAGES})
    assert "could not be fetched" in refusal(lambda: idx(cache_folder()))
    assert "set dataset.root=" in refusal(lambda: idx(tmp_path / "cache/other"))


def put(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "a folder":
        path.mkdir()
    elif kind == "a FIFO (a named pipe)":
        os.mkfifo(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            # A socket's path has 107 bytes at most.
            os.chdir(path.parent)
            listener.bind(path.name)
            os.chdir(here)
    else:
        path.symlink_to("nowhere")


KINDS = ("a folder", "a FIFO (a named pipe)", "a socket", "a link to nowhere, which is not there")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [PLAIN, PACKED])
def test_what_is_no_file_is_said_to_be_so_and_never_opened(
    tmp_path: Path, name: str, kind: str
) -> None:
    put(tmp_path / "MNIST/raw" / name, kind)
    assert refusal(lambda: idx(tmp_path)).startswith(
        f"{tmp_path / 'MNIST/raw' / name}: is {kind}; a data file is expected"
    )
    lay(
        tmp_path / "MNIST/raw",
        {PACKED if name == PLAIN else PLAIN: gzip.compress(IMAGES) if name == PLAIN else IMAGES},
    )
    # The other version is enough.
    assert idx(tmp_path).is_file()


# --------------------------------------------------------------------------------------------------
# CIFAR

PARTS = {f"part_{i}.bin": bytes([i]) * 2 * RECORD for i in range(3)}
PICKLES = {"data_batch_1": b"pickled 1", "test_batch": b"pickled 2"}
ARCHIVE, PYTHON = tar_of(PARTS), tar_of(PICKLES)
# A CIFAR whose test file has no published checksum.
SMALL = replace(
    official.CIFAR10,
    archive=Published("binary", "small.tar.gz", md5(ARCHIVE), NOWHERE),
    binary={
        "train": {name: md5(PARTS[name]) for name in ("part_2.bin", "part_1.bin")},
        "test": {"part_0.bin": None},
    },
    pickled_folder="pickled",
    pickled={
        "train": {"data_batch_1": md5(PICKLES["data_batch_1"])},
        "test": {"test_batch": md5(PICKLES["test_batch"])},
    },
    sizes=dict.fromkeys(PARTS, 2 * RECORD)
    | {name: len(content) for name, content in PICKLES.items()},
    python=Published("", "small-python.tar.gz", md5(PYTHON), NOWHERE),
)


def test_the_files_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = lay(tmp_path / "binary", {"part_1.bin": PARTS["part_1.bin"]})
    said = (
        f"cifar10: part_2.bin missing in {folder}, where 1 of 2 files are; "
        f"small.tar.gz is not in {folder} and could not be fetched"
    )
    assert refusal(lambda: SMALL.find_files(tmp_path, "train")).startswith(said)
    assert refusal(lambda: SMALL.find_files(tmp_path, "test")).startswith(
        f"cifar10: small.tar.gz is not in {folder} and could not be fetched"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["binary/part_2.bin", "pickled/data_batch_1", "small.tar.gz", "binary/small.tar.gz"]
)
def test_no_cifar_file_is_said_to_be_so(tmp_path: Path, name: str, kind: str) -> None:
    put(tmp_path / name, kind)
    assert refusal(lambda: SMALL.find_files(tmp_path, "train")).startswith(
        f"{tmp_path / name}: is {kind}; "
    )


def test_cifar_files_in_another_place_are_told(tmp_path: Path) -> None:
    lay(tmp_path / "base/binary", PARTS)
    assert f"set dataset.root={tmp_path / 'base'}" in refusal(
        lambda: SMALL.find_files(tmp_path / "base/binary", "train")
    )
    assert "and 1 more files likewise" in refusal(lambda: SMALL.find_files(tmp_path, "train"))
    shutil.rmtree(tmp_path / "base")
    lay(tmp_path / "base/pickled", PICKLES)
    assert f"set dataset.root={tmp_path / 'base'}" in refusal(
        lambda: SMALL.find_files(tmp_path / "base/pickled", "train")
    )
    shutil.rmtree(tmp_path / "base")
    lay(tmp_path / "base", {"small-python.tar.gz": PYTHON})
    message = refusal(lambda: SMALL.find_files(tmp_path / "base", "train"))
    assert (
        f"{tmp_path / 'base/small-python.tar.gz'} is there, but not unpacked; tar -xzf " in message
    )
    lay(tmp_path / "base", {"small.tar.gz": ARCHIVE})
    assert [path.name for path in SMALL.find_files(tmp_path / "base", "train")] == [
        "part_2.bin",
        "part_1.bin",
    ]


def test_a_sparse_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path / "binary", PARTS)
    monkeypatch.setattr(download, "md5_of", pytest.fail)
    for name, split in (("part_0.bin", "test"), ("part_2.bin", "train")):
        os.truncate(tmp_path / "binary" / name, 4_000_000 * RECORD)
        said = "damaged: 12,292,000,000 bytes, the published file has 6,146"
        assert said in refusal(lambda split=split: SMALL.find_files(tmp_path, split))
    for read, folder, name in (
        (official.CIFAR100.find_files, "cifar-100-binary", "train.bin"),
        (official.CIFAR100.find_files, "cifar-100-python", "train"),
    ):
        path = lay(tmp_path / folder, {name: b""}) / name
        os.truncate(path, 12 * 10**9)
        assert f"{path}: damaged: 12,000,000,000 bytes, the published file has 15" in refusal(
            lambda read=read: read(tmp_path, "train")
        )
        path.unlink()
    archive = lay(tmp_path / "other", {"small.tar.gz": b""}) / "small.tar.gz"
    os.truncate(archive, 12 * 10**9)
    assert "which no file of a data set has" in refusal(
        lambda: SMALL.find_files(tmp_path / "other", "train")
    )


def test_a_file_without_a_published_checksum_must_have_the_published_size(tmp_path: Path) -> None:
    path = lay(tmp_path / "binary", PARTS) / "part_0.bin"
    path.write_bytes(bytes(RECORD))
    assert "damaged: 3,073 bytes, the published file has 6,146" in refusal(
        lambda: SMALL.find_files(tmp_path, "test")
    )


def changed(path: Path) -> None:
    path.write_bytes(bytes([9]) * 2 * RECORD)


def test_what_nothing_is_known_of_is_read_on_trust_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lay(tmp_path / "binary", PARTS) / "part_0.bin"
    changed(path)
    assert SMALL.find_files(tmp_path, "test") == [path]
    assert SMALL.find_unverified(tmp_path, "test") == [path]
    assert SMALL.find_unverified(tmp_path, "train") == []
    small = Dataset(read_digits, find_unverified=SMALL.find_unverified)
    monkeypatch.setitem(DATASETS, "small", small)
    assert splits.find_unverified("small", root=tmp_path) == [path]
    assert splits.find_unverified("digits", root=tmp_path) == []


@pytest.mark.parametrize("place", ["", "binary"])
def test_beside_the_archive_every_file_is_verified(tmp_path: Path, place: str) -> None:
    path = lay(tmp_path / "binary", PARTS) / "part_0.bin"
    lay(tmp_path / place, {"small.tar.gz": ARCHIVE})
    assert SMALL.find_unverified(tmp_path, "test") == []
    assert SMALL.find_files(tmp_path, "test") == [path]
    changed(path)
    assert f"{path}: damaged: its MD5 is" in refusal(lambda: SMALL.find_files(tmp_path, "test"))


def test_what_was_unpacked_here_is_verified_without_the_archive(tmp_path: Path) -> None:
    lay(tmp_path, {"small.tar.gz": ARCHIVE})
    (path,) = SMALL.find_files(tmp_path, "test")
    (tmp_path / "small.tar.gz").unlink()
    assert SMALL.find_unverified(tmp_path, "test") == []
    changed(path)
    assert "damaged: its MD5 is" in refusal(lambda: SMALL.find_files(tmp_path, "test"))


def test_a_damaged_archive_vouches_for_nothing(tmp_path: Path) -> None:
    path = lay(tmp_path / "binary", PARTS) / "part_0.bin"
    lay(tmp_path, {"small.tar.gz": tar_of({**PARTS, "part_0.bin": bytes(6146)})})
    assert SMALL.find_unverified(tmp_path, "test") == [path]
    assert SMALL.find_files(tmp_path, "test") == [path]


def test_files_that_can_be_verified_are_preferred(tmp_path: Path) -> None:
    lay(tmp_path / "binary", PARTS)
    lay(tmp_path / "pickled", PICKLES)
    assert SMALL.find_files(tmp_path, "test") == [tmp_path / "pickled/test_batch"]
    assert SMALL.find_unverified(tmp_path, "test") == []


def test_decoding_reads_verified_bytes_whatever_is_remembered(tmp_path: Path) -> None:
    """A verdict is remembered by times, which a clock set back or a file system may repeat."""
    lay(tmp_path / "binary", PARTS)
    SMALL.find_files(tmp_path, "train")
    path = tmp_path / "binary/part_1.bin"
    changed(path)
    stat = path.stat()
    known = md5(PARTS["part_1.bin"])
    download.remember(str(path), [stat.st_size, stat.st_mtime_ns, known, stat.st_ctime_ns])
    SMALL.find_files(tmp_path, "train")
    assert "damaged" in refusal(lambda: SMALL.find_files(tmp_path, "train", reread=True))
