"""Ray Train's trainer without the processes that a slot of one worker has no use for."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

#: What starts them: one hands out shards of Ray datasets, which we have none of; the other frees placement
#: groups whose controller was killed, as Ray does when the study's process is gone.
UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)


class LeanTrainer(DataParallelTrainer):
    """Starts a controller, its barrier and the worker: two processes less, of two seconds each."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, UNUSED)]
