"""The strict readers: what the official files hold comes back, anything else is one line that names the file."""

import gzip
import hashlib
import importlib.util
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from skiplab.data import formats, official
from skiplab.data.download import Published, extract
from skiplab.errors import UsageError

Bytes = NDArray[np.uint8]
# nobody listens there: what a test does not put in its folder cannot be had
NOWHERE = ("http://127.0.0.1:9",)


def made_up(*shape: int, below: int = 256) -> Bytes:
    """The same pseudo-random bytes every time."""
    return np.random.default_rng(0).integers(0, below, shape, dtype=np.uint8)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def refusal(call: Callable[[], object], path: Path) -> str:
    """The message of the UsageError that `call` must raise: one line that begins with the file."""
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


# -------------------------------------------------------------------------------------------------------------------
# IDX


def idx(
    data: Bytes, *, magic: bytes | None = None, dimensions: tuple[int, ...] | None = None
) -> bytes:
    """An IDX file as the format's definition says, or one whose header lies."""
    shape = data.shape if dimensions is None else dimensions
    return (
        (bytes((0, 0, 8, data.ndim)) if magic is None else magic)
        + struct.pack(f">{len(shape)}I", *shape)
        + data.tobytes()
    )


IMAGES = made_up(5, 4, 3)
PACKED = gzip.compress(idx(IMAGES), mtime=0)


@pytest.mark.parametrize("name", ["images-idx3-ubyte", "images-idx3-ubyte.gz"])
@pytest.mark.parametrize(
    "data", [IMAGES, made_up(7), made_up(2, 3), made_up(1, 1, 1)], ids=lambda data: str(data.shape)
)
def test_idx_round_trip(tmp_path: Path, name: str, data: Bytes) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(idx(data)) if name.endswith(".gz") else idx(data))
    read = formats.read_idx(path, num_dimensions=data.ndim)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, data)
    # torch warns about arrays that are not
    assert read.flags.writeable
    assert read.flags.c_contiguous


BAD_IDX = {
    "empty": (b"", "not an IDX file of 3 dimensions"),
    "cut off inside the header": (idx(IMAGES)[:9], "not an IDX file of 3 dimensions"),
    "signed bytes": (idx(IMAGES, magic=bytes((0, 0, 9, 3))), "begins with 00 00 09 03"),
    "little endian": (idx(IMAGES, magic=bytes((3, 8, 0, 0))), "begins with 03 08 00 00"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "begins with 3c 21 44 4f"),
    "labels in the place of images": (idx(made_up(20)), "begins with 00 00 08 01"),
    "header bigger than the file": (idx(IMAGES, dimensions=(6, 4, 3)), "(6, 4, 3)"),
    "one byte too few": (idx(IMAGES)[:-1], "(5, 4, 3)"),
    "one byte too many": (idx(IMAGES) + b"x", "(5, 4, 3)"),
    "huge dimensions": (idx(IMAGES, dimensions=(2**32 - 1,) * 3), "4294967295"),
    "no images": (idx(IMAGES, dimensions=(0, 4, 3))[:16], "holds nothing"),
    "no images of a huge size": (
        idx(IMAGES, dimensions=(0, 2**32 - 1, 2**32 - 1))[:16],
        "holds nothing",
    ),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("case", BAD_IDX)
def test_idx_refuses(tmp_path: Path, case: str, suffix: str) -> None:
    content, said = BAD_IDX[case]
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    assert said in refusal(lambda: formats.read_idx(path, num_dimensions=3), path)


BAD_GZIP = {
    "empty": b"",
    "not gzip at all": idx(IMAGES),
    "cut off in the middle": PACKED[: len(PACKED) // 2],
    "cut off in its checksum": PACKED[:-3],
    "another checksum": PACKED[:-8] + bytes(4) + PACKED[-4:],
    "damaged stream": PACKED[:10] + bytes(byte ^ 0xFF for byte in PACKED[10:20]) + PACKED[20:],
}


@pytest.mark.parametrize("case", BAD_GZIP)
def test_idx_refuses_damaged_gzip(tmp_path: Path, case: str) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(BAD_GZIP[case])
    refusal(lambda: formats.read_idx(path, num_dimensions=3), path)


def test_idx_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "absent", "cannot be read"), (tmp_path, "is a folder")):
        assert said in refusal(lambda path=path: formats.read_idx(path, num_dimensions=3), path)


