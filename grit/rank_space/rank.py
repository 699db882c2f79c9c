"""Dynamic rank: how many directions hold enough of the energy. Pure functions over stacks of modules.

Source: paper section 2.4 (`coverage`) and the sensitivity appendix, H.1 (`growth`);
docs/reference/method.md section 5.
"""

from __future__ import annotations

import torch
from torch import Tensor


def coverage(values: Tensor) -> Tensor:
    """Share of the energy in the first 1..r directions: eigenvalues (M, r), descending, to (M, r).

    Without energy every share is 1.
    """
    total = values.sum(-1, keepdim=True)
    return torch.where(total > 0, values.cumsum(-1) / total.clamp(min=torch.finfo(values.dtype).tiny), 1.0)


def coverage_rank(values: Tensor, tau: float, min_rank: int) -> Tensor:
    """K = min {j : coverage_j >= tau}, bounded to [min_rank, r]; int64 (M,). Larger tau keeps more.

    A module without energy keeps all r.
    """
    rank = values.shape[-1]
    needed = (coverage(values) < tau).sum(-1) + 1
    needed = torch.where(values.sum(-1) > 0, needed, rank)
    return needed.clamp(min=min(min_rank, rank), max=rank)


def with_hysteresis(values: Tensor, tau: float, margin: float, min_rank: int, current: Tensor) -> Tensor:
    """`coverage_rank`.

    But the current rank (M,) stays while it lies between the ranks for tau - margin and tau + margin.
    """
    if margin == 0:
        return coverage_rank(values, tau, min_rank)
    low = coverage_rank(values, max(tau - margin, 0.0), min_rank)
    high = coverage_rank(values, min(tau + margin, 1.0), min_rank)
    return current.clamp(min=low, max=high)


def growth_rank(values: Tensor, outside: float, current: Tensor) -> Tensor:
    """The smallest rank of at least `current` (M,) that leaves out at most the share `outside`.

    It never shrinks.
    """
    return torch.maximum(current, coverage_rank(values, 1.0 - outside, 1))
