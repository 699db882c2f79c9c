"""Trunks: trials that differ only in what has not acted yet are one run until then, and fork from it.

Pure: it plans, and starts nothing.

Trials are planned as a tree. A *trunk* trains the common steps once and leaves a checkpoint; its trials, or
further trunks, go on from it. What a forked trial returns is bit for bit what it would have returned alone,
and its budget counts the trunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from grit.config.first_effect import curvature_onset, late_fields, reprojection_onset, without_late_fields
from grit.config.run_config import RunConfig
from grit.io.hashing import digest
from ray_jobs.design.plan import TrialSpec

#: A run's settings that act late: those that wait for the inverses, and those that wait for a reprojection.
LateFields = tuple[tuple[Any, ...], tuple[Any, ...]]
#: Steps after which each of the two kinds has not acted yet.
Onsets = tuple[float, float]

#: A trunk must save at least so many steps to each of its trials, and this share of a step budget: a fork
#: costs a checkpoint and a dispatch.
MIN_STEPS, MIN_SHARE = 10, 0.05


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """Steps that several trials share.

    Attributes:
        config: that of any of its trials.
        steps: optimizer steps from the very beginning.
        parent: the trunk it goes on from, or None.
        members: ids of all trials that begin with it.
    """

    trunk_id: str
    config: RunConfig
    steps: int
    parent: str | None
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrunkPlan:
    """Trunks in an order in which parents come first, and which of them each trial goes on from."""

    trunks: tuple[Trunk, ...]
    fork_of: dict[str, str]


def plan_trunks(trials: Iterable[TrialSpec]) -> TrunkPlan:
    """The tree of trunks of `trials`."""
    groups: dict[RunConfig, list[TrialSpec]] = {}
    for trial in trials:
        if trial.config.uses_grit and not trial.config.audits.beside:
            groups.setdefault(without_late_fields(trial.config), []).append(trial)
    trunks: list[Trunk] = []
    forks: dict[str, str] = {}
    for members in groups.values():
        _split(members, 0, None, trunks, forks)
    return TrunkPlan(trunks=tuple(trunks), fork_of=forks)


def _split(
    members: Sequence[TrialSpec], done: int, parent: str | None, trunks: list[Trunk], forks: dict[str, str]
) -> None:
    """Extends the tree below `parent`, which has trained `done` steps, by what `members` still share."""
    grits = [trial.config.grit for trial in members]
    fields = [late_fields(grit) for grit in grits]
    onsets = [(curvature_onset(grit), reprojection_onset(grit)) for grit in grits]
    # A kind of field in which all agree may act: they stay one run.
    bound = min(_first_difference(fields, onsets, kind) for kind in (0, 1))
    budget = members[0].config.budget
    limit = budget.amount - 1 if budget.regime == "step" else math.inf
    if len(members) < 2 or bound > limit:
        return
    enough = max(MIN_STEPS, MIN_SHARE * budget.amount if budget.regime == "step" else 0)
    if bound - done >= enough:
        steps = int(bound)
        ids = tuple(trial.trial_id for trial in members)
        config = members[0].config
        trunk = Trunk(
            trunk_id=_name(config, fields[0], onsets[0], steps),
            config=config,
            steps=steps,
            parent=parent,
            members=ids,
        )
        trunks.append(trunk)
        forks.update(dict.fromkeys(ids, trunk.trunk_id))
        done, parent = steps, trunk.trunk_id
    parts: dict[tuple[object, object], list[TrialSpec]] = {}
    for trial, values, onset in zip(members, fields, onsets, strict=True):
        first, second = _acting(values, onset, bound)
        parts.setdefault((first, second), []).append(trial)
    for part in parts.values():
        _split(part, done, parent, trunks, forks)


def _name(config: RunConfig, fields: LateFields, onsets: Onsets, steps: int) -> str:
    """A trunk's id.

    A hash of all that has acted in its steps, so that a resumed study, which plans fewer trials, finds it
    again.
    """
    run = without_late_fields(config).identity({})
    acted = _acting(fields, onsets, steps - 1)
    return f"trunk-{digest({'run': run, 'acted': acted, 'steps': steps})}"


def _first_difference(fields: list[LateFields], onsets: list[Onsets], kind: int) -> float:
    """When fields of one kind first make runs differ; infinite where all agree in them."""
    if len({values[kind] for values in fields}) == 1:
        return math.inf
    return min(onset[kind] for onset in onsets)


def _acting(fields: LateFields, onsets: Onsets, steps: float) -> list[object]:
    """The values of each kind that act by then; None for a kind that does not act yet."""
    acting: list[object] = []
    for values, onset in zip(fields, onsets, strict=True):
        acting.append(values if onset <= steps else None)
    return acting


class TrunkCost(Protocol):
    """What is asked of a trunk that has run, or is predicted to.

    Its place in the tree, and its training seconds.
    """

    @property
    def trunk_id(self) -> str:
        """Its id."""

    @property
    def parent(self) -> str | None:
        """The trunk it went on from."""

    @property
    def train_seconds(self) -> float:
        """From the very beginning."""


def seconds_saved(trunks: Sequence[TrunkCost], fork_seconds: Iterable[float]) -> float:
    """Training seconds that sharing has saved.

    What all forked trials were credited with, less what the trunks took.

    Args:
        trunks: those that have run.
        fork_seconds: for each forked trial, the training seconds it began with.
    """
    reached: dict[str | None, float] = {trunk.trunk_id: trunk.train_seconds for trunk in trunks}
    spent = sum(trunk.train_seconds - reached.get(trunk.parent, 0.0) for trunk in trunks)
    return sum(fork_seconds) - spent
