"""Rank-space second moments: pure functions over stacks of modules.

Layout everywhere: M modules of equal rank r, N token positions (batch and sequence flattened). All statistics
are float32 or wider: in
float16 the products of gradients of size 1e-5 underflow to zero. Source: paper sections 2.2 and A.7;
docs/reference/method.md section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor


def second_moment_sum(samples: Tensor, weight: Tensor) -> Tensor:
    """Sum over counted positions of x x^T.

    Args:
        samples: (M, N, r), any float type.
        weight: (N,), 1 for a position that counts and 0 for one that does not.

    Returns:
        (M, r, r), float32 or the wider type of `samples`.
    """
    wide = samples.to(torch.promote_types(samples.dtype, torch.float32))
    counted = torch.where(
        weight[:, None] > 0, wide, 0.0
    )  # not a product: 0 x NaN of a padded position would be NaN
    return counted.mT @ counted


def per_token_gradient(gradient: Tensor, scaling: Tensor, loss_weight: Tensor | float) -> Tensor:
    """U = B^T g of the per-token loss, from the gradient that arrives at z (M, N, r).

    The gradient at z is `scaling * loss_weight * B^T g`, where `loss_weight` is what one token's loss counts
    in the scalar that was
    differentiated: 1/N for a mean over N tokens, times the accumulation factor, times the AMP scale. Leaving
    it in would make Sigma_g
    smaller by its square, and any usual damping would swamp it.

    Args:
        gradient: (M, N, r).
        scaling: (M,), the adapters' alpha / r.
        loss_weight: a scalar.
    """
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / (
        scaling[:, None, None] * loss_weight
    )


def symmetrize(matrices: Tensor) -> Tensor:
    """(X + X^T) / 2 over the last two dimensions."""
    return (matrices + matrices.mT) / 2


class RunningMoment:
    """Mean second moment of M modules: the running mean of A.7, or a bias-corrected exponential mean.

    Both are kept as (weighted sum, weight), so that workers can add theirs and a checkpoint holds the exact
    state.
    """

    def __init__(
        self,
        modules: int,
        rank: int,
        *,
        decay: float | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.decay = decay
        self.total = torch.zeros(modules, rank, rank, device=device, dtype=dtype)
        self.weight = torch.zeros(modules, device=device, dtype=dtype)
        self.samples = torch.zeros(modules, device=device, dtype=torch.float64)
        self._noise = torch.zeros(modules, device=device, dtype=torch.float64)

    def add(self, moment_sum: Tensor, count: Tensor, samples: Tensor | None = None) -> Tensor:
        """Folds in one optimizer step's sum (M, r, r) of `count` samples, one number or one per module.

        `samples` is what the sum is worth to a gate, where that is another number: a pool's sum is worth no
        more than the module's own part of it.

        A step without a counted token changes nothing, and neither does a module's non-finite sum: the
        returned mask (M,) is False there. A sum that is exactly zero is not a measurement (while B = 0, so is
        u), and is not counted either.
        """
        finite = torch.isfinite(moment_sum).all(-1).all(-1)
        measured = finite & (moment_sum != 0).any(-1).any(-1)
        counted = torch.where(measured, count.to(self.weight.dtype), 0.0)
        worth = counted if samples is None else torch.where(measured, samples.to(self.weight.dtype), 0.0)
        clean = torch.where(finite[:, None, None], moment_sum, 0.0)
        if self.decay is None:
            self.total += clean
            self.weight += counted
        else:
            keep = torch.where(counted > 0, self.decay, 1.0)
            self.total.mul_(keep[:, None, None]).add_(
                clean * ((1 - keep) / counted.clamp(min=1))[:, None, None]
            )
            self.weight.mul_(keep).add_(1 - keep)
            told_by = torch.where(worth > 0, worth, counted)  # by its pool alone, where its own part was lost
            self._noise.mul_(keep.double() ** 2).add_((1 - keep.double()) ** 2 / told_by.clamp(min=1))
        self.samples += worth
        return finite

    def effective_samples(self) -> Tensor:
        """Tokens (M,) that the mean is worth.

        All that were seen, or for an exponential mean (sum w)^2 / sum w^2 with w a token's weight.
        """
        if self.decay is None:
            return self.samples
        return torch.where(
            self._noise > 0,
            self.weight.double() ** 2 / self._noise.clamp(min=torch.finfo(torch.float64).tiny),
            0.0,
        )

    def mean(self) -> Tensor:
        """Sigma (M, r, r), symmetric; zero before the first sample."""
        return symmetrize(self.total / self.weight.clamp(min=torch.finfo(torch.float32).tiny)[:, None, None])

    def state_dict(self) -> dict[str, Tensor]:
        """The exact state, for a checkpoint."""
        return {
            "total": self.total.clone(),
            "weight": self.weight.clone(),
            "samples": self.samples.clone(),
            "noise": self._noise.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores `state_dict()`."""
        self.total.copy_(state["total"])
        self.weight.copy_(state["weight"])
        self.samples.copy_(state["samples"])
        self._noise.copy_(state["noise"])
