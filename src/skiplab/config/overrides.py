"""Checks a command line against conf/ before Hydra runs, and finds all that is wrong at once.

Hydra stops at the first error, advises "append with +" on a typo and knows no ranges; these checks
take half a second and import no torch.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override, ValueType

from skiplab.config import cells, code, compose, grammar, lexicon, plugins, stored, validate
from skiplab.config.grid import each_of, with_preset
from skiplab.config.keys import fields_of, leaves, unknown_key
from skiplab.config.schema import Config
from skiplab.config.typed import DASHES, shown
from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.paths import clash, groups

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
            compose.offer_code(override)
    problems += _misplaced(good, multirun=multirun, is_search=is_search, shows=shows)
    problems += [line for line in cells.check_values(good) if line not in problems]
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
    sections = {f.name for f in fields_of(Config) if not f.metadata.get("own")}
    if name not in groups() and name not in leaves() and name not in sections:
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
            sides = ", or write 24x32 for a height and a width" if name == "dataset.size" else ""
            return f"{text}: several values are a sweep; {several}{sides}"
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
        value = code.as_typed(override.get_value_element_as_str())
        return f"{text}: an option is chosen whole; write {name.removesuffix('.name')}={value}"
    if (options := groups().get(name)) is None:
        return None
    for value in (each.value() for each in each_of(override)):
        if value is None:
            return f"{name}=null: leave it out, or take one of {', '.join(options)}"
        if (problem := code.problem_of(name, str(value))) is not None:
            return problem
        if (path := clash(name, str(value))) is not None:
            return (
                f"{name}={value}: {path} has the name of an option of Skiplab's, which Hydra would "
                f"take; give the file another name, such as my_{value}.yaml"
            )
        if str(value) not in options and not code.is_spec(value):
            return f"{name}={value}: no such {name}; {_choice_meant(name, str(value), options)}"
    return None


def _choice_meant(group: str, value: str, options: Sequence[str]) -> str:
    """Return what to write for an unknown option: one that is near, or the group that has it."""
    others = [name for name, theirs in groups().items() if value in theirs and name != group]
    if others and not lexicon.meant(value, options):
        choices = " or ".join(f"{name}={value}" for name in others)
        return f"did you mean {choices}? Choices: {', '.join(options)}"
    return nearest(value, options)


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
    problems += [*cells.epochs_problem(tree, given), *cells.root_problem([tree], given)]
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
