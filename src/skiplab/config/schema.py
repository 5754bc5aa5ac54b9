"""The schema of a run: every key with its type, range and meaning.

No field has a value: only YAML states values.
"""

from dataclasses import dataclass
from typing import Any, Literal

from skiplab.config.fields import key
from skiplab.config.options import (
    Adam,
    Airbench,
    Block,
    Constant,
    Cosine,
    Dataset,
    Folder,
    Linear,
    Model,
    Multistep,
    Muon,
    OneCycle,
    OwnOptimizer,
    Sgd,
)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What happens to a batch of training images."""

    flip: Literal["none", "auto", "random", "alternating"] = key(
        "mirror half of the images; auto: where that keeps the label; "
        "alternating: the other half in every second epoch",
        fixed=True,
    )
    crop: int = key("pixels of border to crop from at random; 0: no crop", at_least=0, fixed=True)
    padding_mode: Literal["zeros", "reflect"] = key(
        "what that border holds: black, or the image mirrored", fixed=True, neutral="zeros"
    )
    cutout: int = key("side of a covered square in pixels; 0: none", at_least=0, fixed=True)
    cutout_inside: bool = key(
        "whether the square never sticks out of the image", fixed=True, neutral=False
    )


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """How the run is computed, watched, saved and ended."""

    accumulate: int | str = key(
        "parts a batch is computed in, to save memory; auto: as few as fit", at_least=1, word="auto"
    )
    amp: Literal["off", "bf16", "fp16"] = key("mixed precision")
    channels_last: bool = key("memory format of images and weights")
    compile: bool = key(
        "torch.compile the network; it takes a minute or two at the start, "
        "seconds when it was done before"
    )
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = key(
        "how: reduce-overhead records CUDA graphs, max-autotune also tries kernels",
        neutral="reduce-overhead",
    )
    clip: float | None = key("largest gradient norm", above=0)
    ema: float = key(
        "decay per step of the average of the weights that is evaluated; 0: none",
        at_least=0,
        below=1,
        fixed=True,
    )
    ema_warmup: bool = key(
        "a smaller decay in the first steps: at most (1 + step) / (10 + step)",
        fixed=True,
        neutral=False,
    )
    lookahead: int = key(
        "steps between updates of the slow weights, to which the weights return; 0: none",
        at_least=0,
        fixed=True,
        neutral=0,
    )
    lookahead_decay: float = key(
        "decay per step of the slow weights at the end of the run",
        at_least=0,
        below=1,
        neutral=0.95,
    )
    label_smoothing: float = key("share of the target spread over all classes", at_least=0, below=1)
    class_weights: Literal["none", "balanced"] = key(
        "balanced: in the loss an image of a class of n has weight N / (K n), "
        "of N training images and K classes",
        neutral="none",
    )
    shuffle: bool = key("a fresh order of the images every epoch", fixed=True)
    drop_last: bool = key("skip the last, smaller batch of an epoch", fixed=True)
    select: float = key(
        "share of each batch that is trained on: the images that are hardest for a small network "
        "trained beforehand; 1: all",
        above=0,
        at_most=1,
        fixed=True,
        neutral=1.0,
    )
    select_width: int | None = key(
        "width of that network; null: the run's own", at_least=1, fixed=True, neutral=None
    )
    early_stop: int | None = key("evaluations without a better one before the run ends", at_least=1)
    max_time: float | None = key(
        "minutes of a sitting after which the run saves and exits with 7",
        above=0,
        changes_numbers=False,
    )
    limit_steps: int | None = key(
        "end after so many optimizer steps, the schedule unchanged", at_least=1
    )
    eval_every: float = key("epochs between evaluations", above=0)
    eval_train: bool = key("a second pass over the training set at each evaluation")
    save_every: float = key(
        "epochs between saves of last.safetensors", above=0, changes_numbers=False
    )
    log_every: int = key(
        "optimizer steps between log points (the host waits there); 1 prints each step",
        at_least=1,
        changes_numbers=False,
    )
    probe: str = key(
        "none, or what is recorded per layer: gradients, activations, updates, with commas between",
        expected="none, or some of gradients, activations, updates with commas between",
        pattern=r"none|(?:gradients|activations|updates)(?:,(?:gradients|activations|updates))*",
        changes_numbers=False,
        neutral="none",
    )
    probe_every: int = key(
        "optimizer steps between two such records; the first step is one",
        at_least=1,
        changes_numbers=False,
        neutral=100,
    )
    on_nonfinite: Literal["stop", "rollback"] = key(
        "what a loss that is not finite does: stop, or rollback to the last save with half the "
        "learning rate, five times at most",
        neutral="stop",
    )
    deterministic: bool = key("deterministic algorithms only (slower on CUDA)")
    threads: int | None = key(
        "CPU threads, of all processes; null: one per core; "
        "OpenMP crashes where it cannot start them all",
        at_least=1,
        at_most=1024,
        changes_numbers=False,
    )
    devices: int | str = key(
        "processes that train together, a device each, on their parts of each batch; "
        "auto: every CUDA device (on a CPU 1)",
        at_least=1,
        word="auto",
        neutral=1,
    )
    sync_bn: bool = key(
        "BatchNorm over the whole batch, not each device's part of it (CUDA only)", neutral=False
    )
    keep_allocator: bool = key(
        "Linux: keep freed memory in the process; 1.4x the speed of Deep_CNN on a CPU",
        changes_numbers=False,
    )


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """How predictions are made."""

    tta: Literal["none", "flip", "multicrop"] = key(
        "test-time augmentation: mean of the logits for an image and its mirror image; "
        "multicrop: also of both moved by a pixel, two ways"
    )
    split: Literal["test", "val"] = key(
        "what the report at the end is of; val: the test set stays sealed",
        at_end=True,
        neutral="test",
    )


@dataclass(frozen=True)
class Change:
    """One value that a command changed in a run which stood at optimizer step `step`."""

    step: int
    key: str
    before: Any
    after: Any

    def as_dict(self) -> dict[str, Any]:
        """Return the change as files hold it: step, key, from, to."""
        before, after = (
            list(value) if isinstance(value, tuple) else value
            for value in (self.before, self.after)
        )
        return {"step": self.step, "key": self.key, "from": before, "to": after}


@dataclass(frozen=True)
class Code:
    """A class or function of a user's own: in the place of an option of `group`."""

    group: str
    # FILE.NAME
    name: str
    # Where the file lay, absolute. It is no part of the identity.
    path: str
    # Of the file's content.
    sha256: str

    def as_dict(self) -> dict[str, str]:
        """Return the code as files hold it."""
        return {
            "group": self.group,
            "name": self.name,
            "path": self.path,
            "sha256": self.sha256,
        }


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole. Nested keys are written with a dot: optimizer.lr."""

    block: Block
    depth: int = key(
        "blocks, blocks a stage, or layers; see --help", at_least=0, at_most=10_000, fixed=True
    )
    width: int = key("channels of the first stage", at_least=1, fixed=True)
    norm: Literal["batch", "none"] = key("normalisation", fixed=True)
    shortcut: bool = key("false: the plain twin, the same layers without shortcuts", fixed=True)
    init: Literal["torch", "he"] = key("initial weights", fixed=True)
    model: Model | Airbench
    dataset: Dataset | Folder
    augment: Augment
    optimizer: OwnOptimizer | Sgd | Adam | Muon
    scheduler: Constant | Cosine | Multistep | OneCycle | Linear
    trainer: Trainer
    evaluator: Evaluator
    seed: int = key(
        "seed of split, order, augmentation, weights and dropout",
        at_least=0,
        at_most=2**63 - 1,
        fixed=True,
    )
    epochs: int = key("passes over the training set", at_least=1)
    steps: int | None = key("optimizer steps; replaces epochs", at_least=1)
    batch_size: int = key("images a step", at_least=1, fixed=True)
    val_fraction: float = key(
        "part of the training set held out as validation", at_least=0, below=1, fixed=True
    )
    device: str = key(
        "auto, cpu, cuda, cuda:N or mps", pattern=r"auto|cpu|cuda(:\d+)?|mps", changes_numbers=False
    )
    out: str | None = key(
        "run folder; null: outputs/DATE/TIME-...", changes_numbers=False, fixed=True
    )
    name: str | None = key(
        "a label: in the run folder's name, the report and `skiplab list`", changes_numbers=False
    )
    pictures: Literal["auto", "always", "never"] = key(
        "the pictures of a run; auto: of single runs, not of a sweep's, "
        "where `skiplab draw RUN` makes them later",
        changes_numbers=False,
        neutral="auto",
    )
    resume: str = key("auto, never, or a run folder or checkpoint", changes_numbers=False)
    init_from: str | None = key("run folder whose best weights to start from", fixed=True)
    study: str | None = key(
        "a sweep's name: its folder is outputs/studies/NAME; null: made of the keys that are swept",
        pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}",
        expected="a name of at most 100 letters, digits, dots, dashes and underscores",
        changes_numbers=False,
        neutral=None,
    )
    jobs: int | str = key(
        "runs of a sweep at once; auto: one a GPU, or on the CPU one a core",
        at_least=1,
        at_most=1024,
        word="auto",
        changes_numbers=False,
        neutral="auto",
    )
    retries: int = key(
        "how often a failed run of a sweep is tried again, from its last save",
        at_least=0,
        changes_numbers=False,
        neutral=0,
    )
    on_error: Literal["continue", "stop"] = key(
        "whether a failed run of a sweep stops the others, after saving",
        changes_numbers=False,
        neutral="continue",
    )
    match: Literal["none", "params", "macs"] = key(
        "a budget that the width is chosen to meet: parameters, or multiply-accumulates an image",
        changes_numbers=False,
        fixed=True,
        neutral="none",
    )
    target: int | None = key(
        "the budget's size", at_least=1, changes_numbers=False, fixed=True, neutral=None
    )
    force: bool = key("run a very large sweep", changes_numbers=False, neutral=False)
    init_sha256: str | None = key(
        "SHA-256 of the checkpoint that init_from named when the run began", own=True, neutral=None
    )
    code: tuple[Code, ...] = key(
        "the run's own code: the files that block=FILE.py:NAME and the like have named",
        own=True,
        neutral=(),
    )
    changed: tuple[Change, ...] = key(
        "what commands changed in the run after its first step", own=True, neutral=()
    )
