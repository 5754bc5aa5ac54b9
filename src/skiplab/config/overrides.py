"""The command line held against conf/ before Hydra runs: groups, options, keys, values, sweeps; all that is wrong at once.

Hydra stops at the first error, advises "append with +" on a typo and knows no ranges; these checks
take half a second and import no torch.
"""

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

# of a sweep that is checked whole, in 7 s at most; a larger one is checked value by value
MAX_CELLS, MAX_COMPOSED = 1_000, 100
# of many values of one key so many of the first and last are checked
MOST_OF_A_KEY = 200
# keys
OF_STUDIES = ("study", "jobs", "retries", "on_error", "force")


def parse_arguments(arguments: Sequence[str]) -> Any:
    """Hydra's own reading of its flags: .overrides, .multirun, .cfg, .shell_completion ... Raises UsageError on an unknown flag."""
    parser = get_args_parser()
    # --vers would be Hydra's version
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
    """What is wrong with overrides that are for another command than this one."""
    problems: list[str] = []
    for o in overrides:
        is_launcher = o.key_or_group.startswith(("hydra/launcher", "hydra.launcher"))
        if o.value_type == ValueType.INTERVAL_SWEEP and not is_search:
            problems.append(
                f"{o.input_line}: an interval is for skiplab search; list the values, or write range(START,STOP,STEP)"
            )
        elif getattr(o.value(), "tags", None) and not is_search:
            problems.append(f"{o.input_line}: a tag is for skiplab search; leave it out")
        elif is_launcher and is_search:
            problems.append(
                f"{o.input_line}: a search runs its trials itself, jobs=N of them at once; leave it out"
            )
        elif not multirun and (o.key_or_group in OF_STUDIES or (is_launcher and not shows)):
            problems.append(
                f"{o.input_line}: is of a study; add -m with several values of a key, or sweep=NAME, or leave it out"
            )
    return problems


def check_override(
    text: str, *, multirun: bool, several: str = "add -m"
) -> tuple[str | None, Override | None]:
    """One override by itself: (what is wrong, None) or (None, the override)."""
    try:
        override = grammar.parse(text)
    except grammar.Unreadable:
        return _unreadable(text), None
    except UsageError as error:
        return str(error), None
    name = override.key_or_group
    if not name:
        return f"{text}: a key is missing; write KEY{text}", None
    known_groups, known_keys = groups(), leaves()
    if name.startswith(("hydra.", "hydra/")):
        if twin := plugins.twin(name, text.partition("=")[2]):
            return f"{text}: {twin}", None
        return (
            (f"{text}: one for the whole sweep; choose", None)
            if override.is_sweep_override()
            else (None, override)
        )
    if override.is_delete():
        return f"{text}: keys cannot be removed; set another value", None
    known = name in known_groups or name in known_keys or name in Config.__dataclass_fields__
    # of a preset; a command line's are taken off before
    if known and (override.is_add() or override.is_force_add()):
        return f"{text}: write it without +, {name}={text.partition('=')[2]}", None
    if not known:
        return unknown_key(name), None
    if override.package is not None:
        return (
            f"{text}: groups have fixed places here; write {name}={override.get_value_element_as_str()}",
            None,
        )
    if override.is_sweep_override() and name in OF_STUDIES:
        return f"{text}: one for the whole sweep; choose", None
    is_dull = (
        name in known_keys
        and not known_keys[name].metadata["changes_numbers"]
        and name not in ("match", "target")
    )
    if multirun and override.is_sweep_override() and is_dull:
        return (
            f"{text}: makes no other run, so a study has each but once; give one value, or a study= for each",
            None,
        )
    if override.is_sweep_override() and not multirun:
        return f"{text}: several values are a sweep; {several}", None
    if multirun and name == "resume" and override.value() == "never":
        return (
            "resume=never: what a study has done stays done; take another study=NAME to run it all afresh",
            None,
        )
    if multirun and name == "out" and override.value() is not None and "${" not in text:
        return (
            f"{text}: the runs of a sweep get folders of their own; leave it out, or tell them apart: out=runs/${{block.name}}-${{seed}}",
            None,
        )
    if name in known_groups:
        return _check_choices(name, override, known_groups[name])
    if name.endswith(".name"):
        group = name.removesuffix(".name")
        return (
            f"{text}: an option is chosen whole; write {group}={override.get_value_element_as_str()}",
            None,
        )
    return None, override


def _unreadable(text: str) -> str:
    name, equals, value = text.partition("=")
    if equals and not re.fullmatch(r"[~+]*[A-Za-z_$][\w./@$-]*", name, re.ASCII):
        return f"{shown(name)}: no such key; a key is of letters, digits, dots and underscores"
    if equals and any(dash in value for dash in DASHES):
        return f"{shown(text)}: holds a dash that is no hyphen; write -, or quote the value: \"{name}='...'\""
    if equals:
        quoted = shown(value).replace("'", "\\'")
        rule = "if it holds spaces or any of = , ( ) { } [ ] quote it"
        return f"{shown(text)}: the value cannot be read; {rule}: \"{name}='{quoted}'\""
    known_groups = groups()
    if holders := [group for group, options in known_groups.items() if text in options]:
        return (
            f"{text}: a key is missing; write {' or '.join(f'{group}={text}' for group in holders)}"
        )
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


def _check_choices(
    group: str, override: Override, options: list[str]
) -> tuple[str | None, Override | None]:
    for value in (each.value() for each in each_of(override)):
        if value is None:
            return f"{group}=null: leave it out, or take one of {', '.join(options)}", None
        if str(value) not in options:
            return (
                f"{group}={value}: no such {group}; {_choice_meant(group, str(value), options)}",
                None,
            )
    return None, override


