"""Thousands of runs: a stored config is read fast and as exactly as the long way, nothing is read twice."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from conftest import compose
from skiplab import config as configs, sections
from skiplab.errors import UsageError
from skiplab.schema import Config

# what a hand, another tool or a bad disk may make of a config.yaml: (what stands there, what stands there then)
CHANGES = [
    ("", ""),
    ("seed: 0\n", "seed: 1\n"),
    ("seed: 0\n", ""),
    ("seed: 0\n", "seed: x\n"),
    ("seed: 0\n", "seed: 0\nseed: 7\n"),
    ("seed: 0\n", "seed: 0 # the first\n"),
    ("seed: 0\n", "seed: 0\n# a line between\n"),
    ("seed: 0\n", "seed: !!int '3'\n"),
    ("seed: 0\n", "seed: &a 3\nwidth: *a\n"),
    ("seed: 0\n", "seed: 0\n---\n"),
    ("seed: 0\n", "seed: 0\n...\n"),
    ("seed: 0\n", "seed: 0\nunknown: 3\n"),
    ("seed: 0\n", "seed: 0\n? [a, b]\n: 3\n"),
    ("seed: 0\n", "seed: 0\r"),
    ("seed: 0\n", "'seed': 0\n"),
    ("seed: 0\n", "seed: ???\n"),
    ("seed: 0\n", "seed: {a: 1\n"),
    ("seed: 0\n", "seed:\n- 0\n"),
    ("seed: 0\n", "seed: 1e3\n"),
    ("name: null\n", "name: |\n  several\n  lines\n"),
    ("name: null\n", "name: |+\n  several\n  lines\n\n"),
    ("name: null\n", "name: 'a quote\n\n  over lines'\n"),
    ("name: null\n", "name: 'a quote\n\nseed: over lines'\n"),
    ("name: null\n", 'name: "a\\\nseed: b"\n'),
    ("name: null\n", "name: plain\n  over lines\n"),
    ("name: null\n", "name: [a,\nseed]\n"),
    ("name: null\n", "name: 'a & b'\n"),
    ("name: null\n", "name: a*b\n"),
    ("name: null\n", "name: ${seed}\n"),
    ("name: null\n", "name: \x07\n"),
    ("name: null\n", "name: no\n"),
    ("name: null\n", "name: 2020-01-01\n"),
    ("# skiplab", "%YAML 1.1\n# skiplab"),
    ("# skiplab", "seed: 5\n# skiplab"),
    ("# skiplab", "  # skiplab"),
    ("# skiplab", "\ufeff# skiplab"),
    ("  lr:", "  lr: 0.5\n  lr:"),
    ("  lr:", "\tlr:"),
    ("  lr:", " lr:"),
    ("depth: ", "depth: 1"),
]


def outcome(read: Callable[[], Config]) -> tuple[Config | None, str]:
    try:
        config = read()
    except UsageError as error:
        return None, str(error).replace("config.yaml: ", "")
    return config, repr(config)  # which tells 1 from 1.0


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_config_read_by_its_sections_is_what_the_whole_text_says(before: str, after: str) -> None:
    text = configs.dump(compose())
    assert before in text
    path = Path("config.yaml")
    path.write_bytes(text.replace(before, after, 1).encode())
    assert outcome(lambda: configs.load(path)) == outcome(lambda: configs.check(configs.read_tree(path)))


@pytest.mark.parametrize("preset", ["", "experiment=speedrun94", "experiment=resnet_mnist", "experiment=he2016_resnet20"])
def test_a_stored_config_is_read_back_as_it_was_and_keeps_its_identity(preset: str) -> None:
    config = compose(*([preset] if preset else []), "name='a b: c # d'", "seed=3", "out=a/b")
    Path("config.yaml").write_text(configs.dump(config), encoding="utf-8")
    found = configs.load(Path("config.yaml"))
    assert repr(found) == repr(config)
    assert configs.identity(found) == configs.identity(config)


def test_the_sections_of_a_config_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [configs.dump(compose(f"seed={seed}", "name=never-before")) for seed in (1_000_001, 1_000_002)]
    read: list[str] = []

    class Noted(yaml.SafeLoader):
        def __init__(self, text: str):
            read.append(text)
            super().__init__(text)

    monkeypatch.setattr(sections, "FAST_LOADER", Noted)
    for text in texts:
        Path("config.yaml").write_text(text)
        read.clear()
        configs.load(Path("config.yaml"))
    assert read == ["seed: 1000002"]
