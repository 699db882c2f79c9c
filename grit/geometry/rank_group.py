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
from grit.config.method import GritConfig
from grit.geometry.events import Event
from grit.geometry.factor_state import Statistics
from grit.geometry.inverse_state import Curvature
from grit.geometry.shape_batches import Side
from grit.geometry.subspace_state import Projection, Subspace
from grit.rank_space.projectors import update_energy
from grit.rank_space.regularizers import penalty_matrices


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
        self._widths = torch.tensor([layer.width for layer in layers])
        self._side_a = Side([_parameter(layer.down) for layer in layers], from_left=True, dtype=dtype)
        self._side_b = Side([_parameter(layer.up) for layer in layers], from_left=False, dtype=dtype)

    def refresh(self) -> list[Event]:
        """Recomputes the damped inverses; returns events."""
        last = self.subspace.last
        return self.curvature.refresh(
            last.between if last is not None and self.config.suppression == "gate" else None
        )

    def transform_gradients(self, *, precondition: bool, regularization: float) -> None:
        """Adds the regularizers' gradients, times `regularization`, and preconditions, in place."""
        config = self.config
        sides = self.curvature.applied if precondition else None
        penalties: tuple[Tensor, Tensor] | None = None
        if regularization > 0 and (config.lambda_k > 0 or config.lambda_r > 0):
            last = self.subspace.last
            statistics = self.statistics
            penalties = penalty_matrices(
                statistics.moment_a.mean(),
                statistics.moment_g.mean(),
                last and last.side_a,
                last and (last.side_a if last.side_b is None else last.side_b),
                regularization * config.lambda_k,
                regularization * config.lambda_r,
            )
        if sides is None and penalties is None:
            return
        for number, side in enumerate((self._side_a, self._side_b)):
            side.transform_gradients(
                None if sides is None else sides[number], None if penalties is None else penalties[number]
            )

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
        moments = optimizer if self.config.project_momentum else None
        all_projected = self._side_a.project(projection.side_a, self.config.reprojection_mix, moments)
        if projection.side_b is not None:
            all_projected = (
                self._side_b.project(projection.side_b, self.config.reprojection_mix, moments)
                and all_projected
            )
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
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.statistics.load_state_dict(state["statistics"])
        self.curvature.load_state_dict(state["curvature"])
        self.subspace.load_state_dict(state["subspace"])


def _parameter(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight
