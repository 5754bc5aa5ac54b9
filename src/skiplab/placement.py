"""Where a run takes place: a fresh folder, or the one in which the same run was stopped. Imports no torch."""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from skiplab import locations, provenance, regular
from skiplab.config import keys
from skiplab.config.schema import Config
from skiplab.config.stored import dump, flat, identity
from skiplab.errors import CheckpointError, FolderError, SkiplabError, Stopped, UsageError
from skiplab.runs import checkpoint, folders

OUTPUTS = Path("outputs")
# characters of name= in a folder's name
LONGEST_LABEL = 40
# time or number in a sweep: how the names that we give begin
RUN_NAME = re.compile(r"(\d\d-\d\d-\d\d|\d+)-")


def discard(folder: Path) -> None:
    """Remove a fresh run's folder if nothing was saved in it: it would stand in the list as a run that could go on."""
    if not folders.has_state(folder):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held(config: Config, parent: Path, prefix: str) -> Iterator[tuple[Path, bool]]:
    """The folder to run in, locked, and whether it is fresh: out=, or an unfinished run of the same identity, or a new one.

    A fresh one in which nothing was saved is removed again when the run in it ends in an error that
    is told.
    """
    with ExitStack() as stack:
        if config.out is not None:
            folder = locations.given(config.out, key="out")
            make_out(folder)
            stack.enter_context(folders.locked(folder))
            is_new = take_out(config, folder)
        else:
            with folders.one_at_a_time(OUTPUTS):
                folder, is_new = choose(config, parent, prefix)
                stack.enter_context(folders.locked(folder))
        try:
            yield folder, is_new
        except (SkiplabError, OSError) as error:
            if is_new and not isinstance(error, Stopped):
                discard(folder)
            raise


def make_out(folder: Path) -> None:
    """Make out=, if it is not there. Raises FolderError if it is something else than a run's folder."""
    try:
        foreign = folder.exists() and (
            not folder.is_dir() or any(not is_ours(f) for f in folder.iterdir())
        )
        if foreign and folders.identity_of(folder) is None:
            raise FolderError(f"out={folder}: exists and is not a run folder; take another")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"out={folder}: cannot be made ({regular.why(folder, error)})") from None


def is_ours(path: Path) -> bool:
    """Whether a file is one that a start of ours, killed before it had a config, has left."""
    return path.name in (".lock", ".hydra") or (
        path.name.startswith(f".{folders.CONFIG}-") and path.suffix == checkpoint.TEMPORARY
    )


def take_out(config: Config, folder: Path) -> bool:
    """Whether out= is fresh; then it gets its config. Raises FolderError if it holds another run."""
    if folders.identity_of(folder) is not None:
        check_same_run(config, folder, identity(config))
        go_on(config, folder)
        return False
    write_config(folder, dump(config))
    return True


def choose(config: Config, parent: Path, prefix: str) -> tuple[Path, bool]:
    """The unfinished run of the same identity under outputs/, or a fresh folder, and whether it is fresh."""
    clear_leftovers(parent)
    if (
        config.resume == "auto"
        and (found := folders.unfinished(OUTPUTS, identity(config))) is not None
    ):
        try:
            go_on(config, found, afresh="resume=never starts afresh")
        except (CheckpointError, UsageError) as error:
            raise type(error)(
                f"{error}; it is this command's unfinished run: resume=never starts afresh"
            ) from None
        return found, False
    folder = folders.make(parent, name_of(config, prefix))
    write_config(folder, dump(config))
    return folder, True


def name_of(config: Config, prefix: str) -> str:
    """What a fresh folder is called: when it began, what it trains, and its label, as far as a file system takes that."""
    name = folders.slug(f"{prefix}-{config.dataset.name}-{config.model.name}-{config.block.name}")
    return f"{name}-{label}" if (label := label_of(config)) else name


def label_of(config: Config) -> str:
    """name= as a part of a folder's name: letters, digits, dots, dashes and underscores, not too many; empty if it has none of them."""
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", config.name or "")
    return text[:LONGEST_LABEL].strip("_.-")


def go_on(config: Config, folder: Path, *, afresh: str = "") -> None:
    """Say where an unfinished run stands, and give it the label that the command has.

    Raises CheckpointError if it cannot go on, UsageError if its files are not as they were written.
    """
    stored = provenance.load(folder)
    if folders.is_finished(folder):
        return
    provenance.check(folder, stored)
    if folders.has_state(folder):
        stood = folders.standing(folder)
        print(
            f"going on with {folder} at step {stood.step:,} of {stood.num_steps:,}"
            + (f"; {afresh}" if afresh else ""),
            flush=True,
        )
    if config.name is not None and config.name != stored.name:
        write_config(folder, dump(replace(stored, name=config.name)))


def check_outputs() -> None:
    """Raise FolderError if outputs/ cannot be made or written: Hydra makes a sweep's folder in it."""
    with folders.one_at_a_time(OUTPUTS):
        pass


def clear_leftovers(parent: Path) -> None:
    """Remove the folders of runs that were killed before they had a config; the caller holds outputs/'s lock."""
    for folder in parent.iterdir() if parent.is_dir() else ():
        if folder.is_dir() and RUN_NAME.match(folder.name) and all(map(is_ours, folder.iterdir())):
            shutil.rmtree(folder, ignore_errors=True)


def check_same_run(config: Config, folder: Path, identity: str) -> None:
    """Raise FolderError unless the run in `folder` is the one that `config` describes and may go on."""
    if folders.identity_of(folder) != identity:
        theirs, ours = provenance.load(folder), flat(config)
        differing = [
            k
            for k, v in flat(theirs).items()
            if ours.get(k) != v and keys.leaves()[k].metadata["changes_numbers"]
        ]
        differing += (
            ["the weights of init_from"] if theirs.init_sha256 != config.init_sha256 else []
        )
        told = f"{', '.join(differing[:5])} differ" if differing else "the same values"
        if theirs.changed:
            told += f", changed on the way: {provenance.in_words(theirs.changed)}"
        raise FolderError(
            f"out={folder}: holds another run ({told}); take another out=, or go on with it by resume={folder}"
        )
    if config.resume == "never":
        raise FolderError(
            f"out={folder}: holds this run already; leave out resume=never to go on, or take another out="
        )


def write_config(folder: Path, text: str) -> None:
    """The folder's config.yaml."""
    checkpoint.write_atomically(folder / folders.CONFIG, text.encode())


def record(folder: Path, cfg: Any, hydra_config: Any) -> None:
    """Hydra's usual .hydra/ folder, as a record: it is never read back."""
    try:
        (folder / ".hydra").mkdir(exist_ok=True)
    except OSError as error:
        raise FolderError(f"{folder}: not writable ({error.strerror})") from None
    for name, content in (
        ("config", cfg),
        ("hydra", hydra_config),
        ("overrides", hydra_config.overrides.task),
    ):
        checkpoint.write_atomically(
            folder / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(content).encode()
        )
