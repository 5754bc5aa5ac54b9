"""One's own images, decoded once: the cache, the split, the processes, and what is told."""

import errno
import os
import shutil
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ownimages import CLASSES, Recorder, draw, make, source
from skiplab import regular
from skiplab.data import decoding, folder, images, moments, own, parting
from skiplab.data.decoding import Outcome
from skiplab.errors import UsageError


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def opened(of: own.Source, contents: own.Contents, part: str) -> tuple[np.ndarray, np.ndarray]:
    mapped = own.map_part(of, contents, part)
    assert mapped is not None
    return mapped


# --------------------------------------------------------------------------------------------------
# contents


def test_every_pixel_and_label_is_that_of_its_file(tmp_path: Path, recorder: Recorder) -> None:
    root = make(tmp_path / "r", parts=("train", "val", "test"), count=4)
    of = source(root)
    contents = recorder.prepare(of)
    assert contents.classes == ("cat", "dog", "fish")
    assert contents.counts == {"train": 12, "val": 12, "test": 12}
    for part in contents.counts:
        pixels, labels = opened(of, contents, part)
        paths = sorted((root / part).glob("*/*.png"))
        expected = [images.decode(path, size=(8, 8), channels=3) for path in paths]
        assert np.array_equal(pixels, np.stack(expected))
        assert [contents.classes[label] for label in labels] == [p.parent.name for p in paths]


def test_mean_and_deviation_are_numpys(tmp_path: Path, recorder: Recorder) -> None:
    of = source(make(tmp_path / "r", parts=("train", "test")))
    contents = recorder.prepare(of)
    pixels = opened(of, contents, "train")[0] / 255
    assert contents.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=5.1e-5)
    assert contents.std == pytest.approx(pixels.std((0, 1, 2)), abs=5.1e-5)
    assert moments.mean_and_std([[0, 0]], 9) == ((0.0,), (1.0,))


def test_grey_training_images_make_one_channel(tmp_path: Path, recorder: Recorder) -> None:
    """A colour image in the test becomes grey as any does: its luma is taken, then resized."""
    root = tmp_path / "r"
    for part, colour in (("train", (90,)), ("test", (90, 10, 200))):
        for c in "ab":
            path = root / part / c / "1.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(draw(1, colour, size=(9, 9), seed=ord(c))[0].squeeze()).save(path)
    of = source(root)
    contents = recorder.prepare(of)
    assert contents.channels == len(contents.mean) == 1
    for part in ("train", "test"):
        path = root / part / "a/1.png"
        expected = images.decode(path, size=(8, 8), channels=1)
        assert np.array_equal(opened(of, contents, part)[0][0], expected)
    three = recorder.prepare(source(root, channels=3))
    assert three.channels == 3
    assert recorder.decoded == 4
    # What was decoded for channels=3 is not what auto means.
    assert recorder.prepare(of).channels == 1
    assert recorder.decoded == 0


def test_an_array_is_decoded_as_files_are(tmp_path: Path, recorder: Recorder) -> None:
    pixels = np.concatenate([draw(5, colour, size=(12, 10), seed=0) for colour in CLASSES.values()])
    labels = np.repeat(list(CLASSES), 5)
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels, split=np.array(["train"] * 15))
    of = source(tmp_path / "a.npz")
    found, places = opened(of, recorder.prepare(of), "train")
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "one.png")
        expected = images.decode(tmp_path / "one.png", size=(8, 8), channels=3)
        assert np.array_equal(found[i], expected)
    assert [list(CLASSES)[place] for place in places] == labels.tolist()


# --------------------------------------------------------------------------------------------------
# the cache


