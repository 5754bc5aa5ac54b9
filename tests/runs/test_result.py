"""result.json as a typed record: written in one order, read key by key."""

import json
from pathlib import Path

import pytest

from skiplab.runs import folders
from skiplab.runs.result import KINDS, RunResult, read

FORMAT1 = Path(__file__).parents[1] / "fixtures/format1"
# Keys that came after the first release.
LATER = {"changed", "moved", "test_seconds", "devices", "instructions"}


def test_what_is_written_is_read_back_to_the_byte(tmp_path: Path) -> None:
    tree = json.loads((FORMAT1 / folders.RESULT).read_text())
    whole = {name: tree.get(name) for name in KINDS}
    whole |= {"changed": [], "moved": [], "test_seconds": 0.5, "devices": 1, "instructions": "x"}
    text = json.dumps(whole, indent=1) + "\n"
    (tmp_path / folders.RESULT).write_text(text)
    found = read(tmp_path)
    assert found is not None
    assert not found.unreadable
    assert found.dump().decode() == text


def test_a_file_of_the_first_release_lacks_what_came_later() -> None:
    found = read(FORMAT1)
    assert found is not None
    assert found.unreadable == LATER
    assert (found.steps, found.best_step, found.changed) == (12, 12, None)
    assert found.test is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "six"),
        ("steps", None),
        ("test", {"loss": 0.5}),
        ("test", [0.5]),
        ("summary", {"parameters": 10}),
        ("identity", 7),
        ("train_seconds", {}),
    ],
)
def test_a_value_of_another_type_is_unreadable(name: str, value: object) -> None:
    tree = json.loads((FORMAT1 / folders.RESULT).read_text())
    found = RunResult.of_tree(tree | {name: value})
    assert found.unreadable == LATER | {name}
    assert getattr(found, name) is None


@pytest.mark.parametrize("name", ["test", "best_val_accuracy", "best_val_loss"])
def test_null_stands_for_what_a_run_does_not_have(name: str) -> None:
    tree = json.loads((FORMAT1 / folders.RESULT).read_text())
    assert RunResult.of_tree(tree | {name: None}).unreadable == LATER
