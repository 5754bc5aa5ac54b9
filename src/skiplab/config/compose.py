"""Composes a config with Hydra from conf/ and overrides, and checks it. Imports no torch."""

import copy
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from skiplab.config import code, grammar, presets, validate
from skiplab.config.grid import each_of, parsed, quoted
from skiplab.config.keys import leaves
from skiplab.config.schema import Config
from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.paths import conf_folder, own_files, own_folder

# Path, size and time of writing of each file of conf/.
Files = tuple[tuple[str, int, int], ...]
# Plain values, and Hydra's own settings.
Composed = tuple[dict[str, Any], DictConfig]


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return Hydra's composed config as plain values, resolved.

    Raises UsageError naming the key whose interpolation cannot be resolved.
    """
    try:
        tree = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(
            f"{getattr(error, 'full_key', None) or 'config'}: {str(error).splitlines()[0]}"
        ) from None
    assert isinstance(tree, dict)
    return {str(name): value for name, value in tree.items() if name != "hydra"}


def compose_config(texts: Sequence[str]) -> Config:
    """Return the checked config of a command line."""
    return compose_all([texts])[0]


def compose_all(jobs: Sequence[Sequence[str]]) -> list[Config]:
    """Compose one config per list of overrides. Lists of equal options share one call to Hydra."""
    with hydra_ready() as files:
        return [validate.check(tree_of(texts, files)) for texts in jobs]


def tree_of(texts: Sequence[str], files: Files) -> dict[str, Any]:
    """Return the plain values that overrides give. `files` is what `hydra_ready` gives.

    Raises UsageError for a key that the options lack.
    """
    overrides = parsed(texts)
    # If a value refers to other keys, Hydra has to know all of them.
    refers = any(map(_refers, overrides))
    problems: list[str] = []
    chosen = [str(o.input_line) for o in overrides if refers or not is_plain_value(o)]
    values = [o for o in overrides if not refers and is_plain_value(o)]
    tree = with_values(composed(chosen, files)[0], values, problems)
    if problems:
        raise UsageError("\n".join(problems))
    return tree


def record_of(texts: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """Return what Hydra's own .hydra/ folder holds of a checked command line.

    These are its config, and the settings of Hydra.
    """
    with hydra_ready() as files:
        tree = tree_of(texts, files)
        chosen = [text for text in texts if not is_plain_value(grammar.parse(text))]
        settings = copy.deepcopy(composed(chosen, files)[1])
    with read_write(settings), open_dict(settings):
        settings.overrides.task = list(texts)
        settings.runtime.output_dir = os.getcwd()
    return OmegaConf.create(tree), settings


def composed(chosen: Sequence[str], files: Files) -> Composed:
    """Compose conf/ and these overrides to plain values and Hydra's own settings.

    Neither may be changed: both are kept for the next call.
    """
    # An interpolation may refer to the environment or the clock.
    if any("${" in text for text in chosen):
        return _composed(chosen)
    return _kept(tuple(chosen), files)


def _composed(chosen: Sequence[str]) -> Composed:
    for text in chosen:
        offer_code(grammar.parse(text))
    # Hydra looks into conf/ first, then into the user's own folder.
    own = own_folder()
    searched = [f"hydra.searchpath=[{quoted(f'file://{own}')}]"] if own is not None else []
    cfg = compose("config", [*chosen, *searched], return_hydra_config=True)
    settings = cfg.hydra
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    return plain(cfg), settings


@functools.lru_cache(maxsize=256)
def _kept(chosen: tuple[str, ...], _files: Files) -> Composed:
    return _composed(chosen)


def offer_code(override: Override) -> None:
    """Make the code that an override names, FILE.py:NAME, an option of its group to Hydra.

    Its keys and values are those of the option that is its base.
    """
    group = override.key_or_group
    for each in each_of(override) if group in code.BASES else ():
        spec = each.value()
        if not isinstance(spec, str) or not code.is_spec(spec):
            continue
        node, package = presets.base_of(group, spec)
        # Hydra looks an option up name by name, and leaves out empty ones.
        *folders, name = [part for part in f"{group}/{spec}".split("/") if part]
        ConfigStore.instance().store(
            group="/".join(folders), name=name, node=node, package=package, provider="skiplab"
        )


@contextmanager
def hydra_ready() -> Iterator[Files]:
    """Set Hydra up to compose inside the `with`, also while a sweep of its own is under way.

    Gives the files of conf/ as they are now, from which `composed` sees whether one has changed.
    """
    state, root = GlobalHydra.instance(), conf_folder()
    before = state.hydra
    state.clear()
    try:
        with initialize_config_dir(str(root), version_base="1.3"):
            files = [*root.rglob("*.yaml"), *own_files()]
            found = [(str(path), path.stat()) for path in files]
            yield tuple(sorted((path, stat.st_size, stat.st_mtime_ns) for path, stat in found))
    finally:
        state.hydra = before


def is_plain_value(override: Override) -> bool:
    """Return whether an override sets one key, which takes no composing.

    That saves 70 ms for each run of a sweep.
    """
    return override.key_or_group in leaves() and not _refers(override)


def _refers(override: Override) -> bool:
    """Return whether an override holds an interpolation, `${...}`, however Hydra has quoted it."""
    return any("${" in str(text) for text in (override.input_line, override.value()))


def with_values(
    tree: Mapping[str, Any], values: Sequence[Override], problems: list[str]
) -> dict[str, Any]:
    """Return a copy of a composed tree with these values; what cannot be set goes to `problems`."""
    tree = {name: dict(value) if isinstance(value, dict) else value for name, value in tree.items()}
    for override in values:
        group, _, leaf = override.key_or_group.rpartition(".")
        holder = tree.get(group) if group else tree
        # The key is one of another option.
        if group and isinstance(holder, dict) and leaf not in holder:
            choices = nearest(leaf, set(holder) - {"name"}, prefix=f"{group}.")
            problems.append(
                f"{override.key_or_group}: {group}={holder.get('name')} has no such key; {choices}"
            )
        # A key that conf/ lacks is left to the check.
        elif isinstance(holder, dict) and leaf in holder:
            holder[leaf] = override.value()
    return tree
