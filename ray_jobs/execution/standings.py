"""Where trials stand at their evaluations, so that one that cannot win may stop early."""

from __future__ import annotations

from ray_jobs.schedule.stopping import Standing, dominated

#: Regime, seed and the number of the evaluation: only trials that agree in these are compared.
EvaluationKey = tuple[str, int, int]


class Standings:
    """Those of running trials, and of completed ones, against which the former are held."""

    def __init__(self) -> None:
        self._running: dict[str, dict[EvaluationKey, Standing]] = {}
        self._completed: dict[EvaluationKey, list[Standing]] = {}

    def dominated(self, job_id: str, where: EvaluationKey, standing: Standing) -> bool:
        """Takes a trial's standing at an evaluation; says whether a completed trial dominates it there."""
        self._running.setdefault(job_id, {})[where] = standing
        return dominated(standing, self._completed.get(where, []))

    def ended(self, job_id: str, *, completed: bool) -> None:
        """A trial has ended: only what completed is held against others."""
        for where, standing in self._running.pop(job_id, {}).items():
            if completed:
                self._completed.setdefault(where, []).append(standing)
