"""What an analysis marks a study's settings with: fronts, verdicts, the recommendation. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from grit.config.sections import Regime


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """A quantity over a setting's seeds: its mean, and the 95% interval; None with one seed."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class SettingMarks:
    """One setting in one regime.

    Attributes:
        objectives: by name.
        seeds: usable trials.
        on_front: no other setting dominates its means.
        recommended: its knobs are those that the study recommends.
        verdict: safe, unsafe, open, out of reach, or what the study's own page says; None where nothing is
            judged.
        front_probability: share of bootstrap replicates in which it is on the front; None where unknown.
    """

    point_id: str
    regime: Regime
    objectives: Mapping[str, Aggregate]
    seeds: int
    on_front: bool
    recommended: bool = False
    verdict: str | None = None
    front_probability: float | None = None


@dataclass(frozen=True, kw_only=True)
class StudyMarks:
    """All settings with a usable trial.

    Attributes:
        hypervolume: by regime, in the objectives' own units.
        decided, undecided: (setting x criterion) verdicts; None where the study judges none.
        open: settings of which further trials are predicted to decide something.
    """

    settings: tuple[SettingMarks, ...] = ()
    hypervolume: Mapping[Regime, float] = field(default_factory=dict)
    decided: int | None = None
    undecided: int | None = None
    open: int = 0

    def of(self, point_id: str, regime: str) -> SettingMarks | None:
        """The marks of one setting in one regime."""
        return next((s for s in self.settings if (s.point_id, s.regime) == (point_id, regime)), None)
