"""A bound on the size of one step, in the metric of the curvature that preconditions it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from grit.stepping.gradient_guard import gradient_or_zero


class TrustRegion:
    """Scales preconditioned gradients so that the step they ask for stays within `kappa`.

    With p = F^-1 g, a step of -rate p has the quadratic form rate^2 / 2 * p^T F p = rate^2 / 2 * p^T g (the
    "KL clip" of Ba et al., 2017, after Martens and Grosse, 2015). F is here the r x r side of each module's
    Fisher: the wide side, the adapter's scaling and terms between modules are left out, so that kappa bounds
    a step in the preconditioner's own units, and is no number of nats. All modules are scaled alike, so that
    the direction stays; momentum, which the optimizer adds, is outside.

    Args:
        optimizer: whose learning rates are read at every step.
        kappa: the bound; None for none.

    Attributes:
        scale: what the last step was multiplied by.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, kappa: float | None) -> None:
        self._optimizer, self._kappa, self.scale = optimizer, kappa, 1.0

    @contextmanager
    def within(self, preconditioned: Callable[[], Sequence[nn.Parameter]]) -> Iterator[None]:
        """To be entered with the gradients that will be preconditioned, and left when they are.

        Args:
            preconditioned: which weights' gradients those are; without any there is no metric, and no bound.
        """
        self.scale = 1.0
        weights = [] if self._kappa is None else preconditioned()
        if self._kappa is None or not weights:
            yield
            return
        before = [gradient_or_zero(weight).clone() for weight in weights]
        yield
        rates = {p: float(group["lr"]) for group in self._optimizer.param_groups for p in group["params"]}
        total = torch.zeros((), dtype=torch.float64, device=weights[0].device)
        for weight, raw in zip(weights, before, strict=True):
            inner = (gradient_or_zero(weight).double() * raw.double()).sum()
            total += rates[weight] ** 2 / 2 * inner
        asked = float(total)
        if math.isfinite(asked) and asked > self._kappa:  # what is not finite is the guard's to refuse
            self.scale = math.sqrt(self._kappa / asked)
            torch._foreach_mul_([w.grad for w in weights if w.grad is not None], self.scale)
