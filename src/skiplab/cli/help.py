"""What `train --help` prints, read from the names in conf/. Imports neither Hydra nor torch."""

import textwrap
from collections.abc import Sequence

from skiplab import __version__
from skiplab.paths import built_in_groups, own_options

WIDTH = 80
# Columns before the description of an option or a key.
INDENT = 27

HEAD = """skiplab {version}: train residual and skip-connection networks on small images

  train                                          digits, in seconds, no download
  train model=resnet dataset=cifar10             the notebook's ResNet, CIFAR-10
  train model=resnet20 dataset=cifar10 optimizer.lr=0.1 epochs=60
  train -m block=conv,skip depth=2,6 seed=0,1    a study: every combination
  train resume=outputs/2026-01-31/12-00-00-...   continue a run, bit for bit

The same command continues a killed run. After a finished run it starts a new
one. skiplab --help lists the commands that look at runs.

GROUPS: choose one option of each, GROUP=OPTION. train --help GROUP explains a
group's options and keys. block, model, augment and optimizer also take code of
your own, FILE.py:NAME, and conf/ where you work adds options."""

TAIL = """
KEYS: set any value, KEY=VALUE. train --help KEY explains a key, train --cfg job
shows all of them with their values.
  depth, width   deepcnn: number of blocks (0 will do), their channels
                 resnet: blocks per stage, channels of the first of three stages
                 cifar_resnet: layers, 6n+2 (9n+2 with block=bottleneck)
                 imagenet_resnet: layers, 18, 34, 50, 101 or 152
  network        norm=batch|none init=torch|he shortcut=false (the plain twin)
                 match=params|macs target=80k (a budget that chooses the width)
  run            seed epochs steps batch_size val_fraction name pictures
                 device=auto|cpu|cuda|cuda:N|mps init_from=RUN out=FOLDER
                 resume=auto|never|RUN
  of groups      optimizer.lr scheduler.warmup augment.crop trainer.ema ...
                 evaluator.tta evaluator.split (train --help evaluator)

STUDIES: several values with -m, or a preset sweep=NAME
  study=NAME     the folder outputs/studies/NAME; skiplab compare reports on it
  jobs=auto|N    runs at once; also retries=N on_error=continue|stop force=true
  --cfg job      shows the study's runs and how long they take, and runs none

FLAGS: -m sweeps, --cfg job shows the config, -v prints the shape of each stage,
  -sc install=bash tab completion
VARIABLES: SKIPLAB_OUTPUTS names the folder of runs, SKIPLAB_DATA that of data
EXIT CODES: 0 done, 2 bad command line, config or data, 3 no usable checkpoint,
  4 output folder, 5 diverged, 6 out of memory, 7 stopped by trainer.max_time,
  130, 143 or 128 + N stopped by signal N after saving, 1 others"""

# The groups in the order in which one meets them. A group that is missing here comes last.
ORDER = ("dataset", "model", "block", "optimizer", "scheduler", "augment", "trainer", "experiment")


def find_topics(arguments: Sequence[str]) -> list[str]:
    """Return the groups and keys that a command line asks about: its words that are no flags."""
    pairs = [
        (before, word)
        for before, word in zip(["", *arguments], arguments, strict=False)
        if not word.startswith("-") and "=" not in word
    ]
    if not pairs:
        return []
    from skiplab.config import typed

    return [word for before, word in pairs if before not in typed.VALUED]


def overview() -> str:
    """Return the help of `train`: examples, groups, keys, flags and exit codes."""
    known, own = built_in_groups(), own_options()
    order = [*ORDER, *(group for group in known if group not in ORDER)]
    lines = []
    for group in order:
        yours = f", yours: {' '.join(own[group])}" if group in own else ""
        lines.append(entry(group, " ".join(known[group]) + yours, indent=13))
    return "\n".join([HEAD.format(version=__version__), *lines, TAIL])


def entry(name: str, text: str, *, indent: int = INDENT) -> str:
    """Return a name and its text, wrapped; under the name if that is too long."""
    head = f"  {name}".ljust(indent)
    lines = textwrap.wrap(text, WIDTH - indent, break_long_words=False, break_on_hyphens=False)
    if len(head) > indent or head[-1] != " ":
        return "\n".join([head, *(" " * indent + line for line in lines)])
    return "\n".join([head + lines[0], *(" " * indent + line for line in lines[1:])])
