"""dataset=folder: reads classes, counts and mean from images of one's own, and opens their parts.

Imports no torch until a part is opened.
"""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from skiplab import locations
from skiplab.config import rules, stored
from skiplab.config.options import Folder
from skiplab.config.schema import Config
from skiplab.data import own
from skiplab.data.decoding import Advance
from skiplab.errors import UsageError
from skiplab.families import size_in_words
from skiplab.machine import streams
from skiplab.runs import log
from skiplab.words import counted

if TYPE_CHECKING:
    from skiplab.data.splits import Split

# Unreadable images that an error lists.
MOST_LISTED = 1_000


def folder_of(config: Config) -> Folder:
    """Return the keys of dataset=folder."""
    assert isinstance(config.dataset, Folder)
    return config.dataset


def source_of(config: Config) -> own.Source:
    """Return where the images lie and how they are decoded."""
    dataset = folder_of(config)
    path = dataset.root if dataset.list is None else dataset.list
    assert path is not None
    return own.Source(
        path=Path(path),
        size=rules.image_size(config),
        channels=dataset.channels if isinstance(dataset.channels, int) else None,
        test_fraction=dataset.test_fraction,
        test_seed=dataset.test_seed,
    )


def prepare(config: Config) -> own.Contents:
    """Return what the images of a config are, from the cache or decoded.

    Raises UsageError if they do not lie where the config says.
    """
    dataset, source = folder_of(config), source_of(config)
    key, path = "root" if dataset.list is None else "list", source.path
    if (kind := locations.kind_of(path)) is None:
        raise UsageError(f"dataset.{key}={path}: there is no such {wanted_kind(key)}")
    if kind != f"a {wanted_kind(key)}":
        advice = (
            f"; did you mean dataset.list={shlex.quote(str(path))}?" if kind == "a file" else ""
        )
        raise UsageError(
            f"dataset.{key}={path}: is {kind}; a {wanted_kind(key)} is expected{advice}"
        )
    return own.prepare(source, own.Telling(line=print_line, bar=bar))


def wanted_kind(key: str) -> str:
    """Return what dataset.root or dataset.list names, in words."""
    return "folder" if key == "root" else "file"


def resolve(config: Config) -> Config:
    """Return the config with what is read from the images, which are decoded if they were not yet.

    A stored config states it already, and is held against the images. Raises UsageError if an image
    cannot be read, if the images are not those that the config states, or if they do not go with
    other keys.
    """
    dataset, source = folder_of(config), source_of(config)
    contents = prepare(config)
    check_readable(contents, source, dataset)
    if dataset.sha256 is not None:
        check_same(contents, source, dataset)
        return config
    found = replace(
        dataset,
        channels=contents.channels,
        size=size_in_words(source.size),
        classes=in_order(dataset.classes, contents.classes),
        mean=dataset.mean or contents.mean,
        std=dataset.std or contents.std,
        sha256=contents.sha256,
        **{f"{part}_images": contents.counts.get(part, 0) for part in ("train", "val", "test")},
    )
    check_stated(dataset, found)
    config = replace(config, dataset=found)
    if found.test_images == 0 and config.evaluator.split == "test":
        print_line(
            f"{source.path} has no test images, so the report is of the validation set "
            "(evaluator.split=val)"
        )
        config = replace(config, evaluator=replace(config.evaluator, split="val"))
    if len(stored.dump(config)) > stored.LARGEST:
        raise UsageError(
            f"{source.path}: {len(found.classes):,} classes, whose names are too long "
            f"for a config.yaml of {stored.LARGEST:,} bytes; shorten them"
        )
    if problems := list(rules.across(config)):
        raise UsageError("\n".join(problems))
    return config


def print_line(text: str) -> None:
    """Print a line at once."""
    streams.say(text)


@contextmanager
def bar(total: int) -> Iterator[Advance]:
    """Show how many of `total` images are decoded, on a terminal."""
    with log.counting(total, unit="image") as advance:
        yield advance


