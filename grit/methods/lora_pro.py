"""LoRA-Pro (Wang et al., 2024): Adam on the update of the weight that a step of both factors makes.

Of all steps of A and B, those are taken whose common effect on the weight is nearest the full gradient, and
of these the ones nearest the factors' own gradients. Departs from the authors' code: each layer's own
scaling, and symmetric eigendecompositions in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer

#: Added to Gramians before they are inverted.
RIDGE = 1e-8


def lifted(
    grad_a: Tensor, grad_b: Tensor, a: Tensor, b: Tensor, scaling: float, x: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Directions of A and B whose effect, s B g_A + s g_B A, is the full gradient's projection.

    Onto what A and B can reach; whatever `x` is.

    Args:
        grad_a: s B^T G (r, d_in).
        grad_b: s G A^T (d_out, r).
        a: (r, d_in).
        b: (d_out, r).
        scaling: s, of the layer.
        x: (r, r); None for zero.

    Returns:
        g_A (r, d_in) and g_B (d_out, r); where B is zero g_A is `grad_a`.
    """
    of_a = grad_b @ _inverse_gramian(a) / scaling**2
    if not b.any():
        return grad_a, of_a
    inverse = _inverse_gramian(b.T)
    direction_a = inverse @ grad_a / scaling**2
    direction_b = of_a - b @ (inverse @ (b.T @ of_a))
    if x is not None:
        direction_a, direction_b = direction_a + x @ a, direction_b - b @ x
    return direction_a, direction_b


def nearest_x(grad_a: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor | None:
    """The x (r, r) for which `lifted` stays nearest the factors' own gradients; None where B is zero.

    It solves the Sylvester equation B^T B X + X A A^T = -(B^T B)^-1 grad_A A^T / s^2.
    """
    if not b.any():
        return None
    right = -(_inverse_gramian(b.T) @ grad_a / scaling**2 @ a.T).double()
    values_b, vectors_b = torch.linalg.eigh(_gramian(b.T))
    values_a, vectors_a = torch.linalg.eigh(_gramian(a))
    sums = (values_b[:, None] + values_a[None]).clamp_min(RIDGE)
    solved: Tensor = vectors_b @ ((vectors_b.T @ right @ vectors_a) / sums) @ vectors_a.T
    return solved.to(a)


def _gramian(rows: Tensor) -> Tensor:
    """M M^T of M (r, n), in float64 from the first product on: its condition is the square of M's."""
    precise = rows.double()
    return precise @ precise.T


def _inverse_gramian(rows: Tensor) -> Tensor:
    """(M M^T + ridge)^-1 of M (r, n)."""
    gramian = _gramian(rows)
    eye = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
    inverse: Tensor = torch.linalg.pinv(gramian + RIDGE * eye, hermitian=True)
    return inverse.to(rows)


class LoraPro(torch.optim.Optimizer):
    """Adam whose moments are those of the weights' own size (d_out, d_in).

    Args:
        layers: with a plain LoRA adapter.
        lr: of a step of the full weight. betas, eps: Adam's.
        weight_decay: of A and B, decoupled.
    """

    def __init__(
        self,
        layers: Sequence[AdaptedLayer],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        groups = [{"params": [layer.down.weight, layer.up.weight]} for layer in layers]
        self._scalings = [layer.scaling for layer in layers]
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every layer whose factors both have gradients."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group, scaling in zip(self.param_groups, self._scalings, strict=True):
            a, b = group["params"]
            if a.grad is not None and b.grad is not None:
                self._step(group, (a, a.grad), (b, b.grad), scaling)
        return loss

    def _step(
        self, group: dict[str, Any], of_a: tuple[Tensor, Tensor], of_b: tuple[Tensor, Tensor], scaling: float
    ) -> None:
        (a, grad_a), (b, grad_b) = of_a, of_b
        state, (first_decay, second_decay) = self.state[a], group["betas"]
        if not state:
            shape = (b.shape[0], a.shape[1])
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = a.new_zeros(shape), a.new_zeros(shape)
        state["step"] += 1
        direction_a, direction_b = lifted(grad_a, grad_b, a, b, scaling)
        full = scaling * (b @ direction_a + direction_b @ a)
        state["exp_avg"].lerp_(full, 1 - first_decay)
        state["exp_avg_sq"].mul_(second_decay).addcmul_(full, full, value=1 - second_decay)
        taken = float(state["step"])
        mean = state["exp_avg"] / (1 - first_decay**taken)
        root = (state["exp_avg_sq"] / (1 - second_decay**taken)).sqrt_()
        adam = mean / (root + group["eps"])
        grad_a, grad_b = scaling * b.T @ adam, scaling * adam @ a.T
        x = nearest_x(grad_a, a, b, scaling)
        direction_a, direction_b = lifted(grad_a, grad_b, a, b, scaling, x)
        for factor, direction in ((a, direction_a), (b, direction_b)):
            factor.mul_(1 - group["lr"] * group["weight_decay"])
            factor.add_(direction, alpha=-group["lr"])
