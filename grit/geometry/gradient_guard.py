"""The last gate before the weights.

Global-norm clipping, and a step with a NaN or Inf in its gradients is not taken at all.
"""

from __future__ import annotations

import math
from typing import Any

import torch


def gradient_or_zero(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter's gradient, detached; zeros where it has none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()


class GradientGuard:
    """Clips the optimizer's gradients to a global norm, if asked to.

    Drops them all when it is not finite, so that the step is skipped.

    Attributes:
        norm: the last global norm before clipping.
        skipped: steps dropped so far; `consecutive` of them ended at the last step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, max_norm: float | None) -> None:
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
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
