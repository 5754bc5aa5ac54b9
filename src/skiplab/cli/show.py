"""`skiplab show RUN | KEY=VALUE ...`: a network's stages, blocks and costs, printed and drawn."""

import argparse
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skiplab import locations
from skiplab.cli.answer import Answer
from skiplab.cli.help import WIDTH
from skiplab.cli.options import config_dir_option, path, trust_option
from skiplab.config.schema import Config
from skiplab.errors import NotDrawn, UsageError

if TYPE_CHECKING:
    from skiplab.networks.structure import Stage, Unit

PICTURE = "network.png"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `skiplab show`."""
    parser.add_argument(
        "what",
        nargs="*",
        metavar="RUN | KEY=VALUE",
        help="a run folder, or overrides as train takes them",
    )
    parser.add_argument(
        "--out",
        type=path,
        metavar="FILE.png",
        help=f"the picture ({PICTURE} in the run folder, else in the working folder)",
    )
    trust_option(parser)
    config_dir_option(parser)


def command(options: argparse.Namespace) -> Answer:
    """Print the network and draw it. The code is 1 if the picture could not be drawn, else 0."""
    folder, config = read(options)
    target = options.out or (folder or Path()) / PICTURE
    if target.suffix.lower() != ".png":
        raise UsageError(f"--out {target}: a name that ends with .png is expected")
    # torch takes a second to import, so whatever is wrong with the config is found before.
    from skiplab import network_picture
    from skiplab.describe import describe_network

    config = within_budget(config)
    stages = structure_of(config)
    parameters = sum(stage.parameters for stage in stages)
    macs = sum(stage.macs for stage in stages)
    size = "x".join(map(str, stages[0].units[0].takes))
    title = f"{describe_network(config)}, for {config.dataset.name} ({size})"
    total = f"{parameters:,} parameters, {macs / 1e6:,.2f} M MACs an image"
    text = "\n".join([f"{title}:", total, "", *table(stages, size)])
    problem = None
    try:
        network_picture.draw(stages, target, title=f"{title}\n{total}")
    except NotDrawn as error:
        problem = str(error)
        print(f"error: {error}", file=sys.stderr)
    else:
        text += f"\n\nwritten: {shlex.quote(str(target))}"
    document = {
        "network": describe_network(config),
        "dataset": config.dataset.name,
        "input": list(stages[0].units[0].takes),
        "parameters": parameters,
        "macs": macs,
        "stages": [stage_as_json(stage) for stage in stages],
        "picture": None if problem else str(target),
        "problem": problem,
    }
    return Answer(document, text, 1 if problem else 0)


def read(options: argparse.Namespace) -> tuple[Path | None, Config]:
    """Return the run folder, or None, and the config of a run or of a command line.

    Raises UsageError for a wrong one, and for code of a run that may not be run.
    """
    from skiplab import paths, provenance, trust
    from skiplab.config import compose, grid, overrides
    from skiplab.runs import folders

    paths.choose_own(options.config_dir)
    runs = [text for text in options.what if "=" not in text]
    # A folder's name may hold an equals sign.
    if len(options.what) == 1 and not runs and Path(options.what[0]).is_dir():
        runs = options.what
    if runs and len(options.what) > 1:
        raise UsageError(f"{runs[0]}: a run folder stands alone; a config is written KEY=VALUE ...")
    if runs:
        folder = folders.of_path(locations.given(runs[0]))
        config = provenance.load(folder)
        trust.admit_run(
            folder,
            config,
            trust_code=options.trust_code,
            say="--trust-code",
            groups=trust.OF_A_NETWORK,
        )
        return folder, config
    texts = [grid.for_hydra(text) for text in options.what]
    overrides.check(texts, multirun=False, several="one network is shown at a time")
    config = compose.compose_config(texts)
    trust.admit(config)
    return None, config


def within_budget(config: Config) -> Config:
    """Return the config with what its images and its budget decide. Imports torch for a budget.

    Raises UsageError if no width meets it.
    """
    from skiplab.launch import with_data

    config = with_data(config)
    if config.match == "none":
        return config
    from skiplab import budget

    config = budget.solve_width(config)
    print(budget.describe(config))
    return config


def structure_of(config: Config) -> "list[Stage]":
    """Build the network and return what it is made of.

    Raises UsageError for a network that cannot be built, OutOfMemory for one that is too large.
    """
    import torch

    from skiplab import build
    from skiplab.config import rules
    from skiplab.networks import structure

    model = build.network(config, torch.device("cpu"))
    channels, size = rules.channels(config), rules.image_size(config)
    return structure.stages_of(model, channels=channels, size=size)


# ---------------------------------------------------------------------------------------------
# in words


def table(stages: "Sequence[Stage]", size: str) -> Iterator[str]:
    """Yield the lines of the table: a row per stage and block, and the layers of each."""
    names = [name for stage in stages for name in (stage.name, *map(name_of, stage.units))]
    width = max(len("part"), *(len(name) + 2 for name in names))
    shapes = [shape(stage.gives) for stage in stages] + [size, "output"]
    shapes += [shape(unit.gives) for stage in stages for unit in stage.units]
    form = f"{{:<{width}}}  {{:<{max(map(len, shapes))}}}  {{:>13}}  {{:>10}}"
    yield form.format("part", "output", "parameters", "M MACs")
    yield form.format("input", size, "", "").rstrip()
    for stage in stages:
        # A network may have nothing to do before its head.
        if not any(unit.layers for unit in stage.units):
            continue
        yield form.format(stage.name, shape(stage.gives), *costs(stage.parameters, stage.macs))
        for unit in stage.units:
            if unit.name:
                each = "  each" if unit.count > 1 else ""
                name, figures = f"  {name_of(unit)}", costs(unit.parameters, unit.macs)
                yield form.format(name, shape(unit.gives), *figures) + each
            indent = " " * (6 if unit.name else 4)
            # A line ends behind a layer, not inside one.
            lines = textwrap.wrap(
                layers(unit).replace(" ", "~").replace(",~", ", ").replace("]~", "] "),
                WIDTH,
                initial_indent=indent,
                subsequent_indent=indent,
                break_on_hyphens=False,
            )
            yield from (line.replace("~", " ") for line in lines)
    if any(unit.skips for stage in stages for unit in stage.units):
        yield ""
        yield "[...] + x: a skip passes what is in brackets; x is what comes into them"


def name_of(unit: "Unit") -> str:
    """Return a unit's name, with how many of them there are."""
    return f"{unit.name} x {unit.count}" if unit.count > 1 else unit.name