def test_images_are_decoded_once_and_again_if_a_file_changes(
    tmp_path: Path, recorder: Recorder
) -> None:
    root = make(tmp_path / "r")
    of, path = source(root), root / "cat/000.png"
    first = recorder.prepare(of)
    assert recorder.decoded == 30
    assert recorder.lines[0].startswith(f"decoding {root} once: 30 images, 3 classes, to 8x8; ")
    assert recorder.prepare(of) == first
    assert recorder.decoded == 0
    # Other bytes of the same length, with the times of before.
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = recorder.prepare(of)
    assert recorder.decoded == 30
    assert changed.sha256 != first.sha256
    # Added, renamed, removed.
    shutil.copy(root / "dog/001.png", root / "dog/new.png")
    added = recorder.prepare(of)
    assert (recorder.decoded, sum(added.counts.values())) == (31, 31)
    (root / "dog/new.png").rename(root / "dog/newer.png")
    assert recorder.prepare(of).sha256 == added.sha256
    assert recorder.decoded == 31
    (root / "dog/newer.png").unlink()
    assert recorder.prepare(of).sha256 == changed.sha256


def test_another_size_or_split_is_another_entry(tmp_path: Path, recorder: Recorder) -> None:
    of = source(make(tmp_path / "r"))
    first = recorder.prepare(of)
    for values in ({"size": (8, 6)}, {"test_fraction": 0.3}, {"test_seed": 1}):
        other = recorder.prepare(source(of.path, **values))
        assert recorder.decoded == 30
        assert (other.sha256 == first.sha256) == ("size" in values)
    assert recorder.prepare(of) == first
    assert recorder.decoded == 0


def test_a_moved_folder_holds_the_same_images(tmp_path: Path, recorder: Recorder) -> None:
    first = recorder.prepare(source(make(tmp_path / "r")))
    (tmp_path / "r").rename(tmp_path / "s")
    assert recorder.prepare(source(tmp_path / "s")).sha256 == first.sha256


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "index"])
def test_a_damaged_entry_is_not_used(tmp_path: Path, recorder: Recorder, damage: str) -> None:
    of = source(make(tmp_path / "r"))
    contents = recorder.prepare(of)
    path = contents.paths(of)["train"]
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "remove":
        path.unlink()
    else:
        contents.index(of).write_text('{"classes": 1}')
    if damage in ("flip", "cut"):
        assert own.map_part(of, contents, "train") is None
        own.forget(of, contents)
    assert recorder.prepare(of) == contents
    assert recorder.decoded == 30
    assert path.read_bytes() == content


def test_what_is_written_into_a_mapped_array_stays_there(
    tmp_path: Path, recorder: Recorder
) -> None:
    of = source(make(tmp_path / "r"))
    contents = recorder.prepare(of)
    before = opened(of, contents, "train")[0].copy()
    opened(of, contents, "train")[0][:] = 0
    assert np.array_equal(opened(of, contents, "train")[0], before)


def test_old_entries_of_changed_files_are_removed(tmp_path: Path, recorder: Recorder) -> None:
    root = make(tmp_path / "r")
    of = source(root)
    first = recorder.prepare(of)
    (root / "cat/000.png").unlink()
    second = recorder.prepare(of)
    assert own.contents_of(source(root, channels=3), first.sha256) == first
    long_ago = time.time() - own.OUTDATED_AFTER - 1
    os.utime(first.index(of), (long_ago, long_ago))
    (root / "cat/001.png").unlink()
    third = recorder.prepare(of)
    left = {path.name for path in first.index(of).parent.glob("own-*")}
    assert left == {
        path.name
        for contents in (second, third)
        for path in (contents.index(of), *contents.paths(of).values())
    }


def test_no_room_is_said_before_anything_is_decoded(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "r", count=1)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match=r"need 1 KiB and 1 KiB are free; set \$XDG_CACHE_HOME"):
        recorder.prepare(source(root))
    assert recorder.decoded == 0
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    with pytest.raises(UsageError, match=r"cannot be kept there \(Not a directory\)"):
        recorder.prepare(source(root))


# --------------------------------------------------------------------------------------------------
# the split


def parts_of(contents: dict[str, list[str]], *, fraction: float, seed: int = 0) -> parting.Parts:
    """Split images of these contents, by class."""
    items = [
        folder.Item(f"{label}/{i}", label, "", 1, 1, 1)
        for label, texts in contents.items()
        for i, _ in enumerate(texts)
    ]
    outcomes = [Outcome(text, True) for texts in contents.values() for text in texts]
    return parting.split(items, outcomes, fraction=fraction, seed=seed)


