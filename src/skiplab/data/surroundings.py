"""What lies near a data file that is missing: the same file under another name or in another folder. It is told, and not taken."""

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

# folders below the root that are looked through: ROOT/data/MNIST/raw
DEPTH = 3
# folders that are looked through; a root may be a whole disk
MOST = 500


@dataclass(frozen=True)
class Wanted:
    """A file that would do: its folder under the root, its name, its size and MD5 as far as they are published.

    `unpacked`: the published MD5 and the size of what a gzip file holds; `advice`: what to do with
    it, if that is not to put it there.
    """

    folder: str
    name: str
    md5: str | None
    size: int | None = None
    unpacked: tuple[str, int] | None = None
    advice: str = ""

    def is_same(self, path: Path) -> bool:
        """Tell whether a file holds these bytes; where nothing but their number is published, whether it has as many."""
        with suppress(OSError):
            found = path.stat().st_size
            if found > LARGEST_FILE or self.size not in (None, found):
                return False
            if self.md5 is None or md5_of(path) == self.md5:
                return self.md5 is not None or self.size is not None
            return (
                self.unpacked is not None
                and md5_unpacked(path, size=self.unpacked[1]) == self.unpacked[0]
            )
        return False


def check(root: Path, wanted: Sequence[Wanted], *, dataset: str) -> None:
    """Raise UsageError if one of the wanted files lies near the place where it is missing, with what to do about it."""
    found: dict[Path, Wanted] = {}
    missing = [
        each for each in wanted if each.advice or not (root / each.folder / each.name).is_file()
    ]
    for path, each in candidates(root, missing):
        if path not in found and each.is_same(path):
            found[path] = each
    if not found:
        return
    path, each = next(iter(found.items()))
    more = f", and {len(found) - 1} more files likewise" if len(found) > 1 else ""
    place = root / each.folder / each.name
    if each.advice:
        raise UsageError(
            f"{dataset}: {path} is there, but not unpacked; {each.advice.format(path=shlex.quote(str(path)), root=shlex.quote(str(root)))}"
        )
    said = f"{dataset}: {each.name} is not in {place.parent}, but {path} is that file{more}"
    if (better := root_of(path, each)) is not None:
        raise UsageError(f"{said}; set dataset.root={shlex.quote(str(better))}")
    raise UsageError(
        f"{said}; mkdir -p {shlex.quote(str(place.parent))} && mv {shlex.quote(str(path))} {shlex.quote(str(place))}"
    )


def root_of(path: Path, wanted: Wanted) -> Path | None:
    """Return the folder that would be the right root for a file where it lies; None if there is none, for it has another name or folder."""
    ending = Path(wanted.folder) / wanted.name
    parents = path.parents
    return (
        parents[len(ending.parts) - 1] if path.parts[-len(ending.parts) :] == ending.parts else None
    )


def candidates(root: Path, wanted: Sequence[Wanted]) -> Iterator[tuple[Path, Wanted]]:
    """Yield the files near a root whose names mean one of the wanted files, but for case, dots, dashes and blanks."""
    by_name: dict[str, list[Wanted]] = {}
    for each in wanted:
        by_name.setdefault(bare(each.name), []).append(each)
    for folder in folders(root, sorted({each.folder for each in wanted})):
        for name in names_in(folder, of_files=True):
            for each in by_name.get(bare(name), ()):
                yield folder / name, each


def bare(name: str) -> str:
    """Return a file's name without what is easily mistyped: train-images.idx3-ubyte means train-images-idx3-ubyte."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def folders(root: Path, expected: Sequence[str]) -> Iterator[Path]:
    """Yield the folders to look through: below the root, and above it where a root that is too deep would have them.

    Nobody has chosen the default root, so nothing is looked for above that.
    """
    queue = [(root, 0)]
    # which grows
    for number, (folder, depth) in enumerate(queue):
        if number >= MOST:
            break
        yield folder
        if depth < DEPTH:
            queue += [(folder / name, depth + 1) for name in names_in(folder, of_files=False)]
    if root != cache_folder():
        for above in list(root.parents)[:2]:
            yield from (above, *(above / name for name in expected))


def names_in(folder: Path, *, of_files: bool) -> list[str]:
    """Return the names of a folder's files, or else of its folders; none where it cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if (entry.is_file() if of_files else entry.is_dir(follow_symlinks=False))
        )
    return []
