"""Checks the composed configs of a sweep's runs, or that of a single run. Imports no torch.

Composing takes half a second for the first config and little for the others.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from skiplab.config import compose, rules, validate
from skiplab.config.grid import count_cells, each_of
from skiplab.errors import UsageError

# A sweep of at most so many runs, with at most so many to compose, is checked whole in 7 s at most.
# A larger one is checked value by value.
MAX_CELLS = 1_000
MAX_COMPOSED = 100
# In a large sweep so many of the first and last values of a key are checked.
MOST_OF_A_KEY = 200


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
    return [*problems, *root_problem(trees, overrides)]


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
    problems += [*epochs_problem(tree, values), *_width_problem(tree, values)]
    try:
        validate.check(tree)
    except UsageError as error:
        problems += str(error).split("\n")
    return problems


def epochs_problem(tree: Mapping[str, Any], values: Sequence[Override]) -> list[str]:
    """Return what is wrong with epochs= where the run's length is given in steps."""
    given = [override for override in values if override.key_or_group == "epochs"]
    if not given or tree["steps"] is None:
        return []
    rule = (
        f"steps={tree['steps']} is the run's length here, and epochs says nothing; "
        "leave it out, or write steps=null too"
    )
    return [f"{given[-1].input_line}: {rule}"]


def root_problem(trees: Sequence[Mapping[str, Any]], values: Sequence[Override]) -> list[str]:
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
