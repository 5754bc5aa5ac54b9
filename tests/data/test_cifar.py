"""Reading CIFAR in both versions: a bad file is refused in one line that names it."""

import pickle
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from datafiles import (
    EDITS,
    FUZZ,
    IMAGES,
    NOWHERE,
    Bytes,
    assert_refuses_a_fifo_and_gigabytes,
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
from skiplab.data import cifar, official
from skiplab.data.arrays import Arrays
from skiplab.data.download import Published
from skiplab.errors import UsageError

# --------------------------------------------------------------------------------------------------
# Binary CIFAR


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
    """Planes become images (N, 32, 32, 3); of two label bytes the second (fine) one counts."""
    images, labels = made_up(4, 32, 32, 3), made_up(4, num_label_bytes, below=10)
    path = tmp_path / "batch.bin"
    path.write_bytes(cifar_binary(images, labels))
    assert path.stat().st_size == 4 * (3072 + num_label_bytes)
    arrays = cifar.read_cifar_binary(path, num_label_bytes=num_label_bytes, num_classes=10)
    np.testing.assert_array_equal(arrays.images, images)
    np.testing.assert_array_equal(arrays.labels, labels[:, -1])
    assert arrays.images.flags.c_contiguous
    assert arrays.labels.flags.c_contiguous


def test_cifar_binary_planes_are_red_green_blue(tmp_path: Path) -> None:
    path = tmp_path / "batch.bin"
    path.write_bytes(
        bytes([7]) + bytes([10]) * 1024 + bytes([20]) * 1024 + bytes([30]) * 1023 + bytes([31])
    )
    arrays = cifar.read_cifar_binary(path, num_label_bytes=1, num_classes=10)
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
        lambda: cifar.read_cifar_binary(path, num_label_bytes=1, num_classes=10), path
    )
    assert f"{num_bytes} bytes are no whole number of 3073-byte CIFAR records" in message


def test_cifar_binary_refuses_labels_out_of_range(tmp_path: Path) -> None:
    path = tmp_path / "batch.bin"
    path.write_bytes(cifar_binary(made_up(3, 32, 32, 3), np.array([[0], [10], [9]], np.uint8)))
    assert "label 10 is out of range: 10 classes, so 0 to 9" in refusal(
        lambda: cifar.read_cifar_binary(path, num_label_bytes=1, num_classes=10), path
    )
    assert len(cifar.read_cifar_binary(path, num_label_bytes=1, num_classes=11).labels) == 3


def test_cifar_binary_refuses_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "absent.bin"
    assert "cannot be read" in refusal(
        lambda: cifar.read_cifar_binary(path, num_label_bytes=1, num_classes=10), path
    )


def test_cifar_binary_opens_no_fifo_and_reads_no_gigabytes(tmp_path: Path) -> None:
    assert_refuses_a_fifo_and_gigabytes(
        lambda path: cifar.read_cifar_binary(path, num_label_bytes=2, num_classes=100),
        tmp_path / "batch.bin",
        bytes(16),
        4_000_000 * 3074,
    )


def test_fuzz_cifar_binary(tmp_path: Path) -> None:
    content = cifar_binary(made_up(2, 32, 32, 3), made_up(2, 2, below=100))

    @FUZZ
    @given(edits=EDITS, num_label_bytes=st.sampled_from((1, 2)))
    def fuzz(edits: list[tuple[int, bytes, int]], num_label_bytes: int) -> None:
        survive(
            lambda path: cifar.read_cifar_binary(
                path, num_label_bytes=num_label_bytes, num_classes=100
            ),
            tmp_path / "batch.bin",
            edited(content, edits),
        )

    fuzz()


# --------------------------------------------------------------------------------------------------
# Pickled CIFAR


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
    """{b"batch_label": ..., label_key: labels, b"data": planes} in protocol 2.

    `planes` is the pickle of its value, and `labels` may be.
    """
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


def read_pickle(path: Path) -> Arrays:
    return cifar.read_cifar_pickle(path, label_key=b"labels", num_classes=10)


