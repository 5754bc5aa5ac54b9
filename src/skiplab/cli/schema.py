"""`skiplab schema [GROUP]`: a JSON Schema of the config, for editors."""

import argparse
import json

from skiplab.cli.answer import Answer
from skiplab.cli.options import one_of
from skiplab.paths import groups


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab schema`."""
    parser.add_argument(
        "group",
        type=one_of("skiplab schema", list(groups())),
        nargs="?",
        metavar="GROUP",
        help="of a preset in conf/GROUP, such as experiment (of a run's whole config)",
    )


def command(options: argparse.Namespace) -> Answer:
    """Return the schema, which is JSON with and without --json."""
    from skiplab.config import json_schema

    if options.group is None:
        found = json_schema.of_config()
    else:
        found = json_schema.of_preset(options.group)
    return Answer(found, json.dumps(found, indent=1))
