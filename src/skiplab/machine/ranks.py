"""Ranks: processes that train one network together, a device each.

The trainer makes the same calls in every run. `Ranks` is one process, for which they do nothing;
`Team` is several.
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

# For a rank that hangs; one that dies is noticed at once. The limit has to outlast a network that
# one rank compiles, or a checkpoint on a slow disk.
TIME_LIMIT = timedelta(minutes=10)
NOTHING: AbstractContextManager[None] = nullcontext()


class Ranks:
    """One process, to which several ranks' operations come down to nothing."""

    place = Place(rank=0, size=1, local_rank=0, local_size=1)
    # Sets this rank's dropout apart. The first rank draws as a single process does.
    position: tuple[int, ...] = ()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, speaks and decides."""
        return self.place.rank == 0

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.place.size

    def part_of(self, num_images: int) -> tuple[int, int, int]:
        """Return this rank's part of a batch: i, n of part i of n, and the factor of its losses.

        The ranks' mean is taken of the losses times their factors; 0 stands for a part that does
        not count.
        """
        return 0, 1, 1

    def replicate(self, model: nn.Module, *, sync_bn: bool) -> nn.Module:
        """Return what to call in place of the model.

        After its backward pass every rank holds the mean of the ranks' gradients. With `sync_bn`
        BatchNorm is over all ranks.
        """
        return model

    def reducing(self, replica: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
        """Return the context of the forward and backward pass of one of several parts.

        Only the last part takes the ranks' mean, of the gradients that all parts have added up.
        """
        return NOTHING

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up over the ranks, in place. The numbers must be exact: the order is not fixed."""
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the ranks, added up from the first to the last."""
        return tensor

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Copy the first rank's values to every rank, in place."""

    def agreed(self, decide: Callable[[], int | None]) -> int:
        """Return the number that the first rank decides, 0 for None. All raise its Diverged."""
        return decide() or 0

    def main_first(self) -> AbstractContextManager[None]:
        """Let the first rank go first, then the others. None leaves before all are done."""
        return NOTHING


ALONE = Ranks()


class Team(Ranks):
    """Several processes, connected. All make the same calls in the same order."""

    def __init__(
        self, store: "Store", place: Place, *, device: torch.device, check: Callable[[], None]
    ):
        self.store = store
        self.place = place
        self.device = device
        self.position = (place.rank,) if place.rank else ()
        # Raises RankFailed if another rank is gone.
        self.check = check
        self.meetings = 0
        # Images per rank: BatchNorm cannot normalise one value.
        self.least = 2

    def part_of(self, num_images: int) -> tuple[int, int, int]:
        """Return part and factor as `Ranks.part_of`; a small batch is computed by fewer ranks.

        BatchNorm cannot normalise one value, so a rank gets at least two images; one where
        BatchNorm is over all ranks. The other ranks compute the first part with factor 0, since
        every rank has to take part in the sum.
        """
        parts = max(1, min(self.size, num_images // self.least))
        if self.place.rank < parts:
            return self.place.rank, parts, self.size
        return 0, parts, 0

    def replicate(self, model: nn.Module, *, sync_bn: bool) -> nn.Module:
        """Wrap the model, which keeps its parameters, buffers and their names.

        With `sync_bn` the model's BatchNorms are replaced, in place, by ones over all ranks.
        """
        if sync_bn:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
            self.least = 1
        replica = DistributedDataParallel(model)
        # An evaluation shares the buffers. No step needs them.
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
        """Send the decision between the hosts: that waits for no device."""
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
        """Wait until all ranks are here, however long that takes.

        One of them may download data meanwhile, so a collective with its time limit will not do.
        """
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
    """Connect the processes that meet in `store`, whose keys belong to this run only."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    team = Team(store, place, device=device, check=check)
    # All ranks are here, so a time limit that runs out now means that one has died.
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
