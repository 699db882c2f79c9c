"""The geometry over time: spectra and effective ranks of every module at reprojections."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grit.audits.update_geometry import (
    effective_rank,
    gated_up,
    participation_ratio,
    tail_mass,
    update_singular_values,
)
from grit.geometry.events import reprojections
from grit.io.files import Row
from grit.rank_space.projectors import spectrum

if TYPE_CHECKING:
    from grit.geometry.handle import GritHandle

#: Reprojections that are kept of one run; of more, evenly spaced ones.
SNAPSHOTS = 48


@dataclass(frozen=True, kw_only=True)
class SpectrumRow:
    """One module at one reprojection.

    Attributes:
        step: optimizer steps taken. rank: directions kept.
        effective_rank, participation_ratio: of Sigma_a's eigenvalues.
        kept_energy: share of Sigma_a's energy inside its leading `rank` directions; the rest is its tail.
        tail_mass: share of the update's entries above `TAIL_THRESHOLD`; update_norm: Frobenius.
        fisher_a, fisher_g: eigenvalues of the two factors, descending, (r,).
    """

    step: int
    module: str
    rank: int
    effective_rank: float
    participation_ratio: float
    kept_energy: float
    tail_mass: float
    update_norm: float
    fisher_a: list[float]
    fisher_g: list[float]


@torch.no_grad()
def spectrum_rows(handle: GritHandle) -> list[Row]:
    """One row per module, as the handle stands."""
    rows = []
    ranks, gates = handle.ranks(), handle.gates()
    layers = {layer.name: layer for layer in handle.layers}
    for name, factors in handle.factors().items():
        layer = layers[name]
        up = gated_up(layer, gates)
        singular = update_singular_values(layer.down.weight, up, layer.scaling)
        values, gradient = _eigenvalues(factors.sigma_a), _eigenvalues(factors.sigma_g)
        energy = float(values.sum())
        row = SpectrumRow(
            step=handle.step,
            module=name,
            rank=ranks[name],
            effective_rank=effective_rank(values),
            participation_ratio=participation_ratio(values),
            kept_energy=float(values[: ranks[name]].sum()) / energy if energy > 0 else 1.0,
            tail_mass=tail_mass(layer.down.weight, up, layer.scaling),
            update_norm=float(singular.square().sum().sqrt()),
            fisher_a=values.tolist(),
            fisher_g=gradient.tolist(),
        )
        rows.append(asdict(row))
    return rows


def _eigenvalues(factor: Tensor) -> Tensor:
    return spectrum(factor.double().cpu()).values.clamp(min=0)


class SpectraLog:
    """Rows of the reprojections so far, thinned to at most `SNAPSHOTS` of them.

    Attributes:
        rows: of the table `spectra`.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._seen, self._stride = 0, 1

    def look(self, handle: GritHandle) -> None:
        """Adds the modules' rows where the step that was just taken reprojected."""
        latest = takewhile(lambda event: event.step == handle.step, reversed(handle.events))
        if not reprojections(list(latest)):
            return
        if self._seen % self._stride == 0:
            self.rows += spectrum_rows(handle)
        self._seen += 1
        steps = sorted({row["step"] for row in self.rows})
        if len(steps) > SNAPSHOTS:
            kept = set(steps[::2])
            self.rows = [row for row in self.rows if row["step"] in kept]
            self._stride *= 2

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"rows": self.rows, "seen": self._seen, "stride": self._stride}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`."""
        self.rows, self._seen, self._stride = list(state["rows"]), state["seen"], state["stride"]
