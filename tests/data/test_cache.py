"""The cache of decoded data sets: it returns what decoding returns, whatever happens to it."""

import errno
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skiplab.data import cache, splits
from skiplab.data.arrays import Arrays
from skiplab.data.catalog import DATASETS, Dataset
from skiplab.data.splits import Expected, hold_out
from skiplab.locations import cache_folder

SHAPE = (40, 4, 4, 3)


class Source:
    """An official file, and how often it was decoded."""

    def __init__(self, path: Path):
        self.path, self.times = path, 0
        self.path.write_bytes(
            np.random.default_rng(0).integers(0, 256, 40 * 49, np.uint8).tobytes()
        )

    def decode(self) -> Arrays:
        self.times += 1
        content = np.frombuffer(self.path.read_bytes(), np.uint8)
        return Arrays(content[40:].reshape(SHAPE).copy(), content[:40] % 10, self.path)

    def read(self) -> tuple[Arrays, str]:
        return cache.read("set-train", [self.path], self.decode)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "data.bin")


def entry() -> Path:
    return cache_folder() / "set-train.decoded"


def assert_right(source: Source, *, times: int) -> None:
    """Reading returns what decoding returns, and it took `times` decodings up to now."""
    arrays, digest = source.read()
    assert source.times == times
    expected = source.decode()
    source.times -= 1
    for ours, theirs in ((arrays.images, expected.images), (arrays.labels, expected.labels)):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert np.array_equal(ours, theirs)
    assert arrays.path == expected.path
    assert digest == cache.digest_of(expected)


def test_a_file_is_decoded_once(source: Source) -> None:
    for _ in range(3):
        assert_right(source, times=1)
    assert sorted(path.name for path in cache_folder().iterdir()) == [
        "set-train.decoded",
        "verified.json",
    ]


def test_what_is_mapped_can_be_written_without_changing_the_entry(source: Source) -> None:
    source.read()
    arrays, _ = source.read()
    assert source.times == 1
    arrays.images[:] = 0
    arrays.labels[:] = 0
    assert_right(source, times=1)


def test_other_files_and_other_formats_are_decoded_again(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.read()
    stat = source.path.stat()
    os.utime(source.path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000))
    assert_right(source, times=2)
    source.path.write_bytes(source.path.read_bytes()[::-1])
    os.utime(source.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert_right(source, times=3)
    monkeypatch.setattr(cache, "FORMAT", 2)
    assert_right(source, times=4)
    moved = Source(source.path.with_name("other.bin"))
    assert_right(moved, times=1)


def touched(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000))


def copied(path: Path) -> None:
    """The same bytes, size and mtime as another file."""
    stat, content = path.stat(), path.read_bytes()
    other = path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(other, path)


def forgotten(path: Path) -> None:
    (path.parent / "verified.json").unlink()


def remembered_as(change: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        memory = path.parent / "verified.json"
        verdicts = json.loads(memory.read_text())
        verdicts[str(path)] = change(verdicts[str(path)])
        memory.write_text(json.dumps(verdicts))

    return damage


def overwritten(path: Path) -> None:
    """Other bytes in the same file, under the same size and mtime."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.write(bytes(100))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def with_other_labels(path: Path) -> None:
    """The same pixels, one label changed: the last bytes count too."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": lambda path: path.unlink(),
    "cut off": lambda path: os.truncate(path, 100),
    "emptied": lambda path: os.truncate(path, 0),
    "overwritten": overwritten,
    "one label": with_other_labels,
    "touched": touched,
    "copied": copied,
    "forgotten": forgotten,
    "no list": remembered_as(lambda _: 3),
    "short list": remembered_as(lambda fact: fact[:4]),
    "of an older version": remembered_as(lambda fact: [*fact[:2], "md5"]),
    "shape of words": remembered_as(lambda fact: [*fact[:4], ["a", "b"], *fact[5:]]),
    "shape too large": remembered_as(lambda fact: [*fact[:4], [41, 4, 4, 3], *fact[5:]]),
    "shape too small": remembered_as(lambda fact: [*fact[:4], [39, 4, 4, 3], *fact[5:]]),
    "no shape": remembered_as(lambda fact: [*fact[:4], [], *fact[5:]]),
    "another digest": remembered_as(lambda fact: [*fact[:-1], "0" * 64]),
    "null": remembered_as(lambda _: None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_entry_that_is_not_as_it_was_left_is_made_again(source: Source, damage: str) -> None:
    source.read()
    DAMAGES[damage](entry())
    assert_right(source, times=2)
    assert_right(source, times=2)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_cache_that_cannot_be_written_costs_the_decoding(
    source: Source, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    assert_right(source, times=1)
    assert_right(source, times=2)
    assert not cache_folder().exists() or list(cache_folder().iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(source.path / "below-a-file"))
    assert_right(source, times=3)


def test_two_runs_at_once(source: Source) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: source.read(), range(32)))
    expected = cache.digest_of(source.decode())
    assert {digest for _, digest in results} == {expected}
    assert {cache.digest_of(arrays) for arrays, _ in results} == {expected}
    assert sorted(path.name for path in cache_folder().iterdir()) == [
        "set-train.decoded",
        "verified.json",
    ]


def test_what_a_killed_run_left_is_cleared_but_not_what_another_writes(source: Source) -> None:
    old, young = (cache_folder() / f"{cache.PRIVATE_PREFIX}{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / entry().name).write_bytes(b"half")
    long_ago = time.time() - 2 * cache.ABANDONED_AFTER
    os.utime(old, (long_ago, long_ago))
    source.read()
    assert not old.exists()
    assert young.exists()


def test_a_data_set_of_official_files_is_loaded_from_its_entry(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = Dataset(
        lambda _root, _split: source.decode(), find_files=lambda _root, _split: [source.path]
    )
    monkeypatch.setitem(DATASETS, "made_up", made_up)
    loaded = [
        splits.load(
            "made_up",
            "train",
            root=Path(),
            expected=Expected(channels=3, size=4, num_classes=10, num_images=40),
            resize=resize,
        )
        for resize in (None, None, 8)
    ]
    assert source.times == 1
    assert len({digest for _, digest in loaded}) == 1
    first, second = (hold_out(split, fraction=0.2, seed=0) for split, _ in loaded[:2])
    for one, other in zip(first, second, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert loaded[2][0].images.shape == (40, 8, 8, 3)
