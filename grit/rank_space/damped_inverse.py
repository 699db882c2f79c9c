"""Damped inverses with a ladder, and preconditioned gradients: pure functions over stacks of modules.

Source: paper sections 2.2 and A.7 ("escalating damping sequence"); docs/reference/method.md section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grit.config.method import DampingScale, Preconditioner

#: Multiples of lambda tried in turn where a Cholesky factorization fails.
LADDER = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class DampedInverse(NamedTuple):
    """`inverse` (M, r, r).

    `multiple` (M,), the rung of the ladder that worked, 0 where all failed (that inverse is meaningless).
    """

    inverse: Tensor
    multiple: Tensor


def damping_of(factors: Tensor, damping: float, scale: DampingScale) -> Tensor:
    """What is added to each diagonal (M,): lambda, or lambda times the mean eigenvalue of that factor."""
    if scale == "absolute":
        return torch.full(factors.shape[:1], damping, dtype=factors.dtype, device=factors.device)
    return damping * factors.diagonal(dim1=-2, dim2=-1).mean(-1)


def damped_inverse(factors: Tensor, damping: Tensor) -> DampedInverse:
    """(Sigma + damping I)^-1 for a stack of symmetric factors, in one batched factorization.

    Args:
        factors: (M, r, r), symmetric.
        damping: (M,), at least 0.
    """
    eye = torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
    inverse = torch.zeros_like(factors)
    multiple = torch.zeros_like(damping)
    todo = torch.isfinite(factors).all(-1).all(-1)
    for rung in LADDER:
        damped = torch.where(todo[:, None, None], factors + (rung * damping)[:, None, None] * eye, eye)
        root, info = torch.linalg.cholesky_ex(damped)
        solved = todo & (info == 0)
        inverse = torch.where(
            solved[:, None, None],
            torch.cholesky_inverse(torch.where(solved[:, None, None], root, eye)),
            inverse,
        )
        multiple = torch.where(solved, rung, multiple)
        todo = todo & ~solved
        if not bool(todo.any()):
            break
    return DampedInverse(inverse, multiple)


def left_right(kind: Preconditioner, inverse_a: Tensor, inverse_g: Tensor) -> tuple[Tensor, Tensor]:
    """Which inverse multiplies grad A from the left, and which multiplies grad B from the right.

    `paper`: (Sigma_a, Sigma_g), as the paper states it. `kfac`: (Sigma_g, Sigma_a), K-FAC's own pairing,
    since grad A = s u x^T lives in the space of u and grad B = s g z^T in that of z.
    """
    return (inverse_a, inverse_g) if kind == "paper" else (inverse_g, inverse_a)