def check_readable(contents: own.Contents, source: own.Source, dataset: Folder) -> None:
    """Raise UsageError with every image that cannot be read, unless they may be left out."""
    if not contents.unreadable or dataset.skip_unreadable:
        return
    number = len(contents.unreadable)
    lines = list(contents.unreadable[:MOST_LISTED])
    if number > MOST_LISTED:
        lines.append(f"and {number - MOST_LISTED:,} more")
    advice = "mend or remove them, or leave them out by dataset.skip_unreadable=true"
    lines.append(f"{source.path}: {counted(number, 'image')} cannot be read; {advice}")
    raise UsageError("\n".join(lines))


def check_same(contents: own.Contents, source: own.Source, dataset: Folder) -> None:
    """Raise UsageError if the images are not those that a stored config states."""
    if contents.sha256 == dataset.sha256:
        return
    counts = [
        f"{contents.counts.get(part, 0):,} {part} images, was {before:,}"
        for part, before in (
            ("train", dataset.train_images),
            ("val", dataset.val_images),
            ("test", dataset.test_images),
        )
        if contents.counts.get(part, 0) != before
    ]
    what = ", ".join(counts) or "as many as before, but other bytes or classes"
    raise UsageError(
        f"{source.path}: the images have changed since this run was begun ({what}); "
        "put them back, or start another run"
    )


def in_order(given: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """Return the classes in the order that is given, or as found.

    Raises UsageError if others are given than found.
    """
    if given and set(given) != set(found):
        raise UsageError(
            f"dataset.classes={list(given)}: the images have {', '.join(found)[:400]}; "
            "leave it out, or give these in another order"
        )
    return tuple(given or found)


def check_stated(given: Folder, found: Folder) -> None:
    """Raise UsageError if a command states another count than there are images."""
    for name in ("train_images", "val_images", "test_images"):
        stated, there = getattr(given, name), getattr(found, name)
        if stated not in (0, there):
            raise UsageError(f"dataset.{name}={stated}: there are {there:,}; leave it out")


# --------------------------------------------------------------------------------------------------
# a resolved config


def contents_of(config: Config) -> tuple[own.Source, own.Contents]:
    """Return what a resolved config's images are, from the cache or decoded again.

    Raises UsageError if they are not there any more, or have changed.
    """
    dataset, source = folder_of(config), source_of(config)
    assert dataset.sha256 is not None
    if (kept := own.contents_of(source, dataset.sha256)) is not None:
        return source, kept
    contents = prepare(config)
    check_same(contents, source, dataset)
    return source, contents


def open_part(config: Config, part: str) -> "Split":
    """Return the images and labels of a part: train, val or test. Imports torch.

    Raises UsageError if the images are not those of the config, or the part has none, and
    OutOfMemory if they do not fit the host.
    """
    import numpy as np
    import torch

    from skiplab.data.splits import RESIZED_COPIES, Split
    from skiplab.machine import memory

    source, contents = contents_of(config)
    count = contents.counts.get(part, 0)
    if count == 0:
        raise UsageError(f"{source.path}: has no {part} images; take --split val")
    height, width = source.size
    memory.check(
        RESIZED_COPIES * count * height * width * contents.channels,
        f"dataset.size={size_in_words(source.size)}: {counted(count, 'image')}",
        "take a smaller one",
    )
    mapped = own.map_part(source, contents, part)
    if mapped is None:
        own.forget(source, contents)
        source, contents = contents_of(config)
        mapped = own.map_part(source, contents, part)
    if mapped is None:
        raise UsageError(f"{source.path}: its decoded images cannot be read from the cache")
    pixels, labels = mapped
    place = np.array([config.dataset.classes.index(name) for name in contents.classes], np.int64)
    return Split(torch.from_numpy(pixels), torch.from_numpy(place[labels]))


def notes(config: Config) -> Iterator[str]:
    """Yield what a user should know of the images of a resolved config."""
    source, contents = contents_of(config)
    yield from contents.notes
    if contents.unreadable:
        number = counted(len(contents.unreadable), "image")
        yield f"{number} left out, since they cannot be read (dataset.skip_unreadable)"
    if rules.has_own_validation(config) and config.val_fraction > 0:
        yield (
            f"{source.path} has a validation part of its own, "
            f"so val_fraction={config.val_fraction:g} holds out nothing"
        )
