"""Close a search: print the best command line and what mattered, draw the trials.

Imports no torch.
"""

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiplab.config import grid
from skiplab.errors import in_words
from skiplab.study import plan
from skiplab.words import percent

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

PICTURE = "search.png"
# With fewer complete trials, importances are a rough guess.
ENOUGH_TRIALS = 20
# Optuna's states of trials have these words in JSON; people read them with a space.
STATE_WORDS = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "broken_off",
}


def report(study: "optuna.Study", folder: Path, fixed: Sequence[str]) -> dict[str, Any]:
    """Print how the trials ended, the best command line and the importances; draw the picture.

    `fixed` are the overrides that all trials share. Returns all of it, as docs/json.md states it.
    """
    trials = study.get_trials(deepcopy=False)
    found = {
        "folder": str(folder),
        "states": count_states(trials),
        "trials": [trial_as_json(trial) for trial in trials],
        "best": None,
        "importances": {},
        "picture": None,
    }
    print_counts(found)
    num_complete = found["states"]["complete"]
    if num_complete == 0:
        print("no trial has ended, so there is no best one yet")
        return found
    found["best"] = best_as_json(study.best_trial, fixed)
    found["importances"] = importances_of(study)
    print_best(found)
    found["picture"] = draw(trials, folder, found["importances"])
    return found


def count_states(trials: Sequence["FrozenTrial"]) -> dict[str, int]:
    """Return how many trials ended how, in our words."""
    counts = Counter(trial.state.name for trial in trials)
    return {word: counts[state] for state, word in STATE_WORDS.items()}


def trial_as_json(trial: "FrozenTrial") -> dict[str, object]:
    """Return a trial: its parameters, its run, and how it ended."""
    return {
        "number": trial.number,
        "state": STATE_WORDS.get(trial.state.name, trial.state.name.lower()),
        "val_accuracy": trial.value,
        "params": dict(trial.params),
        "folder": trial.user_attrs.get("folder"),
        "reason": trial.user_attrs.get("reason"),
    }


def best_as_json(best: "FrozenTrial", fixed: Sequence[str]) -> dict[str, object]:
    """Return the best trial, and the commands that test it and run it again."""
    folder = best.user_attrs["folder"]
    return {
        "number": best.number,
        "val_accuracy": best.value,
        "folder": folder,
        "test_command": f"train resume={shlex.quote(folder)} evaluator.split=test",
        "command": f"train {best_command(best, fixed)}",
    }


def print_counts(found: Mapping[str, Any]) -> None:
    """Print how many trials ended how, and why each failed one did."""
    words = [
        f"{number} {word.replace('_', ' ')}" for word, number in found["states"].items() if number
    ]
    print(f"\nsearch: {', '.join(words)}")
    for trial in found["trials"]:
        if trial["state"] == STATE_WORDS["FAIL"] and trial["reason"] is not None:
            print(f"  #{trial['number']} failed: {trial['reason']}")


def print_best(found: Mapping[str, Any]) -> None:
    """Print the best trial, what mattered, and the commands that go on from there."""
    best, num_complete = found["best"], found["states"]["complete"]
    run = shlex.quote(best["folder"])
    print(f"best on validation: {percent(best['val_accuracy'])} (trial {best['number']}, {run})")
    if importances := found["importances"]:
        shares = ", ".join(f"{key} {share:.2f}" for key, share in importances.items())
        is_rough = num_complete < ENOUGH_TRIALS
        guess = f" (of {num_complete} trials, so a rough guess)" if is_rough else ""
        print(f"importance: {shares}{guess}")
    print(f"the test set was not read; for the trial that you choose: {best['test_command']}")
    print(f"the best again:  {best['command']}")


def best_command(best: "FrozenTrial", fixed: Sequence[str]) -> str:
    """Return the overrides that run the best trial again, without those of the search itself."""
    own = (*plan.BOOKKEEPING, "evaluator.split")
    texts = [text for text in fixed if text.partition("=")[0] not in own]
    texts += [f"{key}={value}" for key, value in best.params.items()]
    return grid.for_people(texts)


def importances_of(study: "optuna.Study") -> dict[str, float]:
    """Return each parameter's share of the explained variance (fANOVA, Hutter et al. 2014).

    Empty with fewer than three complete trials, or if all have the same value.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    trials = study.get_trials(deepcopy=False)
    values = [trial.value for trial in trials if trial.state.name == "COMPLETE"]
    if len(values) < 3 or len(set(values)) < 2:
        return {}
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def draw(
    trials: Sequence["FrozenTrial"], folder: Path, importances: dict[str, float]
) -> str | None:
    """Draw the trials into the search's folder and return the picture's path.

    A failure is a warning, and None.
    """
    try:
        # matplotlib takes half a second to import.
        from skiplab.study.compare import search_picture

        history = [
            search_picture.Trial(
                trial.number, trial.value, trial.state.name == "COMPLETE", trial.params
            )
            for trial in trials
            if trial.value is not None and trial.state.name in ("COMPLETE", "PRUNED")
        ]
        picture = search_picture.draw(folder / PICTURE, history, importances)
    # The search is done, whatever becomes of its picture.
    except Exception as error:
        print(
            f"warning: {PICTURE} not drawn ({in_words(error)}); the same command again draws it",
            file=sys.stderr,
        )
        return None
    print(f"written: {picture}")
    return str(picture)
