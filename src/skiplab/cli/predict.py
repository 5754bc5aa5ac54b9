"""`skiplab predict RUN PATH ...`: what a trained network says of images."""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from skiplab.cli.options import checkpoint_option, device_option, number, path, trust_option
from skiplab.errors import UsageError
from skiplab.machine import streams
from skiplab.words import counted, printable

if TYPE_CHECKING:
    from skiplab.predict import Answer
    from skiplab.trained import Trained

# Images on a sheet, at most: a picture of more is too large to look at.
MOST_ON_SHEET = 400
# Problems that are listed; the others are counted.
MOST_LISTED = 100


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab predict`."""
    parser.add_argument("run", type=path, help="run folder, or best.safetensors alone")
    parser.add_argument(
        "path",
        nargs="+",
        help="images, folders of them, .npy or .npz files; -: a list of paths on stdin",
    )
    parser.add_argument(
        "--top", type=number("--top", least=1), default=1, help="classes per image (1)"
    )
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--csv", action="store_true", help="rows of path,rank,class,probability")
    formats.add_argument(
        "--json", dest="as_json", action="store_true", help="one JSON document (docs/json.md)"
    )
    parser.add_argument(
        "--sheet", type=path, help=f"a picture of the images, named; the first {MOST_ON_SHEET}"
    )
    checkpoint_option(parser)
    device_option(parser)
    trust_option(parser)


def command(options: argparse.Namespace) -> int:
    """Print the predictions. Return 2 if an image could not be decoded, else 0."""
    from skiplab.data import inputs

    files = inputs.find_files(listed(options.path))
    if options.csv or options.as_json or sys.stderr.isatty():
        # The number of images is then known before the first is decoded.
        files = list(files)
    from skiplab import predict
    from skiplab.evaluate import as_evaluated

    trained = as_evaluated(
        options.run,
        checkpoint_name=options.checkpoint,
        device_name=options.device,
        trust_code=options.trust_code,
    )
    sheet = Sheet(options.sheet, trained) if options.sheet is not None else None
    write = write_csv if options.csv else write_json if options.as_json else write_table
    problems = Problems()
    with showing_progress(files) as shown:
        found = problems.taken_from(predict.stream(trained, shown))
        write(sheet.keeping(found) if sheet else found, trained.classes, options.top)
    if sheet is not None:
        sheet.draw()
    return problems.report()


def listed(paths: Iterable[str]) -> Iterator[str]:
    """Yield the paths of the command line, with those on stdin in the place of a dash."""
    for text in paths:
        if text == "-":
            yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
        else:
            yield text


@contextmanager
def showing_progress(files: "Iterable[str]") -> "Iterator[Iterable[str]]":
    """Yield the files, counted on a bar if stderr is a terminal and stdout is none."""
    if sys.stdout.isatty() or not sys.stderr.isatty() or not isinstance(files, list):
        yield files
        return
    from skiplab.runs import log

    with log.counting(len(files), unit="images") as advance:

        def counted_files() -> Iterator[str]:
            for each in files:
                yield each
                advance(1)

        yield counted_files()


class Problems:
    """The files that could not be decoded."""

    def __init__(self) -> None:
        self.number = 0

    def taken_from(self, answers: "Iterable[Answer]") -> "Iterator[Answer]":
        """Yield the answers, and tell the files without one on stderr."""
        for answer in answers:
            if not answer.problem:
                yield answer
                continue
            self.number += 1
            if self.number <= MOST_LISTED:
                streams.say(f"error: {printable(answer.problem)}", sys.stderr)

    def report(self) -> int:
        """Say how many there were, and return the exit code."""
        if self.number > MOST_LISTED:
            print(f"error: and {self.number - MOST_LISTED:,} more", file=sys.stderr)
        if self.number:
            said = f"{counted(self.number, 'file')} could not be decoded; the others were predicted"
            print(said, file=sys.stderr)
        return 2 if self.number else 0


# --------------------------------------------------------------------------------------------------
# How they are written


def write_table(answers: "Iterable[Answer]", classes: tuple[str, ...], top: int) -> None:
    """Print a line per image: its most probable classes with their probabilities, and its path."""
    longest = min(30, max(map(len, classes)))
    for answer in answers:
        best = answer.best(classes, top)
        cells = [f"{name:<{longest}} {100 * share:6.2f} %" for name, share in best]
        print(f"{'  '.join(cells)}  {printable(answer.name)}")


def write_csv(answers: "Iterable[Answer]", classes: tuple[str, ...], top: int) -> None:
    """Write a row per image and class; rank 1 is the most probable one."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "probability"])
    for answer in answers:
        for rank, (name, share) in enumerate(answer.best(classes, top), 1):
            writer.writerow([printable(answer.name), rank, name, repr(share)])


def write_json(answers: "Iterable[Answer]", classes: tuple[str, ...], top: int) -> None:
    """Write one document, image by image: `classes`, and `images` with `path` and `top`."""
    print(f'{{"classes": {json.dumps(classes)}, "images": [', end="")
    separator = ""
    for answer in answers:
        best = [{"class": name, "probability": p} for name, p in answer.best(classes, top)]
        print(f"{separator}\n{json.dumps({'path': printable(answer.name), 'top': best})}", end="")
        separator = ","
    print("\n]}")


class Sheet:
    """A picture of the first images, each with its class and probability."""

    def __init__(self, target: Path, trained: "Trained"):
        if target.suffix.lower() != ".png":
            raise UsageError(f"--sheet {target}: a name that ends in .png is expected")
        if target.is_dir() or not target.absolute().parent.is_dir():
            raise UsageError(f"--sheet {target}: cannot be written there")
        self.target = target
        self.classes = trained.classes
        self.kept: list[Answer] = []

    def keeping(self, answers: "Iterable[Answer]") -> "Iterator[Answer]":
        """Yield the answers, and keep the first."""
        for answer in answers:
            if len(self.kept) < MOST_ON_SHEET:
                self.kept.append(answer)
            yield answer

    def draw(self) -> None:
        """Draw the picture, if there is an image to draw."""
        if not self.kept:
            return
        import numpy as np

        from skiplab.runs import sheet

        captions = []
        for answer in self.kept:
            ((name, share),) = answer.best(self.classes, 1)
            captions.append(f"{name} {100 * share:.0f} %\n{Path(answer.name).name[-30:]}")
        pixels = np.stack([answer.pixels for answer in self.kept])
        sheet.draw(pixels, captions, self.target, title=counted(len(self.kept), "image"))
        print(f"written: {self.target}", file=sys.stderr)
