"""Fisher-guided reprojection: bases, projectors and what they keep. Pure functions over stacks of modules.

Source: paper section 2.3; the `balanced` basis is ours (docs/reference/method.md section 4).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grit.rank_space.moments import symmetrize


class Spectrum(NamedTuple):
    """Eigenvalues (M, r), descending, clamped at 0; eigenvectors (M, r, r) as columns in that order."""

    values: Tensor
    vectors: Tensor


def spectrum(factors: Tensor) -> Spectrum:
    """Eigendecomposition of symmetric factors (M, r, r), largest eigenvalue first."""
    values, vectors = torch.linalg.eigh(factors)
    return Spectrum(values.flip(-1).clamp(min=0), vectors.flip(-1))


def leading(ranks: Tensor, rank: int) -> Tensor:
    """Which of r directions are the first k: (M,) to (M, r)."""
    return torch.arange(rank, device=ranks.device) < ranks[:, None]


def projector(vectors: Tensor, kept: Tensor) -> Tensor:
    """P = U U^T over the columns that are `kept`: (M, r, r) and (M, r) to (M, r, r)."""
    kept_vectors = vectors * kept[:, None, :].to(vectors.dtype)
    return kept_vectors @ kept_vectors.mT


class BalancedBasis(NamedTuple):
    """Eigenvalues (M, r) of Sigma_a Sigma_g, their vectors in whitened coordinates.

    And R = Sigma_a^(1/2) with its pseudo-inverse.
    """

    values: Tensor
    vectors: Tensor
    root: Tensor
    root_inverse: Tensor

    def projector(self, kept: Tensor) -> Tensor:
        """The oblique projector R U_k U_k^T R^-1 (M, r, r), which acts once, between the factors: B P A."""
        return self.root @ projector(self.vectors, kept) @ self.root_inverse


def root_and_inverse(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """X^(1/2) and its pseudo-inverse of symmetric positive semi-definite X (..., r, r).

    What lies below the rounding of the largest eigenvalue counts as zero in both.
    """
    values, vectors = torch.linalg.eigh(matrices)
    floor = values.amax(-1, keepdim=True) * torch.finfo(values.dtype).eps * values.shape[-1]
    kept = values > floor
    roots = torch.where(kept, values, 0.0).sqrt()
    inverse_roots = torch.where(kept, roots.clamp(min=torch.finfo(values.dtype).tiny).reciprocal(), 0.0)
    root = (vectors * roots[..., None, :]) @ vectors.mT
    return root, (vectors * inverse_roots[..., None, :]) @ vectors.mT


def balanced_basis(sigma_a: Tensor, sigma_g: Tensor) -> BalancedBasis:
    """The directions of an adapter that do not depend on how it is factored.

    (A, B) and (M A, B M^-1) are the same adapter; the eigenvalues of Sigma_a Sigma_g, unlike those of
    Sigma_a, are the same for both.
    """
    root, root_inverse = root_and_inverse(sigma_a)
    inner = spectrum(symmetrize(root @ sigma_g @ root))
    return BalancedBasis(inner.values, inner.vectors, root, root_inverse)


def update_energy(gram_a: Tensor, gram_b: Tensor) -> Tensor:
    """|B A|_F^2 per module from the r x r Gramians A A^T and B^T B: tr(B^T B A A^T).

    (M, r, r) twice to (M,).
    """
    return (gram_b * gram_a.mT).sum((-1, -2))
