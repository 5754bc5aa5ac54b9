"""What a network is made of: its stages, their blocks, the layers and skips in each.

An image is passed through the network. Each call of a torch function is recorded with the calls
that it takes its inputs from. So skips are found in any module, by their sums and concatenations,
whatever its code looks like.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skiplab.networks.summary import macs_of

# Functions of torch that are shown without more words. Others are left out.
SHOWN = {
    **{
        name: name for name in ("relu", "gelu", "silu", "sigmoid", "tanh", "elu", "mish", "softmax")
    },
    "leaky_relu": "leaky relu",
    "batch_norm": "bn",
    "group_norm": "gn",
    "layer_norm": "ln",
    "instance_norm": "in",
    "mean": "mean",
    "adaptive_avg_pool2d": "average pool",
    "pad": "pad",
}
JOINS = {
    **dict.fromkeys(("add", "__add__", "__radd__", "__iadd__", "sub", "__sub__"), "sum"),
    **dict.fromkeys(("mul", "__mul__", "__rmul__", "__imul__", "multiply"), "product"),
    **dict.fromkeys(("cat", "concat", "concatenate"), "concatenation"),
}
ATTENTION = (
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
    "_native_multi_head_attention",
)
MATRIX_PRODUCTS = ("matmul", "__matmul__", "mm", "bmm", "addmm", "einsum")


@dataclass(frozen=True)
class Layer:
    """One operation in words, such as `3x3 conv 64 /2`."""

    text: str
    # Whether it has weights that combine channels: a convolution or a linear layer.
    is_heavy: bool = False


@dataclass(frozen=True)
class Skip:
    """A branch past some layers: layers[start:end] of its unit, joined after them."""

    start: int
    end: int
    # sum | concatenation | product
    joined_by: str
    # What lies on the branch; nothing for an identity.
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Unit:
    """A block, or another part of a stage: `count` of them in a row, all alike."""

    name: str
    # Channels, height and width of the input and of the output of one image.
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    # Those of one unit.
    parameters: int
    macs: int
    # The main path in order, and the branches past parts of it.
    layers: tuple[Layer, ...]
    skips: tuple[Skip, ...] = ()
    count: int = 1


@dataclass(frozen=True)
class Stage:
    """A named stage of a network. Parameters and multiply-accumulates are those of all of it."""

    name: str
    gives: tuple[int, ...]
    parameters: int
    macs: int
    units: tuple[Unit, ...]


def stages_of(model: nn.Sequential, *, channels: int, size: tuple[int, int]) -> list[Stage]:
    """Return the stages of a network for images of `channels` planes of `size` pixels.

    The model is left as it was. Multiply-accumulates are those of the forward pass of one image.
    """
    was_training = model.training
    parameter = next(model.parameters())
    model.eval()
    found: list[Stage] = []
    try:
        with torch.no_grad():
            x = torch.zeros(1, channels, *size, device=parameter.device, dtype=parameter.dtype)
            for name, module in model.named_children():
                units: list[Unit] = []
                for part_name, part in parts_of(module):
                    unit, x = unit_of(part_name, part, x)
                    units.append(unit)
                gives, parameters = tuple(x.shape[1:]), num_parameters(module)
                macs = sum(unit.macs for unit in units)
                found.append(Stage(name, gives, parameters, macs, tuple(folded(units))))
    finally:
        model.train(was_training)
    return found


def num_parameters(module: nn.Module) -> int:
    """Return the number of a module's parameters."""
    return sum(p.numel() for p in module.parameters())


