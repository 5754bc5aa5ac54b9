"""What a run does after a step, and how ranks send it to each other."""

import pytest

from skiplab.machine.decisions import GO_ON, SAVE, Decision, stop_with


@pytest.mark.parametrize("decision", [GO_ON, SAVE, stop_with(7), stop_with(143)])
def test_a_decision_survives_its_number(decision: Decision) -> None:
    assert Decision.from_number(decision.to_number()) == decision


def test_a_stop_saves_and_going_on_is_false() -> None:
    assert stop_with(130).saves
    assert stop_with(130).is_stop
    assert SAVE.saves
    assert SAVE
    assert not SAVE.is_stop
    assert not GO_ON
    assert not GO_ON.saves
