"""Guesses which key, option or verb a word means that is none of them. Imports no torch.

Where that is unsure, there is no guess.
"""

import re
from collections.abc import Iterable, Sequence

from skiplab.config import vocabulary

# The verbs of `skiplab`.
VERBS = (
    *("compare", "draw", "evaluate", "export", "info", "keys", "list", "predict"),
    *("schema", "search", "show", "verify"),
)
# The most names that an answer holds.
FEW = 3


def table(text: str) -> dict[str, list[str]]:
    """Return a table of the vocabulary by the words of others: what of ours each can mean."""
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\n +", " ", text).strip().splitlines():
        ours, _, words = line.partition(" = ")
        for word in words.split():
            found.setdefault(word, []).append(ours)
    return found


KEY_OF, NO_KEY_OF, OPTIONS_OF = (
    table(vocabulary.KEYS),
    table(vocabulary.NO_KEYS),
    table(vocabulary.OPTIONS),
)
FOREIGN = set(vocabulary.FOREIGN.split())


def plain(word: str) -> str:
    """Return a word without case, dashes, underscores and dots."""
    return re.sub(r"[^a-z0-9:+]", "", word.lower())


def meant(word: str, names: Iterable[str]) -> list[str]:
    """Return the names that a word can mean, or what else to write for it; none if unsure."""
    choices = sorted(names)
    by_plain = {plain(name): name for name in reversed(choices)}
    bare = plain(word)
    if bare in by_plain:
        return [by_plain[bare]]
    if found := [name for name in OPTIONS_OF.get(bare, ()) if name in choices]:
        return found
    if bare in vocabulary.RECIPES and vocabulary.RECIPES[bare][0] in choices:
        return [vocabulary.RECIPES[bare][1]]
    number = re.fullmatch(r"resnet(\d{1,4})", bare)
    if number and "cifar_resnet" in choices and int(number[1]) % 6 == 2 and int(number[1]) > 2:
        return [f"model=cifar_resnet depth={number[1]}"]
    if is_foreign(bare):
        return []
    for ending in ("block", "lr", "optimizer", "scheduler", "dataset", "model", "layer"):
        if (stem := bare.removesuffix(ending)) != bare and stem in by_plain:
            return [by_plain[stem]]
    starts = [name for name in choices if len(bare) >= 3 and plain(name).startswith(bare)]
    return starts if 0 < len(starts) <= FEW else near(bare, by_plain)


def is_foreign(bare: str) -> bool:
    """Return whether a word is the name of something that is not here."""
    return bare in FOREIGN or bare.rstrip("0123456789") in FOREIGN


def near(bare: str, by_plain: dict[str, str]) -> list[str]:
    """Return the one name that a slip of the keyboard turns into the word, or none."""
    if len(bare) < 3 or is_foreign(bare):
        return []
    far = 1 if len(bare) <= 7 else 2
    distances = {
        name: distance(bare, name)
        for name in by_plain
        if abs(len(name) - len(bare)) <= far and is_slip(bare, name)
    }
    best = min(distances.values(), default=far + 1)
    fits = [by_plain[name] for name, number in distances.items() if number == best]
    return fits if best <= far and len(fits) == 1 else []


def is_slip(word: str, name: str) -> bool:
    """Return whether two words may be the same but for a slip.

    They are not with a letter before one (nadam), nor with another number (resnet101).
    """
    digits, theirs = re.sub(r"\D", "", word), re.sub(r"\D", "", name)
    if digits and digits != theirs and (not theirs or abs(int(digits) - int(theirs)) > 1):
        return False
    return word[1:] != name


def distance(one: str, other: str) -> int:
    """Count the letters that differ, are missing, or stand the wrong way round.

    This is the restricted distance of Damerau and Levenshtein.
    """
    rows: list[Sequence[int]] = [range(len(other) + 1)]
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, target in enumerate(other, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != target))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == target:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def device_of(word: str) -> str | None:
    """Return the device that a word means, or None where that is unsure.

    `gpu` is cuda; `gpu:1`, `cuda1` and `1` are cuda:1.
    """
    if number := re.fullmatch(r"(?:gpu|cuda)?[:_ -]?([0-9]{1,2})", word.lower()):
        return f"cuda:{int(number[1])}"
    return next(iter(meant(word, ("auto", "cpu", "cuda", "mps"))), None)


def keys_of(word: str) -> list[str]:
    """Return our keys, or KEY=VALUE, that a word of other scripts means; none if unknown."""
    return KEY_OF.get(plain(word), [])


def reason_against(word: str) -> str | None:
    """Return why there is no such key here, or None for a word that nobody uses."""
    return next(iter(NO_KEY_OF.get(plain(word), ())), None)
