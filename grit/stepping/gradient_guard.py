"""The last gate before the weights.

Global-norm clipping, and a step with a NaN or Inf in its gradients is not taken at all.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from grit.adapters.peft_adapters import AdaptedLayer

#: Where torch wraps every optimizer's `step`, to call hooks around it.
_WRAPPED_IN = torch.optim.Optimizer.profile_hook_step.__code__.co_filename


def gradient_or_zero(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter's gradient, detached; zeros where it has none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()


def flat_gradient(layers: Sequence[AdaptedLayer]) -> torch.Tensor:
    """All adapters' gradients as one vector; zero where there is none."""
    weights = [weight for layer in layers for weight in (layer.down.weight, layer.up.weight)]
    return torch.cat([gradient_or_zero(weight).float().flatten() for weight in weights])


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """Every parameter of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def unscale(optimizer: torch.optim.Optimizer) -> None:
    """Undoes the scale that a gradient scaler leaves to a fused optimizer.

    Preconditioning and clipping need the gradients themselves.
    """
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    gradients = [p.grad for p in trained_parameters(optimizer) if p.grad is not None]
    torch._foreach_div_(gradients, scale)
    optimizer.grad_scale = None  # type: ignore[attr-defined]  # set by torch.amp.GradScaler


class EvaluatedClosure:
    """The closure of `optimizer.step(closure)` (Lightning's loops), evaluated before gradients change."""

    def __init__(self, closure: Callable[[], Any], parameters: Sequence[torch.nn.Parameter]) -> None:
        with torch.enable_grad():
            self._loss = closure()
        self._parameters, self._taken = parameters, False
        self._versions = [parameter._version for parameter in parameters]

    def __call__(self) -> Any:
        """What the closure returned.

        Raises:
            RuntimeError: the optimizer asks for another gradient: a second time, or of other weights.
        """
        moved = [parameter._version for parameter in self._parameters] != self._versions
        if self._taken or moved or all(parameter.grad is None for parameter in self._parameters):
            raise RuntimeError(
                "this optimizer evaluates its closure several times a step; GRIT preconditions one gradient"
            )
        self._taken = True
        return self._loss


def is_outermost_step(optimizer: torch.optim.Optimizer) -> bool:
    """Whether no other `step` of this optimizer is under way around the one that calls hooks now.

    A subclass's step calls its parent's, and torch calls hooks at both. Read off the stack of calls, so that
    a step that failed leaves nothing behind.
    """
    frame, steps = sys._getframe(), 0
    while frame is not None:
        code = frame.f_code
        if code.co_name == "wrapper" and code.co_filename == _WRAPPED_IN:
            steps += frame.f_locals.get("self") is optimizer
        frame = frame.f_back  # type: ignore[assignment]  # None at the outermost
    return steps <= 1


class GradientGuard:
    """Clips the optimizer's gradients to a global norm, if asked to.

    Drops them all when it is not finite, so that the step is skipped.

    Attributes:
        norm: the last global norm before clipping.
        skipped: steps dropped so far; `consecutive` of them ended at the last step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, max_norm: float | None) -> None:
        self._parameters = trained_parameters(optimizer)
        self._max_norm = max_norm
        self.norm, self.skipped, self.consecutive = 0.0, 0, 0

    @property
    def skipped_last(self) -> bool:
        """Whether the last step was dropped."""
        return self.consecutive > 0

    def __call__(self, *_: Any) -> None:
        """Usable as an optimizer's step pre-hook."""
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self._parameters if p.grad is not None], foreach=True
        )
        self.norm = float(norm)
        if math.isfinite(self.norm):
            self.consecutive = 0
            if self._max_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self._parameters, self._max_norm, norm, foreach=True)
            return
        self.skipped += 1
        self.consecutive += 1
        for parameter in self._parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, float]:
        """Counters, for a checkpoint."""
        return {"norm": self.norm, "skipped": self.skipped, "consecutive": self.consecutive}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restores `state_dict()`."""
        self.norm, self.skipped, self.consecutive = (
            state["norm"],
            int(state["skipped"]),
            int(state["consecutive"]),
        )
