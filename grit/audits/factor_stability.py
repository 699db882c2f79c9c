"""How steady curvature statistics and updates are.

The five diagnostics of the small-batch audit (paper appendices G and H, H.3).

The paper's C_t is a factor "at step t" without saying which: the step's own estimate, or the mean that GRIT
goes on to use. Both are measured, as `batch` and `used`. Pure functions over snapshots first;
`StabilityMonitor` collects the snapshots of one run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from grit.rank_space.projectors import spectrum

#: Leading eigenvalues and eigenvectors that are followed.
LEADING = 4
#: Snapshots kept of one run: with more, every second one is dropped, and from then on taken half as often.
MAX_SNAPSHOTS = 48
#: Share of the snapshots at the start of a run that is left out of the window.
WARMUP_SHARE = 0.25
#: Lags, in snapshots, at which the rotation of eigenspaces is measured.
MAX_LAG = 12


def relative_variance(snapshots: Tensor) -> Tensor:
    """D1: mean over t of |C_t - C|_F^2 / |C|_F^2 with C the mean; (t, M, r, r) to (M,).

    NaN where C is zero.
    """
    mean = snapshots.mean(0)
    return (snapshots - mean).square().sum((-1, -2)).mean(0) / mean.square().sum((-1, -2))


def eigenvalue_cv(values: Tensor) -> Tensor:
    """D2: coefficient of variation over time of each eigenvalue; (t, M, k) to (M, k).

    NaN where the mean is zero.
    """
    return values.std(0, correction=0) / values.mean(0)


def angle_distance(first: Tensor, second: Tensor) -> Tensor:
    """D3: |sin Theta|_F / sqrt(k) between the spans of orthonormal columns; (..., r, k) twice to (...).

    0 the same, 1 orthogonal.
    """
    k = first.shape[-1]
    cosines = (first.mT @ second).square().sum((-1, -2))
    return ((k - cosines).clamp(min=0) / k).sqrt()


def degrees(first: Tensor, second: Tensor) -> float:
    """D4: the angle between two flat directions in degrees, in [0, 180]; NaN where one is zero."""
    scale = float(first.norm() * second.norm())
    return (
        math.degrees(math.acos(max(-1.0, min(1.0, float(first @ second) / scale)))) if scale > 0 else math.nan
    )


class StabilityMonitor:
    """Snapshots of the factors of one run and the angles between its successive gradients.

    Until `rows` makes numbers of them.
    """

    def __init__(self) -> None:
        self._snapshots: dict[str, list[Tensor]] = {}
        self._steps: list[int] = []
        self._seen, self._every = 0, 1
        self._jitter: list[dict[str, Any]] = []
        self._last: tuple[Tensor, Tensor] | None = None

    def factors(self, step: int, own_factors: dict[str, Tensor]) -> None:
        """Takes the factors (M, r, r) of optimizer step `step`, by `<group>/<side>/<estimate>`.

        The same names every time.
        """
        self._seen += 1
        if (self._seen - 1) % self._every or not all(
            bool(factor.isfinite().all()) for factor in own_factors.values()
        ):
            return  # what is not finite is an event of the run, and no snapshot
        self._steps.append(step)
        for name, factor in own_factors.items():
            self._snapshots.setdefault(name, []).append(factor.detach().to("cpu", torch.float32, copy=True))
        if len(self._steps) > MAX_SNAPSHOTS:
            self._steps = self._steps[::2]
            self._snapshots = {name: kept[::2] for name, kept in self._snapshots.items()}
            self._every *= 2

    def gradients(self, step: int, raw: Tensor, applied: Tensor) -> None:
        """Takes the flat gradient of `step` before and after preconditioning."""
        if self._last is not None:
            self._jitter.append(
                {
                    "step": step,
                    "raw": degrees(self._last[0], raw),
                    "preconditioned": degrees(self._last[1], applied),
                }
            )
        self._last = (raw, applied)

    def rows(self, modules: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        """The table `stability`; `modules` names the modules of each group, in order.

        Kinds of rows: `module` (window statistics of one factor of one module), `spectrum` (leading
            eigenvalues at one step, each over the
        module's mean trace, as means over modules), `lag` (rotation of eigenspaces over a lag in snapshots,
        mean over modules and pairs), and `jitter` (angles in degrees between the gradients of a step and the
        one before).
        """
        rows = [{"kind": "jitter", **jitter} for jitter in self._jitter]
        spectra: dict[tuple[str, str, int], list[Tensor]] = {}
        lags: dict[tuple[str, str, int], list[Tensor]] = {}
        for name, kept in self._snapshots.items():
            group, side, estimate = name.split("/")
            stack = torch.stack(kept).double()
            values, vectors = spectrum(stack.flatten(0, 1))
            k = min(LEADING, stack.shape[-1])
            values, vectors = values.view(*stack.shape[:3])[..., :k], vectors.view(stack.shape)[..., :k]
            window = slice(int(len(kept) * WARMUP_SHARE), None)
            rows += list(
                _module_rows(modules[group], side, estimate, stack[window], values[window], vectors[window])
            )
            trace = (
                stack.diagonal(dim1=-1, dim2=-2).sum(-1).mean(0).clamp(min=torch.finfo(torch.float64).tiny)
            )
            for index, step in enumerate(self._steps):
                spectra.setdefault((side, estimate, step), []).append(values[index] / trace[:, None])
            inside = vectors[window]
            for lag in range(1, min(MAX_LAG, len(inside) - 1) + 1):
                lags.setdefault((side, estimate, lag), []).append(
                    angle_distance(inside[:-lag], inside[lag:]).mean(0)
                )
        rows += [
            {
                "kind": "spectrum",
                "side": side,
                "estimate": estimate,
                "step": step,
                "eigenvalues": torch.cat(parts).mean(0).tolist(),
            }
            for (side, estimate, step), parts in spectra.items()
        ]
        rows += [
            {
                "kind": "lag",
                "side": side,
                "estimate": estimate,
                "lag": lag,
                "steps": lag * self._spacing(),
                "drift": float(torch.cat(parts).mean()),
            }
            for (side, estimate, lag), parts in lags.items()
        ]
        return rows

    def _spacing(self) -> float:
        """Optimizer steps between snapshots, on average."""
        return (
            (self._steps[-1] - self._steps[0]) / (len(self._steps) - 1) if len(self._steps) > 1 else math.nan
        )

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "snapshots": {name: list(kept) for name, kept in self._snapshots.items()},
            "steps": list(self._steps),
            "seen": self._seen,
            "every": self._every,
            "jitter": [dict(jitter) for jitter in self._jitter],
            "last": self._last,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restores `state_dict()`."""
        self._snapshots, self._steps = (
            {name: list(kept) for name, kept in state["snapshots"].items()},
            list(state["steps"]),
        )
        self._seen, self._every, self._jitter = state["seen"], state["every"], list(state["jitter"])
        self._last = (
            None if state["last"] is None else (state["last"][0].to(device), state["last"][1].to(device))
        )


def _module_rows(
    names: Sequence[str], side: str, estimate: str, stack: Tensor, values: Tensor, vectors: Tensor
) -> Iterator[dict[str, Any]]:
    """Window statistics of each module; a window of fewer than two snapshots has none."""
    if len(stack) < 2:
        return
    variance, cv = relative_variance(stack), eigenvalue_cv(values)
    drift = angle_distance(vectors[:-1], vectors[1:]).mean(0)
    for row, name in enumerate(names):
        yield {
            "kind": "module",
            "module": name,
            "side": side,
            "estimate": estimate,
            "snapshots": len(stack),
            "variance": float(variance[row]),
            "eigenvalue_cv": cv[row].tolist(),
            "drift": float(drift[row]),
        }
