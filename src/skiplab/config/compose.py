"""A config as Hydra composes it from conf/ and a command line's overrides, and checked. Imports no torch."""

import copy
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from skiplab.config import grammar, validate
from skiplab.config.grid import parsed
from skiplab.config.keys import leaves
from skiplab.config.schema import Config
from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.paths import conf_folder

# of each file of conf/: path, size, time of writing
Files = tuple[tuple[str, int, int], ...]
Composed = tuple[dict[str, Any], DictConfig]


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Hydra's composed config as plain values, resolved."""
    try:
        tree = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(
            f"{getattr(error, 'full_key', None) or 'config'}: {str(error).splitlines()[0]}"
        ) from None
    assert isinstance(tree, dict)
    return {str(name): value for name, value in tree.items() if name != "hydra"}


def compose_config(texts: Sequence[str]) -> Config:
    """The config of a command line that has passed `check`."""
    return compose_all([texts])[0]


def compose_all(jobs: Sequence[Sequence[str]]) -> list[Config]:
    """The config of each list of overrides; what takes composing is composed once for all that share it."""
    with composing() as files:
        return [validate.check(tree_of(texts, files)) for texts in jobs]


def tree_of(texts: Sequence[str], files: Files) -> dict[str, Any]:
    """The values that overrides give. Raises UsageError for a key that the options lack. `files`: what `composing` gives."""
    overrides = parsed(texts)
    # to other keys, whose values Hydra has to know
    refers = any(map(_refers, overrides))
    problems: list[str] = []
    chosen = [str(o.input_line) for o in overrides if refers or not is_plain_value(o)]
    tree = with_values(
        composed(chosen, files)[0],
        [o for o in overrides if not refers and is_plain_value(o)],
        problems,
    )
    if problems:
        raise UsageError("\n".join(problems))
    return tree


def record_of(texts: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """What Hydra's own .hydra/ folder holds of a command line that has passed the check: its config, and the settings of Hydra."""
    with composing() as files:
        tree = tree_of(texts, files)
        settings = copy.deepcopy(
            composed([text for text in texts if not is_plain_value(grammar.parse(text))], files)[1]
        )
    with read_write(settings), open_dict(settings):
        settings.overrides.task = list(texts)
        settings.runtime.output_dir = os.getcwd()
    return OmegaConf.create(tree), settings


def composed(chosen: Sequence[str], files: Files) -> Composed:
    """What Hydra makes of conf/ and these overrides: plain values, and its own settings. Neither may be changed: both are kept."""
    # which may refer to the environment or the clock
    if any("${" in text for text in chosen):
        return _composed(chosen)
    return _kept(tuple(chosen), files)


def _composed(chosen: Sequence[str]) -> Composed:
    cfg = compose("config", list(chosen), return_hydra_config=True)
    settings = cfg.hydra
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    return plain(cfg), settings


@functools.lru_cache(maxsize=256)
def _kept(chosen: tuple[str, ...], _files: Files) -> Composed:
    return _composed(chosen)


@contextmanager
def composing() -> Iterator[Files]:
    """Hydra set up to compose, also where a sweep of its own is under way. Gives what tells whether a file of conf/ has changed."""
    state, root = GlobalHydra.instance(), conf_folder()
    before = state.hydra
    state.clear()
    try:
        with initialize_config_dir(str(root), version_base="1.3"):
            found = [(str(path), path.stat()) for path in root.rglob("*.yaml")]
            yield tuple(sorted((path, stat.st_size, stat.st_mtime_ns) for path, stat in found))
    finally:
        state.hydra = before


def is_plain_value(override: Override) -> bool:
    """Whether it sets one key, which takes no composing: 70 ms spared for each cell of a sweep."""
    return override.key_or_group in leaves() and not _refers(override)


def _refers(override: Override) -> bool:
    """Whether it holds an interpolation, `${...}`, however Hydra has quoted it."""
    return any("${" in str(text) for text in (override.input_line, override.value()))


def with_values(
    tree: Mapping[str, Any], values: Sequence[Override], problems: list[str]
) -> dict[str, Any]:
    """A copy of a composed tree with these values set in it; what cannot be set is appended to `problems`."""
    tree = {name: dict(value) if isinstance(value, dict) else value for name, value in tree.items()}
    for override in values:
        group, _, leaf = override.key_or_group.rpartition(".")
        holder = tree.get(group) if group else tree
        # a key of another option
        if group and isinstance(holder, dict) and leaf not in holder:
            choices = nearest(leaf, set(holder) - {"name"}, prefix=f"{group}.")
            problems.append(
                f"{override.key_or_group}: {group}={holder.get('name')} has no such key; {choices}"
            )
        # else conf/ lacks it, as the check below says
        elif isinstance(holder, dict) and leaf in holder:
            holder[leaf] = override.value()
    return tree
