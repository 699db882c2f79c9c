"""Where a study's time went: training, evaluation, and all the rest.

And what was not computed because it was known already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs.design.sharing import seconds_saved
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trunk_record import read_trunks


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Seconds, summed over the trials that this study ran itself.

    Attributes:
        training, evaluation: inside the trainer.
        setup: from a worker's taking a trial to its first step, evaluation of the untuned model left out
            where it was done before.
        dispatch: from a trial's end on its worker to its record, and all else between `started_at` and
            `ended_at`.
        offered: wall time of all calls, each times the trials it ran at once; None where a call did not end
            by itself.
        reused: trials taken over from other studies, and the training seconds that they had cost.
        stopped: trials that stopped early.
        shared: training seconds that shared beginnings saved.
    """

    training: float
    evaluation: float
    setup: float
    dispatch: float
    offered: float | None
    reused: int
    reused_seconds: float
    stopped: int
    shared: float

    @property
    def orchestration(self) -> float | None:
        """Share of the slots' wall time that was neither training nor evaluation.

        Starting Ray and workers, dispatch, waiting, analysis.
        """
        return max(0.0, 1 - (self.training + self.evaluation) / self.offered) if self.offered else None


def compute_of(study: Mapping[str, Any], records: Sequence[TrialRecord], folder: Path) -> Compute:
    """From a study's records; `folder` may hold `trunks.jsonl`."""
    ran = [r for r in records if r.ended and r.place.reused_from is None and r.measured.train_seconds is not None]
    taken = [r for r in records if r.place.reused_from is not None]
    saved = seconds_saved(read_trunks(folder), [r.times.fork_seconds for r in ran if r.times.fork_seconds is not None])
    training = sum(r.measured.train_seconds or 0.0 for r in ran) - saved
    evaluation = sum((r.measured.eval_seconds or 0.0) - (r.times.fork_eval_seconds or 0.0) for r in ran)
    occupied = sum((r.times.ended_at or 0.0) - (r.times.started_at or 0.0) for r in ran if r.times.ended_at and r.times.started_at)
    own = sum((r.measured.train_seconds or 0.0) - (r.times.fork_seconds or 0.0) for r in ran) + evaluation
    calls = study.get("calls", [])
    whole = bool(calls) and all("seconds" in call for call in calls)
    offered = (
        sum(
            call["seconds"] * call.get("execution", study.get("execution", {})).get("concurrent", 1)
            for call in calls
        )
        if whole
        else None
    )
    setup = sum(r.times.setup_seconds or 0.0 for r in ran)
    return Compute(
        training=training,
        evaluation=evaluation,
        setup=setup,
        dispatch=max(0.0, occupied - own - setup),
        offered=offered,
        reused=len(taken),
        reused_seconds=sum(r.measured.train_seconds or 0.0 for r in taken),
        stopped=sum(r.status == "stopped" for r in records),
        shared=saved,
    )


def sentences(compute: Compute) -> list[str]:
    """What a report says of it."""
    said = [
        f"Training took {compute.training:.0f} s in all, evaluation {compute.evaluation:.0f} s; setting "
        f"trials up {compute.setup:.1f} s, "
        f"and everything else while a worker held a trial {compute.dispatch:.1f} s."
    ]
    if compute.orchestration is not None:
        said.append(
            f"Of the {compute.offered:.0f} s that the workers' places were there in all, "
            f"{compute.orchestration:.0%} was neither "
            "training nor evaluation (starting Ray and workers, dispatch, waiting for the last trials)."
        )
    if compute.shared > 0:
        said.append(f"Shared beginnings were trained once: {compute.shared:.0f} training seconds saved.")
    if compute.reused:
        said.append(
            f"{compute.reused} trials were taken over from other studies in the same store, which had "
            "trained "
            f"{compute.reused_seconds:.0f} s for them."
        )
    if compute.stopped:
        said.append(f"{compute.stopped} trials stopped early.")
    return said