READERS: dict[str, Callable[[Path], object]] = {
    "images": lambda path: formats.read_idx(path, num_dimensions=3),
    "images.gz": lambda path: formats.read_idx(path, num_dimensions=3),
    "batch.bin": lambda path: formats.read_cifar_binary(path, num_label_bytes=2, num_classes=100),
    "data_batch_1": lambda path: formats.read_cifar_pickle(
        path, label_key=b"labels", num_classes=10
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_no_reader_opens_a_fifo_or_reads_gigabytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    assert "is a FIFO" in refusal(lambda: READERS[name](path), path)
    path.unlink()
    header = idx(IMAGES, dimensions=(4_000_000, 56, 56))[:16]
    path.write_bytes(gzip.compress(header) if name.endswith(".gz") else header)
    if not name.endswith(".gz"):
        os.truncate(path, 16 + 4_000_000 * 56 * 56 if name == "images" else 4_000_000 * 3074)
    tracemalloc.start()
    try:
        assert "which no file of a data set has" in refusal(lambda: READERS[name](path), path)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_header_that_states_terabytes_costs_no_memory(tmp_path: Path, suffix: str) -> None:
    content = idx(IMAGES, dimensions=(2**32 - 1, 2**12, 2**12))
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    tracemalloc.start()
    try:
        refusal(lambda: formats.read_idx(path, num_dimensions=3), path)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # one piece of 16 MiB and some change
    assert peak < 40 << 20


def test_idx_pair_adds_the_channel_axis(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx(IMAGES))
    labels.write_bytes(idx(made_up(5, below=10)))
    arrays = formats.read_idx_pair(images, labels)
    np.testing.assert_array_equal(arrays.images, IMAGES[..., np.newaxis])
    np.testing.assert_array_equal(arrays.labels, made_up(5, below=10))


def test_idx_pair_refuses_counts_that_differ(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx(IMAGES))
    labels.write_bytes(idx(made_up(4)))
    assert "4 labels for the 5 images of images" in refusal(
        lambda: formats.read_idx_pair(images, labels), labels
    )


def test_idx_file_prefers_a_plain_file_only_if_its_md5_is_published(tmp_path: Path) -> None:
    plain, packed = tmp_path / "raw/images", tmp_path / "raw/images.gz"
    plain.parent.mkdir()
    plain.write_bytes(idx(IMAGES))
    packed.write_bytes(PACKED)
    file = Published("raw", "images.gz", md5(PACKED), NOWHERE)
    assert official.idx_file(tmp_path, file, md5(idx(IMAGES)), dataset="made_up") == plain
    assert official.idx_file(tmp_path, file, None, dataset="made_up") == packed
    assert "damaged" in refusal(
        lambda: official.idx_file(tmp_path, file, md5(b"other"), dataset="made_up"), plain
    )
    packed.write_bytes(PACKED + b"x")
    assert "damaged" in refusal(
        lambda: official.idx_file(tmp_path, file, None, dataset="made_up"), packed
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_with_a_pixel_changed_is_refused(tmp_path: Path, split: str) -> None:
    """torchvision checks the archive only and would read these."""
    path = tmp_path / "MNIST/raw" / official.IDX_NAMES[split][0]
    path.parent.mkdir(parents=True)
    path.write_bytes(idx(made_up(3, 28, 28)))
    assert "damaged: its MD5 is" in refusal(lambda: formats.mnist(tmp_path, split), path)


# -----------------------------------------------------------------------------------------------------------
# binary CIFAR


def cifar_binary(images: Bytes, labels: Bytes) -> bytes:
    """Records written pixel by pixel from images (N, 32, 32, 3) and label bytes (N, 1 or 2)."""
    content = bytearray()
    for image, label in zip(images, labels, strict=True):
        content += bytes(label)
        for channel in range(3):
            for row in range(32):
                content += bytes(image[row, :, channel])
    return bytes(content)


@pytest.mark.parametrize("num_label_bytes", [1, 2])
def test_cifar_binary_round_trip(tmp_path: Path, num_label_bytes: int) -> None:
    """Plane order is undone: images come back (N, 32, 32, 3); of two label bytes (coarse, fine) the fine one counts."""
    images, labels = made_up(4, 32, 32, 3), made_up(4, num_label_bytes, below=10)
    path = tmp_path / "batch.bin"
    path.write_bytes(cifar_binary(images, labels))
    assert path.stat().st_size == 4 * (3072 + num_label_bytes)
    arrays = formats.read_cifar_binary(path, num_label_bytes=num_label_bytes, num_classes=10)
    np.testing.assert_array_equal(arrays.images, images)
    np.testing.assert_array_equal(arrays.labels, labels[:, -1])
    assert arrays.images.flags.c_contiguous
    assert arrays.labels.flags.c_contiguous


def test_cifar_binary_planes_are_red_green_blue(tmp_path: Path) -> None:
    path = tmp_path / "batch.bin"
    path.write_bytes(
        bytes([7]) + bytes([10]) * 1024 + bytes([20]) * 1024 + bytes([30]) * 1023 + bytes([31])
    )
    arrays = formats.read_cifar_binary(path, num_label_bytes=1, num_classes=10)
    assert arrays.labels.tolist() == [7]
    assert arrays.images[0, 0, 0].tolist() == [10, 20, 30]
    assert arrays.images[0, 31, 31].tolist() == [10, 20, 31]


@pytest.mark.parametrize("num_bytes", [0, 1, 3072, 3074, 2 * 3073 - 1])
def test_cifar_binary_refuses_sizes_that_are_no_whole_records(
    tmp_path: Path, num_bytes: int
) -> None:
    path = tmp_path / "batch.bin"
    path.write_bytes(bytes(num_bytes))
    message = refusal(
        lambda: formats.read_cifar_binary(path, num_label_bytes=1, num_classes=10), path
    )
    assert f"{num_bytes} bytes are no whole number of 3073-byte CIFAR records" in message


def test_cifar_binary_refuses_labels_out_of_range(tmp_path: Path) -> None:
    path = tmp_path / "batch.bin"
    path.write_bytes(cifar_binary(made_up(3, 32, 32, 3), np.array([[0], [10], [9]], np.uint8)))
    assert "label 10 is out of range: 10 classes, so 0 to 9" in refusal(
        lambda: formats.read_cifar_binary(path, num_label_bytes=1, num_classes=10), path
    )
    assert len(formats.read_cifar_binary(path, num_label_bytes=1, num_classes=11).labels) == 3


def test_cifar_binary_refuses_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "absent.bin"
    assert "cannot be read" in refusal(
        lambda: formats.read_cifar_binary(path, num_label_bytes=1, num_classes=10), path
    )


# ----------------------------------------------------------------------------------------------------------
# pickled CIFAR


def text(value: bytes) -> bytes:
    """Python 2's str as protocol 2 writes it."""
    return pickle.BINSTRING + struct.pack("<i", len(value)) + value


def integer(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def global_(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def in_tuple(*parts: bytes) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def python2_array(array: Bytes, *, kind: bytes = b"u1", is_fortran: bool = False) -> bytes:
    """A uint8 array as NumPy 1 under Python 2 pickled it, which is what the official files hold."""
    empty = in_tuple(global_("numpy", "ndarray"), in_tuple(integer(0)), text(b"b"))
    dtype_state = in_tuple(
        integer(3), text(b"|"), pickle.NONE * 3, integer(-1), integer(-1), integer(0)
    )
    dtype = (
        global_("numpy", "dtype")
        + in_tuple(text(kind), integer(0), integer(1))
        + pickle.REDUCE
        + dtype_state
        + pickle.BUILD
    )
    order, content = (
        (pickle.NEWTRUE, array.tobytes("F")) if is_fortran else (pickle.NEWFALSE, array.tobytes())
    )
    state = in_tuple(integer(1), in_tuple(*map(integer, array.shape)), dtype, order, text(content))
    return (
        global_("numpy.core.multiarray", "_reconstruct")
        + empty
        + pickle.REDUCE
        + state
        + pickle.BUILD
    )


def cifar_pickle(
    planes: bytes, labels: list[int] | bytes, *, label_key: bytes = b"labels"
) -> bytes:
    """{b"batch_label": ..., label_key: labels, b"data": planes} in protocol 2; `planes` is the pickle of its value, `labels` may be."""
    if not isinstance(labels, bytes):
        labels = pickle.EMPTY_LIST + pickle.MARK + b"".join(map(integer, labels)) + pickle.APPENDS
    entries = (
        text(b"batch_label"),
        text(b"training batch 1 of 5"),
        text(label_key),
        labels,
        text(b"data"),
        planes,
    )
    return (
        pickle.PROTO
        + b"\x02"
        + pickle.EMPTY_DICT
        + pickle.MARK
        + b"".join(entries)
        + pickle.SETITEMS
        + pickle.STOP
    )


def planes_of(images: Bytes) -> Bytes:
    # (N, 32, 32, 3) -> (N, 3072)
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


PICKLED = cifar_pickle(python2_array(planes_of(made_up(3, 32, 32, 3))), [2, 0, 9])


def read_pickle(path: Path) -> formats.Arrays:
    return formats.read_cifar_pickle(path, label_key=b"labels", num_classes=10)


@pytest.mark.parametrize("is_fortran", [False, True])
def test_cifar_pickle_is_read(tmp_path: Path, is_fortran: bool) -> None:
    images = made_up(3, 32, 32, 3)
    content = cifar_pickle(python2_array(planes_of(images), is_fortran=is_fortran), [2, 0, 9])
    # a real pickle
    np.testing.assert_array_equal(
        pickle.loads(content, encoding="bytes")[b"data"], planes_of(images)
    )
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    arrays = read_pickle(path)
    np.testing.assert_array_equal(arrays.images, images)
    assert arrays.labels.tolist() == [2, 0, 9]
    assert arrays.labels.dtype == arrays.images.dtype == np.uint8
    # torch warns about arrays that are not
    assert arrays.images.flags.writeable
    assert arrays.images.flags.c_contiguous


def test_cifar100_pickle_has_its_own_label_key(tmp_path: Path) -> None:
    path = tmp_path / "train"
    path.write_bytes(
        cifar_pickle(python2_array(made_up(2, 3072)), [99, 1], label_key=b"fine_labels")
    )
    assert formats.read_cifar_pickle(
        path, label_key=b"fine_labels", num_classes=100
    ).labels.tolist() == [99, 1]
    assert "KeyError" in refusal(lambda: read_pickle(path), path)


def called(form: str, module: str, name: str, arguments: bytes) -> bytes:
    """The pickle of module.name(*arguments), in one of the three ways to ask for a global."""
    if form == "inst":
        return pickle.MARK + arguments + pickle.INST + f"{module}\n{name}\n".encode()
    function = global_(module, name)
    if form == "stack_global":
        function = (
            pickle.UNICODE
            + f"{module}\n".encode()
            + pickle.UNICODE
            + f"{name}\n".encode()
            + pickle.STACK_GLOBAL
        )
    return function + in_tuple(arguments) + pickle.REDUCE


def unicode(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


# what a hostile pickle may ask for, each of which makes a file `canary` (or canary.npy) in the
# working folder
DANGEROUS = {
    "os.system": ("os", "system", unicode("touch canary")),
    "posix.system": ("posix", "system", unicode("touch canary")),
    "builtins.eval": ("builtins", "eval", unicode("__import__('pathlib').Path('canary').touch()")),
    "__builtin__.eval": (
        "__builtin__",
        "eval",
        unicode("__import__('pathlib').Path('canary').touch()"),
    ),
    "pathlib.os.mkdir": ("pathlib", "os.mkdir", unicode("canary")),
    "numpy.save": ("numpy", "save", unicode("canary") + integer(0)),
    "numpy.memmap": (
        "numpy",
        "memmap",
        unicode("canary") + unicode("uint8") + unicode("w+") + integer(0) + in_tuple(integer(1)),
    ),
}


@pytest.mark.parametrize("form", ["global", "inst", "stack_global"])
@pytest.mark.parametrize("case", DANGEROUS)
def test_cifar_pickle_that_asks_for_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    module, name, arguments = DANGEROUS[case]
    path = tmp_path / "data_batch_1"
    path.write_bytes(cifar_pickle(called(form, module, name, arguments), [1]))
    message = refusal(lambda: read_pickle(path), path)
    assert f"UnpicklingError: it asks for {module}.{name}" in message
    assert not list(tmp_path.glob("canary*"))


@pytest.mark.parametrize("case", DANGEROUS)
def test_the_canary_sings_where_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The test above would fail, if these pickles could do no harm anyway."""
    monkeypatch.chdir(tmp_path)
    module, name, arguments = DANGEROUS[case]
    # 2 still knows Python 2's names, from 4 on they may hold dots
    protocol = b"\x02" if module == "__builtin__" else b"\x04"
    pickle.loads(pickle.PROTO + protocol + called("global", module, name, arguments) + pickle.STOP)
    assert list(tmp_path.glob("canary*"))


BAD_PICKLES = {
    "empty": (b"", "pickle exhausted"),
    "cut off": (PICKLED[:-20], "not a pickled CIFAR file"),
    "an IDX file": (idx(IMAGES), "not a pickled CIFAR file"),
    "no dict": (pickle.dumps([1, 2], 2), "TypeError"),
    "a persistent id, of which pickle complains in two lines": (
        cifar_pickle(pickle.PERSID + b"1\n", [1]),
        "persistent",
    ),
    "text keys": (pickle.dumps({"data": 1, "labels": [1]}, 2), "KeyError"),
    "data is no array": (cifar_pickle(integer(5), [1]), "AttributeError"),
    "data of another type": (
        cifar_pickle(python2_array(made_up(2, 3072), kind=b"i1"), [1, 2]),
        "type b'i1', not b'u1'",
    ),
    "data of objects, which NumPy would follow as pointers": (
        cifar_pickle(python2_array(made_up(2, 384), kind=b"O8"), [1, 2]),
        "b'O8'",
    ),
    "fewer pixels than the shape states": (
        cifar_pickle(python2_array(made_up(2, 3072)).replace(integer(3072), integer(3073)), [1, 2]),
        "cannot reshape",
    ),
    "images of another size": (
        cifar_pickle(python2_array(made_up(2, 3071)), [1, 2]),
        "no uint8 array of shape (N, 3072)",
    ),
    "more labels than images": (
        cifar_pickle(python2_array(made_up(2, 3072)), [1, 2, 3]),
        "with N labels",
    ),
    "one label that is no list": (
        cifar_pickle(python2_array(made_up(1, 3072)), integer(5)),
        "with N labels",
    ),
    "lists of labels": (
        cifar_pickle(
            python2_array(made_up(1, 3072)),
            pickle.EMPTY_LIST + pickle.EMPTY_LIST + integer(5) + pickle.APPEND * 2,
        ),
        "with N labels",
    ),
    "nothing": (cifar_pickle(python2_array(made_up(0, 3072)), []), "with N labels"),
    "label too large": (
        cifar_pickle(python2_array(made_up(2, 3072)), [1, 10]),
        "a label is out of range: 10 classes, so 0 to 9",
    ),
    "label that a byte would wrap": (
        cifar_pickle(python2_array(made_up(1, 3072)), [256]),
        "out of range",
    ),
    "negative label": (cifar_pickle(python2_array(made_up(1, 3072)), [-1]), "out of range"),
    "negative label that a byte would wrap": (
        cifar_pickle(python2_array(made_up(1, 3072)), [-250]),
        "out of range",
    ),
}


@pytest.mark.parametrize("case", BAD_PICKLES)
def test_cifar_pickle_refuses(tmp_path: Path, case: str) -> None:
    content, said = BAD_PICKLES[case]
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    assert said in refusal(lambda: read_pickle(path), path)


# ------------------------------------------------------------------------------------------------
# which CIFAR file is read

BINARIES = {
    f"part_{i}.bin": cifar_binary(
        np.full((2, 32, 32, 3), i, np.uint8), np.full((2, 1), i, np.uint8)
    )
    for i in range(3)
}


def tar_of(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"some-folder/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


ARCHIVE = tar_of({**BINARIES, "readme.html": b"hello"})
# a CIFAR of six images, with the same choice of versions
SMALL = replace(
    official.CIFAR10,
    archive=Published("binary", "small.tar.gz", md5(ARCHIVE), NOWHERE),
    binary={
        "train": {name: md5(BINARIES[name]) for name in ("part_2.bin", "part_1.bin")},
        "test": {"part_0.bin": None},
    },
    pickled_folder="pickled",
    pickled={"train": {"data_batch_1": md5(PICKLED)}, "test": {"test_batch": md5(PICKLED)}},
)


def read_small(root: Path, split: str) -> formats.Arrays:
    """A split of SMALL."""
    return formats.read_cifar(
        SMALL, root, split, num_classes=10, num_label_bytes=1, label_key=b"labels"
    )


def lay(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_cifar_files_are_joined_in_their_official_order(tmp_path: Path) -> None:
    lay(tmp_path / "binary", BINARIES)
    arrays = read_small(tmp_path, "train")
    assert arrays.labels.tolist() == [2, 2, 1, 1]
    assert arrays.images[:, 0, 0, 0].tolist() == [2, 2, 1, 1]
    assert read_small(tmp_path, "test").labels.tolist() == [0, 0]


def test_cifar_binary_is_preferred_and_must_have_its_md5(tmp_path: Path) -> None:
    lay(tmp_path / "binary", BINARIES)
    lay(tmp_path / "pickled", {"data_batch_1": PICKLED})
    assert read_small(tmp_path, "train").labels.tolist() == [2, 2, 1, 1]
    path = tmp_path / "binary/part_1.bin"
    # a file of the right form
    path.write_bytes(BINARIES["part_2.bin"])
    assert "damaged: its MD5 is" in refusal(lambda: read_small(tmp_path, "train"), path)


def test_cifar_pickled_version_is_read_where_the_binary_one_is_not_complete(tmp_path: Path) -> None:
    lay(tmp_path / "binary", {"part_1.bin": BINARIES["part_1.bin"]})
    lay(tmp_path / "pickled", {"data_batch_1": PICKLED})
    assert read_small(tmp_path, "train").labels.tolist() == [2, 0, 9]


def test_cifar_pickled_version_with_a_wrong_md5_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = cifar_pickle(called("global", *DANGEROUS["os.system"]), [1])
    lay(
        tmp_path / "cifar-10-batches-py",
        dict.fromkeys((*official.CIFAR10.pickled["train"], "test_batch"), hostile),
    )
    lay(tmp_path / "cifar-100-python", dict.fromkeys(("train", "test"), hostile))
    unpickled: list[Path] = []
    monkeypatch.setattr(formats, "read_cifar_pickle", lambda path, **_: unpickled.append(path))
    for read, folder, names in (
        (formats.cifar10, "cifar-10-batches-py", {"train": "data_batch_1", "test": "test_batch"}),
        (formats.cifar100, "cifar-100-python", {"train": "train", "test": "test"}),
    ):
        for split, name in names.items():
            message = refusal(
                lambda read=read, split=split: read(tmp_path, split), tmp_path / folder / name
            )
            assert "MD5" in message
    assert unpickled == []
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("place", ["", "binary"])
def test_cifar_archive_is_unpacked_where_it_lies(tmp_path: Path, place: str) -> None:
    lay(tmp_path / place, {"small.tar.gz": ARCHIVE})
    assert read_small(tmp_path, "train").labels.tolist() == [2, 2, 1, 1]
    (tmp_path / place / "small.tar.gz").unlink()
    assert read_small(tmp_path, "test").labels.tolist() == [0, 0]
    assert sorted(path.name for path in (tmp_path / "binary").iterdir()) == sorted(BINARIES)


def test_cifar_archive_with_a_wrong_md5_is_not_unpacked(tmp_path: Path) -> None:
    lay(tmp_path, {"small.tar.gz": tar_of(BINARIES)})
    assert "damaged: its MD5 is" in refusal(
        lambda: read_small(tmp_path, "train"), tmp_path / "small.tar.gz"
    )
    assert not (tmp_path / "binary").exists()


def test_cifar_archive_that_cannot_be_unpacked_there_says_what_to_do(tmp_path: Path) -> None:
    lay(tmp_path, {"small.tar.gz": ARCHIVE, "binary": b"a file where the folder should be"})
    message = refusal(lambda: read_small(tmp_path, "train"), tmp_path / "binary")
    assert f"unpack {tmp_path / 'small.tar.gz'} by hand or set dataset.root" in message


# ----------------------------------------------------------------------------------------------------------------
# digits


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    """1,437 and 360 images, every fifth one (from the first) for the test, values 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    # (1797, 64) -> (1797, 8, 8)
    pixels = np.asarray(pixels).reshape(-1, 8, 8)
    fifth = np.arange(1797) % 5 == 0
    for split, rows in (("train", ~fifth), ("test", fifth)):
        arrays = formats.digits(tmp_path, split)
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
        from skiplab.data import formats
        print(len(formats.digits(Path("."), "test").labels), sorted({"sklearn", "scipy", "torch"} & set(sys.modules)))
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
    """Scikit-learn is found in `folder`; gives the path of its digits there."""
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
        # not there
        refusal(lambda: formats.digits(tmp_path, "train"), path)
        lines = digits_csv.splitlines(keepends=True)
        for content, said in (
            (b"".join(lines[:-1]), "(1796, 65)"),
            (lines[0], "(65,)"),
            (digits_csv.replace(b"16", b"17", 1), "not scikit-learn's digits"),
            (b"a,b\n", "not scikit-learn's digits"),
        ):
            path.write_bytes(gzip.compress(content, 1))
            assert said in refusal(lambda: formats.digits(tmp_path, "train"), path)
        path.write_bytes(gzip.compress(digits_csv)[:-100])
        assert "not scikit-learn's digits" in refusal(
            lambda: formats.digits(tmp_path, "train"), path
        )


def test_digits_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="scikit-learn, which brings the images, is not installed"):
        formats.digits(tmp_path, "train")


# ---------------------------------------------------------------------------------------------------------------
# fuzzing

EDITS = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.binary(max_size=6), st.integers(0, 6)),
    min_size=1,
    max_size=4,
)
FUZZ = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def edited(content: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    """`content` with some bytes put in, left out or replaced at some places."""
    for place, put_in, left_out in edits:
        cut = place % (len(content) + 1)
        content = content[:cut] + put_in + content[cut + left_out :]
    return content


def survive(read: Callable[[Path], object], path: Path, content: bytes) -> None:
    """`read` may succeed or raise a UsageError of one line that names the file, nothing else."""
    path.write_bytes(content)
    try:
        read(path)
    except UsageError as error:
        message = str(error)
    else:
        return
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


@contextmanager
def little_memory(extra: int) -> Iterator[None]:
    """No more than `extra` bytes beyond what is in use: a mutated length may state gigabytes."""
    resource = pytest.importorskip("resource")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the memory in use is not known here")
    limit, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS,
        (int(statm.read_text().split()[0]) * resource.getpagesize() + extra, hard),
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def test_fuzz_idx(tmp_path: Path) -> None:
    @FUZZ
    @given(edits=EDITS, num_dimensions=st.sampled_from((1, 3)))
    def fuzz(edits: list[tuple[int, bytes, int]], num_dimensions: int) -> None:
        survive(
            lambda path: formats.read_idx(path, num_dimensions=num_dimensions),
            tmp_path / "images",
            edited(idx(IMAGES), edits),
        )

    fuzz()


def test_fuzz_idx_gzip(tmp_path: Path) -> None:
    @FUZZ
    @given(edits=EDITS, inside=st.booleans())
    def fuzz(edits: list[tuple[int, bytes, int]], inside: bool) -> None:
        content = gzip.compress(edited(idx(IMAGES), edits)) if inside else edited(PACKED, edits)
        survive(
            lambda path: formats.read_idx(path, num_dimensions=3), tmp_path / "images.gz", content
        )

    fuzz()


def test_fuzz_cifar_binary(tmp_path: Path) -> None:
    content = cifar_binary(made_up(2, 32, 32, 3), made_up(2, 2, below=100))

    @FUZZ
    @given(edits=EDITS, num_label_bytes=st.sampled_from((1, 2)))
    def fuzz(edits: list[tuple[int, bytes, int]], num_label_bytes: int) -> None:
        survive(
            lambda path: formats.read_cifar_binary(
                path, num_label_bytes=num_label_bytes, num_classes=100
            ),
            tmp_path / "batch.bin",
            edited(content, edits),
        )

    fuzz()


def test_fuzz_cifar_pickle(tmp_path: Path) -> None:
    """Of one image, so that many of the edits hit the structure and not its pixels."""
    content = cifar_pickle(python2_array(made_up(1, 3072)), [3])
    pixels = content.index(made_up(1, 3072).tobytes())

    @FUZZ
    @given(edits=EDITS, in_front=st.booleans())
    def fuzz(edits: list[tuple[int, bytes, int]], in_front: bool) -> None:
        mutated = (
            edited(content[:pixels], edits) + content[pixels:]
            if in_front
            else edited(content, edits)
        )
        survive(read_pickle, tmp_path / "data_batch_1", mutated)

    with little_memory(1 << 29):
        fuzz()


def test_a_pickle_that_numbers_an_object_high_takes_no_memory(tmp_path: Path) -> None:
    """Found by fuzzing: the unpickler makes room for every number below."""
    (tmp_path / "data_batch_1").write_bytes(
        pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", 2**28) + pickle.STOP
    )
    with little_memory(1 << 29):
        survive(read_pickle, tmp_path / "data_batch_1", (tmp_path / "data_batch_1").read_bytes())
        with pytest.raises(UsageError, match="an object numbered 268435456"):
            read_pickle(tmp_path / "data_batch_1")


def test_fuzz_digits(tmp_path: Path, digits_csv: bytes) -> None:
    @FUZZ
    @given(edits=EDITS, inside=st.booleans())
    def fuzz(edits: list[tuple[int, bytes, int]], inside: bool) -> None:
        content = gzip.compress(edited(digits_csv, edits), 1) if inside else edited(packed, edits)
        survive(lambda _path: formats.digits(tmp_path, "train"), path, content)

    packed = gzip.compress(digits_csv, 1)
    with scikit_learn_at(tmp_path) as path:
        fuzz()


def test_fuzz_tar(tmp_path: Path) -> None:
    @FUZZ
    @given(edits=EDITS, inside=st.booleans())
    def fuzz(edits: list[tuple[int, bytes, int]], inside: bool) -> None:
        content = gzip.compress(edited(plain, edits), 1) if inside else edited(ARCHIVE, edits)
        survive(lambda path: extract(path, target, [*BINARIES]), tmp_path / "small.tar.gz", content)
        assert {path.name for path in target.iterdir()} <= BINARIES.keys()

    target = tmp_path / "target"
    target.mkdir()
    plain = gzip.decompress(ARCHIVE)
    with little_memory(1 << 29):
        fuzz()
