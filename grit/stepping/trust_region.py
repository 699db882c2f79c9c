"""A bound on how far one step may move the model's outputs, by the curvature that preconditions it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer
from grit.stepping.gradient_guard import gradient_or_zero


class TrustRegion:
    """Scales preconditioned gradients so that the step they ask for stays within `kappa`.

    With p = F^-1 g, the Kullback-Leibler divergence between the model before and after a step of -rate p is
    rate^2 / 2 * p^T F p = rate^2 / 2 * p^T g to second order (Martens and Grosse, 2015; Ba et al., 2017).
    All modules are scaled alike, so that the direction stays.

    Args:
        optimizer: whose learning rates are read at every step.
        layers: whose gradients are preconditioned.
        kappa: the bound, in nats per token; None for none.

    Attributes:
        scale: what the last step was multiplied by.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, layers: Sequence[AdaptedLayer], kappa: float | None
    ) -> None:
        self._optimizer, self._kappa = optimizer, kappa
        self._weights = [weight for layer in layers for weight in (layer.down.weight, layer.up.weight)]
        self._before: list[Tensor] = []
        self.scale = 1.0

    def __enter__(self) -> None:
        """To be entered with the loss's own gradients in place."""
        if self._kappa is not None:
            self._before = [gradient_or_zero(weight).clone() for weight in self._weights]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """To be left with the preconditioned ones in place: scales them."""
        if self._kappa is None or kind is not None:
            return
        asked, self._before = self._divergence(), []
        self.scale = 1.0
        if math.isfinite(asked) and asked > self._kappa:  # what is not finite is the guard's to refuse
            self.scale = math.sqrt(self._kappa / asked)
            torch._foreach_mul_([w.grad for w in self._weights if w.grad is not None], self.scale)

    def _divergence(self) -> float:
        """What the step would cause, in nats per token."""
        rates = {p: float(group["lr"]) for group in self._optimizer.param_groups for p in group["params"]}
        total = torch.zeros((), dtype=torch.float64, device=self._weights[0].device)
        for weight, before in zip(self._weights, self._before, strict=True):
            inner = (gradient_or_zero(weight).double() * before.double()).sum()
            total += rates[weight] ** 2 / 2 * inner
        return float(total)
