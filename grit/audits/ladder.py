"""The end of a run at a ladder of thresholds: what a smaller tau (or a fixed k) would keep of one adapter.

Every rung chooses directions and projects as a reprojection with that threshold would, at the end and once;
nothing is trained after it. Laid beside runs that were trained with the threshold, it says whether tau has to
be trained in at all (analysis/studies/knob_axes/rungs.py). Ours: the paper trains every threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from grit.audits.truncation import check_seen, replaced, truncated_factors
from grit.geometry.handle import GritHandle
from grit.io.files import Row
from grit.rank_space.projectors import balanced_basis, spectrum
from grit.rank_space.rank import coverage_rank


def basis_of(handle: GritHandle) -> str:
    """The way of truncating (grit/audits/truncation.py) that is the handle's own reprojection."""
    if handle.config.basis == "balanced":
        return "balanced"
    return "two_sided" if handle.config.two_sided else "one_sided"


def rung_ranks(handle: GritHandle, rung: float) -> dict[str, int]:
    """Directions that a rung keeps, by module: a whole number is k, a share below 1 the threshold tau."""
    if rung >= 1:
        return {layer.name: min(int(rung), layer.rank) for layer in handle.layers}
    ranks = {}
    for name, (sigma_a, sigma_g, *_) in handle.factors().items():
        factor_a, factor_g = sigma_a[None].double(), sigma_g[None].double()
        balanced = handle.config.basis == "balanced"
        values = balanced_basis(factor_a, factor_g).values if balanced else spectrum(factor_a).values
        ranks[name] = int(coverage_rank(values, rung, handle.config.min_lora_rank))
    return ranks


def ladder_rows(
    model: Any, handle: GritHandle, rungs: tuple[float, ...], score: Callable[[], list[Row]]
) -> list[Row]:
    """The rows of `score` at every rung, each with the rung and its share of the adapter's parameters.

    Raises:
        RuntimeError: a module has seen no statistics, so that there is nothing to choose by.
    """
    check_seen(handle)
    rows: list[Row] = []
    for rung in rungs:
        ranks = rung_ranks(handle, rung)
        footprint = _kept_share(handle, ranks)
        with torch.no_grad(), replaced(model, truncated_factors(handle, basis_of(handle), ranks)):
            rows += [{"rung": float(rung), "footprint": footprint, **row} for row in score()]
    return rows


def _kept_share(handle: GritHandle, ranks: Mapping[str, int]) -> float:
    """Parameters of a rung over those of the whole adapter."""
    sizes = {layer.name: layer.down.weight.shape[1] + layer.up.weight.shape[0] for layer in handle.layers}
    whole = sum(sizes[layer.name] * layer.rank for layer in handle.layers)
    return sum(sizes[name] * rank for name, rank in ranks.items()) / whole
