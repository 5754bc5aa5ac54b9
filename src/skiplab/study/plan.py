"""Plan a study: its name and folder, and for each cell of the grid a config and a run folder.

Imports no torch.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.override_parser.types import Override

from skiplab import launch, locations, provenance, regular
from skiplab.config import code, compose, overrides, stored
from skiplab.config.keys import leaves
from skiplab.config.schema import Config
from skiplab.errors import UsageError
from skiplab.runs import folders

# A folder's name has this many characters at most, for one value and in all.
LONGEST_VALUE, LONGEST_NAME = 24, 120
# These keys are the sweep's own and no part of any cell's name.
BOOKKEEPING = (*overrides.OF_STUDIES, "resume")


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    # The label tells it from the other cells: block=conv depth=2 seed=0.
    label: str
    # Here `out` is the run's folder.
    config: Config
    folder: Path
    # The run's output goes here, and its traceback if it fails.
    log: Path

    @property
    def is_finished(self) -> bool:
        """Whether its result is there. The result of another run in its folder does not count."""
        return is_own(self.folder, self.config) and folders.is_finished(self.folder)


def is_own(folder: Path, config: Config) -> bool:
    """Return whether a folder holds the run of a cell's config, finished or not.

    The folder is named by the identity of the config as it was typed (trainer.devices=auto). The
    config in it has the resolved number, so its own identity may differ. A run that a command has
    changed on the way is another run.
    """
    identity, found = stored.identity(config), folders.identity_of(folder)
    if found is None or found == identity:
        return found is not None
    try:
        return is_named(folder.name, identity) and not provenance.load(folder).changed
    except UsageError:
        return False


def is_named(name: str, identity: str) -> bool:
    """Return whether a folder's name ends with the first digits of an identity.

    A number may follow, where the first such name was taken.
    """
    return re.fullmatch(rf".*_{identity[:8]}(-\d+)?", name) is not None


def name_of(parsed: Sequence[Override], config: Config, *, sweep: str | None) -> str:
    """Return a study's name: `study=` if given, else its preset's, else the keys that are swept.

    Fixed values that change numbers add a hash. So the same command, and one with a wider grid,
    find the same study.
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
    """Return whether a group or key can change a run's numbers."""
    field = leaves().get(key)
    # They change numbers by the width that they choose.
    if key in ("match", "target"):
        return True
    return (
        key not in ("sweep", *BOOKKEEPING)
        and not key.startswith("hydra")
        and (field is None or field.metadata["changes_numbers"])
    )


def fixed_keys(parsed: Iterable[Override]) -> list[str]:
    """Return the keys that have one value in the whole study."""
    return sorted({o.key_or_group for o in parsed if not o.is_sweep_override()})


def cells_of(jobs: Sequence[Sequence[str]], *, folder: Path, fixed: Sequence[str]) -> list[Cell]:
    """Plan a cell for each list of overrides. Lists that describe the same run share one cell.

    Raises UsageError on a bad config, and if two different runs would share a folder.
    """
    found: dict[str, Cell] = {}
    there = folders_in(folder)
    for texts, config in zip(jobs, compose.compose_all(jobs), strict=True):
        config = within_budget(config)
        cell = cell_of(texts, config, folder=folder, fixed=fixed, there=there)
        found.setdefault(stored.identity(config), cell)
    by_folder: dict[Path, Cell] = {}
    for cell in found.values():
        if (other := by_folder.setdefault(cell.folder, cell)) is not cell:
            raise UsageError(
                f"out={cell.folder}: is the folder of both {other.label} and {cell.label}; "
                "tell them apart, or leave it out"
            )
    return list(found.values())


def folders_in(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder, which need not exist."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def within_budget(config: Config) -> Config:
    """Pin init_from's weights in the config, and set the width that match= and target= ask for.

    Imports torch if they do. Images of one's own are read, and decoded if they were not yet.
    """
    config = launch.with_data(provenance.pin_start(config))
    if config.match == "none":
        return config
    from skiplab import budget

    return budget.solve_width(config)


def cell_of(
    texts: Sequence[str],
    config: Config,
    *,
    folder: Path,
    fixed: Sequence[str],
    there: Sequence[str] | None = None,
) -> Cell:
    """Plan the cell with these overrides of a study in `folder`, which holds the folders `there`.

    Its run folder is `out=`, or the one there with its identity, or a new one.
    """
    given = [text.split("=", 1) for text in texts if text.split("=", 1)[0].lstrip("+") not in fixed]
    pairs = [(key, code.as_typed(value)) for key, value in given]
    label = " ".join("=".join(pair) for pair in pairs) or f"seed={config.seed}"
    name = folder_name(pairs, config)
    if config.out is not None:
        run = locations.given(config.out, key="out")
    else:
        names = folders_in(folder) if there is None else there
        name = choose_name(name, names, folder, config)
        run = folder / name
    pictures = "never" if config.pictures == "auto" else config.pictures
    config = replace(config, out=str(run), pictures=pictures)
    return Cell(label, config, run, folder / "logs" / f"{name}.log")


def folder_name(pairs: Sequence[Sequence[str]], config: Config) -> str:
    """Return a new run folder's name, of keys, values and identity.

    An example is `block-conv_depth-2_seed-0_1a2b3c4d`. A `name=` stands in front.
    """
    parts = [f"{key.rpartition('.')[2]}-{named(value)}"[:LONGEST_VALUE] for key, value in pairs]
    if all(key != "seed" for key, _ in pairs):
        parts.append(f"seed-{config.seed}")
    own_name = launch.label_of(config)[:LONGEST_VALUE].strip("_.-")
    first = [own_name] if own_name else []
    identity = stored.identity(config)
    name = "_".join([*first, *map(folders.slug, parts), identity[:8]])
    return name[-LONGEST_NAME:].lstrip("_-.")


def named(value: str) -> str:
    """Return a value as a folder's name has it: FILE.NAME for code of a user's own."""
    return code.short_name(value) if code.is_spec(value) else value


def choose_name(name: str, there: Sequence[str], folder: Path, config: Config) -> str:
    """Choose a run folder's name among those `there`: the config's own run, else a new name."""
    identity = stored.identity(config)
    named = [other for other in there if is_named(other, identity)]
    taken = [
        other
        for other in named
        if folders.identity_of(folder / other) and not is_own(folder / other, config)
    ]
    fresh = f"{name}-{len(taken) + 1}" if taken else name
    return next((other for other in named if other not in taken), fresh)


def was_probed(cell: Cell) -> bool:
    """Return whether a run has recorded what its cell's config has the probe record."""
    try:
        probed = stored.load(cell.folder / folders.CONFIG).trainer.probe
    except UsageError:
        return False
    return set(cell.config.trainer.probe.split(",")) <= set(probed.split(","))


def check_folder(folder: Path) -> None:
    """Check a study's folder. Raises UsageError if it is something else: a file, or a run's."""
    if os.path.lexists(folder) and (rule := regular.no_folder(folder)) is not None:
        raise UsageError(f"study={folder.name}: {folder} is {rule}; take another name")
    if folders.identity_of(folder) is not None:
        raise UsageError(f"study={folder.name}: {folder} is a run's folder; take another name")
