"""Hooks that stay behind when their model is copied or pickled.

A copy of a hook would go on feeding the statistics of the model it was copied from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def no_hook(*_args: Any, **_kwargs: Any) -> None:
    """What a copied model has in the place of a hook."""


class FixedGate:
    """What a copied model has in the place of a gate: the matrix (r, r) that z is multiplied by."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __call__(self, _module: Any, _inputs: Any, output: Tensor) -> Tensor:
        """As a forward hook of lora_A."""
        return output @ self.matrix.to(device=output.device, dtype=output.dtype)


class OwnHook:
    """A hook of this model alone.

    Args:
        hook: what is called.
        gate: the matrix that `hook` multiplies z by just now, which a copy keeps; None for none.
    """

    def __init__(self, hook: Callable[..., Any], gate: Callable[[], Tensor | None] = lambda: None) -> None:
        self._hook, self._gate = hook, gate

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As a hook of torch."""
        return self._hook(*args, **kwargs)

    def __deepcopy__(self, _memo: dict[int, Any]) -> Callable[..., Any]:
        """The copy's hook."""
        return in_place_of(self._gate())

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Tensor | None]]:
        """Pickled as the copy's hook."""
        return in_place_of, (self._gate(),)


def in_place_of(gate: Tensor | None) -> Callable[..., Any]:
    """The hook of a copy."""
    return no_hook if gate is None else FixedGate(gate.detach().clone())
