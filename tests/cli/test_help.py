"""`train --help`: the overview, groups and keys, against conf/ and the schema."""

import re
import shlex

import pytest

from helpers import Cli
from skiplab.cli import help as help_text
from skiplab.config import keys, overrides, presets
from skiplab.paths import groups

SECTIONS = {path.partition(".")[0] for path in keys.leaves() if "." in path}
KEYS = [path for path in keys.leaves() if not path.endswith(".name")]


def shown(call: Cli, *arguments: str) -> str:
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= help_text.WIDTH
    return out


@pytest.mark.parametrize(
    "arguments", [("--help",), ("-h",), ("model=zzz", "-m", "--help"), ("--cfg", "job", "--help")]
)
def test_the_overview_fits_two_screens_and_lists_every_option(
    arguments: tuple[str, ...], call: Cli
) -> None:
    out = shown(call, *arguments)
    assert len(out.splitlines()) < 60
    listed = out[out.index("GROUPS:") : out.index("KEYS:")].split("\n", 2)[2]
    for group, options in groups().items():
        found = re.search(rf"^  {group} +((?:.+\n)(?: {{13}}.+\n)*)", listed, re.MULTILINE)
        assert found is not None, group
        assert found[1].split() == options
    for code in (0, 2, 3, 4, 5, 6, 7, 130, 143):
        assert re.search(rf"\b{code}\b", out[out.index("EXIT CODES") :])


def test_the_commands_and_keys_of_the_overview_are_right(call: Cli) -> None:
    out = shown(call, "--help")
    examples = [
        re.split(r"   ", line.strip())[0]
        for line in help_text.HEAD.splitlines()
        if line.startswith("  train")
    ]
    assert len(examples) == 5
    for example in examples:
        texts = shlex.split(example)[1:]
        if not example.startswith("train resume="):
            overrides.check([text for text in texts if text != "-m"], multirun="-m" in texts)
    for key in re.findall(r"\b(?:optimizer|scheduler|augment|trainer|evaluator)\.\w+", out):
        assert key in keys.leaves()
    at_the_root = {path for path in keys.leaves() if "." not in path}
    assert at_the_root <= set(re.findall(r"\w+", out))


@pytest.mark.parametrize("group", groups())
def test_a_group_is_explained_by_its_options(group: str, call: Cli) -> None:
    out = shown(call, "--help", group)
    options = out[: out.index("\n\n")] if "\n\n" in out else out
    lines = [line for line in options.splitlines()[1:] if not line.startswith("   ")]
    assert [line.split()[0] for line in lines] == groups()[group]
    assert all(len(line.split()) > 2 for line in lines), "an option without a description"


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_a_section_is_explained_by_its_keys(section: str, call: Cli) -> None:
    out = " ".join(shown(call, section, "--help").split())
    for path in KEYS:
        if path.startswith(f"{section}."):
            assert f" {path} {keys.leaves()[path].metadata['meaning'].split()[0]}" in out


def test_each_class_of_keys_names_its_options(call: Cli) -> None:
    for group in ("model", "optimizer", "scheduler"):
        owners = re.findall(r"^KEYS of (.+): KEY=VALUE$", shown(call, "--help", group), re.M)
        listed = [name for owner in owners for name in owner.split()]
        own = ["FILE.py:NAME"] if group == "optimizer" else []
        assert sorted(listed) == sorted([*presets.keys_by_name(group), *own])


@pytest.mark.parametrize("path", KEYS)
def test_a_key_is_explained_by_its_meaning(path: str, call: Cli) -> None:
    out = shown(call, "--help", path)
    assert out.startswith(f"  {path}")
    field = keys.leaves()[path]
    assert " ".join(field.metadata["meaning"].split()) in " ".join(out.split())
    assert ("cannot change when a run goes on" in out) == field.metadata["fixed"]
    assert ("no part of its identity" in out) == (not field.metadata["changes_numbers"])


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("optimizer.lr", "sgd, adam, adamw: learning rate at its peak (number, above 0)"),
        ("optimizer.lr", "muon: learning rate at its peak, of the filters (number, above 0)"),
        ("optimizer.betas", "(list of 2 numbers, at least 0, below 1)"),
        ("scheduler.milestones", "(list of numbers, above 0, below 1)"),
        ("trainer.amp", "(off|bf16|fp16)"),
        ("trainer.clip", "(number or null, above 0)"),
        ("trainer.compile", "(true|false)"),
        ("trainer.devices", "(whole number or auto, at least 1)"),
        ("depth", "(whole number, at least 0, at most 10000)"),
        ("dataset.classes", "(list of texts)"),
        ("name", "(text or null)"),
    ],
)
def test_a_key_tells_its_type_and_range(path: str, values: str, call: Cli) -> None:
    assert values in " ".join(shown(call, "--help", path).split())


def test_several_words_are_explained_one_after_the_other(call: Cli) -> None:
    out = shown(call, "--help", "block", "optimizer.eps")
    assert out.index("OPTIONS: block=OPTION") < out.index("  optimizer.eps ")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("optimzer", "--help optimzer: no such group or key; did you mean optimizer?"),
        ("optim", "--help optim: no such group or key; did you mean optimizer?"),
        ("lr", "--help lr: no such group or key at the root; did you mean optimizer.lr?"),
        ("trainer.emma", "--help trainer.emma: no such group or key; did you mean trainer.ema?"),
        ("block.name", "--help block.name: an option is chosen whole; write --help block"),
    ],
)
def test_a_word_that_is_no_group_or_key_gets_one_line(word: str, line: str, call: Cli) -> None:
    assert call("--help", word) == (2, "", f"error: {line}\n")