def shape(sizes: Sequence[int]) -> str:
    """Return a shape as 16x32x32."""
    return "x".join(map(str, sizes))


def costs(parameters: int, macs: int) -> tuple[str, str]:
    """Return parameters and millions of multiply-accumulates, as the table has them."""
    return f"{parameters:,}", f"{macs / 1e6:,.2f}"


def layers(unit: "Unit") -> str:
    """Return the layers of a unit: what a skip passes stands in brackets, then how it is joined."""
    words: list[str] = []
    for at in range(len(unit.layers) + 1):
        for skip in unit.skips:
            if skip.end == at:
                branch = ", ".join(layer.text for layer in skip.layers) or "x"
                branch = f"({branch})" if len(skip.layers) > 1 else branch
                words[-1] += f"] {SIGNS[skip.joined_by]} {branch}"
        if at < len(unit.layers):
            opened = sum(skip.start == at for skip in unit.skips)
            words.append("[" * opened + unit.layers[at].text)
    return ", ".join(words)


# How a skip's branch is joined to what it passes.
SIGNS = {"sum": "+", "concatenation": "cat", "product": "*"}


def stage_as_json(stage: "Stage") -> dict[str, object]:
    """Return a stage as docs/json.md states it."""
    return {
        "name": stage.name,
        "output": list(stage.gives),
        "parameters": stage.parameters,
        "macs": stage.macs,
        "blocks": [unit_as_json(unit) for unit in stage.units],
    }


def unit_as_json(unit: "Unit") -> dict[str, object]:
    """Return a block as docs/json.md states it."""
    return {
        "name": unit.name or None,
        "count": unit.count,
        "input": list(unit.takes),
        "output": list(unit.gives),
        "parameters": unit.parameters,
        "macs": unit.macs,
        "layers": [layer.text for layer in unit.layers],
        "skips": [
            {
                "first": skip.start,
                "last": skip.end - 1,
                "joined_by": skip.joined_by,
                "layers": [layer.text for layer in skip.layers],
            }
            for skip in unit.skips
        ],
    }
