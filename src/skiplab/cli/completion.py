"""`skiplab -sc install=SHELL`: tab completion of verbs, flags, keys, run folders and studies.

Each tab calls `skiplab -sc query=SHELL` with the line in $COMP_LINE. Imports no torch, no Hydra.
"""

import argparse
import os
import shlex
import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Literal

from skiplab import locations
from skiplab.cli.flags import COMPLETION_JOBS
from skiplab.errors import SkiplabError, UsageError
from skiplab.runs import folders
from skiplab.study import record

BASH = """_skiplab_complete() {{
    local IFS=$'\\n'
    COMPREPLY=($(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" \\
        COMP_WORDBREAKS="$COMP_WORDBREAKS" skiplab -sc query={name} 2>/dev/null))
}}
complete -o nospace -o default -F _skiplab_complete skiplab
"""
FISH = """function _skiplab_complete
    set -lx COMP_LINE (commandline -cp)
    skiplab -sc query=fish 2>/dev/null
end
complete -c skiplab -a '(_skiplab_complete)'
"""
INSTALL = {
    "bash": BASH.format(name="bash"),
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{BASH.format(name='zsh')}",
    "fish": FISH,
}
UNINSTALL = {
    "bash": "complete -r skiplab\nunset -f _skiplab_complete\n",
    "zsh": "compdef -d skiplab\nunset -f _skiplab_complete\n",
    "fish": "complete -e -c skiplab\nfunctions -e _skiplab_complete\n",
}
# Verbs that work on runs or studies.
OF_RUNS = ("evaluate", "predict", "draw", "compare", "verify", "export", "show", "list")
# What ends so is not whole yet, so no space follows.
OPEN = ("=", ".", "/")
# A file's name needs quotes with other characters.
SAFE = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/=,:")


def command(arguments: Sequence[str]) -> int:
    """Print a shell's script, or what can stand at the cursor. Raises UsageError for other jobs."""
    if len(arguments) != 1 or arguments[0] not in COMPLETION_JOBS:
        raise UsageError(f"-sc: one of {', '.join(COMPLETION_JOBS[:6])} is expected")
    job, _, shell = arguments[0].partition("=")
    if job != "query":
        print((INSTALL if job == "install" else UNINSTALL)[shell], end="")
        return 0
    if "COMP_LINE" not in os.environ:
        raise UsageError(
            f"-sc {arguments[0]}: is what the shell calls on a tab; "
            f'eval "$(skiplab -sc install={shell})" sets it up'
        )
    line = os.environ["COMP_LINE"]
    point = os.environ.get("COMP_POINT", "")
    # bash counts bytes.
    text = line.encode()[: int(point) if point.isdigit() else None].decode(errors="ignore")
    # A tab prints nothing but what it completes.
    with suppress(SkiplabError, OSError):
        print("\n".join(shown(candidates(text), text, shell)))
    return 0


def shown(found: Iterable[str], line: str, shell: str) -> Iterator[str]:
    """Yield candidates as a shell takes them.

    bash completes the part of a word behind its last sign of $COMP_WORDBREAKS, and ends a word with
    the space that it is given.
    """
    word = words_of(line)[-1]
    breaks = os.environ.get("COMP_WORDBREAKS", "=:")
    start = max((word.rfind(sign) + 1 for sign in "=:" if sign in breaks), default=0)
    for each in dict.fromkeys(found):
        if set(each) <= SAFE:
            whole = each if each.endswith(OPEN) else f"{each} "
            yield whole[start:] if shell == "bash" else each


def words_of(line: str) -> list[str]:
    """Return the words of a line, the last one as far as it is typed; empty after a space."""
    try:
        words = shlex.split(line)
    # A quote is open.
    except ValueError:
        words = [word.lstrip("'\"") for word in line.split()]
    return [*words, ""] if not words or line[-1].isspace() else words


def candidates(line: str) -> list[str]:
    """Return what can stand in the place of a line's last word."""
    from skiplab.cli.skiplab import TRAIN, VERBS

    _, *before, word = words_of(line) if len(words_of(line)) > 1 else ["", ""]
    verb = next((each for each in before if each in VERBS or each == TRAIN), None)
    if verb is None:
        found = [TRAIN, *VERBS, "--help", "--version"]
    elif word.startswith("-"):
        found = flags_of(verb)
    elif verb == "keys":
        found = [*keys_before(word), *(key.removesuffix("=") for key in keys_before(word))]
        found = [each for each in found if not each.endswith("=")]
    elif verb == "schema":
        found = list(groups())
    else:
        found = [*assignments(verb, word), *folders_from(word, verb)]
    return [each for each in found if each.startswith(word)]


