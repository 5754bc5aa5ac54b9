"""`skiplab VERB`: the table of verbs, and the parser that dispatches to a verb's module."""

import argparse
import importlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from skiplab import __version__
from skiplab.cli import answer
from skiplab.config.values import nearest
from skiplab.errors import UsageError


@dataclass(frozen=True)
class Verb:
    """One row of the table: what `skiplab --help` says of a verb.

    The verb NAME lives in `cli/NAME.py`. Its `add_options(parser)` declares the options, and its
    `command(options)` runs the verb and returns an `Answer`, or the exit code (None for 0). The
    module is imported only when the verb runs, and it imports torch only inside its functions.
    """

    help: str
    # Whether the verb takes KEY=VALUE, which is then read as `train` reads it.
    takes_keys: bool = False
    # Whether the verb takes --json. Its `command` returns an `Answer` then.
    answers: bool = False


VERBS = {
    "evaluate": Verb("the report of a run's checkpoint, from its folder alone", answers=True),
    "predict": Verb("what a trained network says of images"),
    "list": Verb("the runs under a folder, and the command that goes on with each", answers=True),
    "draw": Verb("the pictures of finished runs, which a sweep leaves out", answers=True),
    "compare": Verb(
        "runs in groups, averaged over seeds: a table, what can be told apart, pictures, a page",
        answers=True,
    ),
    "search": Verb(
        "search hyperparameters by Optuna, each trial a run; the same command goes on",
        takes_keys=True,
        answers=True,
    ),
    "verify": Verb(
        "train a shortened run straight and another through kills -9, and compare them bit by bit",
        takes_keys=True,
        answers=True,
    ),
    "show": Verb(
        "a network's stages, blocks, shapes and costs, printed and drawn",
        takes_keys=True,
        answers=True,
    ),
    "export": Verb(
        "a run's network as a file for other programs: ONNX, torch, safetensors", answers=True
    ),
    "keys": Verb("every key that a run has: type, range, default, meaning", answers=True),
    "schema": Verb("a JSON Schema of the config, with which editors complete keys", answers=True),
    "info": Verb("versions, devices, threads, data root", answers=True),
}
# The verb that is also a command of its own, whose arguments it takes.
TRAIN = "train"
# What of `train` may stand before that verb.
BEFORE_TRAIN = ("-m", "--multirun", "--run", "-r", "--resolve", "--help", "-h")
# Words that people try as verbs, and the command that they mean.
OTHER_COMMANDS = {
    "resume": "write train resume=RUN",
    "sweep": "write train -m KEY=A,B, or train sweep=NAME",
    "help": "write skiplab --help",
    "version": "write skiplab --version",
}


class Parser(argparse.ArgumentParser):
    """argparse with errors like all others: one line."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage."""
        raise UsageError(f"{message}; see {self.prog} --help")


def skiplab_command(arguments: Sequence[str]) -> int:
    """Run `skiplab VERB ...` and return the exit code.

    Raises UsageError on an unknown verb or a wrong option.
    """
    if (words := words_of_train(arguments)) is not None:
        return run_train(words)
    from skiplab import locations

    if arguments and arguments[0] in ("-sc", "--shell-completion"):
        from skiplab.cli import completion

        return completion.command(arguments[1:])
    if not arguments or all(argument in ("--help", "-h", "--version") for argument in arguments):
        parser, _ = make_parsers()
        parser.parse_args(list(arguments))
    name = find_verb(arguments)
    rest = list(arguments)
    rest.remove(name)
    locations.check_working_folder()
    options = read_options(name, rest)
    return answer.give(import_verb(name).command, options)


def words_of_train(arguments: Sequence[str]) -> list[str] | None:
    """Return the arguments for `train` in `skiplab train ...`; None for another verb."""
    before = list(itertools.takewhile(lambda word: word in BEFORE_TRAIN, arguments))
    if list(arguments[len(before) : len(before) + 1]) != [TRAIN]:
        return None
    return before + list(arguments[len(before) + 1 :])


def run_train(words: Sequence[str]) -> int:
    """Run `train` with these arguments, and return the exit code.

    Raises UsageError if they ask for tab completion, which the shell has for `train` alone.
    """
    if {"-sc", "--shell-completion"} & set(words):
        raise UsageError(
            "skiplab train -sc: tab completion is of the command train; "
            'write eval "$(train -sc install=bash)"'
        )
    from skiplab.cli.train import train_command

    return train_command(words)


def make_parsers() -> tuple[Parser, dict[str, Parser]]:
    """Make the parser of `skiplab --help`, and one for each verb, still without its options."""
    parser = Parser(
        prog="skiplab",
        description="Make runs, and look at them.",
        epilog="skiplab train is another spelling of the command train. "
        'Tab completion: eval "$(skiplab -sc install=bash)"; also zsh and fish.',
    )
    parser.add_argument("--version", action="version", version=f"skiplab {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser(TRAIN, help="train a network, or a study of many; see train --help")
    for name, verb in VERBS.items():
        verbs.add_parser(name, help=verb.help)
    return parser, dict(verbs.choices)


def find_verb(arguments: Sequence[str]) -> str:
    """Find the verb among the arguments, wherever it stands. Raises UsageError if there is none."""
    for argument in arguments:
        if argument in VERBS:
            return argument
    words = [argument for argument in arguments if not argument.startswith("-")]
    word = words[0] if words else arguments[0]
    advice = OTHER_COMMANDS.get(word) or f"no such verb; {nearest(word, [TRAIN, *VERBS])}"
    raise UsageError(f"skiplab {word}: {advice}")


def import_verb(name: str) -> ModuleType:
    """Import a verb's module, which has `add_options` and `command`."""
    return importlib.import_module(f"skiplab.cli.{name}")


def read_options(name: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Read a verb's options, which may stand before, between and after what it works on.

    Raises UsageError on a misspelt option or an empty argument.
    """
    _, parsers = make_parsers()
    parser = parsers[name]
    import_verb(name).add_options(parser)
    if VERBS[name].answers:
        answer.add_option(parser)
    known = [text for action in parser._actions for text in action.option_strings]
    if VERBS[name].takes_keys:
        from skiplab.config import typed

        arguments = typed.checked(arguments, command="", flags=known)
    for argument in arguments:
        if not argument.strip():
            raise UsageError(
                "an empty argument, perhaps of a shell variable that is not set; leave it out"
            )
        word = argument.partition("=")[0]
        if word.startswith("--") and len(word) > 2 and word not in known:
            guess = nearest(word, [option for option in known if len(option) > 2])
            raise UsageError(f"{word}: {parser.prog} has no such option; {guess}")
    return parser.parse_intermixed_args(list(arguments))
