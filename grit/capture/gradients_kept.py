"""Whether the gradients of a step still hold what its earlier passes left in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer


class GradientsKept:
    """Notices that gradients were cleared between two backward passes.

    A gradient scaler that skips a step, or a loop that clears before it goes on, leaves passes that belong to
    no step. Cleared gradients are new tensors, or were written in place.

    Args:
        layers: whose gradients are looked at.
        cleared: called before the first gradient of a backward pass arrives, where all that the earlier ones
            left is gone.
    """

    def __init__(self, layers: Sequence[AdaptedLayer], cleared: Callable[[], None]) -> None:
        self._layers, self._cleared = layers, cleared
        self._left: list[tuple[int, int] | None] = []
        self._inside = False

    def forget(self) -> None:
        """A step was taken, or a forward pass begins: no backward pass is under way."""
        self._inside = False

    def step_taken(self) -> None:
        """What comes belongs to another step."""
        self._left, self._inside = [], False

    def backward_begins(self) -> None:
        """To be called from a hook of a backward pass, as often as one likes."""
        if self._inside:
            return
        self._inside = True
        left = [(now, before) for now, before in zip(self._marks(), self._left, strict=False) if before]
        if left and all(now != before for now, before in left):
            self._cleared()
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(self._ended)

    def _ended(self) -> None:
        self._left, self._inside = self._marks(), False

    def all_gone(self) -> bool:
        """Whether no adapted layer has a gradient."""
        return all(mark is None for mark in self._marks())

    def _marks(self) -> list[tuple[int, int] | None]:
        weights = (weight for layer in self._layers for weight in (layer.down.weight, layer.up.weight))
        return [_mark(weight.grad) for weight in weights]


def _mark(gradient: Tensor | None) -> tuple[int, int] | None:
    return None if gradient is None else (id(gradient), gradient._version)
