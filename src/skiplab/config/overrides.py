"""Checks a command line against conf/ before Hydra runs, and finds all that is wrong at once.

Hydra stops at the first error, advises "append with +" on a typo and knows no ranges; these checks
take half a second and import no torch.
"""

import argparse
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from skiplab.config import compose, grammar, lexicon, plugins, rules, stored, validate
from skiplab.config.grid import count_cells, each_of, with_preset
from skiplab.config.keys import leaves, unknown_key
from skiplab.config.schema import Config
from skiplab.config.typed import DASHES, shown
from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.paths import groups

# A sweep of at most so many runs, with at most so many to compose, is checked whole in 7 s at most.
# A larger one is checked value by value.
MAX_CELLS = 1_000
MAX_COMPOSED = 100
# In a large sweep so many of the first and last values of a key are checked.
MOST_OF_A_KEY = 200
# The keys of a study as a whole.
OF_STUDIES = ("study", "jobs", "retries", "on_error", "force")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read Hydra's flags as Hydra does: .overrides, .multirun, .cfg, .shell_completion ...

    Raises UsageError on an unknown flag.
    """
    parser = get_args_parser()
    # With abbreviations --vers would be Hydra's version.
    parser.allow_abbrev = False

    def refuse(message: str) -> None:
        raise UsageError(f"{message}; options are written KEY=VALUE, see train --help")

    parser.error = refuse  # pyright: ignore[reportAttributeAccessIssue]
    return parser.parse_intermixed_args(list(arguments))


def check(
    texts: Sequence[str],
    *,
    multirun: bool,
    is_search: bool = False,
    shows: bool = False,
    several: str = "add -m",
) -> None:
    """Raise UsageError with everything that is wrong with these overrides, one line each.

    A search takes intervals too; a command that only `shows` a config takes a launcher without -m.
    `several`: the advice on several values.
    """
    plugins.choose(texts)
    texts = with_preset(texts) if multirun else texts
    plugins.check_launcher(texts)
    problems: list[str] = []
    good: list[Override] = []
    for text in texts:
        problem, override = check_override(text, multirun=multirun, several=several)
        if problem is not None:
            problems.append(problem)
        elif override is not None:
            good.append(override)
    problems += _misplaced(good, multirun=multirun, is_search=is_search, shows=shows)
    problems += [line for line in check_values(good) if line not in problems]
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))


def _misplaced(
    overrides: Sequence[Override], *, multirun: bool, is_search: bool, shows: bool
) -> list[str]:
    """Return a line for each override that is for another command than this one."""
    problems: list[str] = []
    for o in overrides:
        text = o.input_line
        is_launcher = o.key_or_group.startswith(("hydra/launcher", "hydra.launcher"))
        is_of_a_study = o.key_or_group in OF_STUDIES or (is_launcher and not shows)
        if o.value_type == ValueType.INTERVAL_SWEEP and not is_search:
            problems.append(
                f"{text}: an interval is for skiplab search; list the values, "
                "or write range(START,STOP,STEP)"
            )
        elif getattr(o.value(), "tags", None) and not is_search:
            problems.append(f"{text}: a tag is for skiplab search; leave it out")
        elif is_launcher and is_search:
            problems.append(
                f"{text}: a search runs its trials itself, jobs=N of them at once; leave it out"
            )
        elif not multirun and is_of_a_study:
            problems.append(
                f"{text}: is of a study; add -m with several values of a key, or sweep=NAME, "
                "or leave it out"
            )
    return problems


def check_override(
    text: str, *, multirun: bool, several: str = "add -m"
) -> tuple[str | None, Override | None]:
    """Check one override by itself. Returns (what is wrong, None) or (None, the override)."""
    try:
        override = grammar.parse(text)
    except grammar.Unreadable:
        return _unreadable(text), None
    except UsageError as error:
        return str(error), None
    name = override.key_or_group
    if name.startswith(("hydra.", "hydra/")):
        problem = _hydra_problem(text, override)
    else:
        problem = (
            _key_problem(text, override)
            or _sweep_problem(text, override, multirun=multirun, several=several)
            or _option_problem(text, override)
        )
    return (problem, None) if problem is not None else (None, override)


def _hydra_problem(text: str, override: Override) -> str | None:
    """Return what is wrong with an override of Hydra's own keys."""
    if twin := plugins.twin(override.key_or_group, text.partition("=")[2]):
        return f"{text}: {twin}"
    return f"{text}: one for the whole sweep; choose" if override.is_sweep_override() else None


def _key_problem(text: str, override: Override) -> str | None:
    """Return what is wrong with the key of an override and the signs around it."""
    name = override.key_or_group
    if not name:
        return f"{text}: a key is missing; write KEY{text}"
    if override.is_delete():
        return f"{text}: keys cannot be removed; set another value"
    if name not in groups() and name not in leaves() and name not in Config.__dataclass_fields__:
        return unknown_key(name)
    # A preset gives the sign. A command line's are taken off before.
    if override.is_add() or override.is_force_add():
        return f"{text}: write it without +, {name}={text.partition('=')[2]}"
    if override.package is not None:
        value = override.get_value_element_as_str()
        return f"{text}: groups have fixed places here; write {name}={value}"
    return None


