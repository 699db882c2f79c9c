"""Who may look at every step of a handle."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class StepObserver(Protocol):
    """Somebody who looks at every optimizer step of a handle (see `GritHandle.watch`)."""

    def factors(self, step: int, own_factors: dict[str, Tensor]) -> None:
        """Takes the factors (M, r, r) of optimizer step `step`, by `<stack>/<side>/<estimate>`.

        The side is `a` or `g`; the estimate is `used` (the mean that acts) or `batch` (the step's own).
        """

    def gradients(self, step: int, raw: Tensor, applied: Tensor) -> None:
        """Takes the flat gradient of optimizer step `step` before and after preconditioning."""
