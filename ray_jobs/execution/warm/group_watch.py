"""Tells the board when a slot's workers are gone, so that nobody waits for them to come back."""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback


class GroupWatch(WorkerGroupCallback):
    """Of one slot's Ray Train run, in its controller.

    Args:
        board: the actor's name.
        namespace: the board's.
        slot: whose workers these are.
    """

    def __init__(self, board: str, namespace: str, slot: str) -> None:
        self._board, self._namespace, self._slot = board, namespace, slot

    def after_worker_group_shutdown(self, _context: Any) -> None:
        """They have died, or the study has ended."""
        with contextlib.suppress(ValueError, ray.exceptions.RayError):  # the board has ended before them
            board: Any = ray.get_actor(self._board, namespace=self._namespace)
            ray.get(board.free_slot.remote(self._slot))
