"""Images of one's own: found, decoded once, split, kept in the cache, and mapped from there.

An entry is valid for the files that it was made of: by path, class, part, size, mtime and ctime of
each, and for this FORMAT. What is mapped is hashed each time. Imports no torch.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skiplab.data import decoding, folder, images, listing, moments, npz, parting
from skiplab.data.arrays import Bytes
from skiplab.data.cache import ABANDONED_AFTER, PRIVATE_PREFIX
from skiplab.data.decoding import Advance, Outcome
from skiplab.data.download import TICK
from skiplab.data.folder import Found
from skiplab.errors import UsageError
from skiplab.locations import cache_folder
from skiplab.words import counted, in_bytes

# Raise this number when the same files come to be decoded, split or ordered in another way.
FORMAT = 1
# Seconds after which an entry of files that have changed since is removed, unless it was used.
OUTDATED_AFTER = 7 * 86400
# Images that are written at once.
PIECE = 1000


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where images lie, and how they are decoded and split.

    `path` is a folder, a list (CSV or JSON lines) or an npz file; `size` is (height, width).
    `channels` None means 1 if all training images are grey, else 3. Where nothing says what is for
    the test, `test_fraction` of each class is, drawn by `test_seed`.
    """

    path: Path
    size: tuple[int, int]
    channels: int | None
    test_fraction: float
    test_seed: int

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for this source in names of the cache."""
        place = os.path.realpath(self.path)
        plain = [FORMAT, place, self.size, self.test_fraction, self.test_seed]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a source holds. Mean and deviation are those of the training images' pixels in [0, 1].

    `sha256` is that of the files' bytes, classes and parts, in order; `pixels` that of each part's
    entry. `unreadable` has a line for each image that is left out. `notes` are for the user.
    """

    classes: tuple[str, ...]
    channels: int
    # The channels that the training images ask for, whatever was asked for.
    natural_channels: int
    counts: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    pixels: dict[str, str]
    unreadable: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_natural(self) -> bool:
        """Whether these are the channels that the training images ask for."""
        return self.channels == self.natural_channels

    def index(self, source: Source) -> Path:
        """Return the file of the cache that holds this."""
        return cache_folder() / f"own-{source.key}-{self.sha256[:16]}-{self.channels}.json"

    def paths(self, source: Source) -> dict[str, Path]:
        """Return the file with the pixels and labels of each part."""
        index = self.index(source)
        return {part: index.with_name(f"{index.stem}-{part}.decoded") for part in self.counts}


@dataclass(frozen=True)
class Telling:
    """How a user is kept informed: `line` prints one, `bar(total)` shows how many are done."""

    line: Callable[[str], None]
    bar: Callable[[int], AbstractContextManager[Advance]]


def prepare(source: Source, telling: Telling) -> Contents:
    """Return what a source holds, from the cache or decoded and put there.

    Raises UsageError if there are no such images, or no room for them.
    """
    found = find(source.path)
    facts = digest_of(found)
    for made_of, contents in entries(source):
        if made_of == facts and source.channels in (None, contents.channels):
            is_asked_for = source.channels is not None or contents.is_natural
            if is_asked_for and all(path.exists() for path in contents.paths(source).values()):
                return contents
    # Wait, so that a file that is written from now on has another time.
    newest = max(max(item.mtime, item.ctime) for item in found.items)
    time.sleep(min(TICK, max(0, TICK - (time.time() - newest / 1e9))))
    return decode(source, found, facts, telling)


def find(path: Path) -> Found:
    """Find the images of a folder, a list or an npz file. Raises UsageError if there are none."""
    if path.is_dir():
        return folder.find(path)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return npz.find(path)
    if suffix in (*listing.CSV_SUFFIXES, *listing.JSON_SUFFIXES):
        return listing.find(path)
    raise UsageError(f"{path}: a folder, or a .csv, .jsonl or .npz file is expected")


def digest_of(found: Found) -> str:
    """Return the SHA-256 of which files there are, and of their facts."""
    digest = hashlib.sha256()
    for item in found.items:
        digest.update(os.fsencode("\0".join(map(str, item))) + b"\n")
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------
# entries of the cache


