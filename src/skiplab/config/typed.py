"""Checks the arguments of a command as they are typed, and answers slips of the keyboard.

Imports no Hydra, no torch.
"""

import itertools
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

from skiplab.config import keys
from skiplab.errors import UsageError
from skiplab.paths import groups

# Hydra's flags that take a word.
VALUED = (
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--config-dir",
    "-cd",
    "--info",
    "-i",
)
FLAGS = (
    *VALUED,
    "--run",
    "-r",
    "--multirun",
    "-m",
    "--resolve",
    "--verbose",
    "-v",
    "--shell-completion",
    "-sc",
    "--hydra-help",
    "--experimental-rerun",
)
# Dashes that look like a hyphen.
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
SPACED = re.compile(r"(\s*)\+*([\w.]+)(\s*:\s*|\s+=\s*|=)(.*?)\s*")
# The most characters of an argument that an error repeats.
LONGEST = 80


def checked(
    arguments: Sequence[str], *, command: str = "train ", flags: Collection[str] = FLAGS
) -> list[str]:
    """Return the arguments, each key without `+`.

    `command`: what an advice begins with; `flags`: the words with dashes that the command knows.
    Raises UsageError with the right spelling where one is misspelt.
    """
    problems = [problem for argument in arguments if (problem := _odd(argument))]
    problems = problems or _dashed(arguments, command=command, flags=flags)
    problems = problems or _spaced(arguments)
    arguments = [_without_plus(argument) for argument in arguments]
    overrides = [text for text in arguments if "=" in text and not text.startswith("-")]
    problems = problems or _repeated(overrides)
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))
    return arguments


def shown(text: str) -> str:
    """Return an argument as an error repeats it: not longer than a line."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def key_of(argument: str) -> str:
    """Return the text before the first equals sign."""
    return argument.partition("=")[0].lstrip("+").strip()


def is_known(word: str) -> bool:
    """Return whether a word is a key or a group."""
    return word in keys.leaves() or word in groups()


def _repeated(texts: Sequence[str]) -> list[str]:
    """Return a line for each key that is given several times: which one is meant is a guess."""
    problems: list[str] = []
    for key, number in Counter(map(key_of, texts)).items():
        if number > 1:
            given = " ".join(shown(text) for text in texts if key_of(text) == key)
            problems.append(f"{given}: {key} is given {number} times; leave one of them")
    return problems


def _odd(argument: str) -> str | None:
    """Return what is wrong with the characters of an argument, or None."""
    if not argument.strip():
        return "an empty argument, perhaps of a shell variable that is not set; leave it out"
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in argument):
        return (
            f"{shown(argument)!a}: holds a line break or another character that cannot be shown; "
            "leave it out"
        )
    if argument[0] in DASHES:
        rest = argument.lstrip(DASHES)
        right = f"{'-' if len(rest) == 1 else '--'}{shown(rest)}"
        return f"{shown(argument)!a}: begins with a dash that is no hyphen; write {right}"
    return None


def _dashed(arguments: Sequence[str], *, command: str, flags: Collection[str]) -> list[str]:
    """Return the right spelling of each `--KEY VALUE` and `--KEY=VALUE`."""
    problems: list[str] = []
    for argument, after in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        word, equals, value = argument.partition("=")
        name = word.lstrip("-").replace("-", "_")
        if not word.startswith("-") or word in flags or not name:
            continue
        if not equals and "=" not in after and not after.startswith("-"):
            value = after
        placeholder = "RUN" if name == "resume" else "VALUE"
        value = shlex.quote(shown(value)) if value else placeholder
        if is_known(name):
            problems.append(f"{word}: options have no dashes here; write {command}{name}={value}")
        elif found := re.search(r"did you mean (.+)\?", keys.unknown_key(name)):
            meant = found[1]
            if "=" not in meant and " or " not in meant:
                meant = f"{meant}={value}"
            problems.append(
                f"{shown(argument)}: options are written KEY=VALUE, without dashes; "
                f"did you mean {meant}?"
            )
    return problems


def _spaced(arguments: Sequence[str]) -> list[str]:
    """Return the right spelling of each key and value that a space or a colon parts.

    `KEY VALUE`, `KEY = VALUE`, `KEY =VALUE`, `KEY= VALUE` and `KEY: VALUE` are one mistake each.
    """
    problems: list[str] = []
    words = [*arguments, "", ""]
    i = 0
    while i < len(arguments):
        taken, problem = _spaced_at(words[i : i + 3])
        if problem is not None:
            problems.append(problem)
        i += taken
    return problems


def _spaced_at(words: Sequence[str]) -> tuple[int, str | None]:
    """Return how many of three words belong to the first, and what is wrong with them."""
    word, after, last = words
    key = word.rstrip(":=").lstrip("+")
    if word in VALUED:
        return 2, None
    if word.startswith("-"):
        return 1, None
    if after in ("=", ":"):
        return 3, _right_spelling(key, last, words)
    if re.fullmatch(r"=[^=]+", after) and re.fullmatch(r"[\w.+/]+", word):
        return 2, _right_spelling(key, after[1:], words[:2])
    if is_known(key) and _is_value(after) and re.fullmatch(r"\+*[\w.]+[:=]?", word):
        return 2, f"{word} {shown(after)}: write {key}={shown(after)}"
    found = SPACED.fullmatch(word)
    if found and is_known(found[2]) and (found[1] or found[3] != "="):
        return 1, f"{shown(word)}: write {found[2]}={shown(found[4]) or 'VALUE'}"
    return 1, None


def _is_value(word: str) -> bool:
    """Return whether a word can only be the value of the key before it."""
    if not word or "=" in word or word.startswith("-"):
        return False
    return not is_known(word.rstrip(":"))


def _right_spelling(key: str, value: str, words: Sequence[str]) -> str:
    if is_known(key):
        advice = f"write {key}={shown(value) or 'VALUE'}"
    else:
        advice = keys.unknown_key(key).partition(": ")[2]
    return f"{shown(' '.join(words).strip())}: {advice}"


def _without_plus(argument: str) -> str:
    """Return KEY=VALUE for `+KEY=VALUE` and `++KEY=VALUE`, where KEY is known.

    They are Hydra's spellings for a new key.
    """
    bare = argument.removeprefix("+").removeprefix("+")
    return bare if is_known(key_of(bare)) else argument
