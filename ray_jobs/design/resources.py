"""What one trial holds while it runs, and what it is predicted to take."""

from __future__ import annotations

from dataclasses import dataclass

from ray_jobs.records.study_file import NODE_KIND

#: Ray counts resources in parts of one, so many.
RESOLUTION = 10_000


@dataclass(frozen=True, kw_only=True)
class TrialResources:
    """What one trial's worker holds.

    Attributes:
        accelerator: the kind of node it must be on (A100).
        trials_per_gpu: so many trials share a GPU, each a process of its own.
    """

    cpus: int
    gpus: int = 0
    accelerator: str | None = None
    trials_per_gpu: int = 1

    @property
    def gpu_share(self) -> float:
        """GPUs of one worker, at Ray's resolution: rounded down, so that all that share one fit on it."""
        return self.gpus * RESOLUTION // self.trials_per_gpu / RESOLUTION

    def as_dict(self) -> dict[str, float]:
        """In Ray's words.

        The kind is a property of the node, not something to use up: a sliver of it is asked for.
        """
        kind = {f"{NODE_KIND}{self.accelerator}": 0.001} if self.accelerator else {}
        return {"CPU": float(self.cpus), **({"GPU": self.gpu_share} if self.gpus else {}), **kind}


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of one optimizer step, of everything else in a trial, and once until the first trial trains.

    `rung_seconds` are those of one evaluation by the study's own quality; None: an even share of everything
    else. Predictions, not promises.
    """

    step_seconds: float
    other_seconds: float
    startup_seconds: float = 30.0
    rung_seconds: float | None = None
