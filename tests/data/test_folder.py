"""Finding one's own images: folders of all kinds, lists and npz files, whole and damaged."""

import errno
import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datafiles import made_up, refusal
from skiplab.data import folder, listing, npz
from skiplab.data.folder import Found
from skiplab.errors import UsageError


def lay(root: Path, *names: str) -> Path:
    """Make empty files; finding them does not open them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def plain(found: Found, root: Path) -> list[tuple[str, str, str]]:
    return [(os.path.relpath(i.path, root), i.label, i.part) for i in found.items]


# --------------------------------------------------------------------------------------------------
# folders


def test_a_folder_per_class_in_the_order_of_classes_and_paths(tmp_path: Path) -> None:
    root = lay(tmp_path / "r", "dog/2.png", "dog/10.png", "cat/b.JPG", "cat/deep/er/a.webp")
    assert plain(folder.find(root), root) == [
        ("cat/b.JPG", "cat", ""),
        ("cat/deep/er/a.webp", "cat", ""),
        ("dog/10.png", "dog", ""),
        ("dog/2.png", "dog", ""),
    ]


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_parts_are_found_by_their_names(tmp_path: Path, val: str) -> None:
    root = lay(tmp_path, "test/cat/3.png", "train/cat/1.png", f"{val}/cat/2.png")
    assert plain(folder.find(root), root) == [
        ("train/cat/1.png", "cat", "train"),
        (f"{val}/cat/2.png", "cat", "val"),
        ("test/cat/3.png", "cat", "test"),
    ]


def test_a_folder_called_train_that_holds_images_is_a_class(tmp_path: Path) -> None:
    root = lay(tmp_path, "train/1.png", "plane/2.png", "test/3.png")
    assert [label for _, label, _ in plain(folder.find(root), root)] == ["plane", "test", "train"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "holds no folders; put the images of each class into a folder of its own"),
        (["1.png"], "holds images and no folders"),
        (["cat/notes.txt"], "there is no image in its folders"),
        (["test/cat/1.png"], "holds test, but no folder train"),
        (["train/cat/1.png", "extra/1.png"], "train are parts, and extra none"),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], "val and valid both mean val"),
        (["photos/cat/1.png", "photos/dog/1.png"], "did you mean dataset.root="),
    ],
)
def test_a_folder_that_cannot_be_meant(tmp_path: Path, names: list[str], reason: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert reason in refusal(lambda: folder.find(lay(root, *names)), root)


def test_junk_is_passed_over_in_silence_and_other_files_are_told(tmp_path: Path) -> None:
    junk = [".DS_Store", "Thumbs.db", ".hidden.png", "._1.png", "desktop.ini", "__MACOSX/x.png"]
    root = lay(tmp_path, "cat/1.png", *junk, *(f"cat/{name}" for name in junk))
    found = folder.find(root)
    assert plain(found, root) == [("cat/1.png", "cat", "")]
    assert found.notes == ()
    lay(root, "cat/a.txt", "cat/b.json", "readme.md", "dog/.hidden.png", "outside.png")
    found = folder.find(root)
    assert len(found.items) == 1
    assert list(found.notes) == [
        f"{root}: 3 files left out, by their names no images (.json, .md, .txt)",
        f"{root}: 1 image outside the folders of classes left out",
        f"{root}: no images in dog, so no such class",
    ]


def test_images_that_nobody_decodes_here_are_found_all_the_same(tmp_path: Path) -> None:
    """They are reported as unreadable; left out in silence, a class of them would be missing."""
    root = lay(tmp_path, "cat/IMG_1.HEIC", "cat/2.png")
    assert len(folder.find(root).items) == 2


def test_links_are_followed_and_those_that_lead_out_are_told(tmp_path: Path) -> None:
    root = lay(tmp_path / "r", "cat/1.png", "dog/1.png")
    lay(tmp_path, "elsewhere/7.png")
    (root / "cat/out.png").symlink_to(tmp_path / "elsewhere/7.png")
    (root / "cat/in.png").symlink_to(root / "dog/1.png")
    (root / "cat/loop").symlink_to(root / "cat")
    (root / "cat/root").symlink_to("..")
    (root / "cat/broken.png").symlink_to("nowhere")
    found = folder.find(root)
    names = [name for name, _, _ in plain(found, root)]
    assert names == ["cat/1.png", "cat/broken.png", "cat/in.png", "cat/out.png", "dog/1.png"]
    assert [item.size for item in found.items] == [0, -1, 0, 0, 0]
    assert list(found.notes) == [f"{root}: links lead to 1 image elsewhere, which are used"]


def test_names_of_any_script_and_of_no_text(tmp_path: Path) -> None:
    names = ["Жар-птица/é.png", "猫/ねこ 1.png", "a'b $c/%20.png"]
    root = lay(tmp_path, *names)
    Path(os.fsdecode(os.fsencode(root / "猫") + b"/\xff.png")).touch()
    labels = {label for _, label, _ in plain(folder.find(root), root)}
    assert labels == {"Жар-птица", "猫", "a'b $c"}
    assert len(folder.find(root).items) == 4


def test_a_name_is_one_class_however_it_is_composed(tmp_path: Path) -> None:
    """A Mac writes an accent as a character of its own."""
    root = lay(tmp_path, "train/caf\u00e9/1.png", "test/cafe\u0301/1.png")
    assert {item.label for item in folder.find(root).items} == {"caf\u00e9"}


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = lay(tmp_path, "cat/1.png", "dog/1.png")
    scan = os.scandir

    def scandir(path: Path | str) -> object:
        if Path(path) == root / "dog":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    message = refusal(lambda: folder.find(root), root / "dog")
    assert message.endswith("cannot be read (Permission denied)")


def test_classes_that_are_numbers_are_in_their_order() -> None:
    assert folder.order_of(["10", "9", "1", "10"]) == ("1", "9", "10")
    assert folder.order_of(["10", "9", "a"]) == ("10", "9", "a")


# --------------------------------------------------------------------------------------------------
# lists


def test_a_csv_file_keeps_its_order_and_its_paths_are_relative_to_it(tmp_path: Path) -> None:
    lay(tmp_path, "x/b.png", "a, b.png")
    path = tmp_path / "x/list.csv"
    text = '\ufeffFile;Class;weight;Split\r\nb.png;dog;1;train\r\n"../a, b.png";cat;2;Valid\r\n\r\n'
    path.write_bytes(text.encode())
    found = listing.find(path)
    assert plain(found, tmp_path) == [("x/b.png", "dog", "train"), ("a, b.png", "cat", "val")]
    assert [item.size for item in found.items] == [0, 0]


def test_json_lines_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    rows = [{"path": "b.png", "label": 3, "extra": [1]}, {"file": "a.png", "class": "3"}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert plain(listing.find(path), tmp_path) == [("b.png", "3", ""), ("a.png", "3", "")]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "", "line 1: no column path"),
        ("a.csv", "path,label\n", "names no image"),
        ("a.csv", "1.png,cat\n2.png,dog\n", "line 1: no column path (or file, filename, image)"),
        ("a.csv", "path,file,label\na,b,c\n", "line 1: several columns are a path"),
        ("a.csv", "path,label\n1.png\n", "line 2: 1 values where the first line names 2"),
        ("a.csv", "path,label\n1.png,\n", "line 2: no label"),
        ("a.csv", "path,label\n\n,cat\n", "line 3: no path"),
        ("a.csv", 'path,label\n"1.png,cat\n', "line 2: cannot be read"),
        ("a.csv", "path,label\n1.png,a\n./1.png,b\n", "line 3: ./1.png is in line 2 already"),
        ("a.csv", "path,label,split\n1.png,a,trian\n", "split=trian: take train, val or test"),
        ("a.csv", "path,label,split\n1.png,a,test\n", "no row is of split train"),
        ("a.csv", "path,label,split\n1.png,a,train\n2.png,a,\n", "line 3: a split in some rows"),
        ("a.csv", "path,label\n1\0.png,a\n", "line 2: no file can have a name with a zero byte"),
        ("a.jsonl", "{", "line 1: not JSON"),
        ("a.jsonl", "[]", "line 1: an object with path and label is expected"),
        ("a.jsonl", '{"path": "1.png"}', "line 1: no label"),
        ("a.jsonl", '{"path": "1.png", "label": true}', "line 1: label: text or a number"),
        ("a.jsonl", '{"path": "1.png", "label": 1, "class": 2}', "line 1: class: gives the label"),
    ],
)
def test_a_list_that_cannot_be_understood(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert reason in refusal(lambda: listing.find(path), path)


def test_a_list_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("path,label\né.png,a\n".encode("latin-1"))
    assert "byte 11 is no UTF-8" in refusal(lambda: listing.find(path), path)


# --------------------------------------------------------------------------------------------------
# npz


IMAGES = made_up(6, 4, 5, 3)
LABELS = np.array([0, 1, 0, 1, 0, 1])


def npz_bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def test_an_npz_file_has_images_labels_classes_and_split(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    split = np.array(["train", "test", "val"] * 2)
    content = npz_bytes(images=IMAGES, labels=LABELS, classes=np.array(["b", "a"]), split=split)
    path.write_bytes(content)
    found = npz.find(path)
    assert found.pixels is not None
    assert np.array_equal(found.pixels, IMAGES)
    assert [item.label for item in found.items] == ["b", "a"] * 3
    assert [item.part for item in found.items] == ["train", "test", "val"] * 2
    path.write_bytes(npz_bytes(images=IMAGES[..., 0], labels=np.array(list("xyxyxy"), "S")))
    found = npz.find(path)
    assert found.pixels is not None
    assert np.array_equal(found.pixels, IMAGES[..., :1])
    assert [item.label for item in found.items] == list("xyxyxy")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x_train": IMAGES}, "holds no array images (it has: x_train)"),
        ({"images": IMAGES}, "holds no array labels"),
        ({"images": IMAGES / 255.0, "labels": LABELS}, "images: float64: whole numbers or texts"),
        ({"images": IMAGES.astype(int), "labels": LABELS}, "images: int64 (6, 4, 5, 3): uint8 of"),
        ({"images": IMAGES[..., :2], "labels": LABELS}, "uint8 of (N, height, width)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "holds nothing"),
        ({"images": IMAGES, "labels": LABELS[1:]}, "labels: shape (5,), (6,) is expected"),
        (
            {"images": IMAGES, "labels": LABELS, "classes": np.array(["a"])},
            "labels: 0 to 1, but the 1 classes are 0 to 0",
        ),
        (
            {"images": IMAGES, "labels": LABELS, "split": np.array(["train", "dev"] * 3)},
            "split: 'dev': take train, val or test",
        ),
        ({"images": IMAGES, "labels": np.array([{}] * 6)}, "labels: object: whole numbers"),
    ],
)
def test_an_npz_file_that_cannot_be_meant(
    tmp_path: Path, arrays: dict[str, np.ndarray], reason: str
) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(npz_bytes(**arrays))
    assert reason in refusal(lambda: npz.find(path), path)


def test_a_header_that_lies_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"shape": (10**9, 9, 9), "fortran_order": False, "descr": "|u1"}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(100))
    assert "images: states 81,000,000,000 bytes" in refusal(lambda: npz.find(path), path)


def mutants(content: bytes, number: int) -> list[bytes]:
    """The content with some bytes changed, cut off, left out or repeated."""
    chance = random.Random(0)
    made: list[bytes] = []
    for _ in range(number):
        mutant = bytearray(content)
        for _ in range(chance.choice((1, 1, 3))):
            place, length = chance.randrange(len(mutant)), chance.randrange(1, 9)
            action = chance.choice(("change", "cut", "remove", "repeat"))
            if action == "change":
                mutant[place] = chance.randrange(256)
            elif action == "cut":
                del mutant[max(1, place) :]
            elif action == "remove":
                mutant[place : place + length] = b""
                mutant = mutant or bytearray(b"x")
            else:
                mutant[place:place] = mutant[place : place + length]
        made.append(bytes(mutant))
    return made


CSV = b"path,label,split\n1.png,cat,train\n2.png,dog,test\n3.png,dog,train\n"
JSON = b'{"path": "1.png", "label": "cat"}\n{"path": "2.png", "label": 7}\n'
NPZ = npz_bytes(images=IMAGES, labels=LABELS, classes=np.array(["a", "b"]))


@pytest.mark.parametrize(
    ("find", "name", "content"),
    [
        (listing.find, "a.csv", CSV),
        (listing.find, "a.jsonl", JSON),
        (npz.find, "a.npz", NPZ),
    ],
    ids=["csv", "jsonl", "npz"],
)
def test_a_damaged_list_gives_images_or_one_line(
    find: Callable[[Path], Found], name: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / name
    outcomes = {"found": 0, "refused": 0}
    for mutant in [content, *mutants(content, 200)]:
        path.write_bytes(mutant)
        try:
            found = find(path)
        except UsageError as error:
            outcomes["refused"] += 1
            text = str(error)
            is_one_line = text.startswith(f"{path}: ") and "\n" not in text
            if not is_one_line:
                pytest.fail(f"{mutant!r}: {text}")
        else:
            outcomes["found"] += 1
            assert len(found.items) > 0
    assert all(outcomes.values()), outcomes