def entries(source: Source) -> Iterator[tuple[str, Contents]]:
    """Yield the digest of files and the contents of each entry of a source."""
    for path in sorted(cache_folder().glob(f"own-{source.key}-*.json")):
        # What is damaged is as good as missing.
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            tree = json.loads(path.read_text())
            facts = tree.pop("made_of")
            for name in ("classes", "mean", "std", "unreadable", "notes"):
                tree[name] = tuple(tree[name])
            contents = Contents(**tree)
            is_whole = isinstance(contents.counts, dict) and contents.pixels.keys() == {
                *contents.counts
            }
            if is_whole and path == contents.index(source):
                yield facts, contents


def contents_of(source: Source, sha256: str) -> Contents | None:
    """Return the contents of this SHA-256 and of the source's channels, if the cache has them."""
    for _, contents in entries(source):
        if contents.sha256 == sha256 and contents.channels == source.channels:
            return contents
    return None


def forget(source: Source, contents: Contents) -> None:
    """Remove an entry whose pixels are missing or damaged."""
    with suppress(OSError):
        contents.index(source).unlink()


def map_part(
    source: Source, contents: Contents, part: str
) -> tuple[Bytes, NDArray[np.int64]] | None:
    """Map the pixels (N, H, W, C) and labels (N,) of a part; None if they are not in the cache.

    The labels are places in `contents.classes`.
    """
    count = contents.counts[part]
    try:
        # Copy on write: what this process writes into the arrays never reaches the file.
        content = np.asarray(np.memmap(contents.paths(source)[part], np.uint8, mode="c"))
        if hashlib.sha256(content.data).hexdigest() != contents.pixels[part]:
            return None
    except (OSError, ValueError):
        return None
    end = count * math.prod(source.size) * contents.channels
    pixels = content[:end].reshape(count, *source.size, contents.channels)
    # It is in use, so it is kept.
    with suppress(OSError):
        os.utime(contents.index(source))
    # The labels need not begin at a multiple of eight bytes.
    return pixels, np.frombuffer(content[end:].tobytes(), np.int64)


@contextmanager
def private_folder(size: int) -> Iterator[Path]:
    """Make a folder in the cache for this process, in which there is room for `size` bytes.

    Raises UsageError if there is not.
    """
    cache = cache_folder()
    advice = "set $XDG_CACHE_HOME to a folder with more room"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob(f"{PRIVATE_PREFIX}*"):
            if time.time() - left.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(cache).free
        if size > free:
            raise UsageError(
                f"{cache}: the decoded images need {in_bytes(size)} and {in_bytes(free)} are free; "
                f"{advice}, or take a smaller dataset.size"
            )
        with tempfile.TemporaryDirectory(dir=cache, prefix=PRIVATE_PREFIX) as private:
            yield Path(private)
    except OSError as error:
        raise UsageError(
            f"{cache}: the decoded images cannot be kept there ({error.strerror}); {advice}"
        ) from None


# --------------------------------------------------------------------------------------------------
# decoding


def decode(source: Source, found: Found, facts: str, telling: Telling) -> Contents:
    """Decode all images, split them, and write them into the cache."""
    shape = (len(found.items), *source.size, source.channels or 3)
    # The pixels are there twice for a moment: as they are decoded, and in their parts.
    size = 2 * math.prod(shape)
    with private_folder(size) as private:
        telling.line(announcement(source, found, size))
        pixels = allocate(private / "pixels", shape)
        with telling.bar(len(found.items)) as advance:

            def done(number: int) -> None:
                advance(number)
                # So that nobody takes the folder for an abandoned one.
                os.utime(private)

            outcomes = decode_into(pixels, source, found, done)
        # What the system may give later is tried again by the next command.
        if not all(outcome.is_lasting for outcome in outcomes):
            facts = ""
        contents = write_parts(source, found, outcomes, pixels, private)
        # Windows removes no file that is mapped.
        del pixels
        index = private / "index"
        index.write_text(json.dumps(asdict(contents) | {"made_of": facts}))
        os.replace(index, contents.index(source))
    remove_outdated(source, contents)
    return contents


