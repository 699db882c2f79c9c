"""The paper's step times and memory, as printed."""

from __future__ import annotations

from typing import NamedTuple

from analysis.page.table import shown
from grit.config.registry import Method


class PublishedCost(NamedTuple):
    """Mean and P99 step in ms, peak memory in GB, reprojections per 1,000 steps."""

    mean: float
    p99: float
    gigabytes: float
    reprojections: float | None

    def shown(self) -> str:
        """All in a cell."""
        return ", ".join(shown(value, "g") for value in self)


class PublishedScaling(NamedTuple):
    """Overhead as a share of a step, and the memory delta in GB."""

    share: float
    gigabytes: float

    def shown(self) -> str:
        """Both in a cell."""
        return f"{self.share:.3f}, +{self.gigabytes:g}"


#: Table 8: instruction following, LLaMA-3-8B on A100.
TABLE_8: dict[Method, PublishedCost] = {
    "lora": PublishedCost(215, 290, 38.6, None),
    "qlora": PublishedCost(228, 305, 32.4, None),
    "orthogonal": PublishedCost(223, 298, 38.9, None),
    "ia3": PublishedCost(205, 282, 31.7, None),
    "dora": PublishedCost(240, 325, 36.1, None),
    "shampoo": PublishedCost(268, 360, 40.2, None),
    "qgrit": PublishedCost(236, 318, 33.1, 2.1),
}
#: Table 14: mean, P95, P99 step; reprojection event mean and P95; its amortized share; memory delta. (The
#: table's tokens per second are lost.)
TABLE_14: dict[Method, str] = {
    "qlora": "0.229, 0.267, 0.306 s",
    "qgrit": "0.237, 0.278, 0.319 s; event 0.082, P95 0.100 s; overhead 0.034; +0.7 GB",
}
#: Table 15, Q-GRIT: by (rank, adapted layers); None: all layers.
TABLE_15: dict[tuple[int, int | None], PublishedScaling] = {
    (4, None): PublishedScaling(0.012, 0.08),
    (8, None): PublishedScaling(0.020, 0.15),
    (16, None): PublishedScaling(0.028, 0.30),
    (32, None): PublishedScaling(0.033, 0.60),
    (32, 4): PublishedScaling(0.009, 0.16),
    (32, 8): PublishedScaling(0.015, 0.27),
    (32, 16): PublishedScaling(0.023, 0.42),
}
