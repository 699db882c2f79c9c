"""Data-parallel workers of one run: who takes which micro-batch, and what they add up.

One process needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


class PeerLostError(RuntimeError):
    """Another worker of the same run is gone, or did not answer."""


@contextmanager
def together() -> Iterator[None]:
    """Around what all workers do at once: an error there is the others' absence.

    Raises:
        PeerLostError: instead of what torch.distributed raises.
    """
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"another worker of this trial is gone: {str(error).splitlines()[0]}") from error


def placed() -> tuple[int, int]:
    """This worker's number among those that train together, and how many there are.

    (0, 1) for a process alone.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def reduce_sum(tensor: Tensor) -> None:
    """Adds the data-parallel workers' tensors in place; one process keeps its own."""
    if placed()[1] > 1:
        with together():
            dist.all_reduce(tensor)


def reduce_mean(tensor: Tensor) -> None:
    """Averages the data-parallel workers' tensors in place; one process keeps its own."""
    reduce_sum(tensor)
    tensor /= placed()[1]


class Workers:
    """The processes that train one run together, or this one alone.

    Attributes:
        rank: this worker, from 0; the first keeps checkpoints and reports.
        count: how many there are.
    """

    def __init__(self) -> None:
        self.rank, self.count = placed()

    @property
    def leads(self) -> bool:
        """Whether this is the first."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[tuple[int, Item]]:
        """This worker's items, each with its number among all."""
        return [(number, item) for number, item in enumerate(items) if number % self.count == self.rank]

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Adds every worker's gradients, in place, in one all-reduce per type of number."""
        if self.count == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_dtype.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            reduce_sum(flat)
            parts = flat.split([gradient.numel() for gradient in gradients])
            torch._foreach_copy_(
                gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
            )

    def add(self, values: Tensor) -> Tensor:
        """The sum of every worker's `values`, in place."""
        reduce_sum(values)
        return values

    def first_says(self, value: Any) -> Any:
        """What the first worker says, on all of them."""
        if self.count == 1:
            return value
        held = [value]
        with together():
            dist.broadcast_object_list(held, src=0)
        return held[0]

    def all_say(self, value: Any) -> list[Any]:
        """What every worker says, in their order, on all of them."""
        if self.count == 1:
            return [value]
        held: list[Any] = [None] * self.count
        with together():
            dist.all_gather_object(held, value)
        return held

    def any_says(self, value: bool) -> bool:
        """Whether it is so for any worker; the same on all of them."""
        return any(self.all_say(value))

    def first_does(self, work: Callable[[], Any]) -> Any:
        """What `work` returns on the first worker, on all of them.

        What it raises there is raised everywhere.
        """
        done: tuple[Any, OSError | None]
        try:
            done = (work() if self.leads else None, None)
        except OSError as error:
            done = (None, error)
        value, failure = self.first_says(done)
        if failure is not None:
            raise failure
        return value
