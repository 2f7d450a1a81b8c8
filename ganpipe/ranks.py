"""The processes that do one piece of work together, and what they tell one another.

Gradients travel through accelerate; here is all else: who writes, what all agree on, who measures what. On the CPU and
over gloo, whatever the device: a decision must not wait for a GPU's queue. With one process every method is free.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState

from .errors import WorkFailed

Result = TypeVar("Result")
PATIENCE = timedelta(hours=2)
"""Of ranks that wait while rank 0 trains an extractor or reads a slow store; one that died is noticed at once."""


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

    def from_main(self, work: Callable[[], Result]) -> Result:
        """What `work` returns on rank 0, where alone it is called."""
        if self._group is None:
            return work()
        value = [work() if self.is_main else None]
        dist.broadcast_object_list(value, 0, self._group)
        return value[0]  # type: ignore[return-value]
