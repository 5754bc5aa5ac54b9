"""What `train --help` prints, read from conf/ itself; imports neither Hydra nor torch."""

from pathlib import Path

from skiplab import __version__

HEAD = """skiplab {version}: train residual and skip-connection networks on small images

  train                                        digits, in seconds, nothing to download
  train model=resnet dataset=cifar10           the notebook's network on CIFAR-10
  train model=resnet20 dataset=cifar10 optimizer.lr=0.1 epochs=60
  train -m block=conv,residual,skip depth=2,6,18 seed=0,1,2      a sweep: every combination
  train resume=outputs/2026-01-31/12-00-00-...                   go on with a run, bit for bit

The same command again goes on where a killed run stopped; a finished run is never continued, a new one starts.
skiplab list shows the runs, skiplab evaluate RUN repeats a report, skiplab verify proves that kills change nothing.

GROUPS: choose one option of each, GROUP=OPTION
"""

TAIL = """

KEYS: set any value, KEY=VALUE (all of them: train --cfg job)
  depth, width     deepcnn: number of blocks (0 will do), their channels
                   resnet: blocks a stage, channels of the first of three stages
                   cifar_resnet: layers, 6n+2 (9n+2 with block=bottleneck), channels of the first of three stages
                   imagenet_resnet: 18, 34, 50, 101 or 152, channels of the first of four stages
  norm, shortcut   norm=batch|none; shortcut=false builds the plain twin of every block
  seed, epochs, steps, batch_size, val_fraction, device=auto|cpu|cuda|cuda:N|mps
  optimizer.lr, scheduler.warmup, augment.crop, trainer.ema, trainer.amp=off|bf16|fp16 ...
  out=FOLDER       the run folder (otherwise outputs/DATE/TIME-DATASET-MODEL-BLOCK)
  resume=          auto (go on with the same run if one is unfinished), never, or the path of a run
  init_from=RUN    start a fresh run from the best weights of another
  match, target    match=params|macs target=80k: the width that comes nearest, within a tenth
  trainer.probe=   gradients,activations,updates: what flows through each layer, into metrics.jsonl, every trainer.probe_every steps

STUDIES: several values with -m, or a preset sweep=NAME; skiplab compare outputs/studies/NAME tells what they say
  study=NAME       the folder outputs/studies/NAME (otherwise made of the keys); the same command goes on, a wider grid adds
  --cfg job        shows a study's runs, how each stands, how long they take, and runs none
  jobs=auto|N      runs at once; retries=N tries a failed one again; on_error=continue|stop; force=true for very many

FLAGS (Hydra's): -m sweeps, --cfg job shows the config, -sc install=bash sets up completion
EXIT CODES: 0 done, 2 bad command line, config or data, 3 no usable checkpoint, 4 output folder, 5 diverged,
  6 out of memory, 7 stopped by trainer.max_time, 130, 143 or 128 + N stopped by signal N after saving, 1 others"""


def train() -> str:
    """The help of `train`."""
    from skiplab.paths import conf_folder

    lines = [HEAD.format(version=__version__)]
    for group in (
        "dataset",
        "model",
        "block",
        "optimizer",
        "scheduler",
        "augment",
        "trainer",
        "experiment",
        "sweep",
    ):
        lines.append(f"  {group}")
        for path in sorted((conf_folder() / group).glob("*.yaml")):
            lines.append(f"    {path.stem:<24} {describe(path)}")
    return "\n".join(lines) + TAIL


def describe(path: Path) -> str:
    """The sentence that a preset's first comment begins with."""
    comments = [
        line[2:].strip()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("# ") and "@package" not in line
    ]
    return comments[0].partition("   train ")[0].rstrip() if comments else ""
