"""A trained network, ready to predict: from a run folder, or from its best weights alone."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from skiplab import build, provenance, trust, weights
from skiplab.config import rules, stored
from skiplab.config.schema import Config
from skiplab.data.batches import Normalize
from skiplab.errors import UsageError
from skiplab.machine import devices
from skiplab.runs import facts, folders
from skiplab.training.evaluation import Predictor


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode on its device, with the config that it was trained by.

    `step` is the optimizer step of its weights. `folder` is None for a file without its run.
    """

    model: nn.Module
    config: Config
    device: torch.device
    step: int
    folder: Path | None

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the network's outputs."""
        return self.config.dataset.classes

    @property
    def channels(self) -> int:
        """The colour planes of the images that the network takes."""
        return rules.channels(self.config)

    @property
    def size(self) -> tuple[int, int]:
        """Their height and width in pixels."""
        return rules.image_size(self.config)

    @cached_property
    def predictor(self) -> Predictor:
        """What computes logits as the run's report did: precision, test-time augmentation."""
        return build.predictor_of(self.config, self.model, self.device)

    @cached_property
    def normalize(self) -> Normalize:
        """What turns uint8 (N, H, W, C) into the network's input, float32 (N, C, H, W)."""
        return build.normalizer(self.config, self.device)


def open_trained(
    source: Path,
    *,
    checkpoint_name: str = "best",
    device_name: str = "auto",
    trust_code: bool = False,
    say: str = "--trust-code",
) -> Trained:
    """Load the network of a run folder, or of a checkpoint file wherever it lies.

    `checkpoint_name` says which weights of a folder: best or last. Code of a run's own is run only
    if this user has named or trusted it before, or with `trust_code`; `say` is how a user tells the
    command at hand to. Raises UsageError if `source` is neither, or its code may not be run or does
    not fit, CheckpointError if the weights are not there or damaged.
    """
    if source.is_file():
        folder, path, config = None, source, config_of_file(source)
        trust.admit_weights(path, config)
    else:
        folder = folders.of_path(source)
        config = provenance.load(folder)
        # A missing checkpoint is found before torch computes anything.
        path = provenance.weights(folder, checkpoint_name, config)
        trust.admit_run(folder, config, trust_code=trust_code, say=say, groups=trust.OF_A_NETWORK)
    device = devices.pick_device(device_name)
    model = build.network(config, device)
    step = weights.load_weights(path, model, config).step or 0
    return Trained(model.eval(), config, device, step, folder)


def config_of_file(path: Path) -> Config:
    """Return the config that a checkpoint file states.

    Files of format 1 state none, or only `last` does; then the config of their folder counts.
    Raises UsageError if there is neither, CheckpointError if the file is damaged.
    """
    found = facts.outline(path)
    if found.run is not None and found.run.config is not None:
        try:
            return stored.of_values(found.run.config)
        except UsageError as error:
            raise UsageError(
                "\n".join(f"{path}: {line}" for line in str(error).split("\n"))
            ) from None
    if folders.identity_of(path.parent) is None:
        raise UsageError(
            f"{path}: states no config, since an earlier release wrote it; "
            "give it inside its run folder"
        )
    return provenance.load(path.parent)
