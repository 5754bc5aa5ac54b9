"""Close a search: print the best command line and what mattered, draw the trials.

Imports no torch.
"""

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
# Optuna's states of trials have these words.
STATE_WORDS = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "broken off",
}


def report(study: "optuna.Study", folder: Path, fixed: Sequence[str]) -> None:
    """Print how the trials ended, the best command line and the importances; draw the picture.

    `fixed` are the overrides that all trials share.
    """
    trials = study.get_trials(deepcopy=False)
    print_counts(trials)
    num_complete = sum(trial.state.name == "COMPLETE" for trial in trials)
    if num_complete == 0:
        print("no trial has ended, so there is no best one yet")
        return
    best = study.best_trial
    run = shlex.quote(best.user_attrs["folder"])
    print(f"best on validation: {percent(best.value)} (trial {best.number}, {run})")
    importances = importances_of(study)
    if importances:
        shares = ", ".join(f"{key} {share:.2f}" for key, share in importances.items())
        is_rough = num_complete < ENOUGH_TRIALS
        guess = f" (of {num_complete} trials, so a rough guess)" if is_rough else ""
        print(f"importance: {shares}{guess}")
    print(
        "the test set was not read; for the trial that you choose: "
        f"train resume={run} evaluator.split=test"
    )
    print(f"the best again:  train {best_command(best, fixed)}")
    draw(trials, folder, importances)


def print_counts(trials: Sequence["FrozenTrial"]) -> None:
    """Print how many trials ended how, and why each failed one did."""
    counts = Counter(trial.state.name for trial in trials)
    words = [f"{counts[state]} {word}" for state, word in STATE_WORDS.items() if counts[state]]
    print(f"\nsearch: {', '.join(words)}")
    for trial in trials:
        if trial.state.name == "FAIL" and "reason" in trial.user_attrs:
            print(f"  #{trial.number} failed: {trial.user_attrs['reason']}")


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


def draw(trials: Sequence["FrozenTrial"], folder: Path, importances: dict[str, float]) -> None:
    """Draw the trials into the search's folder; a failure is a warning."""
    history = [
        (trial.number, trial.value, trial.state.name) for trial in trials if trial.value is not None
    ]
    try:
        # matplotlib takes half a second to import.
        from skiplab.study.compare import search_picture

        print(f"written: {search_picture.draw(folder / PICTURE, history, importances)}")
    # The search is done, whatever becomes of its picture.
    except Exception as error:
        print(
            f"warning: {PICTURE} not drawn ({in_words(error)}); the same command again draws it",
            file=sys.stderr,
        )
