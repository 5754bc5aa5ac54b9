"""Check that runs answer the same question, before they are compared. Imports no torch."""

import json
from collections.abc import Sequence

from skiplab.errors import UsageError
from skiplab.study.compare.results import Result

# These must be the same in all runs, or the runs answer different questions.
PROTOCOL = ("dataset.name", "dataset.resize", "dataset.classes", "val_fraction", "evaluator.tta")


def check(results: Sequence[Result], *, by: Sequence[str]) -> None:
    """Check that data, split and protocol are the same in all runs, or are what is compared.

    Raises UsageError if they are not.
    """
    problems = [
        problem for key in PROTOCOL if (problem := protocol_problem(results, key, by=by))
    ] or data_problems(results)
    if problems:
        raise UsageError("\n".join(problems))


def protocol_problem(results: Sequence[Result], key: str, *, by: Sequence[str]) -> str | None:
    """Say that a key of PROTOCOL differs between runs that are not compared by it, or None."""
    values = {json.dumps(result.values.get(key)): result for result in results}
    is_compared = key in by or (key.startswith("dataset.") and "dataset.name" in by)
    if len(values) < 2 or is_compared:
        return None
    examples = [f"{text} in {result.folder}" for text, result in list(values.items())[:3]]
    return (
        f"{key} differs ({', '.join(examples)}): these runs answer different questions; "
        f"compare them apart, or by it: --by {key}"
    )


def data_problems(results: Sequence[Result]) -> list[str]:
    """Say of which data sets the files differ between runs."""
    problems: list[str] = []
    for name in sorted({result.values["dataset.name"] for result in results}):
        runs = [result for result in results if result.values["dataset.name"] == name]
        by_sum = {result.result.data_sha256: result for result in runs}
        if len(by_sum) > 1:
            one, other = list(by_sum.values())[:2]
            problems.append(
                f"the files of {name} differ between {one.folder} and {other.folder} "
                "(data_sha256); compare them apart"
            )
    return problems
