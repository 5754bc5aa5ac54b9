"""The facts of checkpoints as typed records: whole for a run that goes on, in outline for commands."""

from pathlib import Path
from typing import Any

import pytest

from skiplab.runs import checkpoint
from skiplab.runs.facts import Facts, Origin, Outline, outline

FORMAT1 = Path(__file__).parents[1] / "fixtures/format1"


def test_the_facts_of_the_first_release_are_read_and_written_back() -> None:
    tree = checkpoint.peek(FORMAT1 / "last.ckpt")
    found = Facts.of_tree(tree)
    assert (found.run, found.history.moved, found.rolled_back) == (None, [], [])
    history = tree["history"] | {"moved": []}
    assert found.as_tree() == tree | {"history": history}


def test_what_later_releases_added_is_written_and_read() -> None:
    tree = checkpoint.peek(FORMAT1 / "last.ckpt")
    tree |= {"run": {"identity": "a", "config": {"seed": 1}}, "rolled_back": [6]}
    tree["history"]["moved"] = [{"step": 6, "what": "torch was 1, is 2"}]
    found = Facts.of_tree(tree)
    assert found.run == Origin(identity="a", config={"seed": 1})
    assert found.as_tree() == tree


@pytest.mark.parametrize("key", ["network", "num_steps", "progress", "scaler", "history"])
def test_facts_that_lack_a_part_are_no_state(key: str) -> None:
    tree = checkpoint.peek(FORMAT1 / "last.ckpt")
    del tree[key]
    with pytest.raises(KeyError, match=key):
        Facts.of_tree(tree)


def test_an_outline_has_the_step_of_either_checkpoint() -> None:
    last, best = outline(FORMAT1 / "last.ckpt"), outline(FORMAT1 / "best.ckpt")
    assert (last.step, last.best_step, last.num_steps, last.run) == (12, 12, 12, None)
    assert (best.step, best.best_step, best.num_steps, best.run) == (12, None, None, None)
    assert last.device == "cpu, 1 threads"


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"progress": None, "history": 3, "run": None},
        {"progress": {"step": "six"}, "history": {"machine": []}, "num_steps": [12]},
    ],
    ids=str,
)
def test_an_outline_says_nothing_of_facts_of_other_types(tree: dict[str, Any]) -> None:
    assert Outline.of_tree(tree) == Outline.of_tree({})


@pytest.mark.parametrize("run", [5, {}, {"identity": 5}])
def test_a_run_of_another_type_is_no_run(run: object) -> None:
    assert Outline.of_tree({"run": run}).run == Origin(identity=None)
