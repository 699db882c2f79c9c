"""Takes one GPU of a node out of use: Ray places by number of GPUs, and knows no bad one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

#: Seconds in which a GPU must become free: a trial that still runs there is left alone.
HOLD_SECONDS = 30.0


class _Holder:
    """Has one GPU, and does nothing with it."""

    def gpus(self) -> list[str]:
        """What Ray has given it."""
        return gpus_here()


def gpus_here() -> list[str]:
    """The GPUs of this process, by Ray's numbers on its node."""
    return list(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))


async def held_gpu(node_id: str, gpu: str) -> Any | None:
    """An actor that holds this GPU for as long as it is kept; None where it does not become free in time.

    Ray hands out a node's GPUs as it likes: others are taken meanwhile, and given back when this one is.
    """
    remote: Any = ray.remote
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    taken: list[Any] = []
    try:
        async with asyncio.timeout(HOLD_SECONDS):
            while True:
                holder = remote(_Holder).options(num_cpus=0, num_gpus=1, scheduling_strategy=there).remote()
                taken.append(holder)
                if gpu in await holder.gpus.remote():
                    taken.remove(holder)
                    return holder
    except (TimeoutError, RayError):
        return None
    finally:
        for holder in taken:
            with contextlib.suppress(RayError):
                ray.kill(holder)
