"""Reading IDX files, as MNIST has them: a bad file is refused in one line that names it."""

import gzip
import tracemalloc
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
    made_up,
    md5,
    refusal,
    survive,
)
from skiplab.data import official
from skiplab.data.download import Published
from skiplab.data.idx import read_idx, read_idx_pair, read_mnist

PACKED = gzip.compress(idx_bytes(IMAGES), mtime=0)


@pytest.mark.parametrize("name", ["images-idx3-ubyte", "images-idx3-ubyte.gz"])
@pytest.mark.parametrize(
    "data", [IMAGES, made_up(7), made_up(2, 3), made_up(1, 1, 1)], ids=lambda data: str(data.shape)
)
def test_idx_round_trip(tmp_path: Path, name: str, data: Bytes) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(idx_bytes(data)) if name.endswith(".gz") else idx_bytes(data))
    read = read_idx(path, num_dimensions=data.ndim)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, data)
    # Torch warns about arrays that are not writeable.
    assert read.flags.writeable
    assert read.flags.c_contiguous


BAD_IDX = {
    "empty": (b"", "not an IDX file of 3 dimensions"),
    "cut off inside the header": (idx_bytes(IMAGES)[:9], "not an IDX file of 3 dimensions"),
    "signed bytes": (idx_bytes(IMAGES, magic=bytes((0, 0, 9, 3))), "begins with 00 00 09 03"),
    "little endian": (idx_bytes(IMAGES, magic=bytes((3, 8, 0, 0))), "begins with 03 08 00 00"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "begins with 3c 21 44 4f"),
    "labels in the place of images": (idx_bytes(made_up(20)), "begins with 00 00 08 01"),
    "header bigger than the file": (idx_bytes(IMAGES, dimensions=(6, 4, 3)), "(6, 4, 3)"),
    "one byte too few": (idx_bytes(IMAGES)[:-1], "(5, 4, 3)"),
    "one byte too many": (idx_bytes(IMAGES) + b"x", "(5, 4, 3)"),
    "huge dimensions": (idx_bytes(IMAGES, dimensions=(2**32 - 1,) * 3), "4294967295"),
    "no images": (idx_bytes(IMAGES, dimensions=(0, 4, 3))[:16], "holds nothing"),
    "no images of a huge size": (
        idx_bytes(IMAGES, dimensions=(0, 2**32 - 1, 2**32 - 1))[:16],
        "holds nothing",
    ),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("case", BAD_IDX)
def test_idx_refuses(tmp_path: Path, case: str, suffix: str) -> None:
    content, said = BAD_IDX[case]
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    assert said in refusal(lambda: read_idx(path, num_dimensions=3), path)


BAD_GZIP = {
    "empty": b"",
    "not gzip at all": idx_bytes(IMAGES),
    "cut off in the middle": PACKED[: len(PACKED) // 2],
    "cut off in its checksum": PACKED[:-3],
    "another checksum": PACKED[:-8] + bytes(4) + PACKED[-4:],
    "damaged stream": PACKED[:10] + bytes(byte ^ 0xFF for byte in PACKED[10:20]) + PACKED[20:],
}


@pytest.mark.parametrize("case", BAD_GZIP)
def test_idx_refuses_damaged_gzip(tmp_path: Path, case: str) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(BAD_GZIP[case])
    refusal(lambda: read_idx(path, num_dimensions=3), path)


def test_idx_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "absent", "cannot be read"), (tmp_path, "is a folder")):
        assert said in refusal(lambda path=path: read_idx(path, num_dimensions=3), path)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_idx_opens_no_fifo_and_reads_no_gigabytes(tmp_path: Path, name: str) -> None:
    header = idx_bytes(IMAGES, dimensions=(4_000_000, 56, 56))[:16]
    is_packed = name.endswith(".gz")
    assert_refuses_a_fifo_and_gigabytes(
        lambda path: read_idx(path, num_dimensions=3),
        tmp_path / name,
        gzip.compress(header) if is_packed else header,
        None if is_packed else 16 + 4_000_000 * 56 * 56,
    )


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_header_that_states_terabytes_costs_no_memory(tmp_path: Path, suffix: str) -> None:
    content = idx_bytes(IMAGES, dimensions=(2**32 - 1, 2**12, 2**12))
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    tracemalloc.start()
    try:
        refusal(lambda: read_idx(path, num_dimensions=3), path)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # One piece of 16 MiB is read, and a little more.
    assert peak < 40 << 20


def test_idx_pair_adds_the_channel_axis(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx_bytes(IMAGES))
    labels.write_bytes(idx_bytes(made_up(5, below=10)))
    arrays = read_idx_pair(images, labels)
    np.testing.assert_array_equal(arrays.images, IMAGES[..., np.newaxis])
    np.testing.assert_array_equal(arrays.labels, made_up(5, below=10))


def test_idx_pair_refuses_counts_that_differ(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx_bytes(IMAGES))
    labels.write_bytes(idx_bytes(made_up(4)))
    assert "4 labels for the 5 images of images" in refusal(
        lambda: read_idx_pair(images, labels), labels
    )


def test_idx_file_prefers_a_plain_file_only_if_its_md5_is_published(tmp_path: Path) -> None:
    plain, packed = tmp_path / "raw/images", tmp_path / "raw/images.gz"
    plain.parent.mkdir()
    plain.write_bytes(idx_bytes(IMAGES))
    packed.write_bytes(PACKED)
    file = Published("raw", "images.gz", md5(PACKED), NOWHERE)
    assert (
        official.find_idx_file(tmp_path, file, md5(idx_bytes(IMAGES)), dataset="made_up") == plain
    )
    assert official.find_idx_file(tmp_path, file, None, dataset="made_up") == packed
    assert "damaged" in refusal(
        lambda: official.find_idx_file(tmp_path, file, md5(b"other"), dataset="made_up"), plain
    )
    packed.write_bytes(PACKED + b"x")
    assert "damaged" in refusal(
        lambda: official.find_idx_file(tmp_path, file, None, dataset="made_up"), packed
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_with_a_pixel_changed_is_refused(tmp_path: Path, split: str) -> None:
    """Torchvision checks only the archive and would read these."""
    path = tmp_path / "MNIST/raw" / official.IDX_NAMES[split][0]
    path.parent.mkdir(parents=True)
    path.write_bytes(idx_bytes(made_up(3, 28, 28)))
    assert "damaged: its MD5 is" in refusal(lambda: read_mnist(tmp_path, split), path)


def test_fuzz_idx(tmp_path: Path) -> None:
    @FUZZ
    @given(edits=EDITS, num_dimensions=st.sampled_from((1, 3)))
    def fuzz(edits: list[tuple[int, bytes, int]], num_dimensions: int) -> None:
        survive(
            lambda path: read_idx(path, num_dimensions=num_dimensions),
            tmp_path / "images",
            edited(idx_bytes(IMAGES), edits),
        )

    fuzz()


def test_fuzz_idx_gzip(tmp_path: Path) -> None:
    @FUZZ
    @given(edits=EDITS, inside=st.booleans())
    def fuzz(edits: list[tuple[int, bytes, int]], inside: bool) -> None:
        content = (
            gzip.compress(edited(idx_bytes(IMAGES), edits)) if inside else edited(PACKED, edits)
        )
        survive(lambda path: read_idx(path, num_dimensions=3), tmp_path / "images.gz", content)

    fuzz()
