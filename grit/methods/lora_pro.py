"""LoRA-Pro (Wang et al., 2024): Adam on the update of the weight that a step of both factors makes.

Of all steps of A and B, those are taken whose common effect on the weight is nearest the full gradient, and
of these the ones nearest the factors' own gradients. Departs from the authors' code: each layer's own
scaling, and symmetric eigendecompositions in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer

#: Added to Gramians before they are inverted.
RIDGE = 1e-8


@dataclass(frozen=True, kw_only=True)
class Gramian:
    """M M^T of a factor's r rows M, by its eigenvalues (r,) and eigenvectors (r, r) in float64."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Gramian:
        """In float64 from the first product on: its condition is the square of M's."""
        precise = rows.double()
        values, vectors = torch.linalg.eigh(precise @ precise.T)
        return cls(values=values, vectors=vectors)

    def inverse(self) -> Tensor:
        """(M M^T + ridge)^-1, in float64."""
        return (self.vectors / (self.values.clamp_min(0) + RIDGE)) @ self.vectors.T


@dataclass(frozen=True)
class LayerFactors:
    """A layer's A (r, d_in) and B (d_out, r) before a step, and its scaling s."""

    a: Tensor
    b: Tensor
    scaling: float

    @cached_property
    def _gramian_a(self) -> Gramian:
        return Gramian.of(self.a)

    @cached_property
    def _gramian_b(self) -> Gramian:
        return Gramian.of(self.b.T)

    @cached_property
    def _inverse_a(self) -> Tensor:
        return self._gramian_a.inverse().to(self.a)

    @cached_property
    def _inverse_b(self) -> Tensor | None:
        """None where B is zero, as it is first."""
        return self._gramian_b.inverse().to(self.b) if self.b.any() else None

    def lifted(self, grad_a: Tensor, grad_b: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Directions of A and B whose effect is the full gradient's projection, whatever `x` is.

        Onto what A and B can reach.

        Args:
            grad_a: s B^T G (r, d_in).
            grad_b: s G A^T (d_out, r).
            x: (r, r); None for zero.

        Returns:
            g_A (r, d_in) and g_B (d_out, r); where B is zero g_A is `grad_a`.
        """
        of_a = grad_b @ self._inverse_a / self.scaling**2
        if self._inverse_b is None:
            return grad_a, of_a
        direction_a = self._inverse_b @ grad_a / self.scaling**2
        direction_b = of_a - self.b @ (self._inverse_b @ (self.b.T @ of_a))
        if x is not None:
            direction_a, direction_b = direction_a + x @ self.a, direction_b - self.b @ x
        return direction_a, direction_b

    def effect(self, direction_a: Tensor, direction_b: Tensor) -> Tensor:
        """What the weight's update moves by, to first order: s B g_A + s g_B A (d_out, d_in)."""
        return self.scaling * (self.b @ direction_a + direction_b @ self.a)

    def nearest_x(self, grad_a: Tensor) -> Tensor | None:
        """The x (r, r) for which `lifted` stays nearest the factors' own gradients; None where B is zero.

        It solves the Sylvester equation B^T B X + X A A^T = -(B^T B)^-1 grad_A A^T / s^2.
        """
        if self._inverse_b is None:
            return None
        right = -(self._inverse_b @ grad_a / self.scaling**2 @ self.a.T).double()
        of_a, of_b = self._gramian_a, self._gramian_b
        sums = (of_b.values[:, None] + of_a.values[None]).clamp_min(RIDGE)
        solved: Tensor = of_b.vectors @ ((of_b.vectors.T @ right @ of_a.vectors) / sums) @ of_a.vectors.T
        return solved.to(self.a)


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
                self._step(group, LayerFactors(a, b, scaling), a.grad, b.grad)
        return loss

    def _step(self, group: dict[str, Any], factors: LayerFactors, grad_a: Tensor, grad_b: Tensor) -> None:
        a, b, scaling = factors.a, factors.b, factors.scaling
        state, (first_decay, second_decay) = self.state[a], group["betas"]
        if not state:
            shape = (b.shape[0], a.shape[1])
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = a.new_zeros(shape), a.new_zeros(shape)
        state["step"] += 1
        full = factors.effect(*factors.lifted(grad_a, grad_b))
        state["exp_avg"].lerp_(full, 1 - first_decay)
        state["exp_avg_sq"].mul_(second_decay).addcmul_(full, full, value=1 - second_decay)
        taken = float(state["step"])
        mean = state["exp_avg"] / (1 - first_decay**taken)
        root = (state["exp_avg_sq"] / (1 - second_decay**taken)).sqrt_()
        adam = mean / (root + group["eps"])
        grad_a, grad_b = scaling * b.T @ adam, scaling * adam @ a.T
        directions = factors.lifted(grad_a, grad_b, factors.nearest_x(grad_a))
        for factor, direction in zip((a, b), directions, strict=True):
            factor.mul_(1 - group["lr"] * group["weight_decay"])
            factor.add_(direction, alpha=-group["lr"])
