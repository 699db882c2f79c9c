"""Gradients of the curvature and reprojection regularizers: closed forms in r x r matrices, outside autograd.

    lambda_k * sum_m [ tr(A^T Sigma_a A) + tr(B Sigma_g B^T) ] + lambda_r * sum_m [ |(I - P_a) A|^2 + |B (I -
    P_b)|^2 ]

Source: paper section A.7; docs/reference/method.md section 6. For symmetric Sigma,
d/dA tr(A^T Sigma A) = 2 Sigma A; for any P, with R = I - P,
d/dA |R A|^2 = 2 R^T R A and d/dB |B R|^2 = 2 B R R^T.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ramp(step: int, warmup: int) -> float:
    """Share of the regularizers' weight at optimizer step `step` (from 0).

    Linear from 0 to 1 over `warmup` steps.
    """
    return 1.0 if warmup == 0 else min(1.0, step / warmup)


def penalty_matrices(
    sigma_a: Tensor,
    sigma_g: Tensor,
    side_a: Tensor | None,
    side_b: Tensor | None,
    lambda_k: float,
    lambda_r: float,
) -> tuple[Tensor, Tensor]:
    """C_a and C_b (M, r, r) such that the regularizers' gradients are C_a A and B C_b.

    Args:
        sigma_a: (M, r, r).
        sigma_g: (M, r, r).
        side_a: P_a (M, r, r); None before the first reprojection.
        side_b: P_b (M, r, r); None before the first reprojection.
        lambda_k: weight of the curvature regularizer.
        lambda_r: weight of the reprojection regularizer.
    """
    left, right = 2 * lambda_k * sigma_a, 2 * lambda_k * sigma_g
    if lambda_r > 0 and side_a is not None and side_b is not None:
        eye = torch.eye(sigma_a.shape[-1], dtype=sigma_a.dtype, device=sigma_a.device)
        rest_a, rest_b = eye - side_a, eye - side_b
        left, right = left + 2 * lambda_r * rest_a.mT @ rest_a, right + 2 * lambda_r * rest_b @ rest_b.mT
    return left, right
