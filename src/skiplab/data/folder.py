"""Find images of one's own: a folder per class, in parts or not. Nothing is decoded here.

Imports no torch.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skiplab import regular
from skiplab.errors import UsageError
from skiplab.words import counted

# The names that a folder, or a row of a list, may give a part.
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
PART_OF = {name: part for part, names in PARTS.items() for name in names}
IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm"),
)
# Images too, but no decoder here reads them. They count as unreadable, so that nobody misses them.
UNDECODED = (
    *(".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd", ".eps", ".pdf", ".ico"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".tga", ".exr", ".hdr"),
)
# What systems leave in folders. Names that begin with a dot are left out too.
JUNK = ("thumbs.db", "desktop.ini", "__macosx", "icon\r")


class Item(NamedTuple):
    """One image: its file, its class, and its part: train, val, test, or "" for not yet split.

    Size, mtime and ctime (ns) tell whether the file is still the one that was decoded. They are -1
    if there is no such file.
    """

    path: str
    label: str
    part: str
    size: int
    mtime: int
    ctime: int


@dataclass(frozen=True)
class Found:
    """All images of a source, in the order in which they are trained on, and what to tell of them.

    `pixels` holds the images themselves, uint8 (N, H, W, C), where the source is an array.
    """

    items: Sequence[Item]
    notes: Sequence[str] = ()
    pixels: NDArray[np.uint8] | None = None


@dataclass
class Walk:
    """What a walk through folders passes over."""

    root: Path
    other_files: Counter[str] = field(default_factory=Counter)
    links_out: int = 0
    outside: int = 0
    empty: list[str] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        """Yield what a user should know of it, in one line each."""
        if self.other_files:
            kinds = ", ".join(sorted(self.other_files)[:5])
            number = counted(self.other_files.total(), "file")
            yield f"{self.root}: {number} left out, by their names no images ({kinds})"
        if self.outside:
            number = counted(self.outside, "image")
            yield f"{self.root}: {number} outside the folders of classes left out"
        if self.empty:
            yield f"{self.root}: no images in {listed(self.empty)}, so no such class"
        if self.links_out:
            number = counted(self.links_out, "image")
            yield f"{self.root}: links lead to {number} elsewhere, which are used"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return at most `most` names with commas between, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def find(root: Path) -> Found:
    """Find the images under a root: ROOT/train/CLASS/*, ROOT/val, ROOT/test, or ROOT/CLASS/*.

    They come in the order of parts, classes and paths, by code points. Raises UsageError, with what
    to do, if there are no such folders.
    """
    walk = Walk(root)
    parts = find_parts(root, walk)
    items: list[Item] = []
    for part, folder in parts.items():
        items += find_classes(folder, part, walk)
    if not items:
        raise UsageError(f"{root}: there is no image in its folders")
    return Found(items, tuple(walk.notes()))


def find_parts(root: Path, walk: Walk) -> dict[str, Path]:
    """Return the folder of each part; {"": root} if the root holds the classes themselves.

    A folder called train is a part if it holds folders and no images, and else a class.
    """
    folders, images = content_of(root, walk)
    by_part: dict[str, list[str]] = {}
    for name in folders:
        if name.lower() in PART_OF and holds_folders_alone(root / name, walk):
            by_part.setdefault(PART_OF[name.lower()], []).append(name)
    if not by_part:
        if not folders:
            what = "images and no folders" if images else "no folders"
            raise UsageError(
                f"{root}: holds {what}; put the images of each class into a folder of its own, "
                "or name them by dataset.list=FILE"
            )
        walk.outside += len(images)
        check_depth(root, folders, walk)
        return {"": root}
    walk.outside += len(images)
    for part, names in by_part.items():
        if len(names) > 1:
            raise UsageError(f"{root}: {' and '.join(names)} both mean {part}; leave one of them")
    used = {name for names in by_part.values() for name in names}
    others = [name for name in folders if name not in used]
    if others:
        raise UsageError(
            f"{root}: {listed(sorted(used))} are parts, and {listed(others)} none; "
            "a root holds parts (train, val, test) or classes, and nothing else"
        )
    if "train" not in by_part:
        raise UsageError(f"{root}: holds {listed(sorted(used))}, but no folder train")
    return {part: root / by_part[part][0] for part in PARTS if part in by_part}


def check_depth(root: Path, folders: Sequence[str], walk: Walk) -> None:
    """Raise UsageError if the root holds one folder, and the classes are a level below it."""
    if len(folders) == 1 and holds_folders_alone(root / folders[0], walk):
        below = root / folders[0]
        raise UsageError(
            f"{root}: holds one folder, and a class needs one of its own; "
            f"did you mean dataset.root={below}?"
        )


def holds_folders_alone(folder: Path, walk: Walk) -> bool:
    """Tell whether a folder holds folders and no images."""
    folders, images = content_of(folder, walk)
    return bool(folders) and not images


def content_of(folder: Path, walk: Walk) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the images in a folder, sorted."""
    folders: list[str] = []
    images: list[str] = []
    for entry in entries_of(folder):
        if is_folder(entry):
            folders.append(entry.name)
        elif is_image(entry.name):
            images.append(entry.name)
    return folders, images


def entries_of(folder: Path | str) -> list["os.DirEntry[str]"]:
    """Return what is in a folder, sorted by name, without hidden files and JUNK.

    Raises UsageError if it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            kept = [e for e in entries if e.name[0] != "." and e.name.lower() not in JUNK]
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({regular.why(folder, error)})") from None
    return sorted(kept, key=lambda entry: entry.name)


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Tell whether an entry is a folder or a link to one. What is out of reach is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_image(name: str) -> bool:
    """Tell whether a file is an image by its name."""
    return name.lower().endswith((*IMAGES, *UNDECODED))


def find_classes(folder: Path, part: str, walk: Walk) -> Iterator[Item]:
    """Yield the images of a part: those anywhere below each of its folders, which are classes."""
    above = (identity_of(walk.root), identity_of(folder))
    for entry in entries_of(folder):
        if not is_folder(entry):
            if part and is_image(entry.name):
                walk.outside += 1
            elif not is_image(entry.name):
                walk.other_files[suffix_of(entry.name)] += 1
            continue
        label = unicodedata.normalize("NFC", entry.name)
        found = list(find_images(entry.path, above, walk))
        if not found:
            walk.empty.append(f"{part}/{label}" if part else label)
        found.sort()
        for path in found:
            yield item_of(path, label, part)


def find_images(folder: str, above: tuple[tuple[int, int], ...], walk: Walk) -> Iterator[str]:
    """Yield the paths of the images in a folder and below it.

    Links are followed, also out of the root; a link to a folder `above` it is not.
    """
    here = identity_of(folder)
    if here in above:
        return
    for entry in entries_of(folder):
        if is_folder(entry):
            yield from find_images(entry.path, (*above, here), walk)
        elif is_image(entry.name):
            walk.links_out += is_link_out(entry, walk.root)
            yield entry.path
        else:
            walk.other_files[suffix_of(entry.name)] += 1


def identity_of(folder: str | Path) -> tuple[int, int]:
    """Return what tells a folder apart from all others, whatever links lead to it."""
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def is_link_out(entry: "os.DirEntry[str]", root: Path) -> bool:
    """Tell whether a file is a link to one that does not lie under the root."""
    if not entry.is_symlink():
        return False
    return not Path(os.path.realpath(entry.path)).is_relative_to(os.path.realpath(root))


def suffix_of(name: str) -> str:
    """Return the end of a file's name, as a note shows it."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix.isprintable() and 1 < len(suffix) <= 10 else "no suffix"


def item_of(path: str, label: str, part: str) -> Item:
    """Return an image with the facts of its file."""
    try:
        stat = os.stat(path)
    except OSError:
        return Item(path, label, part, -1, -1, -1)
    return Item(path, label, part, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def order_of(labels: Iterable[str]) -> tuple[str, ...]:
    """Return classes in the order of their labels: by number if all are numbers, else by name."""
    names = set(labels)
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