def _sweep_problem(text: str, override: Override, *, multirun: bool, several: str) -> str | None:
    """Return why an override does not go with a sweep, or with a single run."""
    name = override.key_or_group
    if override.is_sweep_override():
        if name in OF_STUDIES:
            return f"{text}: one for the whole sweep; choose"
        if not multirun:
            return f"{text}: several values are a sweep; {several}"
        if _makes_no_other_run(name):
            return (
                f"{text}: makes no other run, so a study has each but once; give one value, "
                "or a study= for each"
            )
    if multirun and name == "resume" and override.value() == "never":
        return (
            "resume=never: what a study has done stays done; "
            "take another study=NAME to run it all afresh"
        )
    if multirun and name == "out" and override.value() is not None and "${" not in text:
        return (
            f"{text}: the runs of a sweep get folders of their own; leave it out, "
            "or tell them apart: out=runs/${block.name}-${seed}"
        )
    return None


def _makes_no_other_run(name: str) -> bool:
    field = leaves().get(name)
    is_budget = name in ("match", "target")
    return field is not None and not field.metadata["changes_numbers"] and not is_budget


def _unreadable(text: str) -> str:
    name, equals, value = text.partition("=")
    if equals and not re.fullmatch(r"[~+]*[A-Za-z_$][\w./@$-]*", name, re.ASCII):
        return f"{shown(name)}: no such key; a key is of letters, digits, dots and underscores"
    if equals and any(dash in value for dash in DASHES):
        return (
            f"{shown(text)}: holds a dash that is no hyphen; write -, "
            f"or quote the value: \"{name}='...'\""
        )
    if equals:
        quoted = shown(value).replace("'", "\\'")
        rule = "if it holds spaces or any of = , ( ) { } [ ] quote it"
        return f"{shown(text)}: the value cannot be read; {rule}: \"{name}='{quoted}'\""
    known_groups = groups()
    if holders := [group for group, options in known_groups.items() if text in options]:
        choices = " or ".join(f"{group}={text}" for group in holders)
        return f"{text}: a key is missing; write {choices}"
    if text in known_groups or text in leaves():
        return f"{text}: a value is missing; write {text}=VALUE"
    if text in lexicon.VERBS:
        return f"{text}: no such key; skiplab {text} is a command of its own"
    problem = unknown_key(text)
    meant = [
        name if "=" in name else f"{group}={name}"
        for group, options in known_groups.items()
        for name in lexicon.meant(text, options)
    ]
    if "did you mean" not in problem and 0 < len(meant) <= lexicon.FEW:
        return f"{text}: a key is missing; did you mean {' or '.join(meant)}?"
    return problem


def _option_problem(text: str, override: Override) -> str | None:
    """Return what is wrong with the options of a group that an override chooses."""
    name = override.key_or_group
    if name.endswith(".name"):
        value = override.get_value_element_as_str()
        return f"{text}: an option is chosen whole; write {name.removesuffix('.name')}={value}"
    if (options := groups().get(name)) is None:
        return None
    for value in (each.value() for each in each_of(override)):
        if value is None:
            return f"{name}=null: leave it out, or take one of {', '.join(options)}"
        if str(value) not in options:
            return f"{name}={value}: no such {name}; {_choice_meant(name, str(value), options)}"
    return None


def _choice_meant(group: str, value: str, options: Sequence[str]) -> str:
    """Return what to write for an unknown option: one that is near, or the group that has it."""
    others = [name for name, theirs in groups().items() if value in theirs and name != group]
    if others and not lexicon.meant(value, options):
        choices = " or ".join(f"{name}={value}" for name in others)
        return f"did you mean {choices}? Choices: {', '.join(options)}"
    return nearest(value, options)


def check_values(overrides: Sequence[Override]) -> list[str]:
    """Return what is wrong with the composed configs.

    A small sweep is checked at every run, a large one at every value.
    """
    # A set that keeps its order.
    problems: dict[str, None] = {}
    composed: dict[tuple[str, ...], dict[str, Any] | None] = {}
    with compose.hydra_ready() as files:
        for cell in _cells_to_check(overrides):
            chosen = tuple(str(o.input_line) for o in cell if not compose.is_plain_value(o))
            values = [o for o in cell if compose.is_plain_value(o)]
            try:
                if chosen not in composed:
                    composed[chosen] = None
                    composed[chosen] = compose.composed(chosen, files)[0]
                if (tree := composed[chosen]) is not None:
                    problems |= dict.fromkeys(_value_problems(tree, values))
            except UsageError as error:
                problems[str(error)] = None
            except COMPOSING_ERRORS as error:
                problems[_composing_failed(error, chosen)] = None
    trees = [tree for tree in composed.values() if tree is not None]
    return [*problems, *_root_problem(trees, overrides)]


