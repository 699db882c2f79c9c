"""Where a study's time went: training, evaluation, and all the rest; and what was known already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grit.runtime.energy import GRAMS_PER_KWH
from ray_jobs.design.trunk_plan import seconds_saved
from ray_jobs.records.study_file import StudyFile
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
        shared: training seconds that trunks saved.
        kwh: energy of the trials that have a number, what trunks saved taken off by the share of training
            seconds. energy_sources: where the numbers come from.
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
    kwh: float | None = None
    energy_sources: tuple[str, ...] = ()

    @property
    def orchestration(self) -> float | None:
        """Share of the slots' wall time that was neither training nor evaluation.

        Starting Ray and workers, dispatch, waiting, analysis.
        """
        if not self.offered:
            return None
        return max(0.0, 1 - (self.training + self.evaluation) / self.offered)


def compute_of(study: StudyFile, records: Sequence[TrialRecord], folder: Path) -> Compute:
    """From a study's records; `folder` may hold `trunks.jsonl`."""
    ran = [
        r for r in records if r.ended and r.place.reused_from is None and r.measured.train_seconds is not None
    ]
    taken_over = [r for r in records if r.place.reused_from is not None]
    forked = [r.times.fork_seconds for r in ran if r.times.fork_seconds is not None]
    shared = seconds_saved(read_trunks(folder), forked)
    credited = sum(r.measured.train_seconds or 0.0 for r in ran)
    evaluation = sum((r.measured.eval_seconds or 0.0) - (r.times.fork_eval_seconds or 0.0) for r in ran)
    setup = sum(r.times.setup_seconds or 0.0 for r in ran)
    trained_in_trials = credited - sum(forked)
    return Compute(
        training=credited - shared,
        evaluation=evaluation,
        setup=setup,
        dispatch=max(0.0, _occupied(ran) - trained_in_trials - evaluation - setup),
        offered=_offered(study),
        reused=len(taken_over),
        reused_seconds=sum(r.measured.train_seconds or 0.0 for r in taken_over),
        stopped=sum(r.status == "stopped" for r in records),
        shared=shared,
        kwh=energy_of(ran, shared, credited),
        energy_sources=tuple(sorted({r.measured.energy_source for r in ran if r.measured.energy_source})),
    )


def energy_of(ran: Sequence[TrialRecord], shared: float, credited: float) -> float | None:
    """Energy of trials in kWh, each trunk once: what was trained once takes no energy a second time."""
    numbers = [record.measured.kwh for record in ran if record.measured.kwh is not None]
    return sum(numbers) * (1 - shared / credited) if numbers and credited else None


def _occupied(ran: Sequence[TrialRecord]) -> float:
    """Seconds for which workers held trials."""
    return sum(r.times.ended_at - r.times.started_at for r in ran if r.times.ended_at and r.times.started_at)


def _offered(study: StudyFile) -> float | None:
    """Wall time of all calls, each times the trials it ran at once."""
    seconds = 0.0
    for call in study.calls:
        if call.seconds is None:
            return None
        seconds += call.seconds * call.execution.concurrent
    return seconds


def compute_sentences(compute: Compute) -> list[str]:
    """What a report says of it."""
    sentences = [
        f"Training took {compute.training:.0f} s in all, evaluation {compute.evaluation:.0f} s; setting "
        f"trials up {compute.setup:.1f} s, and everything else while a worker held a trial "
        f"{compute.dispatch:.1f} s."
    ]
    if compute.orchestration is not None:
        sentences.append(
            f"Of the {compute.offered:.0f} s that the workers' places were there in all, "
            f"{compute.orchestration:.0%} was neither training nor evaluation (starting Ray and workers, "
            "dispatch, waiting for the last trials)."
        )
    if compute.shared > 0:
        sentences.append(f"Trunks were trained once: {compute.shared:.0f} training seconds saved.")
    if compute.kwh is not None:
        sentences.append(
            f"Energy: {compute.kwh:.3g} kWh ({'; '.join(compute.energy_sources)}), "
            f"{compute.kwh * GRAMS_PER_KWH:.2g} g CO2e at {GRAMS_PER_KWH:.0f} g/kWh, the world's mean."
        )
    if compute.reused:
        sentences.append(
            f"{compute.reused} trials were taken over from other studies in the same store, which had "
            f"trained {compute.reused_seconds:.0f} s for them."
        )
    if compute.stopped:
        sentences.append(f"{compute.stopped} trials stopped early.")
    return sentences
