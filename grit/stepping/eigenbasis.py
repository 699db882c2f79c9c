"""Steps taken in the eigenbasis of the factors: any elementwise optimizer becomes SOAP in rank space.

SOAP (Vyas et al., 2024) is Adam in the eigenbasis of Shampoo's preconditioner. Here the r x r factor of the
space in which a gradient lives gives the basis of that side: grad A = s u x^T is turned by the eigenvectors
of Sigma_g, grad B = s g z^T by those of Sigma_a; the wide sides are left alone (one-sided SOAP). Weights and
gradients are turned before the optimizer's own step and turned back after it, so that its elementwise
moments are those of the turned gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grit.rank_space.projectors import spectrum


class Eigenbasis:
    """Orthonormal bases Q of both sides of M modules of rank r.

    Attributes:
        sides: (of A, of B), each (M, r, r) with a direction in each column; None before the first refresh.

    Args:
        home: where factors are decomposed, in float64. dtype: of the bases.
    """

    def __init__(self, home: torch.device, dtype: torch.dtype) -> None:
        self._home, self._dtype = home, dtype
        self.sides: tuple[Tensor, Tensor] | None = None

    def refresh(self, sigma_a: Tensor, sigma_g: Tensor, ready: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the bases of new factors (M, r, r) for the modules (M,) that are `ready`.

        Returns:
            Q_new^T Q_old of A's and of B's side: what turns moments from the old basis into the new one.
        """
        eye = torch.eye(sigma_a.shape[-1], device=sigma_a.device, dtype=self._dtype).expand_as(sigma_a)
        before = self.sides or (eye, eye)
        sides = []
        for factor, old in zip((sigma_g, sigma_a), before, strict=True):
            vectors = spectrum(factor.double().to(self._home)).vectors.to(old)
            sides.append(torch.where(ready[:, None, None], vectors, old))
        self.sides = (sides[0], sides[1])
        turned = [new.mT @ old for new, old in zip(sides, before, strict=True)]
        return turned[0], turned[1]

    def state_dict(self) -> dict[str, Any]:
        """The exact state, for a checkpoint."""
        return {"sides": self.sides and tuple(side.clone() for side in self.sides)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restores `state_dict()`, on `device`."""
        sides = state["sides"]
        self.sides = None if sides is None else (sides[0].to(device), sides[1].to(device))
