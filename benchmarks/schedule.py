"""What the scheduler does with many GPUs: utilization and the time of a decision, simulated on its real code.

`python benchmarks/schedule.py`: plans of 354, 2,000 and 20,000 trials on 2 to 512 GPUs, with nodes that are
lost. Trials last what is drawn for them; a lost node takes the steps since the last checkpoint of its trials
with it, and another one comes after a while. Until the tail (the time from which less is left than there are
GPUs) an idle GPU is the scheduler's doing. What is simulated is Ray's part: placing a job takes no time here.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from grit.config.sections import Budget
from grit.presets.run_presets import configuration
from grit.training.measurements import Measurements
from ray_jobs.design.plan import Study
from ray_jobs.design.points import one_at_a_time
from ray_jobs.records.trunk_record import TrunkOutcome
from ray_jobs.schedule.job import Job
from ray_jobs.schedule.scheduler import Elsewhere, StudyScheduler

#: A trial of the 8B preset, in seconds; the share by which trials differ (log-normal).
TRIAL_SECONDS, SPREAD = 7800.0, 0.15
#: Hours after which a node is lost, in the mean; seconds until another one has booted.
NODE_HOURS, BOOT_SECONDS = 24.0, 600.0
#: Seconds between checkpoints: half of it is lost in the mean.
CHECKPOINT_SECONDS = 300.0
PLANS, GPUS = (354, 2000, 20000), (2, 16, 64, 128, 512)


def plan(trials: int) -> Study:
    """One-at-a-time points of tau, T and lambda, with as many seeds as it takes: `trials`, or a few more."""
    base = configuration("llama-3.1-8b", "grit", task="gsm8k")
    taus = tuple(np.round(np.linspace(0.80, 0.999, 40), 4).tolist())
    cadences = tuple(range(60, 60 + 40 * 30, 30))
    lambdas = tuple(np.geomspace(1e-4, 1e-1, 40).tolist())
    points = one_at_a_time(
        {"tau": 0.99, "T": 300, "lambda": 5e-3}, {"tau": taus, "T": cadences, "lambda": lambdas}
    )
    wanted = -(-trials // len(points)) if trials >= len(points) else 1
    kept = points[: max(1, trials // wanted)]
    return Study(
        name="simulated",
        base=base,
        points=tuple(kept),
        seeds=tuple(range(wanted)),
        budgets=(Budget(regime="step", amount=3000),),
        content={"task": "t", "documents": "d", "model": "m"},
    )


@dataclass
class Simulation:
    """One plan on one number of GPUs.

    Attributes:
        busy: GPU-seconds in which a job made progress, until the tail. idle: in which nothing could start.
        lost: GPU-seconds of boots, and of steps since checkpoints. held: all of a plan, its tail too.
        decisions: seconds of each decision of the scheduler.
    """

    scheduler: StudyScheduler
    gpus: int
    generator: np.random.Generator
    now: float = 0.0
    busy: float = 0.0
    idle: float = 0.0
    lost: float = 0.0
    held: float = 0.0
    tail_at: float | None = None
    decisions: list[float] = field(default_factory=list)
    _events: list[tuple[float, int, Job]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _free: int = 0

    def run(self) -> None:
        """To the end of the plan."""
        self._free = self.gpus
        bar = tqdm(total=self.scheduler.expected, disable=not sys.stderr.isatty())
        while True:
            self._fill()
            if not self._events:
                break
            at, _, job = heapq.heappop(self._events)
            self._pass(at - self.now)
            self.now = at
            self._free += 1
            self._end(job)
            bar.update(job.trunk_steps is None)
        bar.close()

    def _fill(self) -> None:
        while self._free:
            began = time.perf_counter()
            job = self.scheduler.next()
            self.decisions.append(time.perf_counter() - began)
            if job is None:
                break
            seconds = self._seconds(job)
            self._free -= 1
            heapq.heappush(self._events, (self.now + seconds, next(self._numbers), job))
        open_trials = self.scheduler.expected - self.scheduler.ended
        if self.tail_at is None and open_trials <= self.gpus:
            self.tail_at = self.now

    def _seconds(self, job: Job) -> float:
        """How long a job holds a GPU: its own time, and what losses of its node add."""
        share = (job.trunk_steps or 3000) / 3000
        if job.fork_from is not None:
            share *= 0.5
        own = TRIAL_SECONDS * share * float(self.generator.lognormal(0.0, SPREAD))
        losses = int(self.generator.poisson(own / 3600 / NODE_HOURS))
        extra = losses * (BOOT_SECONDS + CHECKPOINT_SECONDS * float(self.generator.uniform()))
        self.held += own + extra
        if self.tail_at is None:
            self.busy += own
            self.lost += extra
        return own + extra

    def _pass(self, seconds: float) -> None:
        if self.tail_at is None:
            self.idle += self._free * seconds

    def _end(self, job: Job) -> None:
        began = time.perf_counter()
        if job.trunk_steps is not None:
            outcome = TrunkOutcome(steps=job.trunk_steps, train_seconds=1.0, eval_seconds=0.0)
            self.scheduler.trunk_ended(job.job_id, outcome)
        else:
            record = self.scheduler.records[job.job_id]
            self.scheduler.complete(record.changed(status="completed", measured=Measurements(quality=0.5)))
            self.scheduler.spent_trunks(job.job_id)
        self.decisions.append(time.perf_counter() - began)


def simulate(trials: int, gpus: int, *, share: bool) -> dict[str, float]:
    """One row: utilization, of what the scheduler can help and of everything, and the time of decisions."""
    scheduler = StudyScheduler(plan(trials), elsewhere=Elsewhere(share=share, fill=True))
    simulation = Simulation(scheduler=scheduler, gpus=gpus, generator=np.random.default_rng(trials + gpus))
    simulation.run()
    used = simulation.busy + simulation.lost
    return {
        "trials": scheduler.ended,
        "gpus": gpus,
        "utilization": used / max(1e-9, used + simulation.idle),
        "progress": simulation.busy / max(1e-9, used + simulation.idle),
        "hours": simulation.now / 3600,
        "gpu_hours": simulation.held / 3600,
        "decision_us_median": 1e6 * statistics.median(simulation.decisions),
        "decision_us_p99": 1e6 * float(np.percentile(simulation.decisions, 99)),
    }


def main() -> None:
    """Every plan on every number of GPUs."""
    parser = argparse.ArgumentParser(description="Utilization and decisions of the scheduler, simulated.")
    parser.add_argument("--trials", type=int, nargs="+", default=list(PLANS))
    parser.add_argument("--gpus", type=int, nargs="+", default=list(GPUS))
    parser.add_argument("--no-share", dest="share", action="store_false", help="without trunks")
    options = parser.parse_args()
    rows = []
    for trials in options.trials:
        for gpus in options.gpus:
            if gpus <= trials:
                rows.append(simulate(trials, gpus, share=options.share))
                shown = {name: f"{value:.4g}" for name, value in rows[-1].items()}
                print("  ".join(f"{name} {value}" for name, value in shown.items()), flush=True)
    least: dict[str, float] = {}
    for row in rows:
        name = f"{row['gpus']:.0f}"
        least[name] = round(min(least.get(name, 1.0), row["utilization"]), 4)
    medians = {f"{row['trials']:.0f}": round(row["decision_us_median"], 1) for row in rows}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {
        "benchmark": "schedule",
        "utilization": least,
        "decision_us": medians,
        "driver_mb": round(memory),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