def _choice_meant(group: str, value: str, options: Sequence[str]) -> str:
    """What to write for an option that the group does not have: one that is near, or the group that has it."""
    others = [name for name, theirs in groups().items() if value in theirs and name != group]
    if others and not lexicon.meant(value, options):
        return f"did you mean {' or '.join(f'{name}={value}' for name in others)}? Choices: {', '.join(options)}"
    return nearest(value, options)


def check_values(overrides: Sequence[Override]) -> list[str]:
    """What is wrong with the composed configs: of every cell of a small sweep, of every value of a large one."""
    is_large = count_cells(overrides) > MAX_CELLS
    choices = [
        each for o in overrides if (each := each_of(o, most=MOST_OF_A_KEY if is_large else None))
    ]
    num_composed = math.prod(len(each) for each in choices if not compose.is_plain_value(each[0]))
    cells: Iterable[tuple[Override, ...]] = itertools.product(*choices)
    if num_composed > MAX_COMPOSED or is_large:
        first = [each[0] for each in choices]
        cells = [
            (*first[:i], one, *first[i + 1 :]) for i, each in enumerate(choices) for one in each
        ]
    # a set that keeps its order
    problems: dict[str, None] = {}
    composed: dict[tuple[str, ...], dict[str, Any] | None] = {}
    with compose.hydra_ready() as files:
        for cell in cells:
            chosen = tuple(str(o.input_line) for o in cell if not compose.is_plain_value(o))
            try:
                if chosen not in composed:
                    composed[chosen] = None
                    composed[chosen] = compose.composed(chosen, files)[0]
                if (tree := composed[chosen]) is not None:
                    problems |= dict.fromkeys(
                        _value_problems(tree, [o for o in cell if compose.is_plain_value(o)])
                    )
            except UsageError as error:
                problems[str(error)] = None
            except (
                HydraException,
                OmegaConfBaseException,
                yaml.YAMLError,
                ValueError,
                AssertionError,
            ) as error:
                problems[_composing_failed(error, chosen)] = None
    return [
        *problems,
        *_root_problem([tree for tree in composed.values() if tree is not None], overrides),
    ]


def _value_problems(tree: Mapping[str, Any], values: Sequence[Override]) -> list[str]:
    """What is wrong with a composed tree once these values are set in it."""
    problems: list[str] = []
    tree = compose.with_values(tree, values, problems)
    problems += [*_epochs_problem(tree, values), *_width_problem(tree, values)]
    try:
        validate.check(tree)
    except UsageError as error:
        problems += str(error).split("\n")
    return problems


def _epochs_problem(tree: Mapping[str, Any], values: Sequence[Override]) -> list[str]:
    """What is wrong with epochs= where the run's length is given in steps."""
    given = [override for override in values if override.key_or_group == "epochs"]
    if not given or tree["steps"] is None:
        return []
    rule = f"steps={tree['steps']} is the run's length here, and epochs says nothing; leave it out, or write steps=null too"
    return [f"{given[-1].input_line}: {rule}"]


def _root_problem(trees: Sequence[Mapping[str, Any]], values: Sequence[Override]) -> list[str]:
    """What is wrong with dataset.root= where no data set reads it: in none of a sweep's cells."""
    given = [
        override
        for override in values
        if override.key_or_group == "dataset.root" and override.value() is not None
    ]
    names = {str(tree["dataset"]["name"]) for tree in trees}
    return (
        [f"dataset.root={given[-1].value()}: {rules.unread_root(names)}"]
        if given and names and names <= {*rules.BUNDLED}
        else []
    )


def _width_problem(tree: Mapping[str, Any], values: Sequence[Override]) -> list[str]:
    """What is wrong with width= where a budget chooses it."""
    given = [override for override in values if override.key_or_group == "width"]
    if not given or tree["match"] == "none":
        return []
    return [
        f"{given[-1].input_line}: match={tree['match']} chooses the width; leave one of them out"
    ]


def _composing_failed(error: Exception, chosen: Sequence[str]) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # says the file last
    if isinstance(error, yaml.YAMLError):
        return f"conf: not YAML: {' '.join(' '.join(lines).split())}"
    return f"{' '.join(t for t in chosen if 'hydra' in t) or 'conf'}: Hydra cannot compose this: {lines[0]}"


def apply_to_stored(config: Config, texts: Sequence[str]) -> Config:
    """A run's own config with values changed on resume. Raises UsageError for what would be another network or other data."""
    known_groups, known_keys = groups(), leaves()
    tree = stored.tree(config)
    problems: list[str] = []
    for text in texts:
        problem, override = check_override(text, multirun=False, several="a run goes on with one")
        if override is None:
            problems.append(problem or text)
            continue
        name = override.key_or_group
        if name in known_groups or name not in known_keys:
            problems.append(
                f"{text}: a run goes on with its own {name}; single values can change, such as epochs= or optimizer.lr="
            )
            continue
        group, _, leaf = name.rpartition(".")
        holder = tree[group] if group else tree
        try:
            value = validate.absolute_value(name, override.value())
        except UsageError as error:
            problems.append(str(error))
            continue
        if (
            leaf in holder
            and known_keys[name].metadata["fixed"]
            and override.value() != holder[leaf] != value
        ):
            problems.append(
                f"{text}: cannot change when a run goes on (it has {name}={holder[leaf]}); leave it out, or start a new run"
            )
            continue
        holder[leaf] = holder[leaf] if override.value() == holder.get(leaf) else value
    given = [override for text in texts if (override := check_override(text, multirun=False)[1])]
    problems += [*_epochs_problem(tree, given), *_root_problem([tree], given)]
    if problems:
        raise UsageError("\n".join(problems))
    return validate.check(tree, is_stored=True)
