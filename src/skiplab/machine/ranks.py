"""Ranks: processes that train one network together, a device each. What they add up, share and agree on.

The trainer makes the same calls in every run. `Ranks` is one process alone, for which they do
nothing; `Team` is several.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from skiplab.errors import Diverged
from skiplab.machine.torchrun import Place

if TYPE_CHECKING or torch_dist.is_available():
    from torch.distributed import PrefixStore, Store  # pyright: ignore[reportPrivateImportUsage]

# For a rank that hangs. One that dies is noticed at once, and the others' patience has to outlast a
# network that one of them compiles, or a checkpoint on a slow disk.
TIME_LIMIT = timedelta(minutes=10)
NOTHING: AbstractContextManager[None] = nullcontext()


class Ranks:
    """One process alone."""

    place = Place(rank=0, size=1, local_rank=0, local_size=1)
    # what sets this rank's dropout apart: nothing for the first, which draws as a process alone
    # does
    position: tuple[int, ...] = ()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, speaks and decides."""
        return self.place.rank == 0

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.place.size

    def part_of(self, num_images: int) -> tuple[int, int, int]:
        """This rank's part of a batch: part i of n, and the factor of its losses, of which the ranks' mean is taken (0: not counted)."""
        return 0, 1, 1

    def replicate(self, model: nn.Module, *, sync_bn: bool) -> nn.Module:
        """What to call in place of the model, so that after the backward pass every rank holds the mean of the ranks' gradients."""
        return model

    def reducing(self, replica: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward pass of one of several parts: the last takes the mean of what all parts have added up."""
        return NOTHING

    def sum(self, tensor: Tensor) -> Tensor:
        """The ranks' sum, in place; of numbers whose sum is exact, since its order is not fixed."""
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """The ranks' mean, added up from the first to the last."""
        return tensor

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Have every rank take over the first's values."""

    def agreed(self, decide: Callable[[], int | None]) -> int:
        """Return the number that the first rank decides (None: 0). If it raises Diverged, all do."""
        return decide() or 0

    def main_first(self) -> AbstractContextManager[None]:
        """The first rank goes first, the others after it, and none goes on before all are done."""
        return NOTHING


ALONE = Ranks()


class Team(Ranks):
    """Several processes, connected. All make the same calls in the same order."""

    def __init__(
        self, store: "Store", place: Place, *, device: torch.device, check: Callable[[], None]
    ):
        self.store, self.place, self.device = store, place, device
        self.position = (place.rank,) if place.rank else ()
        # raises if one of the others is gone
        self.check = check
        self.meetings = 0
        # images a rank
        self.least = 2

    def part_of(self, num_images: int) -> tuple[int, int, int]:
        """As one process's. BatchNorm cannot normalise one value, so a batch of less than two images a rank is computed by fewer ranks.

        The others then compute the first part too, for nothing: every rank has to take part in the
        sum. Where BatchNorm is over all ranks, one image a rank will do.
        """
        parts = max(1, min(self.size, num_images // self.least))
        return (self.place.rank, parts, self.size) if self.place.rank < parts else (0, parts, 0)

    def replicate(self, model: nn.Module, *, sync_bn: bool) -> nn.Module:
        """The model wrapped; it keeps its parameters, buffers and their names. With `sync_bn` its BatchNorms become one over all ranks."""
        if sync_bn:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
            self.least = 1
        replica = DistributedDataParallel(model)
        # they are shared where they are used, at an evaluation, and not at every step
        replica.broadcast_buffers = False
        return replica

    def reducing(self, replica: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
        assert isinstance(replica, DistributedDataParallel)
        return NOTHING if is_last else replica.no_sync()

    def sum(self, tensor: Tensor) -> Tensor:
        torch_dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        torch_dist.all_gather(parts, tensor)
        return functools.reduce(torch.add, parts) / self.size

    def share(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            torch_dist.broadcast(whole, 0)
            tensor.detach().copy_(whole)

    def agreed(self, decide: Callable[[], int | None]) -> int:
        """Between the hosts: no device is waited for."""
        decision, problem = 0, None
        if self.is_main:
            try:
                decision = decide() or 0
            except Diverged as error:
                problem = error
        word = torch.tensor([decision, int(problem is not None)])
        torch_dist.broadcast(word, 0)
        decision, has_diverged = word.tolist()
        if has_diverged:
            raise problem or Diverged("the first rank says why")
        return decision

    @contextmanager
    def main_first(self) -> Iterator[None]:
        if not self.is_main:
            self.meet()
        yield
        if self.is_main:
            self.meet()
        self.meet()

    def meet(self) -> None:
        """Wait until all ranks are here, for however long: data may be fetched meanwhile, so not by a collective with its time limit."""
        self.meetings += 1
        key = f"met/{self.meetings}"
        self.store.add(key, 1)
        while self.store.add(key, 0) < self.size:
            self.check()
            time.sleep(0.01)


@contextmanager
def connected(
    store: "Store", place: Place, *, device: torch.device, check: Callable[[], None]
) -> Iterator[Team]:
    """The team of the processes that meet in `store`, whose keys are this run's alone."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    team = Team(store, place, device=device, check=check)
    # from here on it is quick, or somebody is gone
    team.meet()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    torch_dist.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=place.rank,
        world_size=place.size,
        timeout=TIME_LIMIT,
    )
    try:
        yield team
    finally:
        torch_dist.destroy_process_group()