def allocate(path: Path, shape: tuple[int, ...]) -> Bytes:
    """Map a new file of uint8 `shape`. Raises OSError if the disk has no room for all of it.

    Without the room, writing into the map would end the process.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        else:
            file.truncate(math.prod(shape))
    return np.memmap(path, np.uint8, mode="r+", shape=shape)


def announcement(source: Source, found: Found, size: int) -> str:
    """Return what is about to be decoded, and the room that it needs and finds."""
    height, width = source.size
    num_classes = len({item.label for item in found.items})
    free = shutil.disk_usage(cache_folder()).free
    return (
        f"decoding {source.path} once: {counted(len(found.items), 'image')}, "
        f"{num_classes} classes, to {height}x{width}; needs at most {in_bytes(size)} of the "
        f"{in_bytes(free)} free in {cache_folder()}"
    )


def decode_into(pixels: Bytes, source: Source, found: Found, advance: Advance) -> Sequence[Outcome]:
    """Decode every image into `pixels` (N, H, W, C). Returns what became of each."""
    if found.pixels is None:
        return decoding.decode_all([item.path for item in found.items], pixels, advance)
    is_grey = found.pixels.shape[3] == 1
    outcomes: list[Outcome] = []
    for i, image in enumerate(found.pixels):
        plain = Image.fromarray(image[..., 0] if is_grey else image)
        decoded = images.Decoded(plain, is_grey)
        pixels[i] = images.to_array(decoded, size=source.size, channels=pixels.shape[3])
        outcomes.append(Outcome(hashlib.sha256(image.data).hexdigest(), is_grey))
        advance(1)
    return outcomes


def write_parts(
    source: Source, found: Found, outcomes: Sequence[Outcome], pixels: Bytes, private: Path
) -> Contents:
    """Split the images, write the pixels and labels of each part, and return what they are.

    Raises UsageError if no image can be read.
    """
    unreadable = tuple(
        f"{item.path}: {outcome.problem}"
        for item, outcome in zip(found.items, outcomes, strict=True)
        if outcome.problem
    )
    if len(unreadable) == len(found.items):
        raise UsageError("\n".join([*unreadable[:20], f"{source.path}: no image can be read"]))
    parts = parting.split(
        found.items, outcomes, fraction=source.test_fraction, seed=source.test_seed
    )
    natural = 1 if all(outcomes[i].is_grey for i in parts.train) else 3
    channels = source.channels or natural
    if channels < pixels.shape[3]:
        make_grey(found, outcomes, pixels)
    digests: dict[str, str] = {}
    totals = [[0, 0]] * channels
    for part, members in parts.members.items():
        labels = np.array([parts.labels[i] for i in members], np.int64)
        pieces = (
            np.ascontiguousarray(pixels[members[start : start + PIECE]][..., :channels])
            for start in range(0, len(members), PIECE)
        )
        digests[part], sums = write_part(private / part, pieces, labels)
        if part == "train":
            totals = sums
    mean, std = moments.mean_and_std(totals, len(parts.train) * math.prod(source.size))
    contents = Contents(
        classes=parts.classes,
        channels=channels,
        natural_channels=natural,
        counts={part: len(members) for part, members in parts.members.items()},
        mean=mean,
        std=std,
        sha256=parts.sha256,
        pixels=digests,
        unreadable=unreadable,
        notes=(*found.notes, *parts.notes),
    )
    for part, path in contents.paths(source).items():
        os.replace(private / part, path)
    return contents


def make_grey(found: Found, outcomes: Sequence[Outcome], pixels: Bytes) -> None:
    """Decode the colour images again, to one plane, where the training images are all grey."""
    coloured = [i for i, outcome in enumerate(outcomes) if not outcome.is_grey]
    _, height, width, _ = pixels.shape
    for i in coloured:
        if not outcomes[i].problem:
            path = Path(found.items[i].path)
            pixels[i] = images.decode(path, size=(height, width), channels=1)


def write_part(
    path: Path, pieces: Iterable[Bytes], labels: NDArray[np.int64]
) -> tuple[str, list[list[int]]]:
    """Write pixels and labels, and return their SHA-256 and the sums of each channel."""
    digest = hashlib.sha256()
    sums: list[list[int]] = []
    with path.open("wb") as file:
        for piece in pieces:
            sums = moments.added(sums, moments.sums_of(piece))
            digest.update(piece.data)
            file.write(piece.data)
        digest.update(labels.data)
        file.write(labels.data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), sums


def remove_outdated(source: Source, contents: Contents) -> None:
    """Remove the entries of a source whose files have changed since, unless they were used."""
    for index in cache_folder().glob(f"own-{source.key}-*.json"):
        with suppress(OSError):
            is_old = time.time() - index.stat().st_mtime > OUTDATED_AFTER
            if index != contents.index(source) and is_old:
                for path in index.parent.glob(f"{index.stem}*"):
                    path.unlink()
