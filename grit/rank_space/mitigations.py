"""The mitigations that the paper lists for its limitations, as pure functions.

Definitions are ours where the paper names only the idea.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Bisection steps for the entropy floor: the mixing weight is found to 2^-40.
_BISECTIONS = 40


def spectral_snr(values: Tensor, samples: Tensor) -> Tensor:
    """How far the top eigenvalue stands above the mean, in units of what white noise shows (M,).

    Infinite without limit, 0 without samples.

    With n independent samples of isotropic noise, the top eigenvalue of an r x r second moment lies near mean
    * (1 + sqrt(r / n))^2 (Marchenko and Pastur). SNR = (top - mean) / (mean * ((1 + sqrt(r / n))^2 - 1)).
    Tokens of one text are not independent, so
    the true noise is larger: take thresholds well above 1.

    Args:
        values: (M, r), eigenvalues in descending order.
        samples: (M,), tokens seen.
    """
    rank, mean = values.shape[-1], values.mean(-1)
    edge = (1 + (rank / samples.clamp(min=1).to(values.dtype)).sqrt()).square() - 1
    tiny = torch.finfo(values.dtype).tiny
    return torch.where((samples > 0) & (mean > 0), (values[:, 0] - mean) / (mean * edge).clamp(min=tiny), 0.0)


def entropy_share(values: Tensor) -> Tensor:
    """Entropy of the normalized spectrum over its maximum log r, in [0, 1]; (M, r) to (M,).

    A spectrum without energy counts as flat.
    """
    rank, total = values.shape[-1], values.sum(-1, keepdim=True)
    if rank == 1:
        return torch.ones_like(values[:, 0])
    share = torch.where(total > 0, values / total.clamp(min=torch.finfo(values.dtype).tiny), 1.0 / rank)
    return -torch.xlogy(share, share).sum(-1) / torch.log(torch.tensor(float(rank), dtype=values.dtype))


def with_entropy_floor(values: Tensor, floor: float) -> Tensor:
    """Spectra (M, r) mixed with the flat spectrum of equal energy.

    As little as lifts each entropy to `floor` of its maximum.
    """
    if floor == 0:
        return values
    flat = values.mean(-1, keepdim=True).expand_as(values)
    low, high = torch.zeros_like(values[:, :1]), torch.ones_like(values[:, :1])
    for _ in range(
        _BISECTIONS
    ):  # entropy grows with the weight of the flat part: it is concave, and largest there
        middle = (low + high) / 2
        enough = entropy_share(torch.lerp(values, flat, middle))[:, None] >= floor
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return torch.where(entropy_share(values)[:, None] >= floor, values, torch.lerp(values, flat, high))


def mixed_selection(ranks: Tensor, rank: int, probability: float, uniform: Tensor) -> Tensor:
    """Which directions to keep when each of the top k is left out with `probability`.

    In favour of the next ones below.

    Args:
        ranks: (M,), k per module.
        rank: r.
        probability: of leaving one out, in [0, 1).
        uniform: (M, rank), draws from [0, 1).

    Returns:
        (M, rank), True for exactly k directions of each module.
    """
    position = torch.arange(rank, device=ranks.device)
    # Kept ones come first in their order, then the directions below, then those left out: the first k of this
    # order are selected.
    dropped = (uniform < probability) & (position < ranks[:, None])
    order = position + rank * dropped.long()
    return order.argsort(-1).argsort(-1) < ranks[:, None]


def pooled(sums: Tensor, weights: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (M, ...) and weights (M,) of each module replaced by its group's totals; groups (M,)."""
    count = int(groups.max()) + 1
    total = torch.zeros(count, *sums.shape[1:], dtype=sums.dtype, device=sums.device).index_add_(
        0, groups, sums
    )
    weight = torch.zeros(count, dtype=weights.dtype, device=weights.device).index_add_(0, groups, weights)
    return total[groups], weight[groups]
