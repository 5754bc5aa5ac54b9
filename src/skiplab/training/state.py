"""The tensors of a run's whole state by name: what a checkpoint holds next to its facts."""

from collections.abc import Mapping

from torch import Tensor

from skiplab.runs.checkpoint import under
from skiplab.training import optimizers
from skiplab.training.step import Step
from skiplab.training.torch_optimizer import TorchOptimizer


def tensors_of(step: Step) -> dict[str, Tensor]:
    """Return all tensors that optimizer steps change, by `part/name`.

    They are the tensors themselves, not copies.
    """
    average: Mapping[str, Tensor] = {}
    if step.average.model is not step.model:
        average = step.average.model.state_dict()
    parts: dict[str, Mapping[str, Tensor]] = {
        "model": step.model.state_dict(),
        "optimizer": optimizer_state(step),
        "average": average,
        "lookahead": step.lookahead.slow,
        "selection": step.selection.state(),
    }
    return {
        f"{part}/{name}": tensor
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


def load_tensors(step: Step, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `tensors_of` returned. Raises KeyError or RuntimeError if it is not that."""
    step.model.load_state_dict(under("model/", tensors))
    if step.average.model is not step.model:
        step.average.model.load_state_dict(under("average/", tensors))
    step.lookahead.load(under("lookahead/", tensors))
    step.selection.load(under("selection/", tensors))
    saved = under("optimizer/", tensors)
    step.optimizer.reset()
    if isinstance(step.optimizer, TorchOptimizer):
        step.optimizer.load(saved)
    else:
        optimizers.load_state(step.optimizer, step.model, saved)


def optimizer_state(step: Step) -> Mapping[str, Tensor]:
    """Return the tensors of the optimizer, of ours or of torch's kind."""
    if isinstance(step.optimizer, TorchOptimizer):
        return step.optimizer.tensors(step.model)
    return optimizers.state_of(step.optimizer, step.model)
