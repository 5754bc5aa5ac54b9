"""The grid of a sweep: which values each key takes, and their combinations. Imports no torch."""

import itertools
import json
import math
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.types import Override, Quote, QuotedString

from skiplab.config import grammar
from skiplab.config.values import nearest
from skiplab.errors import UsageError
from skiplab.paths import conf_folder, groups

# taken as typed: Hydra's grammar stumbles over = , ( in a path, and would sweep over a list
AS_TYPED = ("resume", "init_from", "dataset.root", "trainer.probe")


def parsed(texts: Sequence[str]) -> list[Override]:
    """Overrides by the grammar; of one key, which a preset and the command line give, the last, at the first's place."""
    return list(
        {override.get_key_element(): override for override in map(grammar.parse, texts)}.values()
    )


def count_cells(overrides: Sequence[Override]) -> int:
    """How many combinations a grid has."""
    return math.prod(map(grammar.num_values, overrides))


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each combination, as Hydra's sweeper lists them."""
    return [
        [str(o.input_line) for o in cell] for cell in itertools.product(*map(each_of, overrides))
    ]


def first_of(overrides: Sequence[Override]) -> list[str]:
    """The overrides of the first combination."""
    return [
        f"{o.get_key_element()}={grammar.values_of(o)[0]}"
        if o.is_sweep_override()
        else str(o.input_line)
        for o in overrides
    ]


def quoted(text: str) -> str:
    """A text as a value in Hydra's grammar."""
    return QuotedString(text, Quote.single).with_quotes()


def for_hydra(argument: str) -> str:
    """An argument with the value of a key of AS_TYPED quoted for Hydra's grammar; so is an out= with a `~`, unless it is swept."""
    name, equals, value = argument.partition("=")
    is_home = name == "out" and value.startswith("~") and not set(value) & set(",()[]{}")
    if (
        (name not in AS_TYPED and not is_home)
        or not equals
        or value[:1] in ("'", '"')
        or value in ("", "null")
    ):
        return argument
    return f"{name}={quoted(value)}"


def for_people(texts: Iterable[str]) -> str:
    """Overrides as one types them, the reverse of `for_hydra`; quoted for a shell."""
    plain = {text: text for text in texts}
    for text in plain:
        name, _, value = text.partition("=")
        if text != (bare := f"{name}={value[1:-1]}") and for_hydra(bare) == text:
            plain[text] = bare
    return shlex.join(plain.values())


def each_of(override: Override, *, most: int | None = None) -> list[Override]:
    """The override once for each of its values, all of a sweep's; an interval has none. Of many values the first and last `most`."""
    if not override.is_sweep_override():
        return [override]
    texts = grammar.values_of(override)
    if most is not None and len(texts) > 2 * most:
        texts = [*texts[:most], *texts[-most:]]
    return [grammar.parse(f"{override.get_key_element()}={text}") for text in texts]


def preset_of(texts: Sequence[str]) -> str | None:
    """The preset that sweep= names, if it is there. Raises UsageError on several."""
    named = [text.partition("=")[2] for text in texts if text.startswith("sweep=")]
    if named and named[-1] in groups().get("sweep", []):
        return named[-1]
    if named and named[-1] != "null":
        raise UsageError(
            f"sweep={named[-1]}: no such sweep; {nearest(named[-1], groups().get('sweep', []))}"
        )
    return None


def with_preset(texts: Sequence[str]) -> list[str]:
    """The overrides with the grid that sweep= adds to them; a key that is given too wins over the preset's."""
    name = preset_of(texts)
    if name is None:
        return list(texts)
    given = {text.partition("=")[0] for text in texts}
    grid = read_preset(name)["hydra"]["sweeper"]["params"]
    return [*(f"{key}={values}" for key, values in grid.items() if key not in given), *texts]


def read_preset(name: str) -> dict[str, Any]:
    """The tree of conf/sweep/NAME.yaml. Raises UsageError if it states no grid."""
    path = conf_folder() / "sweep" / f"{name}.yaml"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(tree["hydra"]["sweeper"]["params"], dict):
            return tree
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        pass
    raise UsageError(f"{path}: a sweep states its grid under hydra: sweeper: params: KEY: VALUES")


def values_of_preset(texts: Sequence[str]) -> list[str]:
    """What the preset that sweep= names sets beside its grid, as overrides; none without one."""
    name = preset_of(texts)
    tree = (
        {}
        if name is None
        else {
            key: value
            for key, value in read_preset(name).items()
            if key not in ("hydra", "defaults")
        }
    )
    pairs = [
        (f"{key}.{leaf}", v)
        for key, value in tree.items()
        if isinstance(value, dict)
        for leaf, v in value.items()
    ]
    pairs += [(key, value) for key, value in tree.items() if not isinstance(value, dict)]
    given = {text.partition("=")[0] for text in texts}
    return [
        for_hydra(f"{key}={json.dumps(value) if not isinstance(value, str) else value}")
        for key, value in pairs
        if key not in given
    ]
