"""All adapted layers of one rank, handled as one batch: statistics, inverses, bases and ranks live in (M, r, r) stacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from grit.adapters import AdaptedLayer
from grit.capture import Observation
from grit.config import GritConfig
from grit.factors import RunningMoment, per_token_gradient, second_moment_sum
from grit.precondition import damped_inverse, damping_of, left_right
from grit.rank import growth_rank, with_hysteresis
from grit.reprojection import balanced_basis, projector, spectrum, update_energy


class Projection(NamedTuple):
    """What a reprojection applies: `side_a` P A, `side_b` B P (None: untouched), `between` B P A; each (M, r, r)."""

    side_a: Tensor
    side_b: Tensor | None
    between: Tensor
    two_sided: bool


class ShapeBatch(NamedTuple):
    """Parameters of equal shape, and the rows of the stacks that belong to them."""

    rows: Tensor
    parameters: list[nn.Parameter]


def shape_batches(parameters: Sequence[nn.Parameter], device: torch.device) -> list[ShapeBatch]:
    """Splits parameters by shape, so that each part is one batched product."""
    by_shape: dict[torch.Size, list[int]] = {}
    for row, parameter in enumerate(parameters):
        by_shape.setdefault(parameter.shape, []).append(row)
    return [ShapeBatch(torch.tensor(rows, device=device), [parameters[row] for row in rows]) for rows in by_shape.values()]


class RankGroup:
    """Curvature state of M adapted layers of equal rank r. `indices` are their positions among all adapted layers."""

    def __init__(self, layers: Sequence[AdaptedLayer], indices: Sequence[int], config: GritConfig) -> None:
        self.config, self.layers, self.indices = config, tuple(layers), tuple(indices)
        self.rank = layers[0].rank
        weights = [layer.down.weight for layer in layers]
        self.device = weights[0].device
        count = len(layers)
        self.moment_a = RunningMoment(count, self.rank, decay=config.ema_decay, device=self.device)
        self.moment_g = RunningMoment(count, self.rank, decay=config.ema_decay, device=self.device)
        self.scaling = torch.tensor([layer.scaling for layer in layers], device=self.device)
        self.widths = torch.tensor([layer.width for layer in layers])
        self.ranks = torch.full((count,), self.rank)
        self.growing = False  # rank_policy = growth: whether it has started from min_lora_rank
        self.inverses: tuple[Tensor, Tensor] | None = None
        self.has_inverse = torch.zeros(count, dtype=torch.bool, device=self.device)
        self.batches_a = shape_batches([_parameter(layer.down) for layer in layers], self.device)
        self.batches_b = shape_batches([_parameter(layer.up) for layer in layers], self.device)

    def fold(self, observations: Sequence[Observation], reduce_sum: Any) -> int:
        """Adds one optimizer step's observations to the statistics; returns how many factors were not finite and left out."""
        sums = [torch.zeros(len(self.layers), self.rank, self.rank, device=self.device) for _ in range(2)]
        counts = [torch.zeros((), device=self.device) for _ in range(2)]
        for seen in observations:
            assert seen.token_weight is not None and seen.label_weight is not None and seen.loss_weight is not None  # verified by Capture
            z = torch.stack([seen.activations[i].flatten(0, -2) for i in self.indices])
            arrived = torch.stack([seen.gradients[i].flatten(0, -2) for i in self.indices])
            sums[0] += second_moment_sum(z, seen.token_weight)
            sums[1] += second_moment_sum(per_token_gradient(arrived, self.scaling, seen.loss_weight), seen.label_weight)
            counts[0] += seen.token_weight.sum()
            counts[1] += seen.label_weight.sum()
        for tensor in (*sums, *counts):
            reduce_sum(tensor)
        finite_a, finite_g = self.moment_a.add(sums[0], counts[0]), self.moment_g.add(sums[1], counts[1])
        return int((~finite_a).sum() + (~finite_g).sum())

    def gated(self, moment: RunningMoment) -> bool:
        """Whether every module of the group has its minimum of samples on this side."""
        return bool((moment.samples >= max(1, self.config.kfac_min_samples)).all())

    def refresh(self) -> dict[str, Any] | None:
        """Recomputes the damped inverses where the sample gates are passed; returns an event where the ladder had to climb."""
        if not (self.gated(self.moment_a) and self.gated(self.moment_g)):
            return None
        previous, fresh, worst, failed = self.inverses, [], 1.0, torch.zeros_like(self.has_inverse)
        for side, moment in enumerate((self.moment_a, self.moment_g)):
            factors = moment.mean()
            if self.config.inversion_device == "cpu":
                factors = factors.cpu()
            result = damped_inverse(factors, damping_of(factors, self.config.kfac_damping, self.config.damping_scale))
            lost = (result.multiple == 0).to(self.device)
            inverse = result.inverse.to(self.device)
            fresh.append(inverse if previous is None else torch.where(lost[:, None, None], previous[side], inverse))
            failed |= lost
            worst = max(worst, float(result.multiple.max()))
        self.inverses = (fresh[0], fresh[1])
        self.has_inverse |= ~failed
        if worst == 1.0 and not bool(failed.any()):
            return None
        names = [layer.name for layer, lost in zip(self.layers, failed.tolist(), strict=True) if lost]
        return {"kind": "damping", "multiple": worst, "kept_previous": names}

    def precondition(self) -> None:
        """Replaces the gradients by their natural-gradient form, in place; a module that never had an inverse keeps its gradient."""
        if self.inverses is None or self.config.preconditioner == "none":
            return
        eye = torch.eye(self.rank, device=self.device)
        usable = self.has_inverse[:, None, None]
        left, right = (torch.where(usable, side, eye) for side in left_right(self.config.preconditioner, *self.inverses))
        for batches, matrices, from_left in ((self.batches_a, left, True), (self.batches_b, right, False)):
            for batch in batches:
                gradients = [parameter.grad for parameter in batch.parameters]
                if any(gradient is None for gradient in gradients):
                    continue
                stacked = torch.stack(gradients).float()  # type: ignore[arg-type]
                chosen = matrices[batch.rows]
                torch._foreach_copy_(gradients, list((chosen @ stacked if from_left else stacked @ chosen).unbind()))  # type: ignore[arg-type]

    def choose(self, *, adapt_rank: bool) -> Projection | None:
        """New ranks and the projection that goes with them; None while the gates of `basis` are closed."""
        ready_g = self.gated(self.moment_g) and bool((self.moment_g.mean().diagonal(dim1=-2, dim2=-1).sum(-1) > 0).all())
        sigma_a = self.moment_a.mean()
        if self.config.basis == "balanced":
            if not ready_g:
                return None
            balanced = balanced_basis(sigma_a, self.moment_g.mean())
            self.ranks = self._new_ranks(balanced.values, adapt_rank)
            between = balanced.projector(self.ranks.to(self.device))
            return Projection(between, None, between, two_sided=True)
        basis_a = spectrum(sigma_a)
        self.ranks = self._new_ranks(basis_a.values, adapt_rank)
        ranks = self.ranks.to(self.device)
        side_a = projector(basis_a.vectors, ranks)
        two_sided = self.config.two_sided and ready_g
        side_b = projector(spectrum(self.moment_g.mean()).vectors, ranks) if two_sided else side_a
        return Projection(side_a, side_b, side_b @ side_a, two_sided)

    def _new_ranks(self, values: Tensor, adapt_rank: bool) -> Tensor:
        config = self.config
        if not config.rank_adaptation:
            return torch.full_like(self.ranks, min(config.reprojection_k, self.rank))
        if not adapt_rank:
            return self.ranks
        values = values.cpu()
        if config.rank_policy == "growth":
            start = self.ranks if self.growing else torch.full_like(self.ranks, min(config.min_lora_rank, self.rank))
            self.growing = True
            return growth_rank(values, config.rank_growth_threshold, start)
        return with_hysteresis(values, config.rank_adaptation_threshold, config.rank_hysteresis, config.min_lora_rank, self.ranks)

    def gramians(self) -> tuple[Tensor, Tensor]:
        """A A^T and B^T B of every module, (M, r, r) each, in shape batches."""
        grams = [torch.zeros(len(self.layers), self.rank, self.rank, device=self.device) for _ in range(2)]
        for gram, batches, from_left in ((grams[0], self.batches_a, True), (grams[1], self.batches_b, False)):
            for batch in batches:
                stacked = torch.stack([parameter.detach() for parameter in batch.parameters]).float()
                gram[batch.rows] = stacked @ stacked.mT if from_left else stacked.mT @ stacked
        return grams[0], grams[1]

    def retained_mass(self, projection: Projection, before: tuple[Tensor, Tensor]) -> Tensor:
        """|B P A|^2 / |B A|^2 per module (M,); 1 where the update is still zero. Paper D.4, pi_proj."""
        gram_a, gram_b = before
        energy = update_energy(gram_a, gram_b)
        kept = update_energy(projection.between @ gram_a @ projection.between.mT, gram_b)
        return torch.where(energy > 0, kept / energy.clamp(min=torch.finfo(energy.dtype).tiny), 1.0)

    @torch.no_grad()
    def apply(self, projection: Projection, optimizer: torch.optim.Optimizer) -> None:
        """Overwrites A, B and, if asked for, the optimizer's first moments by their projections (mixed with gamma)."""
        sides = ((self.batches_a, projection.side_a, True), (self.batches_b, projection.side_b, False))
        for batches, matrices, from_left in sides:
            if matrices is None:
                continue
            for batch in batches:
                targets: list[list[Tensor]] = [[parameter.data for parameter in batch.parameters]]
                if self.config.project_momentum:
                    targets += _first_moments(optimizer, batch.parameters)
                for tensors in targets:
                    self._mix(tensors, matrices[batch.rows], from_left)

    def _mix(self, tensors: list[Tensor], matrices: Tensor, from_left: bool) -> None:
        stacked = torch.stack(tensors).float()
        projected = matrices @ stacked if from_left else stacked @ matrices
        torch._foreach_copy_(tensors, list(torch.lerp(stacked, projected, self.config.reprojection_mix).unbind()))

    def effective_parameters(self) -> int:
        """Sum over modules of k (d_in + d_out)."""
        return int((self.ranks * self.widths).sum())

    def state_dict(self) -> dict[str, Any]:
        """The exact state, for a checkpoint."""
        inverses = None if self.inverses is None else tuple(side.clone() for side in self.inverses)
        return {"moment_a": self.moment_a.state_dict(), "moment_g": self.moment_g.state_dict(), "ranks": self.ranks.clone(),
                "growing": self.growing,
                "inverses": inverses, "has_inverse": self.has_inverse.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.moment_a.load_state_dict(state["moment_a"])
        self.moment_g.load_state_dict(state["moment_g"])
        self.ranks, self.growing = state["ranks"].clone(), state["growing"]
        self.has_inverse = state["has_inverse"].to(self.device)
        inverses = state["inverses"]
        self.inverses = None if inverses is None else (inverses[0].to(self.device), inverses[1].to(self.device))


def _parameter(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _first_moments(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> list[list[Tensor]]:
    """The optimizer's first-moment buffers of these parameters, under the names that torch's optimizers use."""
    found = []
    for key in ("exp_avg", "momentum_buffer"):
        buffers = [optimizer.state[p][key] for p in parameters if key in optimizer.state.get(p, {})]
        if len(buffers) == len(parameters) and all(buffer is not None for buffer in buffers):
            found.append(buffers)
    return found
