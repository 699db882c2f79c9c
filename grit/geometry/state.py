"""The curvature state of a whole model: its adapted layers, grouped by rank, where the adapter is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from grit.adapters.peft_adapters import AdaptedLayer
from grit.capture.label_positions import Stream
from grit.capture.observation import Observation
from grit.capture.token_samples import TokenSamples
from grit.config.method import GritConfig
from grit.geometry.events import Event
from grit.geometry.rank_group import RankGroup
from grit.runtime.workers import reduce_sum


class ModuleFactors(NamedTuple):
    """Both factors (r, r) of one module, and how many tokens each has seen."""

    sigma_a: Tensor
    sigma_g: Tensor
    seen_a: int
    seen_g: int


class GeometryState:
    """Statistics, inverses and subspaces of every adapted layer, one group per rank.

    Attributes:
        groups: in the order in which their ranks first appear in the model.
        device: where the state was built.
    """

    def __init__(
        self, layers: tuple[AdaptedLayer, ...], streams: Sequence[Stream], config: GritConfig
    ) -> None:
        self._layers, self._streams, self._config = layers, tuple(streams), config
        self._keep_estimates = False
        self._source: Sequence[TokenSamples] = ()
        self._ranks: dict[str, int] | None = None
        self._build()

    def _build(self) -> None:
        self.device = self._layers[0].down.weight.device
        by_rank: dict[int, list[int]] = {}
        for index, layer in enumerate(self._layers):
            by_rank.setdefault(layer.rank, []).append(index)
        self.groups = []
        for rows in by_rank.values():
            layers, own_streams = [self._layers[i] for i in rows], [self._streams[i] for i in rows]
            self.groups.append(RankGroup(layers, rows, own_streams, config=self._config))
        for group in self.groups:
            group.statistics.keep_estimate = self._keep_estimates
        self.take_source(self._source)

    def take_source(self, samples: Sequence[TokenSamples]) -> None:
        """From now on general text is known by these tokens, one entry per layer."""
        self._source = [entry.to(self.device) for entry in samples]
        for group in self.groups if self._source else ():
            group.take_source([self._source[index] for index in group.indices])

    @property
    def misplaced(self) -> bool:
        """Whether the adapter has moved to another device since the state was built."""
        return self._layers[0].down.weight.device != self.device

    def follow(self) -> None:
        """Builds the state again where the adapter is now, with what it held."""
        held = self.state_dict()
        self._build()
        self.load_state_dict(held)

    def keep_estimates(self) -> None:
        """From now on the last step's own factors stay readable (`estimates`); it costs memory."""
        self._keep_estimates = True
        for group in self.groups:
            group.statistics.keep_estimate = True

    def observe(self, seen: Observation) -> None:
        """Adds one backward pass to the step's sums."""
        for group in self.groups:
            group.statistics.observe(seen)

    def discard(self) -> None:
        """Forgets the passes of a step that was never taken."""
        for group in self.groups:
            group.statistics.discard()

    def commit(self) -> int:
        """Folds the step's sums, over all workers, into the means.

        Returns how many factors were not finite.
        """
        return sum(group.statistics.commit(reduce_sum) for group in self.groups)

    def refresh(self, optimizer: torch.optim.Optimizer) -> list[Event]:
        """Recomputes the damped inverses, or the eigenbases and `optimizer`'s moments in them."""
        return [event for group in self.groups for event in group.refresh(optimizer)]

    def turn(self) -> None:
        """Weights and gradients into the eigenbases, where there are any, for the optimizer's own step."""
        for group in self.groups:
            group.turn()

    def turn_back(self) -> None:
        """Undoes `turn`, where that is still to be done."""
        with torch.no_grad():
            for group in self.groups:
                group.turn_back()

    def leave_eigenbasis(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's moments as they are without a basis."""
        self.turn_back()
        for group in self.groups:
            group.leave_eigenbasis(optimizer)

    def add_penalties(self, regularization: float) -> None:
        """Adds the regularizers' gradients, times `regularization`, in place."""
        for group in self.groups:
            group.add_penalties(regularization)

    def precondition(self) -> None:
        """Preconditions gradients, in place, where there are inverses."""
        for group in self.groups:
            group.precondition()

    def preconditioned(self) -> list[nn.Parameter]:
        """Weights of the modules that have inverses."""
        return [weight for group in self.groups for weight in group.preconditioned()]

    def largest_shift(self) -> float | None:
        """How far the kept share of energy has moved in the module where it moved most.

        None before a reprojection. A mean over modules would hide a single one that has turned away.
        """
        shifts = [group.subspace.shift() for group in self.groups]
        shifts_measured = [shift for shift in shifts if shift is not None]
        return float(torch.cat(shifts_measured).max()) if shifts_measured else None

    @contextmanager
    def truncated(self, step: int) -> Iterator[None]:
        """The adapter as it would be truncated now; afterwards weights and subspaces are what they were.

        `step` is the optimizer's, as for any reprojection.
        """
        weights = [weight for layer in self._layers for weight in (layer.down.weight, layer.up.weight)]
        kept = [weight.detach().clone() for weight in weights]
        subspaces = [(group.subspace, group.subspace.state_dict()) for group in self.groups]
        for group in self.groups:
            projection = group.subspace.choose(step, adapt_rank=False, mix=False)
            if projection is not None:
                group.apply(projection, None)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)
            for subspace, held in subspaces:
                subspace.load_state_dict(held)

    def estimates(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Each stack's factors: (`<stack>/<side>`, those in use, the last step's own), each (M, r, r)."""
        for number, group in enumerate(self.groups):
            estimates = group.statistics.estimate
            assert estimates is not None
            moments = (group.statistics.moment_a, group.statistics.moment_g)
            for side, moment, estimate in zip("ag", moments, estimates, strict=True):
                yield f"{number}/{side}", moment.mean(), estimate

    def modules_by_stack(self) -> dict[str, list[str]]:
        """Names of the modules in each stack of factors, in order, by the stack's number."""
        stacks = {}
        for number, group in enumerate(self.groups):
            stacks[str(number)] = [layer.name for layer in group.layers]
        return stacks

    def factors(self) -> dict[str, ModuleFactors]:
        """Per module name, in the model's order."""
        factors = {}
        for group in self.groups:
            moment_a, moment_g = group.statistics.moment_a, group.statistics.moment_g
            mean_a, mean_g = moment_a.mean(), moment_g.mean()
            for row, layer in enumerate(group.layers):
                seen_a, seen_g = int(moment_a.samples[row]), int(moment_g.samples[row])
                factors[layer.name] = ModuleFactors(mean_a[row], mean_g[row], seen_a, seen_g)
        return {layer.name: factors[layer.name] for layer in self._layers}

    def ranks(self) -> dict[str, int]:
        """Per module name: the number of directions kept, in the model's order."""
        if self._ranks is None:
            kept: dict[int, int] = {}
            for group in self.groups:
                kept |= dict(zip(group.indices, group.subspace.ranks.tolist(), strict=True))
            self._ranks = {layer.name: kept[index] for index, layer in enumerate(self._layers)}
        return dict(self._ranks)

    def ranks_changed(self) -> None:
        """To be told when a subspace has chosen."""
        self._ranks = None

    def parameters(self) -> int:
        """Sum over modules of r (d_in + d_out)."""
        return sum(layer.rank * layer.width for layer in self._layers)

    @property
    def has_inverses(self) -> bool:
        """Whether a module has inverses, or an eigenbasis, to precondition by."""
        acting = [(group.curvature.applied, group.eigenbasis.sides) for group in self.groups]
        return any(each is not None for pair in acting for each in pair)

    def waiting(self) -> int:
        """Modules of which a factor has not passed its gates yet."""
        count = 0
        for group in self.groups:
            statistics = group.statistics
            passed = statistics.gate(statistics.moment_a) & statistics.gate(statistics.moment_g)
            count += int((~passed).sum())
        return count

    def effective_parameters(self) -> int:
        """Sum over modules of k (d_in + d_out)."""
        return sum(group.effective_parameters() for group in self.groups)

    def state_dict(self) -> list[dict[str, Any]]:
        """The exact state, for a checkpoint."""
        return [group.state_dict() for group in self.groups]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restores `state_dict()`."""
        for group, saved in zip(self.groups, state, strict=True):
            group.load_state_dict(saved)
        self._ranks = None
