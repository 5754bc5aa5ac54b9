"""Loads the weights of a checkpoint into a run's network."""

from pathlib import Path

from torch import nn

from skiplab import provenance
from skiplab.config.schema import Config
from skiplab.describe import describe_weights
from skiplab.errors import UsageError
from skiplab.runs import checkpoint
from skiplab.runs.facts import Outline


def load_weights(path: Path, model: nn.Module, config: Config) -> Outline:
    """Load the weights that count in a checkpoint into the model, and return its outline.

    These are the average where there is one. Raises UsageError if they do not fit the model.
    """
    tensors, tree = checkpoint.load(path)
    facts = Outline.of_tree(tree)
    # `best` of format 2 is a state dict as it is.
    prefixes = ("average/", "model/", "")
    prefix = next(each for each in prefixes if any(name.startswith(each) for name in tensors))
    try:
        model.load_state_dict(
            {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        )
    except RuntimeError:
        raise UsageError(
            f"{path}: of {facts.network}, which does not fit this run's {describe_weights(config)}"
        ) from None
    return facts


def load_start(config: Config, model: nn.Module) -> None:
    """Load the weights that init_from names.

    Raises UsageError if they are no longer those that the run was begun with.
    """
    assert config.init_from is not None
    source = provenance.start_weights(config.init_from)
    if config.init_sha256 not in (None, checkpoint.stated_digest(source)):
        raise UsageError(
            f"init_from={config.init_from}: {source.name} has changed since this run was begun; "
            "resume=never starts afresh"
        )
    load_weights(source, model, config)