# What Hydra, OmegaConf and PyYAML raise at a preset that cannot be composed.
COMPOSING_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    ValueError,
    AssertionError,
)


def _cells_to_check(overrides: Sequence[Override]) -> Iterable[tuple[Override, ...]]:
    """Return the runs of a small sweep, or for each value of a large one a run that has it."""
    is_large = count_cells(overrides) > MAX_CELLS
    most = MOST_OF_A_KEY if is_large else None
    choices = [values for o in overrides if (values := each_of(o, most=most))]
    num_composed = math.prod(
        len(values) for values in choices if not compose.is_plain_value(values[0])
    )
    if num_composed <= MAX_COMPOSED and not is_large:
        return itertools.product(*choices)
    first = [values[0] for values in choices]
    return [
        (*first[:i], value, *first[i + 1 :]) for i, values in enumerate(choices) for value in values
    ]


def _value_problems(tree: Mapping[str, Any], values: Sequence[Override]) -> list[str]:
    """Return what is wrong with a composed tree once these values are set in it."""
    problems: list[str] = []
    tree = compose.with_values(tree, values, problems)
    problems += [*_epochs_problem(tree, values), *_width_problem(tree, values)]
    try:
        validate.check(tree)
    except UsageError as error:
        problems += str(error).split("\n")
    return problems


def _epochs_problem(tree: Mapping[str, Any], values: Sequence[Override]) -> list[str]:
    """Return what is wrong with epochs= where the run's length is given in steps."""
    given = [override for override in values if override.key_or_group == "epochs"]
    if not given or tree["steps"] is None:
        return []
    rule = (
        f"steps={tree['steps']} is the run's length here, and epochs says nothing; "
        "leave it out, or write steps=null too"
    )
    return [f"{given[-1].input_line}: {rule}"]


def _root_problem(trees: Sequence[Mapping[str, Any]], values: Sequence[Override]) -> list[str]:
    """Return what is wrong with dataset.root= where no run of a sweep reads it."""
    given = [
        override
        for override in values
        if override.key_or_group == "dataset.root" and override.value() is not None
    ]
    names = {str(tree["dataset"]["name"]) for tree in trees}
    if not given or not names or not names <= {*rules.BUNDLED}:
        return []
    return [f"dataset.root={given[-1].value()}: {rules.unread_root(names)}"]


def _width_problem(tree: Mapping[str, Any], values: Sequence[Override]) -> list[str]:
    """Return what is wrong with width= where a budget chooses it."""
    given = [override for override in values if override.key_or_group == "width"]
    if not given or tree["match"] == "none":
        return []
    return [
        f"{given[-1].input_line}: match={tree['match']} chooses the width; leave one of them out"
    ]


def _composing_failed(error: Exception, chosen: Sequence[str]) -> str:
    """Return the line for what Hydra raised when it composed these overrides."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # PyYAML names the file in its last line.
    if isinstance(error, yaml.YAMLError):
        return f"conf: not YAML: {' '.join(' '.join(lines).split())}"
    culprits = " ".join(text for text in chosen if "hydra" in text) or "conf"
    return f"{culprits}: Hydra cannot compose this: {lines[0]}"


def apply_to_stored(config: Config, texts: Sequence[str]) -> Config:
    """Return a run's own config with values changed on resume.

    Raises UsageError for what would be another network or other data.
    """
    tree = stored.tree(config)
    problems: list[str] = []
    given: list[Override] = []
    for text in texts:
        problem, override = check_override(text, multirun=False, several="a run goes on with one")
        if override is not None:
            given.append(override)
            problem = _set_in_stored(tree, text, override)
        if problem is not None:
            problems.append(problem)
    problems += [*_epochs_problem(tree, given), *_root_problem([tree], given)]
    if problems:
        raise UsageError("\n".join(problems))
    return validate.check(tree, is_stored=True)


def _set_in_stored(tree: dict[str, Any], text: str, override: Override) -> str | None:
    """Set a value in the tree of a stored config, or return why it cannot change."""
    name = override.key_or_group
    if name in groups() or name not in leaves():
        return (
            f"{text}: a run goes on with its own {name}; "
            "single values can change, such as epochs= or optimizer.lr="
        )
    group, _, leaf = name.rpartition(".")
    holder = tree[group] if group else tree
    try:
        value = validate.absolute_value(name, override.value())
    except UsageError as error:
        return str(error)
    # As it was typed, or as the path that it means.
    is_the_same = leaf in holder and holder[leaf] in (override.value(), value)
    if leaf in holder and leaves()[name].metadata["fixed"] and not is_the_same:
        return (
            f"{text}: cannot change when a run goes on (it has {name}={holder[leaf]}); "
            "leave it out, or start a new run"
        )
    if leaf not in holder or override.value() != holder[leaf]:
        holder[leaf] = value
    return None
