"""Settings to be measured, and the designs that make them. Pure data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grit.config.registry import Method
from grit.config.run_config import Overrides, RunConfig
from grit.config.sections import Regime


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting to be measured.

    What it changes against the study's base configuration, and the design that asked for it.

    Attributes:
        budget: what the study's budget is multiplied by for this point; steps are rounded.
        regime: the only regime in which it is measured; None for all of the study's.
        seeds: how many of the study's seeds it is measured with; None for all.
        audits: what is measured of its trials beside the score. It is no part of the setting.
    """

    design: str
    overrides: tuple[tuple[str, Any], ...] = ()
    method: Method | None = None
    budget: float = 1.0
    regime: Regime | None = None
    seeds: int | None = None
    audits: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(
        cls,
        design: str,
        overrides: Overrides,
        method: Method | None = None,
        *,
        budget: float = 1.0,
        regime: Regime | None = None,
        seeds: int | None = None,
    ) -> Point:
        """A point from a mapping; the order of its names does not matter."""
        return cls(
            design=design,
            overrides=tuple(sorted(overrides.items())),
            method=method,
            budget=budget,
            regime=regime,
            seeds=seeds,
        )

    def identity(self) -> list[Any]:
        """What the point adds to a study's fingerprint."""
        own = [self.design, self.method, self.overrides, self.budget, self.regime, self.seeds]
        return [*own, self.audits] if self.audits else own


def control_method(base: RunConfig) -> Method:
    """The first-order method on the same backbone."""
    return "qlora" if base.quantized else "lora"


def one_at_a_time(center: Overrides, grids: Mapping[str, Sequence[Any]]) -> list[Point]:
    """The center, then each knob moved over its grid while the others stay (paper H.3, main effects)."""
    points = [Point.of("oat", center)]
    for knob, values in grids.items():
        points += [Point.of("oat", {**center, knob: value}) for value in values if value != center[knob]]
    return points


def grid(grids: Mapping[str, Sequence[Any]], design: str = "grid") -> list[Point]:
    """Every combination (paper H.3, coarse interaction grid)."""
    combinations = itertools.product(*grids.values())
    return [Point.of(design, dict(zip(grids, values, strict=True))) for values in combinations]


def listed(points: Sequence[Overrides], design: str = "list") -> list[Point]:
    """These settings and no others."""
    return [Point.of(design, overrides) for overrides in points]


def small_batch(points: Sequence[Point], micro_batch: int, accumulation: int, control: Method) -> list[Point]:
    """The same settings and the control at another batch size (paper H.3, small-batch repeat)."""
    size = {"micro_batch": micro_batch, "accumulation": accumulation}
    repeated = [Point.of("small-batch", {**dict(p.overrides), **size}, p.method) for p in points]
    return [Point.of("small-batch", size, control), *repeated]
