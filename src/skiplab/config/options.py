"""The keys of options: a class for each set of keys that a data set, network or optimizer can have.

Where a group has several classes, an option has the one that is named like it, else the one whose
keys are those of its file in conf/. No field has a value: only YAML states values.
"""

from dataclasses import dataclass
from typing import Literal

from skiplab.config.fields import key


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What the files of a data set hold, and how their pixels are scaled."""

    name: str = key("the data set", option_of="dataset", fixed=True)
    root: str | None = key(
        "folder of the files; null: $SKIPLAB_DATA, else ~/.cache/skiplab", changes_numbers=False
    )
    channels: int = key("colour planes of an image", at_least=1, fixed=True)
    size: int = key("height and width in the files, in pixels", at_least=1, fixed=True)
    classes: tuple[str, ...] = key("class names, in the order of their labels", fixed=True)
    train_images: int = key("images in the training files", at_least=1, fixed=True)
    test_images: int = key("images in the test files", at_least=1, fixed=True)
    flip_keeps_label: bool = key("whether a mirrored image keeps its label", fixed=True)
    mean: tuple[float, ...] = key("per channel, of pixels in [0, 1]", fixed=True)
    std: tuple[float, ...] = key("per channel, of pixels in [0, 1]", above=0, fixed=True)
    resize: int | None = key("height and width to resize to", at_least=1, fixed=True)
    fraction: float = key(
        "share of the training images that is used, stratified, after validation is held out",
        above=0,
        at_most=1,
        fixed=True,
        neutral=1.0,
    )
    per_class: int | None = key(
        "training images of each class that are used; null: all",
        at_least=1,
        fixed=True,
        neutral=None,
    )


@dataclass(frozen=True, kw_only=True)
class Folder:
    """dataset=folder: images of your own. What is empty is read from them, once a run begins."""

    name: str = key("the data set", option_of="dataset", fixed=True)
    root: str | None = key(
        "folder with train/CLASS/*, val/ and test/, or with CLASS/*", changes_numbers=False
    )
    list: str | None = key(
        "in place of root: a CSV or JSON-lines file of path, label, split, or an npz file",
        changes_numbers=False,
    )
    channels: int | str = key(
        "colour planes of an image: 1 or 3; auto: 1 if every image is grey",
        at_least=1,
        word="auto",
        fixed=True,
    )
    size: str = key(
        "height and width to resize to, in pixels: 32, or 24x32",
        pattern=r"[1-9]\d{0,4}(x[1-9]\d{0,4})?",
        expected="a number of pixels, or HEIGHTxWIDTH,",
        fixed=True,
    )
    classes: tuple[str, ...] = key("class names, in the order of their labels", fixed=True)
    train_images: int = key("images to train on, validation included", at_least=0, fixed=True)
    val_images: int = key("images of a validation set of their own", at_least=0, fixed=True)
    test_images: int = key("images to test on", at_least=0, fixed=True)
    test_fraction: float = key(
        "part of each class that is for the test, where no folder or column says",
        at_least=0,
        below=1,
        fixed=True,
    )
    test_seed: int = key("seed of that part; seed= leaves it as it is", at_least=0, fixed=True)
    skip_unreadable: bool = key("leave out images that cannot be read", changes_numbers=False)
    flip_keeps_label: bool = key("whether a mirrored image keeps its label", fixed=True)
    mean: tuple[float, ...] = key("per channel, of pixels in [0, 1]", fixed=True)
    std: tuple[float, ...] = key("per channel, of pixels in [0, 1]", above=0, fixed=True)
    sha256: str | None = key(
        "SHA-256 of the images' files, labels and parts; Skiplab writes it", fixed=True
    )
    fraction: float = key(
        "share of the training images that is used, stratified, after validation is held out",
        above=0,
        at_most=1,
        fixed=True,
        neutral=1.0,
    )
    per_class: int | None = key(
        "training images of each class that are used; null: all",
        at_least=1,
        fixed=True,
        neutral=None,
    )


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network around the blocks."""

    name: str = key("the network", option_of="model", fixed=True)
    dropout: float = key(
        "probability of dropping a feature before the last layer", at_least=0, below=1, fixed=True
    )


@dataclass(frozen=True, kw_only=True)
class Airbench:
    """model=airbench and model=airbench96."""

    name: str = key("the network", option_of="model", fixed=True)
    dropout: float = key(
        "probability of dropping a feature before the last layer", at_least=0, below=1, fixed=True
    )
    whiten_bias: float = key(
        "fraction of the run in which the whitening layer's bias is trained", above=0, at_most=1
    )


