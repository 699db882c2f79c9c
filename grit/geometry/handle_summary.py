"""Where GRIT stands on one model, for people: what it has seen and done, what waits and why."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grit.config.first_effect import preconditioning_onset, reprojection_onset
from grit.config.method import GritConfig
from grit.geometry.events import Event, NonfiniteGradient, reprojections
from grit.geometry.state import GeometryState


@dataclass(frozen=True, kw_only=True)
class HandleSummary:
    """What `GritHandle.summary()` returns; `str` of it is for people.

    Attributes:
        step: optimizer steps taken. layers: adapted layers.
        tokens: tokens that each layer's Sigma_a is a mean over; the least of all layers.
        waiting: layers whose factors have not passed their gates. preconditions: whether inverses act.
        reprojections: how many there were.
        ranks: directions kept, least and most. parameters, effective_parameters: of the adapter.
        dropped_steps: whose gradients were not finite. to_verify: steps still to be verified.
        notes: what waits and why, a sentence each.
    """

    step: int
    layers: int
    tokens: int
    waiting: int
    preconditions: bool
    reprojections: int
    ranks: tuple[int, int]
    parameters: int
    effective_parameters: int
    dropped_steps: int
    to_verify: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        low, high = self.ranks
        lines = [
            f"GRIT on {self.layers} layers, after {self.step} steps",
            f"  statistics     over {self.tokens:,} tokens",
            f"  preconditions  {'yes' if self.preconditions else 'no'}",
            f"  reprojections  {self.reprojections}",
            f"  ranks          {low} to {high}",
            f"  parameters     {self.effective_parameters:,} of {self.parameters:,} act",
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def summary_of(
    config: GritConfig, step: int, state: GeometryState, events: Sequence[Event], *, to_verify: int
) -> HandleSummary:
    """The summary of a handle that has taken `step` steps."""
    ranks, acted = state.ranks(), len(reprojections(events))
    factors = state.factors().values()
    waiting = state.waiting()
    dropped = sum(isinstance(event, NonfiniteGradient) for event in events)
    return HandleSummary(
        step=step,
        layers=len(ranks),
        tokens=min(entry.seen_a for entry in factors),
        waiting=waiting,
        preconditions=state.has_inverses and step > preconditioning_onset(config),
        reprojections=acted,
        ranks=(min(ranks.values()), max(ranks.values())),
        parameters=state.parameters(),
        effective_parameters=state.effective_parameters(),
        dropped_steps=dropped,
        to_verify=to_verify,
        notes=_notes(config, step, waiting=waiting, dropped=dropped, acted=acted),
    )


def warn_of_changes(saved: Mapping[str, Any], config: GritConfig) -> None:
    """Says by name which settings a state was made with that are others now."""
    here = config.to_dict()
    changed = [name for name, value in saved.items() if name in here and here[name] != value]
    if changed:
        words = ", ".join(f"{name} = {saved[name]} (now {here[name]})" for name in changed)
        warnings.warn(f"this state was made with {words}", stacklevel=3)


def _notes(config: GritConfig, step: int, *, waiting: int, dropped: int, acted: int) -> tuple[str, ...]:
    notes = []
    if waiting:
        notes.append(
            f"{waiting} layers wait for kfac_min_samples = {config.kfac_min_samples} (tokens and labels)"
        )
    first = preconditioning_onset(config)
    if step <= first < float("inf"):
        notes.append(f"preconditioning begins in step {first + 1:g} (kfac_update_freq, ng_warmup_steps)")
    first = reprojection_onset(config)
    if not acted and step <= first < float("inf"):
        notes.append(f"the first reprojection comes in step {first + 1:g} (T = {config.T})")
    if dropped:
        notes.append(f"{dropped} steps were dropped: their gradients were not finite")
    return tuple(notes)