def parts_of(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a stage: its blocks if it is a row of them, else itself."""
    children = list(module.children())
    is_row = type(module) is nn.Sequential and children
    if is_row and all(any(True for _ in child.children()) for child in children):
        for child in children:
            yield str(getattr(child, "name", type(child).__name__)), child
    else:
        yield "", module


def folded(units: Sequence[Unit]) -> Iterator[Unit]:
    """Yield each run of equal units as one, with its count."""
    last: Unit | None = None
    for unit in units:
        if last is not None and replace(last, count=1) == unit:
            last = replace(last, count=last.count + 1)
            continue
        if last is not None:
            yield last
        last = unit
    if last is not None:
        yield last


def unit_of(name: str, module: nn.Module, x: Tensor) -> tuple[Unit, Tensor]:
    """Pass an image through a module; return what it is made of, and its output."""
    macs = 0

    def count(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        macs += macs_of(layer, output)

    hooks = [layer.register_forward_hook(count) for layer in module.modules()]
    own = {id(each) for each in (*module.parameters(), *module.buffers())}
    recorder = Recorder(x, own)
    with recorder:
        out = module(x)
    for hook in hooks:
        hook.remove()
    layers, skips = recorder.paths()
    shapes = tuple(x.shape[1:]), tuple(out.shape[1:])
    return Unit(name, *shapes, num_parameters(module), macs, layers, skips), out


@dataclass(frozen=True)
class Operation:
    """One recorded call: its number, what it takes, and the layer or join that it is."""

    number: int
    inputs: tuple[int, ...]
    layer: Layer | None = None
    joined_by: str | None = None


class Recorder(TorchFunctionMode):
    """Records the calls inside the `with` that depend on the tensor `start`.

    `own` are the ids of tensors that are parameters or buffers.
    """

    def __init__(self, start: Tensor, own: set[int]):
        super().__init__()
        self.own = own
        self.operations = [Operation(0, ())]
        # The number of the call that has made a tensor. The tensors are kept, so that no other
        # takes their id.
        self.made_by = {id(start): 0}
        self.kept = [start]

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        named = dict(kwargs or {})
        inputs = tuple(map(self.maker, tensors_in([*args, *named.values()])))
        inputs = tuple(number for number in inputs if number is not None)
        made = func(*args, **named)
        outputs = tensors_in([made])
        if inputs and outputs:
            name = str(getattr(func, "__name__", "")).removesuffix("_")
            joined = JOINS.get(name) if len(set(inputs)) > 1 else None
            layer = None if joined else layer_of(name, args, named, outputs[0])
            number = len(self.operations)
            self.operations.append(Operation(number, inputs, layer, joined))
            for each in outputs:
                self.made_by[id(each)] = number
            self.kept += outputs
        return made

    def maker(self, tensor: Tensor) -> int | None:
        """Return the number of the call that has made a tensor; None for a weight.

        What has come from elsewhere, such as a function of a user's own, follows the last call.
        """
        if id(tensor) in self.own:
            return None
        return self.made_by.get(id(tensor), len(self.operations) - 1)

    def before(self, number: int) -> set[int]:
        """Return a call and all that it depends on, by their numbers."""
        found: set[int] = set()
        waiting = [number]
        while waiting:
            at = waiting.pop()
            if at not in found:
                found.add(at)
                waiting += self.operations[at].inputs
        return found

    def paths(self) -> tuple[tuple[Layer, ...], tuple[Skip, ...]]:
        """Return the layers of the main path, and the skips past them.

        Of two branches the one with fewer heavy layers is the skip, and of equal ones that with
        fewer layers.
        """
        branches: list[tuple[Operation, int, set[int]]] = []
        off: set[int] = set()
        for join in self.operations:
            if join.joined_by is None:
                continue
            sides = [self.before(number) for number in dict.fromkeys(join.inputs)]
            common = set.intersection(*sides)
            own = [side - common for side in sides]
            for branch in sorted(own, key=self.weight)[:-1]:
                branches.append((join, max(common), branch))
                off |= branch
        main = [each for each in self.operations if each.layer and each.number not in off]
        skips = [
            Skip(
                sum(each.number <= start for each in main),
                sum(each.number < join.number for each in main),
                join.joined_by or "",
                tuple(layer for n in sorted(branch) if (layer := self.operations[n].layer)),
            )
            for join, start, branch in branches
        ]
        layers = tuple(each.layer for each in main if each.layer)
        return layers, tuple(skip for skip in skips if skip.end > skip.start)

    def weight(self, numbers: set[int]) -> tuple[int, int, int]:
        """Return how much a branch computes: heavy layers, layers, calls."""
        layers = [layer for number in numbers if (layer := self.operations[number].layer)]
        return sum(layer.is_heavy for layer in layers), len(layers), len(numbers)


def tensors_in(values: Sequence[object]) -> list[Tensor]:
    """Return the tensors among values, and in lists and tuples among them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, (tuple, list)):
            found += tensors_in(value)
        elif isinstance(value, Tensor):
            found.append(value)
    return found


def layer_of(
    name: str, args: Sequence[Any], named: Mapping[str, Any], made: Tensor
) -> Layer | None:
    """Return a call in words; None for one that is left out."""

    def argument(at: int, key: str, default: object) -> Any:  # noqa: ANN401
        return args[at] if len(args) > at else named.get(key, default)

    if name in ("conv1d", "conv2d", "conv3d"):
        weight, stride = argument(1, "weight", None), argument(3, "stride", 1)
        words = f"{'x'.join(map(str, weight.shape[2:]))} conv {weight.shape[0]}"
        if (groups := argument(6, "groups", 1)) > 1:
            words += f" in {groups} groups"
        if (step := stride if isinstance(stride, int) else max(stride)) > 1:
            words += f" /{step}"
        return Layer(words, is_heavy=True)
    if name == "linear":
        return Layer(f"linear {made.shape[-1]}", is_heavy=True)
    if name in ATTENTION:
        return Layer("attention", is_heavy=True)
    if name in MATRIX_PRODUCTS:
        return Layer("matrix product", is_heavy=True)
    if name in ("max_pool2d", "avg_pool2d"):
        kind = "max" if name == "max_pool2d" else "average"
        kernel = argument(1, "kernel_size", 1)
        side = kernel if isinstance(kernel, int) else max(kernel)
        # A pool over the whole plane has no size of its own.
        is_global = math.prod(made.shape[2:]) == 1
        return Layer(f"{kind} pool" if is_global else f"{kind} pool {side}")
    return Layer(SHOWN[name]) if name in SHOWN else None
