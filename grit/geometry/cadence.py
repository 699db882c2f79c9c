"""The controller of the patent (paragraph 99).

Reuse curvature longer while training is stable, refresh it at once when it is not.

Three indicators over a window of optimizer steps: the spread of the gradient norm, the relative change of the
loss, and the cosine
between successive updates. The patent names them without numbers; the thresholds are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from grit.config.method import GritConfig
from grit.geometry.events import CadenceLook
from grit.stepping.gradient_guard import gradient_or_zero

CadenceVerdict = Literal["stable", "neutral", "unstable"]

#: Unstable: the norm's standard deviation exceeds its mean; the loss rises by a tenth from the window's first
#: half to its second; updates mostly undo each other.
UNSTABLE_SPREAD, UNSTABLE_RISE, UNSTABLE_COSINE = 1.0, 0.1, -0.2
#: Stable: all three well inside.
STABLE_SPREAD, STABLE_CHANGE, STABLE_COSINE = 0.5, 0.1, -0.1


@dataclass(frozen=True)
class Indicators:
    """One window's: standard deviation of the gradient norm over its mean; relative change of the loss.

    Mean cosine of successive updates.
    """

    spread: float
    change: float
    cosine: float


def indicators(norms: Sequence[float], losses: Sequence[float], cosines: Sequence[float]) -> Indicators:
    """Of one window, each value per step.

    Values that are not finite make the indicator infinite, and the verdict unstable.
    """
    values = torch.tensor([norms, losses, cosines], dtype=torch.float64)
    if not bool(torch.isfinite(values).all()):
        return Indicators(math.inf, math.inf, -1.0)
    half = len(norms) // 2
    before, after = values[1, :half].mean(), values[1, half:].mean()
    return Indicators(
        spread=float(values[0].std(correction=0) / values[0].mean().clamp(min=1e-30)),
        change=float((after - before) / before.abs().clamp(min=1e-30)),
        cosine=float(values[2].mean()),
    )


def verdict(seen: Indicators) -> CadenceVerdict:
    """By the thresholds above."""
    if seen.spread > UNSTABLE_SPREAD or seen.change > UNSTABLE_RISE or seen.cosine < UNSTABLE_COSINE:
        return "unstable"
    calm = seen.spread < STABLE_SPREAD and abs(seen.change) < STABLE_CHANGE and seen.cosine > STABLE_COSINE
    return "stable" if calm else "neutral"


class CadenceController:
    """Stretches the periods of capture and inversion while windows are stable.

    Attributes:
        stretch: what the configured periods are multiplied by now.
    """

    def __init__(self, window: int, max_stretch: int, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.stretch = 1
        self._window, self._max_stretch, self._parameters = window, max_stretch, list(parameters)
        self._previous: list[Tensor] | None = None
        self._norms: list[float] = []
        self._losses: list[Tensor] = []
        self._cosines: list[Tensor] = []

    @classmethod
    def asked_by(
        cls, config: GritConfig, parameters: Sequence[torch.nn.Parameter]
    ) -> CadenceController | None:
        """The controller of a configuration; None where its cadence is fixed."""
        if config.cadence == "fixed":
            return None
        return cls(config.cadence_window, config.cadence_max_stretch, parameters)

    @torch.no_grad()
    def update(self, norm: float, loss: Tensor, reduce_mean: Any) -> tuple[CadenceVerdict, Indicators] | None:
        """Takes one step, whose preconditioned gradients are in place.

        Returns a verdict at the end of each window.

        Args:
            norm: global norm of the gradients.
            loss: the model's loss (a scalar), on any constant scale.
            reduce_mean: averages a tensor over workers in place, so that all of them reach one verdict.
        """
        now = [gradient_or_zero(parameter).clone() for parameter in self._parameters]
        self._cosines.append(
            _cosine(now, self._previous)
            if self._previous is not None
            else torch.zeros((), device=now[0].device)
        )
        self._previous = now
        self._norms.append(norm)
        self._losses.append(loss.float())
        if len(self._norms) < self._window:
            return None
        losses = torch.stack(self._losses)
        reduce_mean(losses)
        seen = indicators(self._norms, losses.tolist(), torch.stack(self._cosines).tolist())
        self._norms, self._losses, self._cosines = [], [], []
        judgement = verdict(seen)
        if judgement == "stable":
            self.stretch = min(self._max_stretch, 2 * self.stretch)
        elif judgement == "unstable":
            self.stretch = 1
        return judgement, seen

    def look(self, norm: float, losses: Sequence[Tensor], reduce_mean: Any) -> CadenceLook | None:
        """`update` by the losses of a step's micro-batches; what it saw at the end of a window, as an event.

        Raises:
            RuntimeError: the step's loss is not known.
        """
        if not losses:
            raise RuntimeError(
                "cadence = 'adaptive' needs the model's own loss: pass `labels` to its forward"
            )
        looked = self.update(norm, torch.stack(list(losses)).mean(), reduce_mean)
        if looked is None:
            return None
        judgement, seen = looked
        return CadenceLook(
            verdict=judgement,
            stretch=self.stretch,
            spread=seen.spread,
            change=seen.change,
            cosine=seen.cosine,
        )

    def state_dict(self) -> dict[str, Any]:
        """The exact state, for a checkpoint."""
        return {
            "stretch": self.stretch,
            "previous": self._previous,
            "norms": list(self._norms),
            "losses": list(self._losses),
            "cosines": list(self._cosines),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        device = self._parameters[0].device
        self.stretch, self._norms = state["stretch"], list(state["norms"])
        self._losses = [value.to(device) for value in state["losses"]]
        self._cosines = [value.to(device) for value in state["cosines"]]
        previous = state["previous"]
        self._previous = previous and [value.to(device) for value in previous]


def _cosine(now: list[Tensor], before: list[Tensor]) -> Tensor:
    """Cosine between two lists of tensors taken as one vector each; 0 where either is zero."""
    dot = sum(torch.stack([part.sum() for part in torch._foreach_mul(now, before)]))
    norms = [torch.stack(list(torch._foreach_norm(part))).norm() for part in (now, before)]
    return torch.as_tensor(dot / (norms[0] * norms[1]).clamp(min=1e-30))
