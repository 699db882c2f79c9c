"""Step times as numbers: windows, tails, paired ratios, amortized cost, a descriptive fit.

Pure functions on arrays; defined in paper appendix F.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.stats import t

from analysis.stats.arrays import Floats
from analysis.stats.estimates import Interval

#: Share of a run's steps that is warm-up at its start and cooldown at its end: neither is measured.
EDGE = 0.1
#: Steps drawn together when intervals are bootstrapped: neighbours share their disturbance.
BLOCK = 5
WINDOWS = ("warm-up", "steady", "cooldown")


@dataclass(frozen=True, kw_only=True)
class Tail:
    """Mean and nearest-rank percentiles of some times, in their own unit; NaN of none."""

    n: int
    mean: float
    p50: float
    p95: float
    p99: float


def tail(times: Floats | Sequence[float]) -> Tail:
    """Of times (n,)."""
    ordered = np.sort(np.asarray(times, dtype=float))
    if not len(ordered):
        return Tail(n=0, mean=math.nan, p50=math.nan, p95=math.nan, p99=math.nan)
    p50, p95, p99 = (
        float(ordered[max(0, math.ceil(share * len(ordered)) - 1)]) for share in (0.50, 0.95, 0.99)
    )
    return Tail(n=len(ordered), mean=float(ordered.mean()), p50=p50, p95=p95, p99=p99)


def window_of(steps: int) -> dict[str, slice]:
    """The three windows of a run of so many steps; each edge has at least one step."""
    edge = max(1, round(EDGE * steps))
    return {
        "warm-up": slice(0, edge),
        "steady": slice(edge, steps - edge),
        "cooldown": slice(steps - edge, steps),
    }


def ratio_interval(times: Floats, reference: Floats, *, replicates: int = 2000, seed: int = 0) -> Interval:
    """Mean time over the reference's mean, with a 95% interval from blocks of steps drawn together.

    Both (n,), step by step beside each other.
    """
    blocks = np.array_split(np.arange(len(times)), max(1, len(times) // BLOCK))
    sums = np.array([[times[b].sum(), reference[b].sum()] for b in blocks])
    drawn = np.random.default_rng(seed).integers(0, len(blocks), (replicates, len(blocks)))
    totals = sums[drawn].sum(axis=1)
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
    return Interval(mean=float(times.mean() / reference.mean()), low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class ScalingFit:
    """geometry (ms) = linear L r + quadratic L r^2 + layers L + constant, all at least 0.

    With what it leaves unexplained at each point.
    """

    linear: float
    quadratic: float
    layers: float
    constant: float
    residuals: Floats

    def shown(self) -> str:
        """The formula with its numbers."""
        by_rank = f"{self.linear:.3g} L r + {self.quadratic:.3g} L r^2"
        return f"{by_rank} + {self.layers:.3g} L + {self.constant:.3g} ms"


def scaling_fit(ranks: Floats, layers: Floats, geometry_ms: Floats) -> ScalingFit:
    """Descriptive, by non-negative least squares.

    It summarizes these measurements and claims no complexity (F.5).
    """
    design = np.stack([layers * ranks, layers * ranks**2, layers, np.ones_like(layers)], axis=1)
    scale = np.maximum(np.abs(design).max(axis=0), 1e-12)
    coefficients = nnls(design / scale, geometry_ms)[0] / scale
    linear, quadratic, per_layer, constant = (float(value) for value in coefficients)
    return ScalingFit(
        linear=linear,
        quadratic=quadratic,
        layers=per_layer,
        constant=constant,
        residuals=np.asarray(geometry_ms - design @ coefficients, dtype=float),
    )


def creep(windows: Sequence[float]) -> Interval:
    """Slope of a ratio over at least three successive windows, per window.

    With its 95% interval by least squares and Student's t: 0 is no creep.
    """
    y, x = np.asarray(windows, dtype=float), np.arange(len(windows), dtype=float)
    slope, level = (float(value) for value in np.polyfit(x, y, 1))
    rest = y - level - slope * x
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float(((x - x.mean()) ** 2).sum()))
    half = float(t.ppf(0.975, len(x) - 2)) * error
    return Interval(mean=slope, low=slope - half, high=slope + half)


def amortized(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> float:
    """Milliseconds per step that the named sections take, spread over all steps."""
    if not rows:
        return math.nan
    total = 0.0
    for name in names:
        total += float(np.mean([row[f"ms_{name}"] for row in rows]))
    return total
