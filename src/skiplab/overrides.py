"""The command line held against conf/ before Hydra runs: groups, options, keys, values, sweeps; all that is wrong at once.

Hydra stops at the first error, advises "append with +" on a typo and knows no ranges; these checks take half a second and
import no torch.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, ValueType
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from skiplab import config
from skiplab.errors import UsageError
from skiplab.paths import conf_folder
from skiplab.schema import Config

MAX_CELLS = 64  # of a sweep that are composed whole; a larger one is checked value by value


def groups() -> dict[str, list[str]]:
    """The config groups and their options, by the files in conf/."""
    return {folder.name: sorted(f.stem for f in folder.glob("*.yaml")) for folder in sorted(conf_folder().iterdir()) if folder.is_dir()}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Hydra's composed config as plain values, resolved."""
    try:
        tree = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{getattr(error, 'full_key', None) or 'config'}: {str(error).splitlines()[0]}") from None
    assert isinstance(tree, dict)
    return {str(name): value for name, value in tree.items() if name != "hydra"}


def parse_arguments(arguments: Sequence[str]) -> Any:
    """Hydra's own reading of its flags: .overrides, .multirun, .cfg, .shell_completion ... Raises UsageError on an unknown flag."""
    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise UsageError(f"{message}; options are written KEY=VALUE, see train --help")

    parser.error = refuse  # pyright: ignore[reportAttributeAccessIssue]
    return parser.parse_args(list(arguments))


def check(texts: Sequence[str], *, multirun: bool) -> None:
    """Raise UsageError with everything that is wrong with these overrides, one line each."""
    problems: list[str] = []
    good: list[Override] = []
    for text in texts:
        problem, override = check_override(text, multirun=multirun)
        if problem is not None:
            problems.append(problem)
        elif override is not None:
            good.append(override)
    for line in check_values(good):
        if line not in problems:
            problems.append(line)
    if problems:
        raise UsageError("\n".join(problems))


def check_override(text: str, *, multirun: bool) -> tuple[str | None, Override | None]:
    """One override by itself: (what is wrong, None) or (None, the override)."""
    try:
        override = OverridesParser.create().parse_override(text)
    except OverrideParseException:
        name, equals, value = text.partition("=")
        if not equals:
            return f"{text}: a value is missing; write {text}=VALUE", None
        return f"{text}: the value cannot be read; if it holds spaces or any of = , ( ) {{ }} [ ] quote it: \"{name}='{value}'\"", None
    name = override.key_or_group
    known_groups, leaves = groups(), config.leaves()
    if name.split("/")[0].split(".")[0] == "hydra":
        return None, override
    if override.is_delete():
        return f"{text}: keys cannot be removed; set another value", None
    known = name in known_groups or name in leaves
    if known and (override.is_add() or override.is_force_add()):
        return f"{text}: write it without +, {name}={text.partition('=')[2]}", None
    if not known:
        near = [g for g in known_groups if g not in Config.__dataclass_fields__]
        return next((f"{name}: no such key; did you mean {g}?" for g in near if _close(name, g)), config.unknown_key(name)), None
    if override.package is not None:
        return f"{text}: groups have fixed places here; write {name}={override.get_value_element_as_str()}", None
    if override.is_sweep_override() and not multirun:
        return f"{text}: several values are a sweep; add -m", None
    if name in known_groups:
        return _check_choices(name, override, known_groups[name])
    if name.endswith(".name"):
        group = name.removesuffix(".name")
        return f"{text}: an option is chosen whole; write {group}={override.get_value_element_as_str()}", None
    return None, override


def _close(word: str, name: str) -> bool:
    return config.nearest(word, [name]).startswith("did you mean")


def _check_choices(group: str, override: Override, options: list[str]) -> tuple[str | None, Override | None]:
    for value in values_of(override):
        if value is None and group == "experiment":
            continue
        if str(value) not in options:
            return f"{group}={value}: {config.nearest(str(value), options)}", None
    return None, override


def values_of(override: Override) -> list[Any]:
    """The value, or every value of a sweep."""
    if not override.is_sweep_override():
        return [override.value()]
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        glob = override.value()
        assert isinstance(glob, Glob)
        return list(glob.filter(groups().get(override.key_or_group, [])))
    return [OverridesParser.create().parse_override(f"x={text}").value() for text in override.sweep_string_iterator()]


def as_texts(override: Override) -> list[str]:
    """The override once for each of its values."""
    assert override.input_line is not None
    if not override.is_sweep_override():
        return [override.input_line]
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return [f"{override.key_or_group}={value}" for value in values_of(override)]
    return [f"{override.key_or_group}={text}" for text in override.sweep_string_iterator()]


def check_values(overrides: Sequence[Override]) -> list[str]:
    """What is wrong with the composed configs: of every cell of a small sweep, of every value of a large one."""
    choices = [as_texts(o) for o in overrides if o.value_type != ValueType.INTERVAL_SWEEP]
    cells = list(itertools.islice(itertools.product(*choices), MAX_CELLS + 1))
    if len(cells) > MAX_CELLS:
        first = [texts[0] for texts in choices]
        cells = [(*first[:i], text, *first[i + 1 :]) for i, texts in enumerate(choices) for text in texts]
    problems: list[str] = []
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        for cell in cells:
            try:
                config.check(plain(compose("config", list(cell))))
            except UsageError as error:
                problems += [line for line in str(error).split("\n") if line not in problems]
            except (HydraException, OmegaConfBaseException) as error:
                problems.append(str(error).strip().splitlines()[0])
    return problems


def apply_to_stored(stored: Config, texts: Sequence[str]) -> Config:
    """A run's own config with values changed on resume. Raises UsageError for what would be another network or other data."""
    known_groups, leaves = groups(), config.leaves()
    tree: dict[str, Any] = asdict(stored)
    problems: list[str] = []
    for text in texts:
        problem, override = check_override(text, multirun=False)
        if override is None:
            problems.append(problem or text)
            continue
        name = override.key_or_group
        if name in known_groups or name not in leaves:
            problems.append(f"{text}: a run goes on with its own {name}; single values can change, such as epochs= or optimizer.lr=")
            continue
        group, _, leaf = name.rpartition(".")
        holder = tree[group] if group else tree
        if leaf in holder and leaves[name].metadata["fixed"] and override.value() != holder[leaf]:
            problems.append(f"{text}: cannot change when a run goes on (it has {name}={holder[leaf]}); leave it out, or start a new run")
        holder[leaf] = override.value()
    if problems:
        raise UsageError("\n".join(problems))
    return config.check(tree)
