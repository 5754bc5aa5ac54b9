"""Where a run takes place: a fresh folder, or the one in which the same run was stopped. Imports no torch."""

import shutil
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from skiplab import checkpoint, config as configs, folders
from skiplab.errors import CheckpointError, FolderError
from skiplab.schema import Config

OUTPUTS = Path("outputs")


def discard(folder: Path) -> None:
    """Remove a fresh run's folder if nothing was saved in it: it would stand in the list as a run that could go on."""
    if not (folder / folders.LAST).exists():
        shutil.rmtree(folder, ignore_errors=True)


def choose_folder(config: Config, parent: Path, prefix: str) -> tuple[Path, bool]:
    """The folder to run in, and whether it is fresh: out=, or an unfinished run of the same identity, or a new one."""
    identity = configs.identity(config)
    if config.out is not None:
        folder = Path(config.out).expanduser()
        if folders.identity_of(folder) is not None:
            check_same_run(config, folder, identity)
            return folder, False
        if folder.exists() and (not folder.is_dir() or any(f.name != ".lock" for f in folder.iterdir())):
            raise FolderError(f"out={folder}: exists and is not a run folder; take another")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FolderError(f"out={folder}: cannot be made ({error.strerror})") from None
    else:
        if config.resume == "auto" and (found := folders.unfinished(OUTPUTS, identity)) is not None:
            try:
                facts = checkpoint.peek(found / folders.LAST)
            except CheckpointError as error:
                raise CheckpointError(f"{error}; it is this command's unfinished run: resume=never starts afresh") from None
            step, num_steps = facts["progress"]["step"], facts["num_steps"]
            print(f"going on with {found} at step {step:,} of {num_steps:,}; resume=never starts afresh")
            return found, False
        folder = folders.make(parent, folders.slug(f"{prefix}-{config.dataset.name}-{config.model.name}-{config.block.name}"))
    write_config(folder, configs.dump(config))
    return folder, True


def check_same_run(config: Config, folder: Path, identity: str) -> None:
    """Raise FolderError unless the run in `folder` is the one that `config` describes and may go on."""
    if folders.identity_of(folder) != identity:
        theirs, ours = configs.read_tree(folder / folders.CONFIG), configs.flat(config)
        differing = [
            k
            for k, v in configs.flat(configs.check(theirs)).items()
            if ours.get(k) != v and configs.leaves()[k].metadata["changes_numbers"]
        ]
        raise FolderError(f"out={folder}: holds another run ({', '.join(differing[:5])} differ); take another out=")
    if config.resume == "never":
        raise FolderError(f"out={folder}: holds this run already; leave out resume=never to go on, or take another out=")


def write_config(folder: Path, text: str) -> None:
    """The folder's config.yaml."""
    try:
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise FolderError(f"{folder}: not writable ({error.strerror})") from None


def record(folder: Path, cfg: Any, hydra_config: Any) -> None:
    """Hydra's usual .hydra/ folder, as a record: it is never read back."""
    (folder / ".hydra").mkdir(exist_ok=True)
    for name, content in (("config", cfg), ("hydra", hydra_config), ("overrides", hydra_config.overrides.task)):
        (folder / ".hydra" / f"{name}.yaml").write_text(OmegaConf.to_yaml(content), encoding="utf-8")