def test_the_split_is_stratified_seeded_and_stays_when_images_are_added() -> None:
    many = {label: [f"{label}{i}" for i in range(n)] for label, n in (("a", 50), ("b", 11))}
    parts = parts_of(many, fraction=0.2)
    assert Counter(parts.labels[i] for i in parts.members["test"]) == {0: 10, 1: 2}
    assert sorted(parts.train + parts.members["test"]) == list(range(61))
    assert parts_of(many, fraction=0.2) == parts
    assert parts_of(many, fraction=0.2, seed=1).members != parts.members
    more = parts_of(many | {"c": [f"c{i}" for i in range(9)]}, fraction=0.2)
    assert set(parts.members["test"]) <= set(more.members["test"])
    longer = parts_of({"a": [*many["a"], "new"], "b": many["b"]}, fraction=0.2)
    kept = {i for i in longer.members["test"] if i < 50}
    assert len(kept & set(parts.members["test"])) >= 9


@pytest.mark.parametrize(("count", "tested"), [(1, 0), (2, 1), (3, 1), (10, 2)])
def test_each_class_keeps_an_image_to_train_and_gives_one_to_test(count: int, tested: int) -> None:
    parts = parts_of({c: [f"{c}{i}" for i in range(count)] for c in "ab"}, fraction=0.2)
    assert len(parts.members.get("test", [])) == 2 * tested
    assert "test" not in parts_of({"a": ["1", "2"], "b": ["3"]}, fraction=0.0).members


def test_copies_of_a_file_are_never_in_both_parts() -> None:
    """With each image there twice, a split by name would break the seal with near certainty."""
    parts = parts_of({c: [f"{c}{i // 2}" for i in range(40)] for c in "ab"}, fraction=0.3)
    assert parts.notes == []
    assert len(parts.members["test"]) == 24


def test_copies_in_training_and_test_are_told(tmp_path: Path, recorder: Recorder) -> None:
    root = make(tmp_path / "r", parts=("train", "test"), count=3)
    for name in ("x", "y"):
        shutil.copy(root / "train/cat/000.png", root / f"test/dog/{name}.png")
    (note,) = recorder.prepare(source(root)).notes
    first = root / "train/cat/000.png"
    assert note == (
        "2 images of the test part are in another part too, byte for byte, so the test is no test "
        f"for them: {root}/test/dog/x.png = {first}, {root}/test/dog/y.png = {first}"
    )


def test_parts_with_other_classes(tmp_path: Path, recorder: Recorder) -> None:
    root = make(tmp_path / "r", parts=("train", "test"), count=2)
    shutil.rmtree(root / "test/dog")
    assert list(recorder.prepare(source(root)).notes) == ["the test part has no image of dog"]
    (root / "test/fish").rename(root / "test/Fish")
    with pytest.raises(UsageError, match=r"^Fish: in the test part, but not in train; "):
        recorder.prepare(source(root))


# --------------------------------------------------------------------------------------------------
# unreadable images and processes


def test_unreadable_images_are_left_out_and_listed(tmp_path: Path, recorder: Recorder) -> None:
    root = make(tmp_path / "r", count=3)
    (root / "cat/a.png").write_bytes(b"text")
    (root / "dog/b.jpg").touch()
    contents = recorder.prepare(source(root))
    assert [line.split(": ") for line in contents.unreadable] == [
        [f"{root}/cat/a.png", images.NO_IMAGE],
        [f"{root}/dog/b.jpg", "is empty"],
    ]
    assert sum(contents.counts.values()) == 9
    # The verdict is kept too.
    assert recorder.prepare(source(root)) == contents
    assert recorder.decoded == 0


