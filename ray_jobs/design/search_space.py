"""What is searched, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from grit.config.settings import at_least
from grit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SearchRange:
    """A search range.

    `log` draws on a logarithmic scale; `complement` draws 1 - x, so that tau is resolved near 1.
    """

    low: float
    high: float
    log: bool = True
    integer: bool = False
    complement: bool = False

    def __post_init__(self) -> None:
        """Bounds get the range's own type, whether they come from code, a file or a command line."""
        for bound in (self.low, self.high):
            if not math.isfinite(bound):
                raise ConfigError("space", bound, "must have finite bounds")
        number = int if self.integer else float
        object.__setattr__(self, "low", number(self.low))
        object.__setattr__(self, "high", number(self.high))

    def at(self, share: float) -> float:
        """The value at a share of the way from one end to the other, on the range's own scale."""
        value = self.low + share * (self.high - self.low)
        if self.log:
            value = self.low * (self.high / self.low) ** share
        if self.integer:
            return min(int(self.high), max(int(self.low), round(value)))
        return 1 - value if self.complement else value

    def identity(self) -> str:
        """What the range adds to a study's fingerprint, in version 1's words: its default studies go on."""
        return "Interval" + repr(self).removeprefix(type(self).__name__)


@dataclass(frozen=True, kw_only=True)
class Search:
    """A multi-objective search: `points` per regime, each measured with every seed of the study.

    `max_overhead` and `max_footprint` are constraints: a point above one is infeasible to the sampler, and
    measured all the same. `stop_dominated` lets searched trials stop when another is better beyond noise and
    no dearer.
    """

    space: Mapping[str, SearchRange]
    points: int
    sampler: str = "parego"
    seed: int = 0
    max_overhead: float | None = None
    max_footprint: float | None = None
    stop_dominated: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        at_least(0).check("search-points", self.points)
