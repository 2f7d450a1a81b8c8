"""The processes that do one piece of work together, and all that they tell one another.

Gradients are added up where they lie, over accelerate's process group (NCCL or gloo), once for each update. All else
(who writes, what all agree on, who measures what) goes over gloo and the CPU: a decision must not wait for a GPU's
queue. With one process every method is free.

There is no DistributedDataParallel: its hooks fire in every backward pass, and a GAN has several networks, phases that
freeze one of them, penalties that differentiate twice and micro-batches, each of which it has to be protected from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from .errors import WorkFailed

Result = TypeVar("Result")
PATIENCE = timedelta(hours=2)
"""Of ranks that wait while rank 0 trains an extractor or reads a slow store; one that died is noticed at once."""
SMALL = 1 << 16
"""Elements; below, a message costs more than what it carries."""


def _in_memory_order(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor as they lie in memory, whatever their order: a view of one dimension."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


class Ranks:
    """This process among all. Made once per process; joins the others."""

    def __init__(self) -> None:
        """Raises WorkFailed when fewer processes came together than were started."""
        state = PartialState(cpu=not torch.cuda.is_available())
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if state.num_processes != started:
            raise WorkFailed(
                f"{started} processes were started, and {state.num_processes} came together: each would train alone"
            )
        self.index: int = state.process_index
        """0, ..., count - 1."""
        self.count: int = state.num_processes
        self.device: torch.device = state.device
        group = dist.new_group(backend="gloo", timeout=PATIENCE) if self.count > 1 else None
        self._group = cast("dist.ProcessGroup | None", group)

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.index == 0

    @property
    def is_local_main(self) -> bool:
        """Whether this is the first one of its machine."""
        return int(os.environ.get("LOCAL_RANK", "0")) == 0

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the tensors of rank 0, in place."""
        if self._group is not None:
            for tensor in tensors:
                copy = tensor.detach().clone(memory_format=torch.contiguous_format)
                dist.broadcast(copy, 0)
                tensor.detach().copy_(copy)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, bit for bit the same on all of them.

        Large ones where they lie; small ones in one message.
        """
        if self._group is None or not tensors:
            return
        flat = [_in_memory_order(tensor) for tensor in tensors]
        small = [tensor for tensor in flat if tensor.numel() < SMALL]
        together = torch.cat(small) if small else flat[0][:0]
        messages = [*([together] if small else []), *(tensor for tensor in flat if tensor.numel() >= SMALL)]
        for sent in [dist.all_reduce(message, async_op=True) for message in messages]:
            sent.wait()
        for tensor, part in zip(small, together.split([tensor.numel() for tensor in small]), strict=True):
            tensor.copy_(part)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag: whether it is set on any rank."""
        if self._group is None:
            return flags
        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MAX, self._group)
        return tuple(map(bool, votes.tolist()))

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean over ranks of values that all have, by name."""
        if self._group is None:
            return values
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(total, dist.ReduceOp.SUM, self._group)
        return dict(zip(values, (total / self.count).tolist(), strict=True))

    def gather(self, value: Result) -> list[Result]:
        """Every rank's value, on every rank, in their order; small ones, or tensors on the CPU."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, self._group)
        return values

    def main_first(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, called by rank 0 first: for what one makes and all the others find."""
        result = work() if self.is_main else None
        self.any(False)
        return work() if result is None else result

    def from_main(self, work: Callable[[], Result]) -> Result:
        """What `work` returns on rank 0, where alone it is called."""
        if self._group is None:
            return work()
        value = [work() if self.is_main else None]
        dist.broadcast_object_list(value, 0, self._group)
        return value[0]  # type: ignore[return-value]
