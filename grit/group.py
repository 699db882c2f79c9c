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

    def gate(self, moment: RunningMoment) -> Tensor:
        """Which modules (M,) have their minimum of samples on this side."""
        return moment.samples >= max(1, self.config.kfac_min_samples)

    def refresh(self) -> list[dict[str, Any]]:
        """Recomputes the damped inverses of the modules whose sample gates are passed; returns events (ladder climbed, modules that wait).

        Factorized in float64: in float32, lambda = 1e-4 beside an eigenvalue of 1e4 would not be the lambda that is used.
        """
        ready = self.gate(self.moment_a) & self.gate(self.moment_g)
        previous, fresh, worst, failed = self.inverses, [], 1.0, torch.zeros_like(ready)
        for side, moment in enumerate((self.moment_a, self.moment_g)):
            factors = moment.mean().double()
            if self.config.inversion_device == "cpu":
                factors = factors.cpu()
            result = damped_inverse(factors, damping_of(factors, self.config.kfac_damping, self.config.damping_scale))
            lost = (result.multiple == 0).to(self.device)
            inverse = result.inverse.float().to(self.device)
            fresh.append(inverse if previous is None else torch.where((ready & ~lost)[:, None, None], inverse, previous[side]))
            failed |= lost
            worst = max(worst, float(result.multiple.max()))
        self.inverses = (fresh[0], fresh[1])
        self.has_inverse |= ready & ~failed
        events: list[dict[str, Any]] = []
        if worst > 1.0 or bool((failed & ready).any()):
            names = [layer.name for layer, lost in zip(self.layers, (failed & ready).tolist(), strict=True) if lost]
            events.append({"kind": "damping", "multiple": worst, "kept_previous": names})
        if not bool(ready.all()):
            events.append({"kind": "refresh_waits", "modules": int((~ready).sum())})
        return events

    def precondition(self) -> None:
        """Replaces the gradients by their natural-gradient form, in place; a module that never had an inverse keeps its gradient."""
        if self.inverses is None or self.config.preconditioner == "none":
            return
        eye = torch.eye(self.rank, device=self.device)
        usable = self.has_inverse[:, None, None]
        left, right = (torch.where(usable, side, eye) for side in left_right(self.config.preconditioner, *self.inverses))
        for batches, matrices, from_left in ((self.batches_a, left, True), (self.batches_b, right, False)):
            for batch in batches:
                gradients = [p.grad for p in batch.parameters if p.grad is not None]
                if not gradients:
                    continue
                rows = batch.rows[[p.grad is not None for p in batch.parameters]] if len(gradients) < len(batch.parameters) else batch.rows
                stacked, chosen = torch.stack(gradients).float(), matrices[rows]
                torch._foreach_copy_(gradients, list((chosen @ stacked if from_left else stacked @ chosen).unbind()))

    def choose(self, *, adapt_rank: bool) -> Projection | None:
        """New ranks and the projection that goes with them; None while no module has passed the gates of `basis`.

        A module that has not passed them keeps its rank and is not projected; one whose gradient side has not is projected by its A side.
        """
        sigma_a, sigma_g = self.moment_a.mean(), self.moment_g.mean()
        ready_g = self.gate(self.moment_g)
        ready = self.gate(self.moment_a) & ready_g if self.config.basis == "balanced" else self.gate(self.moment_a)
        if not bool(ready.any()):
            return None
        if self.config.basis == "balanced":
            balanced = balanced_basis(sigma_a, sigma_g)
            ranks = self._take_ranks(balanced.values, adapt_rank, ready)
            between = self._or_identity(balanced.projector(ranks), ready & (ranks < self.rank))
            return Projection(between, None, between, two_sided=True)
        basis_a = spectrum(sigma_a)
        ranks = self._take_ranks(basis_a.values, adapt_rank, ready)
        active = ready & (ranks < self.rank)
        side_a = self._or_identity(projector(basis_a.vectors, ranks), active)
        two_sided = ready_g if self.config.two_sided else torch.zeros_like(ready_g)
        side_b = side_a
        if bool(two_sided.any()):
            own = self._or_identity(projector(spectrum(sigma_g).vectors, ranks), active)
            side_b = torch.where(two_sided[:, None, None], own, side_a)
        return Projection(side_a, side_b, side_b @ side_a, two_sided=bool(two_sided.all()))

    def _or_identity(self, matrices: Tensor, active: Tensor) -> Tensor:
        """`matrices` where `active` (M,), exactly the identity elsewhere."""
        return torch.where(active[:, None, None], matrices, torch.eye(self.rank, device=self.device))

    def _take_ranks(self, values: Tensor, adapt_rank: bool, ready: Tensor) -> Tensor:
        """Sets the ranks of the modules that are ready; returns all ranks on the group's device."""
        self.ranks = torch.where(ready.cpu(), self._new_ranks(values, adapt_rank), self.ranks)
        return self.ranks.to(self.device)

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
        """Sum over modules of k (d_in + d_out); with `reprojection_mix` < 1 nothing is ever truncated, and all parameters count."""
        ranks = self.ranks if self.config.reprojection_mix == 1.0 else torch.full_like(self.ranks, self.rank)
        return int((ranks * self.widths).sum())

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
