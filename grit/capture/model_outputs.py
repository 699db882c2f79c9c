"""What a model returns, whatever its form, and the gradient that arrives at a part of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

#: Where the parts of a plain tuple stand, when labels were given (`return_dict=False`).
_PLACES = {"loss": 0, "logits": 1}


def field_of(output: Any, name: str) -> Any:
    """A part of a model's output by its name; None where there is none."""
    if isinstance(output, dict):
        return output.get(name)
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        place = _PLACES.get(name)
        scalar = bool(output) and isinstance(output[0], Tensor) and output[0].dim() == 0
        return output[place] if place is not None and scalar and place < len(output) else None
    return getattr(output, name, None)


def on_gradient(tensor: Tensor, look: Callable[[Tensor | None], None]) -> None:
    """Calls `look` with what arrives at `tensor`, or at what it is a converted copy of.

    Accelerate's mixed precision returns a float32 copy of the outputs, and the loss was made of the original.
    """
    node, place = tensor.grad_fn, tensor.output_nr
    while node is not None and node.name().startswith("ToCopyBackward"):
        node, place = node.next_functions[0]
    if node is None or node is tensor.grad_fn:
        tensor.register_hook(look)
        return

    def before(gradients: tuple[Tensor | None, ...]) -> None:
        look(gradients[place])

    node.register_prehook(before)
