"""What a study consists of: its name and folder, and for each cell of the grid a config and a run folder. Imports no torch."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.override_parser.types import Override

from skiplab import locations, placement, provenance, regular
from skiplab.config import compose, overrides, stored
from skiplab.config.keys import leaves
from skiplab.config.schema import Config
from skiplab.errors import UsageError
from skiplab.runs import folders

STUDIES = placement.OUTPUTS / "studies"
# characters of a folder's name
LONGEST_VALUE, LONGEST_NAME = 24, 120
# of the sweep, and no part of any cell's name
BOOKKEEPING = (*overrides.OF_STUDIES, "resume")


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    # block=conv depth=2 seed=0: what tells it from the others
    words: str
    # with `out`
    config: Config
    folder: Path
    # what it says, and its traceback if it fails
    log: Path

    @property
    def is_finished(self) -> bool:
        """Whether its result is there; another run's in its folder (out=) is none.

        A folder that is named by this identity may hold one with trainer.devices as it came out,
        where that was auto or torchrun's.
        """
        return is_own(self.folder, self.config) and folders.is_finished(self.folder)


def is_own(folder: Path, config: Config) -> bool:
    """Tell whether a folder holds the run of a cell's config, finished or not.

    A folder that is named by this identity may hold one with trainer.devices as it came out, where
    that was auto or torchrun's; but not one that a command has changed on its way, which is another
    run.
    """
    identity, found = stored.identity(config), folders.identity_of(folder)
    if found is None or found == identity:
        return found is not None
    try:
        return is_named(folder.name, identity) and not provenance.load(folder).changed
    except UsageError:
        return False


def is_named(name: str, identity: str) -> bool:
    """Tell whether a folder's name ends with the first digits of an identity, and a number where the first such name was taken."""
    return re.fullmatch(rf".*_{identity[:8]}(-\d+)?", name) is not None


def name_of(parsed: Sequence[Override], config: Config, *, sweep: str | None) -> str:
    """A study's name: `study=` if given, else its preset's, else the keys that are swept; fixed values that change numbers add a hash.

    So the same command, and one with a wider grid, find the same study.
    """
    if config.study is not None:
        return config.study
    swept = [o.key_or_group for o in parsed if o.is_sweep_override()]
    fixed = sorted(
        str(o.input_line)
        for o in parsed
        if o.key_or_group not in swept and changes_numbers(o.key_or_group)
    )
    keys = [key.rpartition(".")[2] for key in swept if key != "seed"] or ["seed"]
    digest = [hashlib.sha256("\n".join(fixed).encode()).hexdigest()[:4]] if fixed else []
    return folders.slug("-".join([(sweep or "-".join(keys))[: LONGEST_NAME - 5], *digest]))


def changes_numbers(key: str) -> bool:
    """Whether a group or key can change a run's numbers."""
    field = leaves().get(key)
    # by the width that they choose
    if key in ("match", "target"):
        return True
    return (
        key not in ("sweep", *BOOKKEEPING)
        and not key.startswith("hydra")
        and (field is None or field.metadata["changes_numbers"])
    )


def fixed_keys(parsed: Iterable[Override]) -> list[str]:
    """The keys that have one value in the whole study."""
    return sorted({o.key_or_group for o in parsed if not o.is_sweep_override()})


def cells_of(jobs: Sequence[Sequence[str]], *, folder: Path, fixed: Sequence[str]) -> list[Cell]:
    """A cell for each list of overrides; those that describe the same run, to the bit, are one. Raises UsageError on a bad config."""
    found: dict[str, Cell] = {}
    there = (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )
    for texts, config in zip(jobs, compose.compose_all(jobs), strict=True):
        config = within_budget(config)
        found.setdefault(
            stored.identity(config),
            cell_of(texts, config, folder=folder, fixed=fixed, there=there),
        )
    by_folder: dict[Path, Cell] = {}
    for cell in found.values():
        if (other := by_folder.setdefault(cell.folder, cell)) is not cell:
            raise UsageError(
                f"out={cell.folder}: is the folder of both {other.words} and {cell.words}; tell them apart, or leave it out"
            )
    return list(found.values())


def within_budget(config: Config) -> Config:
    """The config with init_from's weights pinned, and the width that match= and target= ask for; torch is imported if they do."""
    config = provenance.pinned(config)
    if config.match == "none":
        return config
    from skiplab import budget

    return budget.solved(config)


def cell_of(
    texts: Sequence[str],
    config: Config,
    *,
    folder: Path,
    fixed: Sequence[str],
    there: Sequence[str] | None = None,
) -> Cell:
    """The cell of a study in `folder`, which holds the folders `there`, with these overrides.

    Its run folder is `out=`, or the one there with its identity, or a new name:
    `block-conv_depth-2_seed-0_1a2b3c4d`.
    """
    pairs = [text.split("=", 1) for text in texts if text.split("=", 1)[0].lstrip("+") not in fixed]
    identity = stored.identity(config)
    words = " ".join("=".join(pair) for pair in pairs) or f"seed={config.seed}"
    parts = [f"{key.rpartition('.')[2]}-{value}"[:LONGEST_VALUE] for key, value in pairs]
    parts += [] if any(key == "seed" for key, _ in pairs) else [f"seed-{config.seed}"]
    label = placement.label_of(config)[:LONGEST_VALUE].strip("_.-")
    name = "_".join(
        [*([label] if label else []), *(folders.slug(part) for part in parts), identity[:8]]
    )
    name = name[-LONGEST_NAME:].lstrip("_-.")
    if there is None:
        there = (
            sorted(path.name for path in folder.iterdir() if path.is_dir())
            if folder.is_dir()
            else []
        )
    if config.out is not None:
        run = locations.given(config.out, key="out")
    else:
        named = [other for other in there if is_named(other, identity)]
        taken = [
            other
            for other in named
            if folders.identity_of(folder / other) and not is_own(folder / other, config)
        ]
        name = next(
            (other for other in named if other not in taken),
            f"{name}-{len(taken) + 1}" if taken else name,
        )
        run = folder / name
    config = replace(
        config, out=str(run), pictures="never" if config.pictures == "auto" else config.pictures
    )
    return Cell(words, config, run, folder / "logs" / f"{name}.log")


def was_probed(cell: Cell) -> bool:
    """Whether a run has recorded what its cell's config has the probe record."""
    try:
        probed = stored.load(cell.folder / folders.CONFIG).trainer.probe
    except UsageError:
        return False
    return set(cell.config.trainer.probe.split(",")) <= set(probed.split(","))


def check_folder(folder: Path) -> None:
    """Raise UsageError if a study's folder is something else: a file, or a run's."""
    if os.path.lexists(folder) and (rule := regular.no_folder(folder)) is not None:
        raise UsageError(f"study={folder.name}: {folder} is {rule}; take another name")
    if folders.identity_of(folder) is not None:
        raise UsageError(f"study={folder.name}: {folder} is a run's folder; take another name")
