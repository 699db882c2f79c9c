"""What may happen in a run beside its steps, a class for each kind; rows of the table `events`.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from grit.io.files import Row


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in optimizer step `step`.

    Counted from 1 (0 before the recorder has said which).
    """

    kind: ClassVar[str]
    step: int = 0

    def at(self, step: int) -> Event:
        """The same event in that step."""
        return replace(self, step=step)

    def row(self) -> Row:
        """As a row of the table, and for a checkpoint."""
        return {
            "step": self.step,
            "kind": self.kind,
            **{k: v for k, v in asdict(self).items() if k != "step"},
        }


@dataclass(frozen=True, kw_only=True)
class Reprojection(Event):
    """Weights were projected onto the kept directions.

    Attributes:
        trigger: `fixed`, `first`, `adaptive`, or `end`: the truncation after the last step.
        two_sided: B was projected by its own basis in every module.
        ranks: directions kept, module by module.
        retained_mass, retained_mass_min: |B P A|^2 / |B A|^2, mean and least over modules (paper D.4).
        seconds: what it took on the host's clock.
    """

    kind = "reprojection"
    trigger: str
    two_sided: bool
    ranks: tuple[int, ...]
    retained_mass: float
    retained_mass_min: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ReprojectionHeld(Event):
    """An adaptive trigger looked: no module's kept share of energy had moved by more than `shift`."""

    kind = "reprojection_held"
    shift: float


@dataclass(frozen=True, kw_only=True)
class ReprojectionSkipped(Event):
    """A reprojection was due, and no module had passed its gates."""

    kind = "reprojection_skipped"
    trigger: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RankChange(Event):
    """Ranks changed: in how many modules up and down, and the effective parameters that are left."""

    kind = "rank"
    up: int
    down: int
    effective_parameters: int


@dataclass(frozen=True, kw_only=True)
class DampingRaised(Event):
    """Factorizations failed at lambda.

    The largest `multiple` that was needed, and modules that kept their last inverse.
    """

    kind = "damping"
    multiple: float
    kept_previous: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RefreshWaits(Event):
    """Inverses were refreshed while some `modules` had not passed their gates."""

    kind = "refresh_waits"
    modules: int


@dataclass(frozen=True, kw_only=True)
class CadenceLook(Event):
    """The controller looked at a window.

    Its three indicators, its verdict, and the stretch of the periods from now on.
    """

    kind = "cadence"
    verdict: str
    stretch: int
    spread: float
    change: float
    cosine: float


@dataclass(frozen=True, kw_only=True)
class NonfiniteFactor(Event):
    """So many factors of a step were not finite, and left out of the means."""

    kind = "nonfinite_factor"
    factors: int


@dataclass(frozen=True, kw_only=True)
class NonfiniteGradient(Event):
    """A step was not taken: its gradients were not finite."""

    kind = "nonfinite_gradient"


@dataclass(frozen=True, kw_only=True)
class PassWithoutBackward(Event):
    """So many observed forward passes never saw a backward pass."""

    kind = "pass_without_backward"
    passes: int


@dataclass(frozen=True, kw_only=True)
class MomentumNotProjected(Event):
    """The optimizer keeps a state in which no first moment is known; told once."""

    kind = "momentum_not_projected"
    optimizer: str


KINDS: dict[str, type[Event]] = {
    kind.kind: kind
    for kind in (
        Reprojection,
        ReprojectionHeld,
        ReprojectionSkipped,
        RankChange,
        DampingRaised,
        RefreshWaits,
        CadenceLook,
        NonfiniteFactor,
        NonfiniteGradient,
        PassWithoutBackward,
        MomentumNotProjected,
    )
}


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def event_of(row: Row) -> Event:
    """The inverse of `Event.row`; columns of other kinds, which a table fills with nothing, are left out.

    Raises:
        ValueError: an unknown kind, or a value that it needs is missing.
    """
    kind = KINDS.get(str(row.get("kind")))
    if kind is None:
        raise ValueError(f"unknown kind of event {row.get('kind')!r}")
    names = {item.name for item in fields(kind)}
    values: dict[str, Any] = {name: _as_tuple(value) for name, value in row.items() if name in names}
    missing = [name for name in names if values.get(name) is None]
    if missing:
        raise ValueError(f"an event of kind {kind.kind!r} lacks {missing[0]!r}")
    return kind(**values)


def reprojections(events: Sequence[Event]) -> list[Reprojection]:
    """The reprojections during training: not the truncation at its end."""
    return [event for event in events if isinstance(event, Reprojection) and event.trigger != "end"]
