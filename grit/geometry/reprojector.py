"""One reprojection: ranks are chosen, weights, moments or gates follow, and what happened is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from grit.capture.passes import Capture
from grit.config.method import GritConfig
from grit.geometry.events import Event, MomentumNotProjected, RankChange, Reprojection, ReprojectionSkipped
from grit.geometry.rank_group import RankGroup
from grit.geometry.state import GeometryState
from grit.geometry.subspace_state import Projection


class Reprojector:
    """Projects one model's adapter onto its kept directions.

    Args:
        config: the switches. state: the curvature. capture: whose gates act in the forward pass.
        optimizer: whose first moments are projected as well.
        section: opens a clock's section by its name.
    """

    def __init__(
        self,
        config: GritConfig,
        state: GeometryState,
        capture: Capture,
        optimizer: torch.optim.Optimizer,
        section: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._config, self._state, self._capture = config, state, capture
        self._optimizer, self._section = optimizer, section

    def __call__(self, step: int, *, trigger: str, adapt_rank: bool) -> list[Event]:
        """Projects where the gates allow it; returns what happened.

        Args:
            step: optimizer steps taken so far.
            trigger: as in `Reprojection`.
            adapt_rank: whether ranks may change.
        """
        started = time.perf_counter()
        masses: list[Tensor] = []
        events: list[Event] = []
        before, two_sided = self._state.ranks(), True
        for group in self._state.groups:
            with self._section("rank"):
                projection = group.subspace.choose(step, adapt_rank=adapt_rank, mix=trigger != "end")
            if projection is None:
                continue
            with self._section("reprojection"):
                masses.append(group.retained_mass(projection))
                two_sided = two_sided and projection.two_sided
                events += self._suppress(group, projection)
        self._state.ranks_changed()
        if not masses:
            return [ReprojectionSkipped(trigger=trigger, reason="sample gate")]
        after, mass = self._state.ranks(), torch.cat(masses)
        events.append(
            Reprojection(
                trigger=trigger,
                two_sided=two_sided,
                ranks=tuple(after.values()),
                retained_mass=float(mass.mean()),
                retained_mass_min=float(mass.min()),
                seconds=time.perf_counter() - started,
            )
        )
        if after != before:
            events.append(self._rank_change(before, after))
        return events

    def _rank_change(self, before: dict[str, int], after: dict[str, int]) -> RankChange:
        changed = [after[name] - before[name] for name in after]
        up, down = sum(change > 0 for change in changed), sum(change < 0 for change in changed)
        return RankChange(up=up, down=down, effective_parameters=self._state.effective_parameters())

    def _suppress(self, group: RankGroup, projection: Projection) -> list[Event]:
        if self._config.suppression == "project":
            if group.apply(projection, self._optimizer):
                return []
            return [MomentumNotProjected(optimizer=type(self._optimizer).__name__)]
        eye = torch.eye(group.rank, device=projection.between.device, dtype=projection.between.dtype)
        for index, between in zip(group.indices, projection.between, strict=True):
            self._capture.set_gate(index, None if torch.equal(between, eye) else between)
        return []
