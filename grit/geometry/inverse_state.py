"""Damped inverses of the factors of every module of one rank, refreshed now and then and kept in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer
from grit.config.method import GritConfig
from grit.geometry.events import DampingRaised, Event, RefreshWaits
from grit.geometry.factor_state import Statistics
from grit.rank_space.damped_inverse import damped_inverse, damping_of, left_right
from grit.rank_space.moments import symmetrize


class Curvature:
    """The inverses that precondition gradients.

    Attributes:
        damping_factors: (M,), what lambda is multiplied by for each module's quantization noise.
        multiple: what the last refresh multiplied lambda by for the size of the batch.
        has_inverse: (M,), which modules have one.
        applied: (left of grad A, right of grad B), each (M, r, r); None while no module has an inverse.
    """

    def __init__(
        self,
        layers: Sequence[AdaptedLayer],
        statistics: Statistics,
        config: GritConfig,
        *,
        damping_factors: Tensor,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._config, self._statistics, self._device, self._dtype = config, statistics, device, dtype
        self._names = [layer.name for layer in layers]
        self._rank = layers[0].rank
        self.damping_factors, self.multiple = damping_factors.double(), 1.0
        self._inverses: tuple[Tensor, Tensor] | None = None
        self.has_inverse = torch.zeros(len(layers), dtype=torch.bool, device=device)
        self.applied: tuple[Tensor, Tensor] | None = None

    def batch_multiple(self) -> float:
        """What batch-aware damping multiplies lambda by.

        Reference / B below the reference, else 1 (appendix G.4, M3).
        """
        reference, batch = self._config.damping_reference_batch, self._statistics.batch
        return 1.0 if reference is None or batch == 0 else max(1.0, reference / batch)

    def ready(self) -> Tensor:
        """Which modules (M,) have passed the gates of both sides."""
        statistics = self._statistics
        return statistics.gate(statistics.moment_a) & statistics.gate(statistics.moment_g)

    def factors(self, between: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both factors in float64, of the spaces in which the preconditioner acts (see `refresh`)."""
        sigma_a, sigma_g = (
            moment.mean().double() for moment in (self._statistics.moment_a, self._statistics.moment_g)
        )
        if between is None or self._config.preconditioner not in ("kfac", "soap"):
            return sigma_a, sigma_g
        gate = between.to(sigma_a)
        return symmetrize(gate @ sigma_a @ gate.mT), symmetrize(gate.mT @ sigma_g @ gate)

    def refresh(self, between: Tensor | None = None) -> list[Event]:
        """Recomputes the damped inverses of the modules whose gates are passed.

        Returns events (ladder climbed, modules that wait).

        Factorized in float64: in float32, lambda = 1e-4 beside an eigenvalue of 1e4 would not be the lambda
            that is used.

        Args:
            between: G (M, r, r), what is applied between the factors. K-FAC's own pairing then needs the
                moments of G z and G^T u, where the gradients live; the paper's is not defined by what
                gradients live in, and stays.
        """
        config, ready = self._config, self.ready()
        self.multiple = self.batch_multiple()
        previous, fresh, worst, failed = self._inverses, [], 1.0, torch.zeros_like(ready)
        for side, factors in enumerate(self.factors(between)):
            if config.inversion_device == "cpu":
                factors = factors.cpu()
            damping = damping_of(factors, config.kfac_damping, config.damping_scale) * self.multiple
            result = damped_inverse(factors, damping * self.damping_factors.to(factors.device))
            lost = (result.multiple == 0).to(self._device)
            inverse = result.inverse.to(self._device, self._dtype)
            fresh.append(
                inverse
                if previous is None
                else torch.where((ready & ~lost)[:, None, None], inverse, previous[side])
            )
            failed |= lost
            worst = max(worst, float(result.multiple.max()))
        self._inverses = (fresh[0], fresh[1])
        self.has_inverse |= ready & ~failed
        self._prepare()
        events: list[Event] = []
        if worst > 1.0 or bool((failed & ready).any()):
            names = [name for name, lost in zip(self._names, (failed & ready).tolist(), strict=True) if lost]
            events.append(DampingRaised(multiple=worst, kept_previous=tuple(names)))
        if not bool(ready.all()):
            events.append(RefreshWaits(modules=int((~ready).sum())))
        return events

    def _prepare(self) -> None:
        """What multiplies grad A from the left and grad B from the right.

        A module that never had an inverse keeps its gradient.
        """
        self.applied = None
        if self._inverses is not None and bool(self.has_inverse.any()):
            eye = torch.eye(self._rank, device=self._device, dtype=self._dtype)
            sides = left_right(self._config.preconditioner, *self._inverses)
            left, right = (torch.where(self.has_inverse[:, None, None], side, eye) for side in sides)
            self.applied = (left, right)

    def state_dict(self) -> dict[str, Any]:
        """The exact state, for a checkpoint."""
        inverses = self._inverses and tuple(side.clone() for side in self._inverses)
        return {"inverses": inverses, "has_inverse": self.has_inverse.clone(), "multiple": self.multiple}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.has_inverse, self.multiple = state["has_inverse"].to(self._device, copy=True), state["multiple"]
        inverses = state["inverses"]
        self._inverses = (
            None
            if inverses is None
            else (inverses[0].to(self._device, copy=True), inverses[1].to(self._device, copy=True))
        )
        self._prepare()
