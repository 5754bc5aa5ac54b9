"""`skiplab schema`: against stored configs, every preset, and the check of a command itself."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import ROOT, Cli, compose
from skiplab.config import json_schema, keys, stored, validate
from skiplab.config.schema import Config
from skiplab.paths import conf_folder, groups

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
NOTES = {"$schema", "title", "description", "default"}
Tree = dict[str, Any]


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is valid, by the rules of JSON Schema (draft 2020-12) that are in use here.

    https://json-schema.org/draft/2020-12/json-schema-validation
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    known = schema.get("properties", {})
    rules = {
        "type": lambda name: (
            isinstance(value, TYPES[name]) and (name in ("boolean",) or not isinstance(value, bool))
        ),
        "enum": lambda values: value in values,
        "const": lambda constant: value == constant,
        "minimum": lambda bound: not is_number or value >= bound,
        "exclusiveMinimum": lambda bound: not is_number or value > bound,
        "maximum": lambda bound: not is_number or value <= bound,
        "exclusiveMaximum": lambda bound: not is_number or value < bound,
        "pattern": lambda text: not isinstance(value, str) or re.search(text, value) is not None,
        "minLength": lambda least: not isinstance(value, str) or len(value) >= least,
        "minItems": lambda least: not isinstance(value, list) or len(value) >= least,
        "maxItems": lambda most: not isinstance(value, list) or len(value) <= most,
        "items": lambda each: not isinstance(value, list) or all(fits(i, each) for i in value),
        "required": lambda names: not isinstance(value, dict) or set(names) <= value.keys(),
        "properties": lambda of: (
            not isinstance(value, dict)
            or all(fits(value[name], of[name]) for name in of if name in value)
        ),
        "additionalProperties": lambda _: not isinstance(value, dict) or value.keys() <= set(known),
        "anyOf": lambda schemas: any(fits(value, each) for each in schemas),
    }
    assert schema.keys() <= rules.keys() | NOTES, schema.keys()
    assert schema.get("additionalProperties", False) is False
    return all(rules[name](rule) for name, rule in schema.items() if name in rules)


@pytest.fixture(scope="module")
def whole() -> Mapping[str, Any]:
    return json_schema.of_config()


def tree_of(*texts: str) -> Tree:
    return yaml.safe_load(stored.dump(compose(*texts)))


STORED = sorted((ROOT / "tests/fixtures").rglob("config.yaml"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_a_stored_config_fits(path: Path, whole: Mapping[str, Any]) -> None:
    assert fits(yaml.safe_load(path.read_text()), whole)


@pytest.mark.parametrize(
    "texts",
    [
        (),
        ("model=airbench96", "dataset=cifar10", "optimizer=muon", "scheduler=linear"),
        ("experiment=speedrun94",),
        ("experiment=he2016_resnet20", "name=3", "trainer.max_time=5", "trainer.threads=2"),
        ("optimizer=adamw", "scheduler=multistep", "trainer.accumulate=auto", "device=cuda:1"),
    ],
)
def test_what_a_command_stores_fits(texts: tuple[str, ...], whole: Mapping[str, Any]) -> None:
    assert fits(tree_of(*texts), whole)


def test_a_run_with_a_history_fits(whole: Mapping[str, Any]) -> None:
    change = {"step": 6, "key": "optimizer.lr", "from": 0.05, "to": 0.01}
    tree = tree_of() | {"changed": [change], "init_sha256": "0" * 64}
    assert fits(tree, whole)
    assert not fits(tree | {"changed": [change | {"key": "lr"}]}, whole)
    assert not fits(tree | {"changed": [{"step": 6}]}, whole)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("depth", "six"),
        ("depth", -1),
        ("depth", None),
        ("depth", True),
        ("dpth", 6),
        ("optimizer.name", "adamw"),
        ("optimizer.name", "sdg"),
        ("optimizer.lr", 0),
        ("optimizer.betas", [0.9, 0.99]),
        ("block.name", "dense"),
        ("dataset.mean", 0.5),
        ("dataset.std", [0.0]),
        ("trainer.amp", "fp8"),
        ("trainer.compile", "yes"),
        ("trainer.probe", "weights"),
        ("trainer.devices", "all"),
        ("device", "gpu"),
        ("name", "a${b}"),
        ("name", ""),
        ("optimizer", "sgd"),
    ],
)
def test_a_wrong_config_does_not_fit(path: str, value: object, whole: Mapping[str, Any]) -> None:
    tree = tree_of()
    *groups_, leaf = path.split(".")
    holder = tree[groups_[0]] if groups_ else tree
    holder[leaf] = value
    assert not fits(tree, whole)


def test_a_key_that_is_missing_is_one_that_must_be_there(whole: Mapping[str, Any]) -> None:
    """Keys that an older config lacks need not be there, as in the check."""
    tree = tree_of()
    for name in tree:
        problems: list[str] = []
        rest = {key: value for key, value in tree.items() if key != name}
        validate.convert_value(rest, Config, "", problems)
        assert fits(rest, whole) == (not problems), name


CANDIDATES = (None, True, "", "x", "auto", "none", "${x}", 0, 1, -1, 2000, 0.5, 1.5, [], [0.5], {})


def test_every_key_takes_what_the_check_takes(whole: Mapping[str, Any]) -> None:
    """The check of a command is the oracle, key by key, for values of every kind."""
    count = 0
    for option in ({}, {"optimizer": "Muon", "model": "Airbench"}, {"scheduler": "Multistep"}):
        for name, f in {f.name: f for f in keys.fields_of(Config)}.items():
            if f.metadata.get("own"):
                continue
            hint = keys.hints(Config)[name]
            holder = whole["properties"][name]
            variants = [v for v in keys.variants(hint) if hasattr(v, "__dataclass_fields__")]
            if not variants:
                count += compare(name, hint, f.metadata, holder)
                continue
            chosen = next(v for v in variants if v.__name__ == option.get(name, v.__name__))
            at = variants.index(chosen)
            of = holder["anyOf"][at] if len(variants) > 1 else holder
            for each in keys.fields_of(chosen):
                if each.name != "name":
                    path = f"{name}.{each.name}"
                    kind = keys.hints(chosen)[each.name]
                    count += compare(path, kind, each.metadata, of["properties"][each.name])
    assert count > 1000


def compare(path: str, kind: object, meta: Mapping[str, Any], schema: Mapping[str, Any]) -> int:
    for value in CANDIDATES:
        problems: list[str] = []
        validate.convert_value(value, kind, path, problems, meta)
        assert fits(value, schema) == (not problems), (path, value, problems)
    assert schema["description"] == meta["meaning"]
    return len(CANDIDATES)


@pytest.mark.parametrize("text", ["80k", "1e5", "10_000"])
def test_a_count_may_be_text(text: str, whole: Mapping[str, Any]) -> None:
    assert fits(text, whole["properties"]["target"])
    assert not fits(f"{text}x", whole["properties"]["target"])
    assert fits("1e-3", whole["properties"]["val_fraction"])


@pytest.mark.parametrize("group", groups())
def test_every_preset_fits_the_schema_of_its_group(group: str, call: Cli) -> None:
    code, out, err = call("schema", group, command="skiplab")
    assert (code, err) == (0, "")
    schema = json.loads(out)
    for path in sorted((conf_folder() / group).glob("*.yaml")):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert fits(tree, schema), path
        assert not fits(tree | {"dpth": 3}, schema), path
        assert not fits(tree | {"defaults": [], "seed": "x"}, schema), path


def test_the_verb_prints_it(call: Cli, whole: Mapping[str, Any]) -> None:
    code, out, err = call("schema", command="skiplab")
    assert (code, err) == (0, "")
    assert json.loads(out) == whole
    assert whole["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert call("schema", "--json", command="skiplab") == (0, out, "")
    code, out, err = call("schema", "optimiser", command="skiplab")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "did you mean optimizer?" in err