@pytest.mark.parametrize("is_fortran", [False, True])
def test_cifar_pickle_is_read(tmp_path: Path, is_fortran: bool) -> None:
    images = made_up(3, 32, 32, 3)
    content = cifar_pickle(python2_array(planes_of(images), is_fortran=is_fortran), [2, 0, 9])
    # The content is a real pickle.
    np.testing.assert_array_equal(
        pickle.loads(content, encoding="bytes")[b"data"], planes_of(images)
    )
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    arrays = read_pickle(path)
    np.testing.assert_array_equal(arrays.images, images)
    assert arrays.labels.tolist() == [2, 0, 9]
    assert arrays.labels.dtype == arrays.images.dtype == np.uint8
    # Torch warns about arrays that are not writeable.
    assert arrays.images.flags.writeable
    assert arrays.images.flags.c_contiguous


def test_cifar100_pickle_has_its_own_label_key(tmp_path: Path) -> None:
    path = tmp_path / "train"
    path.write_bytes(
        cifar_pickle(python2_array(made_up(2, 3072)), [99, 1], label_key=b"fine_labels")
    )
    assert cifar.read_cifar_pickle(
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


# A hostile pickle may ask for each of these. Each makes a file `canary` (or canary.npy) in the
# working folder.
DANGEROUS = {
    "os.system": ("os", "system", unicode("touch canary")),
    "posix.system": ("posix", "system", unicode("touch canary")),
    "builtins.eval": ("builtins", "eval", unicode("__import__('pathlib').Path('canary').touch()")),
    "__builtin__.eval": (
        "__builtin__",
        "eval",
        unicode("__import__('pathlib').Path('canary').touch()"),
    ),
    "shutil.os.mkdir": ("shutil", "os.mkdir", unicode("canary")),
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
    """The test above proves something only if these pickles do harm where nothing refuses them."""
    monkeypatch.chdir(tmp_path)
    module, name, arguments = DANGEROUS[case]
    # Protocol 2 still knows Python 2's names; from 4 on, names may hold dots.
    protocol = b"\x02" if module == "__builtin__" else b"\x04"
    pickle.loads(pickle.PROTO + protocol + called("global", module, name, arguments) + pickle.STOP)
    assert list(tmp_path.glob("canary*"))


BAD_PICKLES = {
    "empty": (b"", "pickle exhausted"),
    "cut off": (PICKLED[:-20], "not a pickled CIFAR file"),
    "an IDX file": (idx_bytes(IMAGES), "not a pickled CIFAR file"),
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


def test_cifar_pickle_opens_no_fifo_and_reads_no_gigabytes(tmp_path: Path) -> None:
    assert_refuses_a_fifo_and_gigabytes(
        read_pickle, tmp_path / "data_batch_1", PICKLED[:16], 4_000_000 * 3074
    )


def test_fuzz_cifar_pickle(tmp_path: Path) -> None:
    """The file has one image, so that many of the edits hit the structure and not pixels."""
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
    """The unpickler makes room for every number below; fuzzing found this."""
    (tmp_path / "data_batch_1").write_bytes(
        pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", 2**28) + pickle.STOP
    )
    with little_memory(1 << 29):
        survive(read_pickle, tmp_path / "data_batch_1", (tmp_path / "data_batch_1").read_bytes())
        with pytest.raises(UsageError, match="an object numbered 268435456"):
            read_pickle(tmp_path / "data_batch_1")


# --------------------------------------------------------------------------------------------------
# Which CIFAR file is read

BINARIES = {
    f"part_{i}.bin": cifar_binary(
        np.full((2, 32, 32, 3), i, np.uint8), np.full((2, 1), i, np.uint8)
    )
    for i in range(3)
}


ARCHIVE = tar_of({**BINARIES, "readme.html": b"hello"})
# A CIFAR of six images, with the same choice of versions.
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


def read_small(root: Path, split: str) -> Arrays:
    """A split of SMALL."""
    return cifar.read_cifar(
        SMALL, root, split, num_classes=10, num_label_bytes=1, label_key=b"labels"
    )


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
    # The file has the right form, but other bytes.
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
    monkeypatch.setattr(cifar, "read_cifar_pickle", lambda path, **_: unpickled.append(path))
    for read, folder, names in (
        (
            cifar.read_cifar10,
            "cifar-10-batches-py",
            {"train": "data_batch_1", "test": "test_batch"},
        ),
        (cifar.read_cifar100, "cifar-100-python", {"train": "train", "test": "test"}),
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
