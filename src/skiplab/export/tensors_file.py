"""Safetensors files: a state dict under the network's names or torchvision's, without the graph."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from skiplab import build
from skiplab.errors import SkiplabError
from skiplab.export import torchvision_names
from skiplab.export.graph import PixelsToLogits
from skiplab.trained import Trained


class TensorsFile:
    """The tensors of a network. `names` is skiplab or torchvision."""

    def __init__(self, module: PixelsToLogits, *, names: str):
        tensors = {
            name: tensor.detach().contiguous()
            for name, tensor in module.network.state_dict().items()
        }
        self.tensors = torchvision_names.renamed(tensors) if names == "torchvision" else tensors

    def pack(self, metadata: Mapping[str, str]) -> bytes:
        """Return the file's content with this metadata."""
        import safetensors.torch

        return safetensors.torch.save(self.tensors, {"format": "pt", **metadata})


def run(
    path: Path, batches: Sequence[Tensor], *, trained: Trained, written: TensorsFile, names: str
) -> list[Tensor]:
    """Return the logits of a freshly built network with a file's tensors, for each batch.

    That is torchvision's network for its names. Raises SkiplabError if a tensor is not the one that
    was written.
    """
    import safetensors.torch

    tensors = safetensors.torch.load_file(path)
    changed = sorted(
        name
        for name in {*tensors, *written.tensors}
        if name not in tensors
        or name not in written.tensors
        or tensors[name].dtype != written.tensors[name].dtype
        or not torch.equal(tensors[name], written.tensors[name])
    )
    if changed:
        raise SkiplabError(f"{path}: {changed[0]} is not the tensor that was written")
    cpu = torch.device("cpu")
    network: nn.Module = (
        torchvision_names.module_of(trained.config, trained.channels)
        if names == "torchvision"
        else build.network(trained.config, cpu)
    )
    network.load_state_dict(tensors)
    network.eval()
    normalize = build.normalizer(trained.config, cpu)
    with torch.inference_mode():
        return [network(normalize(batch)) for batch in batches]


def runtime(names: str) -> str:
    """Name the program that `run` uses, with its version."""
    import safetensors

    reader = f"safetensors {safetensors.__version__}"
    if names == "torchvision":
        import torchvision

        return f"torchvision {torchvision.__version__} with the tensors that {reader} reads"
    return f"a new network with the tensors that {reader} reads"