def flags_of(verb: str) -> list[str]:
    """Return the flags of a verb, of `train` those that are its own."""
    from skiplab.cli import answer
    from skiplab.cli.skiplab import TRAIN, VERBS, import_verb

    if verb == TRAIN:
        return ["--multirun", "--cfg", "--resolve", "--config-dir", "--help", "--version"]
    parser = argparse.ArgumentParser()
    import_verb(verb).add_options(parser)
    if VERBS[verb].answers:
        answer.add_option(parser)
    return [text for action in parser._actions for text in action.option_strings]


def assignments(verb: str, word: str) -> list[str]:
    """Return KEY= and KEY=VALUE for verbs that take them."""
    from skiplab.cli.skiplab import TRAIN, VERBS

    is_list = verb == "list"
    if not (is_list or verb == TRAIN or VERBS[verb].takes_keys):
        return []
    key, equals, value = word.partition("=")
    if not equals:
        return [*(("status=", "study=") if is_list else ()), *keys_before(word)]
    done, comma, _ = value.rpartition(",")
    if key in ("resume", "init_from"):
        last = value.rpartition(",")[2]
        return [f"{key}={folder}" for folder in folders_from(last, "show")]
    return [f"{key}={done}{comma}{each}" for each in values_of(key, is_list=is_list)]


def groups() -> dict[str, list[str]]:
    """Return the groups of conf/ and their options."""
    from skiplab import paths

    return paths.groups()


def keys_before(word: str) -> list[str]:
    """Return groups and keys, KEY= each; those of a section only once its dot is typed."""
    from skiplab.config import keys

    leaves = [path for path in keys.leaves() if not path.endswith(".name")]
    if "." in word:
        return [f"{path}=" for path in leaves if "." in path]
    sections = dict.fromkeys(path.partition(".")[0] for path in leaves if "." in path)
    plain = [path for path in leaves if "." not in path]
    return [f"{name}=" for name in (*groups(), *plain)] + [f"{name}." for name in sections]


def values_of(key: str, *, is_list: bool) -> list[str]:
    """Return the values of a key that has few: a group's options, choices, true and false."""
    from skiplab.config import keys

    if is_list and key in ("status", "state"):
        return ["finished", "running", "stopped", "broken"]
    if is_list and key == "study":
        place = locations.studies()
        return sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    if key in (known := groups()):
        return known[key]
    if key not in keys.leaves():
        return []
    f = keys.leaves()[key]
    from skiplab.config.schema import Config

    section, _, leaf = key.rpartition(".")
    kinds = keys.variants(keys.hints(Config)[section]) if section else (Config,)
    found: list[str] = [] if f.metadata["word"] is None else [f.metadata["word"]]
    for kind in kinds:
        for each in keys.variants(keys.hints(kind).get(leaf)):
            if typing.get_origin(each) is Literal:
                found += typing.get_args(each)
            found += ["true", "false"] if each is bool else []
            found += ["null"] if each is type(None) else []
    return found


def folders_from(word: str, verb: str) -> list[str]:
    """Return runs and studies under outputs/ that a word can become, folder by folder.

    Elsewhere the shell completes files by itself.
    """
    if verb not in OF_RUNS:
        return []
    root = os.path.join(locations.outputs(), "")
    if not root.startswith(word) and not word.startswith(root):
        return []
    at = word if word.startswith(root) else root
    while True:
        found = list(folders_in(*os.path.split(at)))
        # Where there is no choice, the next folder is looked into.
        if len(found) != 1 or not found[0].endswith("/"):
            return found
        at = found[0]


def folders_in(parent: str, start: str) -> Iterator[str]:
    """Yield the folders in a folder whose names begin so; runs and studies without a slash."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.name.startswith(start) or entry.name.startswith(".") or not entry.is_dir():
                continue
            whole = any(
                os.path.exists(os.path.join(entry.path, name))
                for name in (folders.CONFIG, record.RECORD)
            )
            yield entry.path if whole else f"{entry.path}/"