@dataclass(frozen=True, kw_only=True)
class Block:
    """What the network is built of."""

    name: str = key("the block", option_of="block", fixed=True)
    bias: bool = key("whether convolutions have a bias", fixed=True)
    projection: Literal["conv", "conv_bn", "pad"] = key("a shortcut that changes shape", fixed=True)


@dataclass(frozen=True, kw_only=True)
class OwnOptimizer:
    """optimizer=FILE.py:NAME."""

    name: str = key("the optimizer", option_of="optimizer", fixed=True)
    lr: float = key("learning rate at its peak", above=0)
    weight_decay: float = key("passed on to the optimizer", at_least=0)
    decay_norm_and_bias: bool = key("whether norms and biases decay too")


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """optimizer=sgd."""

    name: str = key("the optimizer", option_of="optimizer", fixed=True)
    lr: float = key("learning rate at its peak", above=0)
    momentum: float = key("share of the last update that is kept", at_least=0, below=1)
    nesterov: bool = key("look ahead by the momentum")
    weight_decay: float = key("L2 penalty", at_least=0)
    decay_norm_and_bias: bool = key("whether norms and biases decay too")
    norm_scale: float = key(
        "rate of the norms as a multiple of lr; they decay no faster for it", above=0, neutral=1.0
    )


@dataclass(frozen=True, kw_only=True)
class Adam:
    """optimizer=adam and optimizer=adamw."""

    name: str = key("the optimizer", option_of="optimizer", fixed=True)
    lr: float = key("learning rate at its peak", above=0)
    betas: tuple[float, float] = key("decay of the two moments", at_least=0, below=1)
    eps: float = key("added to the denominator", above=0)
    weight_decay: float = key("L2 penalty (adam) or decoupled decay (adamw)", at_least=0)
    decay_norm_and_bias: bool = key("whether norms and biases decay too")


@dataclass(frozen=True, kw_only=True)
class Muon:
    """optimizer=muon: Muon for filters, SGD with Nesterov momentum for the rest."""

    name: str = key("the optimizer", option_of="optimizer", fixed=True)
    lr: float = key("learning rate at its peak, of the filters", above=0)
    momentum: float = key("share of the filters' last update that is kept", at_least=0, below=1)
    nesterov: bool = key("look ahead by the momentum")
    iterations: int = key(
        "Newton-Schulz iterations that orthogonalise an update", at_least=1, at_most=20
    )
    head_lr: float = key("rate at its peak for the last layer's weights", above=0)
    bias_lr: float = key("rate at its peak for norms and biases", above=0)
    sgd_momentum: float = key("momentum of these two", at_least=0, below=1)
    weight_decay: float = key(
        "share that these two lose in a step at the peak, whatever their learning rate", at_least=0
    )
    decay_norm_and_bias: bool = key("whether norms and biases decay too")


WARMUP = "fraction of the run that warms up linearly"


@dataclass(frozen=True, kw_only=True)
class Constant:
    """scheduler=constant."""

    name: str = key("the schedule", option_of="scheduler")
    warmup: float = key(WARMUP, at_least=0, below=1)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """scheduler=cosine."""

    name: str = key("the schedule", option_of="scheduler")
    warmup: float = key(WARMUP, at_least=0, below=1)
    final: float = key("last learning rate, as a multiple of lr", at_least=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class Multistep:
    """scheduler=multistep."""

    name: str = key("the schedule", option_of="scheduler")
    warmup: float = key(WARMUP, at_least=0, below=1)
    milestones: tuple[float, ...] = key(
        "fractions of the run at which lr is multiplied by gamma", above=0, below=1
    )
    gamma: float = key("factor at each milestone", above=0, at_most=1)
    low: float = key(
        "rate of the first steps, as a multiple of lr", above=0, at_most=1, neutral=1.0
    )
    low_until: float = key(
        "fraction of the run up to which it is kept", at_least=0, below=1, neutral=0.0
    )


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """scheduler=onecycle."""

    name: str = key("the schedule", option_of="scheduler")
    warmup: float = key(WARMUP, at_least=0, below=1)
    start: float = key("first learning rate, as a multiple of lr", above=0, at_most=1)
    final: float = key("last learning rate, as a multiple of lr", at_least=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """scheduler=linear."""

    name: str = key("the schedule", option_of="scheduler")
    warmup: float = key(WARMUP, at_least=0, below=1)
    start: float = key("first learning rate, as a multiple of lr", at_least=0, at_most=1)
    final: float = key("last learning rate, as a multiple of lr", at_least=0, at_most=1)
