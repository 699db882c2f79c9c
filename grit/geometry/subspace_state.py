"""Which directions of every module of one rank are kept: spectra, dynamic ranks, projectors."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer
from grit.config.method import GritConfig
from grit.geometry.factor_state import Statistics
from grit.rank_space.mitigations import mixed_selection, with_entropy_floor
from grit.rank_space.projectors import (
    BalancedBasis,
    Spectrum,
    balanced_basis,
    leading,
    projector,
    spectrum,
    update_energy,
)
from grit.rank_space.rank import growth_rank, with_hysteresis
from grit.rank_space.source_curvature import SourceFactors, energy_along, weighed


class Projection(NamedTuple):
    """What a reprojection applies: `side_a` P A, `side_b` B P (None: untouched), `between` B P A.

    Each (M, r, r).
    """

    side_a: Tensor
    side_b: Tensor | None
    between: Tensor
    two_sided: bool

    def mixed(self, share: float) -> Projection:
        """What is left of it when only this share of the weights is projected, (1 - share) I + share P."""
        if share == 1.0:
            return self
        eye = torch.eye(self.between.shape[-1], dtype=self.between.dtype, device=self.between.device)
        side_a = torch.lerp(eye, self.side_a, share)
        if self.side_b is None:
            return Projection(side_a, None, side_a, self.two_sided)
        side_b = torch.lerp(eye, self.side_b, share)
        return Projection(side_a, side_b, side_b @ side_a, self.two_sided)

    def to(self, device: torch.device) -> Projection:
        """The same on `device`."""
        side_b = None if self.side_b is None else self.side_b.to(device)
        return Projection(self.side_a.to(device), side_b, self.between.to(device), self.two_sided)


class Subspace:
    """Ranks and kept directions of M modules of rank r.

    Attributes:
        ranks: (M,), directions kept in each module.
        last: the last projection, or None before the first.
        home: where spectra are decomposed.
        source: general text's factors, for `source_weight`; None where that is 0.
        energies: (M, r), the exponential mean of normalized spectra that `rank_energy_ema` asks for, or None.
    """

    def __init__(
        self,
        layers: Sequence[AdaptedLayer],
        statistics: Statistics,
        config: GritConfig,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._config, self._statistics, self._rank, self._device, self._dtype = (
            config,
            statistics,
            layers[0].rank,
            device,
            dtype,
        )
        self.home = torch.device("cpu") if config.inversion_device == "cpu" else device
        self._names = [layer.name for layer in layers]
        self.ranks = torch.full((len(layers),), self._rank)
        self.source: Callable[[], SourceFactors] | None = None
        self.last: Projection | None = None
        self.energies: Tensor | None = None
        self._share: Tensor | None = None
        self._growing = torch.zeros(
            len(layers), dtype=torch.bool
        )  # rank_policy = growth: which have started from min_lora_rank

    def choose(self, step: int, *, adapt_rank: bool, mix: bool) -> Projection | None:
        """New ranks and the projection that goes with them.

        None while no module has passed the gates of `basis`.

        A module that has not passed them keeps its rank and is not projected; one whose gradient side has not
        is projected by its A side.

        Args:
            step: optimizer steps so far, from which the draws of subspace mixing are made.
            adapt_rank: False keeps the ranks as they are.
            mix: False leaves subspace mixing out.
        """
        config, statistics = self._config, self._statistics
        ready_a, ready_g = statistics.gate(statistics.moment_a), statistics.gate(statistics.moment_g)
        ready = ready_a & ready_g if config.basis == "balanced" else ready_a
        if not bool(ready.any()):
            return None
        sigma_a, sigma_g = (
            statistics.moment_a.mean().to(self.home),
            statistics.moment_g.mean().to(self.home),
        )
        ready, ready_g = ready.to(self.home), ready_g.to(self.home)
        if config.basis == "balanced":
            balanced = self._weighed_pairs(balanced_basis(sigma_a, sigma_g))
            kept = self._take_ranks(balanced.values, ready, step, adapt_rank=adapt_rank, mix=mix)
            between = self._where_ready(balanced.projector(kept), kept, ready, "between")
            projection = Projection(between, None, between, two_sided=True)
        else:
            basis_a = self._weighed(spectrum(sigma_a), side=0)
            kept = self._take_ranks(basis_a.values, ready, step, adapt_rank=adapt_rank, mix=mix)
            side_a = self._where_ready(projector(basis_a.vectors, kept), kept, ready, "side_a")
            two_sided = ready_g if config.two_sided else torch.zeros_like(ready_g)
            side_b = side_a
            if bool(two_sided.any()):
                own = projector(self._weighed(spectrum(sigma_g), side=1).vectors, kept)
                side_b = torch.where(two_sided[:, None, None], own, side_a)
            side_b = self._where_ready(side_b, kept, ready, "side_b")
            projection = Projection(side_a, side_b, side_b @ side_a, two_sided=bool(two_sided.all()))
        self.last = projection.to(self._device)
        self._share = self.kept_share() if config.reprojection_trigger == "adaptive" else None
        return self.last

    def _weighed(self, task: Spectrum, *, side: int) -> Spectrum:
        """One factor's directions, weighed against general text's energy along them (side 0: z, 1: u)."""
        if self.source is None:
            return task
        energy = energy_along(task.vectors, self.source()[side].to(task.vectors))
        return weighed(task, energy, self._config.source_weight)

    def _weighed_pairs(self, task: BalancedBasis) -> BalancedBasis:
        """The same of balanced directions: general text's energy along one is the product of both sides'."""
        if self.source is None:
            return task
        inputs, gradients = (factor.to(task.vectors) for factor in self.source())
        energy = energy_along(task.root_inverse @ task.vectors, inputs)
        energy = energy * energy_along(task.root @ task.vectors, gradients)
        left = weighed(Spectrum(task.values, task.vectors), energy, self._config.source_weight)
        return task._replace(values=left.values, vectors=left.vectors)

    def _where_ready(self, matrices: Tensor, kept: Tensor, ready: Tensor, side: str) -> Tensor:
        """`matrices`, exactly the identity where all directions are kept.

        A module that is not ready keeps what was applied to it last.
        """
        eye = torch.eye(self._rank, device=matrices.device, dtype=matrices.dtype).expand_as(matrices)
        last = eye if self.last is None else getattr(self.last, side).to(matrices)
        return torch.where(
            ready[:, None, None], torch.where(kept.all(-1)[:, None, None], eye, matrices), last
        )

    def _take_ranks(self, values: Tensor, ready: Tensor, step: int, *, adapt_rank: bool, mix: bool) -> Tensor:
        """Sets the ranks of the modules that are ready; returns which directions are kept (M, r)."""
        self.ranks = torch.where(ready.cpu(), self._new_ranks(values.cpu(), adapt_rank), self.ranks)
        if adapt_rank:
            self._growing |= ready.cpu()
        ranks = self.ranks.to(values.device)
        if not mix or self._config.subspace_mixing == 0:
            return leading(ranks, self._rank)
        # By name, not by position: the order of modules must not matter.
        seeds = [zlib.crc32(f"{self._config.mixing_seed}:{step}:{name}".encode()) for name in self._names]
        uniform = torch.stack(
            [torch.rand(self._rank, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        return mixed_selection(ranks, self._rank, self._config.subspace_mixing, uniform.to(values.device))

    def _new_ranks(self, values: Tensor, adapt_rank: bool) -> Tensor:
        config = self._config
        if not config.rank_adaptation:
            return torch.full_like(self.ranks, min(config.reprojection_k, self._rank))
        if not adapt_rank:
            return self.ranks
        values = with_entropy_floor(self._smoothed(values), config.entropy_floor)
        if config.rank_policy == "growth":
            start = torch.where(self._growing, self.ranks, min(config.min_lora_rank, self._rank))
            return growth_rank(values, config.rank_growth_threshold, start)
        return with_hysteresis(
            values, config.rank_adaptation_threshold, config.rank_hysteresis, config.min_lora_rank, self.ranks
        )

    def _smoothed(self, values: Tensor) -> Tensor:
        """The spectra, or their normalized exponential mean over the reprojections so far."""
        decay = self._config.rank_energy_ema
        if decay is None:
            return values
        now = values / values.sum(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
        self.energies = now if self.energies is None else torch.lerp(now, self.energies, decay)
        return self.energies

    def kept_share(self) -> Tensor:
        """Share (M,) of the energy as measured now that lies inside the directions kept last.

        `fisher`: tr(P Sigma_a P^T) / tr(Sigma_a); `balanced`: the same of the product of both factors, which
        does not depend on M.
        """
        assert self.last is not None
        sigma_a = self._statistics.moment_a.mean()
        weights = (
            self._statistics.moment_g.mean()
            if self._config.basis == "balanced"
            else torch.eye(self._rank, device=self._device, dtype=self._dtype).expand_as(sigma_a)
        )
        inside = update_energy(self.last.side_a @ sigma_a @ self.last.side_a.mT, weights)
        total = update_energy(sigma_a, weights)
        return torch.where(total > 0, inside / total.clamp(min=torch.finfo(total.dtype).tiny), 1.0)

    def shift(self) -> Tensor | None:
        """How far each module's kept share (M,) has moved since the last reprojection.

        None before the first. Adaptive trigger only.
        """
        return None if self._share is None else (self.kept_share() - self._share).abs()

    def state_dict(self) -> dict[str, Any]:
        """The exact state, for a checkpoint."""
        last = None if self.last is None else tuple(self.last)
        return {
            "ranks": self.ranks.clone(),
            "growing": self._growing.clone(),
            "last": last,
            "energies": self.energies,
            "share": self._share,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.ranks, self._growing = state["ranks"].to("cpu", copy=True), state["growing"].to("cpu", copy=True)
        self.energies = None if state["energies"] is None else state["energies"].cpu()
        last = state["last"]
        self.last = None if last is None else Projection(*last).to(self._device)
        self._share = None if state["share"] is None else state["share"].to(self._device)
