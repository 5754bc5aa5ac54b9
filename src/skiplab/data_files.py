"""The files of the config's data set: where they lie, whether they are there and verified."""

from collections.abc import Iterator
from pathlib import Path

from skiplab.config import rules
from skiplab.config.options import Folder
from skiplab.config.schema import Config
from skiplab.data import splits
from skiplab.locations import data_root


def find(config: Config, split: str) -> None:
    """Fetch and verify a split's files without reading them. Raises UsageError naming the file."""
    # Images of one's own were read when the config was resolved.
    if not isinstance(config.dataset, Folder):
        splits.find(config.dataset.name, split, root=root_of(config))


def root_of(config: Config) -> Path:
    """Return the folder of the data set's files. Raises UsageError if nothing can lie there.

    A data set that is bundled needs no folder.
    """
    return Path() if config.dataset.name in rules.BUNDLED else data_root(config.dataset.root)


def notes(config: Config) -> Iterator[str]:
    """Yield what a user should know of the data: what is read unverified, or odd in own images."""
    if isinstance(config.dataset, Folder):
        # Pillow takes long to import, and other data sets do without it.
        from skiplab import own_images

        yield from own_images.notes(config)
    elif found := splits.find_unverified(config.dataset.name, root=root_of(config)):
        yield (
            f"{', '.join(map(str, found))} read unverified; only their archive's checksum is "
            "published, not theirs: beside the archive, or unpacked by Skiplab, they are verified"
        )
