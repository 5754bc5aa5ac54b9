"""Write the command that runs a study with more seeds.

Imports no torch.
"""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from skiplab import locations
from skiplab.errors import UsageError
from skiplab.study import record
from skiplab.study.compare.groups import Group

START = "train -m "
IN_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def in_words(number: int) -> str:
    """Return a number of seeds: `one seed`, `three seeds`, `12 seeds`."""
    word = IN_WORDS[number] if number < len(IN_WORDS) else str(number)
    return f"{word} seed" + ("" if number == 1 else "s")


def fresh_seeds(groups: Iterable[Group], number: int) -> list[int]:
    """Return the next seeds after those that the groups have."""
    last = max(result.seed for group in groups for result in group.results)
    return list(range(last + 1, last + 1 + number))


def named(seeds: Sequence[int]) -> str:
    """Return seeds in words: `seed 3`, `seeds 3 and 4`, `seeds 3 to 6`."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    between = "and" if len(seeds) == 2 else "to"
    return f"seeds {seeds[0]} {between} {seeds[-1]}"


def command(groups: Sequence[Group], number: int) -> str:
    """Return the command of the groups' study with the next seeds as well.

    It runs what is missing, since a wider grid adds runs to a study. Where the runs are of no
    study, or of several, return what to give instead.
    """
    seeds = sorted({result.seed for group in groups for result in group.results})
    text = "seed=" + ",".join(map(str, [*seeds, *fresh_seeds(groups, number)]))
    parents = {result.folder.parent for group in groups for result in group.results}
    folder = parents.pop()
    known = None if parents else with_seeds(folder, text)
    return known or f"the commands of these runs with {text}"


def with_seeds(study: Path, text: str) -> str | None:
    """Return a study's own command with these seeds; None if it is of no sweep of ours."""
    try:
        found = record.read(study).command
        words = shlex.split(found.removeprefix(START))
    # Half a quotation mark raises ValueError.
    except (UsageError, ValueError):
        return None
    if not found.startswith(START):
        return None
    keys = {word.partition("=")[0] for word in words}
    at = [number for number, word in enumerate(words) if word.partition("=")[0] == "seed"]
    for number in at:
        words[number] = text
    own = [] if at else [text]
    # A fixed seed is part of the name that a study has without study=.
    if "study" not in keys and study.resolve().parent == locations.studies().resolve():
        own.append(f"study={study.name}")
    # Flags such as --config-dir stand last.
    end = next((number for number, word in enumerate(words) if word.startswith("-")), len(words))
    return START + shlex.join([*words[:end], *own, *words[end:]])
