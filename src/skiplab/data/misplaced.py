"""Find a missing data file under another name or in another folder. It is reported, never used."""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from skiplab.data.download import LARGEST_FILE, md5_of, md5_unpacked
from skiplab.errors import UsageError
from skiplab.locations import cache_folder

# Levels of folders below the root that are searched: ROOT/data/MNIST/raw has three.
MAX_DEPTH = 3
# Folders that are searched at most, because a root may be a whole disk.
MAX_FOLDERS = 500


@dataclass(frozen=True)
class Wanted:
    """A file that would do.

    `folder` lies under the root. `size` (bytes) and `md5` are None where none is published.
    `unpacked` is the published MD5 and the size of what a gzip file holds. `advice` says what to do
    with the file if it should not simply be moved into its folder.
    """

    folder: str
    name: str
    md5: str | None
    size: int | None = None
    unpacked: tuple[str, int] | None = None
    advice: str = ""

    def is_same(self, path: Path) -> bool:
        """Tell whether a file holds these bytes; without a published MD5, whether as many."""
        with suppress(OSError):
            found = path.stat().st_size
            largest = LARGEST_FILE if self.size is None else self.size
            if found > largest or self.size not in (None, found):
                return False
            if self.md5 is None:
                return self.size is not None
            if md5_of(path) == self.md5:
                return True
            if self.unpacked is not None:
                md5, size = self.unpacked
                return md5_unpacked(path, size=size) == md5
        return False


def check(root: Path, wanted: Sequence[Wanted], *, dataset: str) -> None:
    """Raise UsageError with what to do if one of the wanted files lies near its right place."""
    found: dict[Path, Wanted] = {}
    missing = [
        each for each in wanted if each.advice or not (root / each.folder / each.name).is_file()
    ]
    for path, each in find_candidates(root, missing):
        if path not in found and each.is_same(path):
            found[path] = each
    if not found:
        return
    path, each = next(iter(found.items()))
    more = f", and {len(found) - 1} more files likewise" if len(found) > 1 else ""
    place = root / each.folder / each.name
    quoted = shlex.quote(str(path))
    if each.advice:
        advice = each.advice.format(path=quoted, root=shlex.quote(str(root)))
        raise UsageError(f"{dataset}: {path} is there, but not unpacked; {advice}")
    said = f"{dataset}: {each.name} is not in {place.parent}, but {path} is that file{more}"
    if (better := find_root(path, each)) is not None:
        raise UsageError(f"{said}; set dataset.root={shlex.quote(str(better))}")
    raise UsageError(
        f"{said}; mkdir -p {shlex.quote(str(place.parent))} "
        f"&& mv {quoted} {shlex.quote(str(place))}"
    )


def find_root(path: Path, wanted: Wanted) -> Path | None:
    """Return the root under which a file lies rightly; None if its name or folder is another."""
    ending = Path(wanted.folder) / wanted.name
    if path.parts[-len(ending.parts) :] != ending.parts:
        return None
    return path.parents[len(ending.parts) - 1]


def find_candidates(root: Path, wanted: Sequence[Wanted]) -> Iterator[tuple[Path, Wanted]]:
    """Yield the files near a root that are called nearly as a wanted one is, and which that is."""
    by_name: dict[str, list[Wanted]] = {}
    for each in wanted:
        by_name.setdefault(simplify(each.name), []).append(each)
    for folder in find_folders(root, sorted({each.folder for each in wanted})):
        for name in list_names(folder, of_files=True):
            for each in by_name.get(simplify(name), ()):
                yield folder / name, each


def simplify(name: str) -> str:
    """Return a file's name in lower case, without dots, dashes and blanks.

    These are easily mistyped: train-images.idx3-ubyte means train-images-idx3-ubyte.
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_folders(root: Path, expected: Sequence[str]) -> Iterator[Path]:
    """Yield the folders to search: the root, those below it, and those above it.

    A root that is set too deep has the expected folders above it. The default root was not set by
    anybody, so nothing above it is searched.
    """
    queue = [(root, 0)]
    # The loop itself extends the queue.
    for number, (folder, depth) in enumerate(queue):
        if number >= MAX_FOLDERS:
            break
        yield folder
        if depth < MAX_DEPTH:
            queue += [(folder / name, depth + 1) for name in list_names(folder, of_files=False)]
    if root != cache_folder():
        for above in list(root.parents)[:2]:
            yield from (above, *(above / name for name in expected))


def list_names(folder: Path, *, of_files: bool) -> list[str]:
    """Return the names of a folder's files, or else of its folders; none if it is unreadable."""
    with suppress(OSError), os.scandir(folder) as entries:
        if of_files:
            return sorted(entry.name for entry in entries if entry.is_file())
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    return []
