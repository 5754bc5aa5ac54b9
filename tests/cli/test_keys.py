"""`skiplab keys`: every key with type, range, default and meaning, against schema and conf/."""

import json

import pytest

from helpers import Cli, compose
from skiplab.cli import help as help_text
from skiplab.config import keys, stored

EVERY = [path for path in keys.leaves() if not path.endswith(".name")]


def shown(call: Cli, *arguments: str) -> str:
    code, out, err = call("keys", *arguments, command="skiplab")
    assert (code, err) == (0, "")
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= help_text.WIDTH
    return out


def test_all_keys_are_listed_with_their_meaning(call: Cli) -> None:
    text = " ".join(shown(call).split())
    for path in EVERY:
        assert f" {path} {' '.join(keys.leaves()[path].metadata['meaning'].split()[:3])}" in text


def test_the_defaults_are_the_values_of_train_alone(call: Cli) -> None:
    document = json.loads(call("keys", "--json", command="skiplab")[1])
    usual = json.loads(json.dumps(stored.flat(compose())))
    found: dict[str, object] = {}
    for key in document["keys"]:
        path = key["key"]
        name = usual.get(f"{path.partition('.')[0]}.name")
        if not key["options"] or name in key["options"]:
            assert found.setdefault(path, key["default"]) == key["default"], path
    assert {path: found[path] for path in usual if path in found} == {
        path: value for path, value in usual.items() if not path.endswith(".name")
    }


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("optimizer.lr", "number, above 0; default 0.05, or as optimizer= says"),
        ("optimizer.lr", "0.1 with optimizer=sgd_he2016"),
        ("optimizer.lr", "learning rate at its peak, of the filters (muon)"),
        ("optimizer.betas", "default [0.9,0.999]"),
        ("epochs", "default 20, or as dataset= says"),
        ("depth", "20 with model=cifar_resnet, model=resnet20"),
        ("trainer.amp", "off|bf16|fp16; default off"),
        ("trainer.clip", "number or null, above 0; default null"),
        ("dataset.resize", "height and width to resize to (not of folder)"),
        ("seed", "It cannot change when a run goes on."),
        ("device", "It changes no number of a run, and is no part of its identity."),
    ],
)
def test_a_key_tells_type_range_default_and_meaning(key: str, words: str, call: Cli) -> None:
    assert words in " ".join(shown(call, key).split())


def test_a_group_lists_its_keys_alone(call: Cli) -> None:
    out = shown(call, "scheduler", "trainer.ema")
    listed = [line.split()[0] for line in out.splitlines() if line[:3].strip()]
    assert {word.partition(".")[0] for word in listed} == {"KEYS", "scheduler", "trainer"}
    assert "trainer.ema " in out
    assert "trainer.amp " not in out


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("optimizr", "optimizr: no such group or key; did you mean optimizer?"),
        ("lr", "lr: no such group or key at the root; did you mean optimizer.lr?"),
        ("trainer.emma", "trainer.emma: no such group or key; did you mean trainer.ema?"),
        ("sweep", "sweep: an option is chosen whole; train --help sweep lists them"),
        ("block.name", "block.name: an option is chosen whole; train --help block lists them"),
    ],
)
def test_what_is_no_key_gets_one_line_with_the_nearest(word: str, line: str, call: Cli) -> None:
    assert call("keys", word, command="skiplab") == (2, "", f"error: skiplab keys {line}\n")
