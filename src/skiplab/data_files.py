"""The files of the config's data set: where they lie, whether they are there and verified."""

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


def note_unverified(config: Config) -> str | None:
    """Return a note on data files that are read without a checksum; None if there are none."""
    if isinstance(config.dataset, Folder):
        return None
    if not (found := splits.find_unverified(config.dataset.name, root=root_of(config))):
        return None
    return (
        f"note: {', '.join(map(str, found))} read unverified; only their archive's checksum is "
        "published, not theirs: beside the archive, or unpacked by Skiplab, they are verified"
    )
