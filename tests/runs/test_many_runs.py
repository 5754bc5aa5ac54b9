"""Thousands of runs: a stored config is read fast, and as exactly as the long way.

Nothing is read twice.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from helpers import compose
from skiplab.config import sections, validate
from skiplab.config.schema import Config
from skiplab.config.stored import dump, identity, load, read_tree
from skiplab.errors import UsageError
from skiplab.study.compare import answers, statistics

# What a hand, another tool or a bad disk may make of a config.yaml: the text there, and the text in
# its place.
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
    # The repr tells 1 from 1.0.
    return config, repr(config)


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_config_read_by_its_sections_is_what_the_whole_text_says(before: str, after: str) -> None:
    text = dump(compose())
    assert before in text
    path = Path("config.yaml")
    path.write_bytes(text.replace(before, after, 1).encode())
    assert outcome(lambda: load(path)) == outcome(lambda: validate.check(read_tree(path)))


@pytest.mark.parametrize(
    "preset", ["", "experiment=speedrun94", "experiment=resnet_mnist", "experiment=he2016_resnet20"]
)
def test_a_stored_config_is_read_back_as_it_was_and_keeps_its_identity(preset: str) -> None:
    config = compose(*([preset] if preset else []), "name='a b: c # d'", "seed=3", "out=a/b")
    Path("config.yaml").write_text(dump(config), encoding="utf-8")
    found = load(Path("config.yaml"))
    assert repr(found) == repr(config)
    assert identity(found) == identity(config)


def test_the_sections_of_a_config_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [dump(compose(f"seed={seed}", "name=never-before")) for seed in (1_000_001, 1_000_002)]
    read: list[str] = []

    class Noted(yaml.SafeLoader):
        def __init__(self, text: str):
            read.append(text)
            super().__init__(text)

    monkeypatch.setattr(sections, "FAST_LOADER", Noted)
    for text in texts:
        Path("config.yaml").write_text(text)
        read.clear()
        load(Path("config.yaml"))
    assert read == ["seed: 1000002"]


# --------------------------------------------------------------------------------------------------
# Predictions


def stored(
    path: Path, *, save: Callable[..., None] = np.savez_compressed, **more: np.ndarray
) -> np.ndarray:
    """Predictions of 500 images, and which of them are right."""
    chance = np.random.default_rng(0)
    labels, predictions = chance.integers(0, 10, 500), chance.integers(0, 10, 500)
    save(
        path,
        test_labels=labels,
        test_predictions=predictions,
        test_probabilities=chance.random((500, 10)),
        **more,
    )
    return labels == predictions


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_was_right_is_read_of_any_archive_with_the_arrays(
    save: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "predictions.npz"
    right = stored(path, save=save)
    with path.open("rb") as file:
        # The short way reads it.
        assert answers.members(file, ["test_labels.npy"]) is not None
    assert np.array_equal(answers.correct(path, "test"), right)  # pyright: ignore[reportArgumentType]
    assert answers.correct(path, "val") is None
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"packed again"
        archive.writestr("umlaut-\u00e4.txt", "more")
    with path.open("rb") as file:
        # Only zipfile reads it.
        assert answers.members(file, ["test_labels.npy"]) is None
    assert np.array_equal(answers.correct(path, "test"), right)  # pyright: ignore[reportArgumentType]


def test_of_damaged_predictions_nothing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    right = stored(path)
    content, chance = path.read_bytes(), np.random.default_rng(1)
    for _ in range(300):
        changed = bytearray(
            content[: chance.integers(1, len(content) + 1)] if chance.random() < 0.2 else content
        )
        changed[chance.integers(len(changed))] ^= 1 << chance.integers(8)
        path.write_bytes(changed)
        found = answers.correct(path, "test")
        assert found is None or np.array_equal(found, right)
    objects = np.array([{}], dtype=object)
    np.savez(path, test_labels=objects, test_predictions=objects)
    assert answers.correct(path, "test") is None
    np.savez(path, test_labels=np.zeros((2, 2)), test_predictions=np.zeros((2, 2)))
    assert answers.correct(path, "test") is None


def test_the_sign_test_of_many_pairs_is_scipys_of_each() -> None:
    ones, others = np.divmod(np.arange(900), 30)
    expected = [
        float(stats.binomtest(a, a + b).pvalue) if a + b else 1.0
        for a, b in zip(ones.tolist(), others.tolist(), strict=True)
    ]
    assert statistics.sign_test(ones, others) == expected