def test_what_the_system_refuses_now_is_tried_again(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "r", count=3)
    refused = root / "dog/001.png"
    read = regular.read

    def refusing(path: Path, *, most: int) -> bytes:
        if path == refused:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path, most=most)

    monkeypatch.setattr(regular, "read", refusing)
    for _ in range(2):
        contents = recorder.prepare(source(root))
        assert contents.unreadable == (f"{refused}: cannot be read (Input/output error)",)
        assert recorder.decoded == 9
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert recorder.prepare(source(root)).unreadable == ()


def test_no_image_at_all_can_be_read(tmp_path: Path, recorder: Recorder) -> None:
    for name in "ab":
        (tmp_path / "r" / name).mkdir(parents=True)
        (tmp_path / "r" / name / "1.png").write_bytes(b"text")
    with pytest.raises(UsageError, match=r"a/1\.png: is no image(.|\n)*no image can be read"):
        recorder.prepare(source(tmp_path / "r"))


def arrays(count: int) -> np.ndarray:
    return np.zeros((count, 8, 8, 3), np.uint8)


def test_processes_decode_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "r", count=30)
    (root / "cat/a.png").write_bytes(b"text")
    paths = [str(path) for path in sorted(root.glob("*/*.png"))]
    monkeypatch.setattr("skiplab.machine.cpu.num_cores", lambda: 2)
    one, several, counted = arrays(len(paths)), arrays(len(paths)), [0]
    expected = decoding.decode_all(paths, one, lambda _: None)
    monkeypatch.setattr(decoding, "LEAST_FILES", 10)
    pools: list[decoding.Pool] = []
    make_pool = decoding.Pool

    def recording(*arguments: object) -> decoding.Pool:
        pools.append(make_pool(*arguments))  # pyright: ignore[reportArgumentType]
        return pools[-1]

    monkeypatch.setattr(decoding, "Pool", recording)

    def advance(number: int) -> None:
        counted[0] += number

    assert decoding.decode_all(paths, several, advance) == expected
    assert np.array_equal(one, several)
    assert counted == [91]
    assert pools[0].num_done == 3


def end(_pipe: object, _shape: object) -> None:
    os._exit(9)


@pytest.mark.slow
def test_where_processes_die_at_once_this_one_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "r", count=4)
    paths = [str(path) for path in sorted(root.glob("*/*.png"))]
    monkeypatch.setattr("skiplab.machine.cpu.num_cores", lambda: 2)
    monkeypatch.setattr(decoding, "LEAST_FILES", 4)
    monkeypatch.setattr(decoding, "CHUNK", 4)
    monkeypatch.setattr(decoding, "serve", end)
    monkeypatch.setattr(decoding, "MOST_FAILED_STARTS", 1)
    found, expected = arrays(len(paths)), arrays(len(paths))
    outcomes = decoding.decode_all(paths, found, lambda _: None)
    monkeypatch.undo()
    assert outcomes == decoding.decode_all(paths, expected, lambda _: None)
    assert np.array_equal(found, expected)


def serve_but_end_at_poison(pipe: Connection, shape: tuple[int, int, int]) -> None:
    while True:
        paths = pipe.recv()
        if any("poison" in path for path in paths):
            os._exit(9)
        outcomes, pixels = decoding.decode_some(paths, shape)
        pipe.send(outcomes)
        pipe.send_bytes(pixels.tobytes())


@pytest.mark.slow
def test_the_file_that_ends_its_process_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "r", count=4)
    (root / "dog/000.png").rename(root / "dog/poison.png")
    paths = [str(path) for path in sorted(root.glob("*/*.png"))]
    monkeypatch.setattr("skiplab.machine.cpu.num_cores", lambda: 2)
    monkeypatch.setattr(decoding, "LEAST_FILES", 4)
    monkeypatch.setattr(decoding, "CHUNK", 3)
    monkeypatch.setattr(decoding, "serve", serve_but_end_at_poison)
    outcomes = decoding.decode_all(paths, arrays(len(paths)), lambda _: None)
    problems = {path: o.problem for path, o in zip(paths, outcomes, strict=True) if o.problem}
    assert problems == {str(root / "dog/poison.png"): "ends the process that decodes it"}
