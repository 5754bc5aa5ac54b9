"""The arguments of a command as they are typed: slips of the keyboard are answered with the right spelling. Imports no Hydra, no torch."""

import itertools
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

from skiplab.config import keys
from skiplab.errors import UsageError
from skiplab.paths import groups

# Hydra's flags that take a word
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
    "--shell-completion",
    "-sc",
    "--hydra-help",
    "--experimental-rerun",
)
# that look like a hyphen
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
SPACED = re.compile(r"(\s*)\+*([\w.]+)(\s*:\s*|\s+=\s*|=)(.*?)\s*")
# characters of an argument that an error repeats
LONGEST = 80


def checked(
    arguments: Sequence[str], *, command: str = "train ", flags: Collection[str] = FLAGS
) -> list[str]:
    """The arguments, each key without `+`. Raises UsageError with the right spelling where one is misspelt.

    `command`: what an advice begins with; `flags`: the words with dashes that the command knows.
    """
    problems = [problem for argument in arguments if (problem := _odd(argument))]
    problems = problems or _dashed(arguments, command=command, flags=flags)
    problems = problems or _spaced(arguments)
    arguments = [_without_plus(argument) for argument in arguments]
    problems = problems or _repeated(
        [text for text in arguments if "=" in text and not text.startswith("-")]
    )
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))
    return arguments


def shown(text: str) -> str:
    """An argument as an error repeats it: not longer than a line."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def key_of(argument: str) -> str:
    """What stands before the first equals sign."""
    return argument.partition("=")[0].lstrip("+").strip()


def is_known(word: str) -> bool:
    """Whether a word is a key or a group."""
    return word in keys.leaves() or word in groups()


def _repeated(texts: Sequence[str]) -> list[str]:
    """What is wrong with a key that is given several times: which one is meant is a guess."""
    counts = Counter(map(key_of, texts))
    return [
        f"{' '.join(shown(text) for text in texts if key_of(text) == key)}: {key} is given {number} times; leave one of them"
        for key, number in counts.items()
        if number > 1
    ]


def _odd(argument: str) -> str | None:
    """What is wrong with the letters of an argument."""
    if not argument.strip():
        return "an empty argument, perhaps of a shell variable that is not set; leave it out"
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in argument):
        return f"{shown(argument)!a}: holds a line break or another character that cannot be shown; leave it out"
    if argument[0] in DASHES:
        rest = argument.lstrip(DASHES)
        return f"{shown(argument)!a}: begins with a dash that is no hyphen; write {'-' if len(rest) == 1 else '--'}{shown(rest)}"
    return None


def _dashed(arguments: Sequence[str], *, command: str, flags: Collection[str]) -> list[str]:
    """The right spelling of `--KEY VALUE` and `--KEY=VALUE`."""
    problems: list[str] = []
    for argument, after in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        word, equals, value = argument.partition("=")
        name = word.lstrip("-").replace("-", "_")
        if not word.startswith("-") or word in flags or not name:
            continue
        value = value if equals else after if "=" not in after and not after.startswith("-") else ""
        value = shlex.quote(shown(value)) if value else "RUN" if name == "resume" else "VALUE"
        if is_known(name):
            problems.append(f"{word}: options have no dashes here; write {command}{name}={value}")
        elif found := re.search(r"did you mean (.+)\?", keys.unknown_key(name)):
            meant = found[1] if "=" in found[1] or " or " in found[1] else f"{found[1]}={value}"
            problems.append(
                f"{shown(argument)}: options are written KEY=VALUE, without dashes; did you mean {meant}?"
            )
    return problems


def _spaced(arguments: Sequence[str]) -> list[str]:
    """The right spelling of `KEY VALUE`, `KEY = VALUE`, `KEY =VALUE`, `KEY= VALUE` and `KEY: VALUE`, each one mistake and not two."""
    problems: list[str] = []
    words = [*arguments, "", ""]
    i = 0
    while i < len(arguments):
        word, after, last = words[i : i + 3]
        key = word.rstrip(":=").lstrip("+")
        is_value = (
            bool(after)
            and "=" not in after
            and not after.startswith("-")
            and not is_known(after.rstrip(":"))
        )
        taken = 1
        if word in VALUED:
            taken = 2
        elif word.startswith("-"):
            pass
        elif after in ("=", ":") or (
            re.fullmatch(r"=[^=]+", after) and re.fullmatch(r"[\w.+/]+", word)
        ):
            taken = 3 if after in ("=", ":") else 2
            value = last if taken == 3 else after[1:]
            told = (
                f"write {key}={shown(value) or 'VALUE'}"
                if is_known(key)
                else keys.unknown_key(key).partition(": ")[2]
            )
            problems.append(f"{shown(' '.join(words[i : i + taken]).strip())}: {told}")
        elif is_value and is_known(key) and re.fullmatch(r"\+*[\w.]+[:=]?", word):
            taken = 2
            problems.append(f"{word} {shown(after)}: write {key}={shown(after)}")
        elif (
            (found := SPACED.fullmatch(word))
            and is_known(found[2])
            and (found[1] or found[3] != "=")
        ):
            problems.append(f"{shown(word)}: write {found[2]}={shown(found[4]) or 'VALUE'}")
        i += taken
    return problems


def _without_plus(argument: str) -> str:
    """`+KEY=VALUE` and `++KEY=VALUE`, Hydra's spellings for a new key, as KEY=VALUE where the key is there."""
    bare = argument.removeprefix("+").removeprefix("+")
    return bare if is_known(key_of(bare)) else argument
