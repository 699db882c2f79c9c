"""All adapted layers of one rank, handled as one batch.

Statistics, inverses and subspaces live in (M, r, r) stacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grit.adapters.peft_adapters import AdaptedLayer
from grit.adapters.quantization import noise_to_signal
from grit.capture.label_positions import Stream
from grit.capture.token_samples import TokenSamples
from grit.config.method import GritConfig
from grit.geometry.events import Event, RefreshWaits
from grit.geometry.factor_state import Statistics
from grit.geometry.inverse_state import Curvature
from grit.geometry.shape_batches import Side
from grit.geometry.subspace_state import Projection, Subspace
from grit.rank_space.projectors import update_energy
from grit.rank_space.regularizers import penalty_matrices
from grit.stepping.eigenbasis import Eigenbasis
from grit.stepping.source_pull import SourcePull


class RankGroup:
    """M adapted layers of equal rank r. `indices` are their positions among all adapted layers.

    Everything is float32, or float64 where the adapters are.
    """

    def __init__(
        self,
        layers: Sequence[AdaptedLayer],
        indices: Sequence[int],
        streams: Sequence[Stream],
        *,
        config: GritConfig,
    ) -> None:
        self.config, self.layers, self.indices = config, tuple(layers), tuple(indices)
        weight = layers[0].down.weight
        self.rank, self.device = layers[0].rank, weight.device
        dtype = torch.promote_types(weight.dtype, torch.float32)
        factors = torch.ones(len(layers))
        if config.quantization_damping > 0:
            noise = [noise_to_signal(layer.base) for layer in layers]
            factors = 1 + config.quantization_damping * torch.tensor(noise)
        self.statistics = Statistics(layers, indices, streams, config=config, device=self.device, dtype=dtype)
        self.curvature = Curvature(
            layers, self.statistics, config, damping_factors=factors, device=self.device, dtype=dtype
        )
        self.subspace = Subspace(layers, self.statistics, config, device=self.device, dtype=dtype)
        self.source: SourcePull | None = None
        self.eigenbasis = Eigenbasis(self.subspace.home, dtype)
        self._widths = torch.tensor([layer.width for layer in layers])
        self._side_a = Side([_parameter(layer.down) for layer in layers], from_left=True, dtype=dtype)
        self._side_b = Side([_parameter(layer.up) for layer in layers], from_left=False, dtype=dtype)

    def take_source(self, samples: Sequence[TokenSamples]) -> None:
        """From now on general text is known by these tokens, one entry per layer."""
        self.source = SourcePull(self.layers, samples, self._side_a.dtype)
        if self.config.source_weight > 0:
            self.subspace.source = self.source.factors

    @property
    def _between(self) -> Tensor | None:
        """What is applied between the factors."""
        last = self.subspace.last
        return last.between if last is not None and self.config.suppression == "gate" else None

    def refresh(self, optimizer: torch.optim.Optimizer) -> list[Event]:
        """Recomputes the damped inverses, or the eigenbases and the optimizer's moments in them."""
        if self.config.preconditioner != "soap":
            return self.curvature.refresh(self._between)
        ready = self.curvature.ready()
        if bool(ready.any()):
            turns = self.eigenbasis.refresh(*self.curvature.factors(self._between), ready)
            self._turn_moments(turns, optimizer)
        return [] if bool(ready.all()) else [RefreshWaits(modules=int((~ready).sum()))]

    def _turn_moments(self, turns: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer) -> None:
        for side, turn in zip((self._side_a, self._side_b), turns, strict=True):
            side.turn_moments(turn, optimizer)

    def turn(self) -> None:
        """Weights and gradients into the eigenbases, for the optimizer's own step; nothing without them."""
        self.turn_back()  # a step that failed has left them turned
        if self.eigenbasis.sides is not None:
            for side, bases in zip((self._side_a, self._side_b), self.eigenbasis.sides, strict=True):
                side.turn(bases)

    def turn_back(self) -> None:
        """Undoes `turn`, after the step."""
        if self.eigenbasis.sides is not None:
            for side, bases in zip((self._side_a, self._side_b), self.eigenbasis.sides, strict=True):
                if side.is_turned:
                    side.turn_back(bases)

    def leave_eigenbasis(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's moments as they are without a basis."""
        if self.eigenbasis.sides is not None:
            self._turn_moments(self.eigenbasis.sides, optimizer)
            self.eigenbasis.sides = None

    def add_penalties(self, regularization: float) -> None:
        """Adds the regularizers' gradients, times `regularization`, in place."""
        config, statistics, last = self.config, self.statistics, self.subspace.last
        if regularization == 0:
            return
        if self.source is not None and config.source_penalty > 0:
            self.source.add_gradients(regularization * config.source_penalty, self._between)
        if config.lambda_k == 0 and config.lambda_r == 0:
            return
        penalties = penalty_matrices(
            statistics.moment_a.mean(),
            statistics.moment_g.mean(),
            last and last.side_a,
            last and (last.side_a if last.side_b is None else last.side_b),
            regularization * config.lambda_k,
            regularization * config.lambda_r,
        )
        for side, matrices in zip((self._side_a, self._side_b), penalties, strict=True):
            side.transform_gradients(None, matrices)

    def precondition(self) -> None:
        """Preconditions gradients, in place, where there are inverses."""
        if self.curvature.applied is not None:
            for side, matrices in zip((self._side_a, self._side_b), self.curvature.applied, strict=True):
                side.transform_gradients(matrices, None)

    def preconditioned(self) -> list[nn.Parameter]:
        """Weights of the modules that have inverses."""
        has = self.curvature.has_inverse.tolist()
        layers = [layer for layer, inverted in zip(self.layers, has, strict=True) if inverted]
        return [weight for layer in layers for weight in (_parameter(layer.down), _parameter(layer.up))]

    def retained_mass(self, projection: Projection) -> Tensor:
        """|B P A|^2 / |B A|^2 per module (M,) with the weights as they are.

        P is what is applied: where `reprojection_mix` leaves a part of the weights alone, so does P. 1 where
        the update is still zero. Paper D.4, pi_proj.
        """
        gram_a, gram_b = (side.gramian(len(self.layers), self.rank) for side in (self._side_a, self._side_b))
        energy = update_energy(gram_a, gram_b)
        between = projection.mixed(self.config.reprojection_mix).between
        kept = update_energy(between @ gram_a @ between.mT, gram_b)
        return torch.where(energy > 0, kept / energy.clamp(min=torch.finfo(energy.dtype).tiny), 1.0)

    @torch.no_grad()
    def apply(self, projection: Projection, optimizer: torch.optim.Optimizer | None) -> bool:
        """Overwrites A, B and, if asked for.

        The optimizer's first moments by their projections (mixed with gamma).

        Returns:
            False where the optimizer keeps a state in which no first moment is known.
        """
        mix, bases = self.config.reprojection_mix, self.eigenbasis.sides
        moments = optimizer if self.config.project_momentum else None
        all_projected = True
        sides = ((self._side_a, projection.side_a), (self._side_b, projection.side_b))
        for number, (side, matrices) in enumerate(sides):
            if matrices is None:
                continue
            side.project(matrices, mix)
            if moments is not None:
                # Moments live in the eigenbasis Q, where P is Q^T P Q.
                turned = matrices if bases is None else bases[number].mT @ matrices @ bases[number]
                all_projected = side.project_moments(turned, mix, moments) and all_projected
        return all_projected

    def effective_parameters(self) -> int:
        """Sum over modules of k (d_in + d_out).

        With `reprojection_mix` < 1 nothing is ever truncated, and all parameters count.
        """
        ranks = self.subspace.ranks
        return int(
            (
                (ranks if self.config.reprojection_mix == 1.0 else torch.full_like(ranks, self.rank))
                * self._widths
            ).sum()
        )

    def state_dict(self) -> dict[str, Any]:
        """The exact state, for a checkpoint."""
        return {
            "statistics": self.statistics.state_dict(),
            "curvature": self.curvature.state_dict(),
            "subspace": self.subspace.state_dict(),
            "eigenbasis": self.eigenbasis.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.statistics.load_state_dict(state["statistics"])
        self.curvature.load_state_dict(state["curvature"])
        self.subspace.load_state_dict(state["subspace"])
        for side in (self._side_a, self._side_b):
            side.forget_turn()
        if self.config.preconditioner == "soap" and "eigenbasis" in state:  # earlier states have none
            self.eigenbasis.load_state_dict(state["eigenbasis"], self.device)


def _parameter(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight
