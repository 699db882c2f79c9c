"""The source's curvature in rank space: what general text is sensitive to, weighed against the task's Fisher.

Forgetting is a rise of the *source's* loss. To second order in dW, with the Fisher of general text for its
Hessian, and with K-FAC's independence of inputs and gradients, one module's part of it is

    s^2 / 2 * tr(G_src X_src),      X_src = E[z z^T],  z = A x,      G_src = E[u u^T],  u = B^T g,

with x and g those of the untuned model on general text. EWC (Kirkpatrick et al., 2017) with a Kronecker
factored Fisher (Ritter et al., 2018), read in an adapter's rank space. The weighing of directions is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grit.rank_space.projectors import Spectrum


class SourceFactors(NamedTuple):
    """X_src and G_src of M modules, each (M, r, r), with the adapter as it is now."""

    inputs: Tensor
    gradients: Tensor


def energy_along(vectors: Tensor, factors: Tensor) -> Tensor:
    """v^T Sigma v of every column v: (M, r, r) twice to (M, r)."""
    return ((factors @ vectors) * vectors).sum(-2)


def weighed(task: Spectrum, source: Tensor, weight: float) -> Spectrum:
    """The task's directions, those first whose share of its energy outweighs their share of the source's.

    Args:
        task: eigenvalues (M, r) and their vectors, of the task's own Fisher.
        source: (M, r), the source's energy along the same directions.
        weight: beta in [0, 1): directions are ranked by `task share - beta * source share`.

    Returns:
        The same vectors in the new order; for values, what is left of the shares, at least 0 (the rank rule
        reads them as energies). Without energy of the task or of the source, `task` as it was.
    """
    tiny = torch.finfo(task.values.dtype).tiny
    own, others = task.values.sum(-1, keepdim=True), source.clamp(min=0).sum(-1, keepdim=True)
    shares = task.values / own.clamp(min=tiny) - weight * source.clamp(min=0) / others.clamp(min=tiny)
    left, order = shares.sort(dim=-1, descending=True, stable=True)
    vectors = task.vectors.gather(-1, order[:, None, :].expand_as(task.vectors))
    measured = (own > 0) & (others > 0)
    return Spectrum(
        torch.where(measured, left.clamp(min=0), task.values),
        torch.where(measured[..., None], vectors, task.vectors),
    )


def source_penalty(factors: SourceFactors, scaling: Tensor) -> Tensor:
    """Predicted forgetting per module (M,), in nats per token of general text; `scaling` is s (M,)."""
    return scaling.square() / 2 * (factors.inputs * factors.gradients.mT).sum((-1, -2))
