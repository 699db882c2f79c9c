"""When a running trial may stop.

Another one, at the same share of the same budget and seed, is better beyond noise and no dearer.

Multi-objective and paired: quality is compared example by example and forgetting document by document, since
both trials have seen the same data. Pure; the trainer asks at its own evaluations and stops by itself.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Standard errors by which both differences must exceed zero.
BEYOND_NOISE = 2.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a trial stands at an evaluation.

    Scores per example (higher is better), losses per held-out document (lower), and its costs.
    """

    scores: tuple[float, ...]
    document_losses: tuple[float, ...]
    footprint: float
    overhead: float


def certainly_above(values: Sequence[float]) -> bool:
    """Whether the mean of paired differences is above zero by more than `BEYOND_NOISE` standard errors.

    Never with fewer than two.
    """
    if len(values) < 2:
        return False
    return statistics.fmean(values) > BEYOND_NOISE * statistics.stdev(values) / math.sqrt(len(values))


def _differences(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value - other for value, other in zip(values, others, strict=True)]


def dominated(standing: Standing, others: Iterable[Standing]) -> bool:
    """Whether one of `others` has better quality and retention beyond noise.

    And neither more footprint nor more overhead.
    """
    return any(
        other.footprint <= standing.footprint
        and other.overhead <= standing.overhead
        and certainly_above(_differences(other.scores, standing.scores))
        and certainly_above(_differences(standing.document_losses, other.document_losses))
        for other in others
    )
