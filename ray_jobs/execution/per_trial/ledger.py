"""The ledger: what is known of every trial under Ray's own engine, and whose word counts.

It queues nothing and places nothing: Ray does. It hands out attempts, drops the word of a superseded one,
counts faults by kind and by node, and holds what running trials report. One actor per study.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_jobs.execution.nodes.timed_device import TimedDevice
from ray_jobs.execution.outcome import Collected, JobOutcome
from ray_jobs.execution.per_trial.blame import Blame, Place
from ray_jobs.execution.standings import EvaluationKey, Standings
from ray_jobs.records.faults import FAULTS, FaultKind, backoff
from ray_jobs.records.trial_record import Attempt
from ray_jobs.schedule.job import Job
from ray_jobs.schedule.stopping import Standing

#: Of a node's id and a GPU.
Hold = Callable[[str, str], Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Retry:
    """What follows from a fault: another attempt after some seconds, or none."""

    again: bool
    wait_seconds: float = 0.0


@dataclass(kw_only=True)
class _Account:
    """One job.

    Attributes:
        attempts: in order. token: of the newest attempt, whose word counts.
        places: of all workers of the Ray Train run that is under way, or was the last.
        faults: how many of each kind. last_fault: the kind and the words of the last.
        explained: whether the run under way has been accounted for.
        avoided: nodes that this job is not tried on again.
    """

    job: Job
    queued_at: float
    attempts: list[Attempt] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    token: str = ""
    faults: Counter[FaultKind] = field(default_factory=Counter)
    last_fault: tuple[FaultKind, str] | None = None
    explained: bool = False
    avoided: set[str] = field(default_factory=set)
    collected: Collected | None = None

    def blame(self, kind: FaultKind, error: str, now: float) -> None:
        """Notes how a run ended early, with its attempt if it has begun one."""
        self.faults[kind] += 1
        self.last_fault = kind, error
        if self.attempts and self.attempts[-1].lost_at is None:
            change = {"lost_at": now, "fault": kind, "error": error}
            self.attempts[-1] = self.attempts[-1].model_copy(update=change)


class TrialLedger:
    """Plain asyncio: Ray makes an actor of it, a test needs no Ray.

    Args:
        timed_device: of time-matched trials; None where any will do.
        hold: takes one GPU of a node out of use: what holds it, or None where it cannot be had.
    """

    def __init__(self, timed_device: TimedDevice | None = None, hold: Hold | None = None) -> None:
        self._timed_device = timed_device
        self._entries: dict[str, _Account] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self._standings = Standings()
        self._blamed, self._hold = Blame(), hold
        self._holding: dict[str, asyncio.Task[None]] = {}
        self._held: dict[str, Any] = {}

    async def offer(self, job: Job) -> None:
        """Takes a job in; one that is in already (its first driver was lost) stays as it is."""
        self._entries.setdefault(job.job_id, _Account(job=job, queued_at=time.time()))

    async def job(self, job_id: str) -> Job:
        """What was offered under this id."""
        return self._entries[job_id].job

    async def opening(self, job_id: str) -> None:
        """A Ray Train run is about to start: nothing is known of it."""
        entry = self._entries[job_id]
        entry.places, entry.explained = [], False

    async def joined(self, job_id: str, token: str, place: Place) -> None:
        """Another worker of the newest attempt."""
        entry = self._newest(job_id, token)
        if entry is not None:
            entry.places.append(place)

    async def begin(self, job_id: str, token: str, place: Place) -> bool:
        """A worker takes the job; from now on the word of every earlier attempt is dropped.

        False where the job has ended: there is nothing to do.
        """
        entry = self._entries.get(job_id)
        if entry is None or entry.collected is not None:
            return False
        if entry.attempts and not entry.explained and entry.attempts[-1].lost_at is None:
            # Ray has replaced its worker without a word of ours: its node was taken away
            entry.blame("preemption", "its node was taken away", time.time())
        entry.token, entry.explained = token, False
        entry.attempts.append(Attempt(worker=place.shown(), began_at=time.time()))
        entry.places = [place]
        return True

    async def admitted(
        self, job_id: str, token: str, admission: dict[str, Any], names: Sequence[str]
    ) -> str | None:
        """What the newest attempt's first worker was found to be; why it may not have the trial, if so.

        `names` are the devices of all its workers.
        """
        entry = self._newest(job_id, token)
        if entry is None:
            return None
        entry.attempts[-1] = entry.attempts[-1].model_copy(update={"admission": admission})
        if self._timed_device is None or entry.job.config.budget.regime != "time":
            return None
        return self._timed_device.refusal(names)

    def _newest(self, job_id: str, token: str) -> _Account | None:
        """The entry, if the token is its newest attempt's and it has not ended."""
        entry = self._entries.get(job_id)
        current = entry is not None and entry.token == token and entry.collected is None
        return entry if current else None

    async def fault(self, job_id: str, token: str, kind: FaultKind, error: str, place: Place) -> None:
        """The newest attempt says why it ends early, and where; the first of its workers is heard."""
        entry = self._newest(job_id, token)
        if entry is not None and not entry.explained:
            entry.explained = True
            self._blame(entry, kind, error, place)

    def _blame(self, entry: _Account, kind: FaultKind, error: str, place: Place | None) -> None:
        entry.blame(kind, error, time.time())
        self._progress.pop(entry.job.job_id, None)
        if FAULTS[kind].avoids_node and place is not None:
            entry.avoided.add(place.node_id)
        if FAULTS[kind].blames_node and place is not None:
            # A trial that kills its worker wherever it goes counts once; what a node is unfit for, each time.
            blame = entry.job.job_id if kind == "infrastructure" else f"{entry.job.job_id} {time.time()}"
            gpu = self._blamed.fault(place, blame, error)
            if gpu is not None:
                self._holding[place.node_id] = asyncio.create_task(self._take_out(place.node_id, gpu))

    async def _take_out(self, node_id: str, gpu: str) -> None:
        """Takes a GPU out of use, or forgets its faults where it cannot be had now."""
        holder = None if self._hold is None else await self._hold(node_id, gpu)
        if holder is None:
            self._blamed.not_held(node_id)
        else:
            self._held[node_id] = holder

    async def places(self, job_id: str) -> list[Place]:
        """Where the workers of the last run were, if nobody has said yet how it ended."""
        entry = self._entries[job_id]
        return [] if entry.explained or entry.collected is not None else entry.places

    async def ended_early(
        self, job_id: str, error: str, traceback: str | None = None, *, node_is_gone: bool = False
    ) -> Retry:
        """Ray has given an attempt up; says whether there is another, and closes the job where there is not.

        `error` is Ray's word, for an attempt that said nothing itself: its worker died, or its whole node is
        gone. `traceback` is the whole of it.
        """
        entry = self._entries[job_id]
        if entry.collected is not None:
            return Retry(again=False)
        if not entry.explained:
            cause: FaultKind = "preemption" if node_is_gone else "infrastructure"
            self._blame(entry, cause, error, entry.places[0] if entry.places else None)
            entry.explained = True
        assert entry.last_fault is not None
        kind, reason = entry.last_fault
        retries = FAULTS[kind].retries
        if retries is None or entry.faults[kind] <= retries:
            return Retry(again=True, wait_seconds=backoff(kind, entry.faults[kind]))
        times = f" ({entry.faults[kind]} times)" if entry.faults[kind] > 1 else ""
        self._close(entry, JobOutcome(status="failed", error=f"{kind}: {reason}{times}", traceback=traceback))
        return Retry(again=False)

    async def no_node(self, job_id: str) -> None:
        """Every node that could hold the job was put aside: it fails, with the reasons."""
        entry = self._entries[job_id]
        if entry.collected is None:
            reasons = "; ".join(self._blamed.reasons())
            error = f"node: no node is left that could run it ({reasons})"
            self._close(entry, JobOutcome(status="failed", error=error))

    async def finish(self, job_id: str, token: str, outcome: JobOutcome) -> bool:
        """Takes the newest attempt's outcome; that of a superseded one is dropped, and it is told so."""
        entry = self._newest(job_id, token)
        if entry is None:
            return False
        self._close(entry, outcome)
        if entry.places:
            self._blamed.success(entry.places[-1])
        return True

    def _close(self, entry: _Account, outcome: JobOutcome) -> None:
        entry.collected = Collected(
            outcome=outcome,
            worker=entry.attempts[-1].worker if entry.attempts else None,
            deliveries=tuple(entry.attempts),
            queued_at=entry.queued_at,
            ended_at=time.time(),
        )
        self._standings.ended(entry.job.job_id, completed=outcome.status == "completed")
        self._progress.pop(entry.job.job_id, None)

    async def adopt(self, job_id: str, token: str, outcome: JobOutcome) -> None:
        """Takes what an attempt under an earlier driver has left: the job has ended."""
        entry = self._entries[job_id]
        if entry.collected is None:
            entry.token = token
            self._close(entry, outcome)

    async def closing(self, job_id: str) -> tuple[str, str] | None:
        """(status, token of the attempt that said it) of a job that has ended; None for one that has not."""
        entry = self._entries.get(job_id)
        if entry is None or entry.collected is None:
            return None
        return entry.collected.outcome.status, entry.token

    async def collect(self, job_id: str) -> tuple[Collected, str] | None:
        """What is known of a job that has ended, once, and the token of the attempt that counts."""
        entry = self._entries.pop(job_id, None)
        if entry is None or entry.collected is None:
            return None
        return entry.collected, entry.token

    async def avoided(self, job_id: str) -> tuple[set[str], set[str], set[str]]:
        """Nodes that get no trial any more; those that this job has failed on; those short of a GPU."""
        return set(self._blamed.nodes), set(self._entries[job_id].avoided), set(self._held)

    async def report(self, job_id: str, token: str, progress: dict[str, Any]) -> None:
        """Where a running job is."""
        if self._newest(job_id, token) is not None:
            self._progress[job_id] = progress

    async def evaluated(self, job_id: str, token: str, where: EvaluationKey, standing: Standing) -> bool:
        """Takes a trial's standing at an evaluation; says whether a completed trial dominates it there."""
        if self._newest(job_id, token) is None:
            return False
        return self._standings.dominated(job_id, where, standing)

    async def snapshot(self) -> dict[str, Any]:
        """Running jobs with their progress, how many are placed, and how many wait for Ray."""
        open_jobs = [entry for entry in self._entries.values() if entry.collected is None]
        placed = sum(bool(entry.attempts) and entry.attempts[-1].lost_at is None for entry in open_jobs)
        return {"running": dict(self._progress), "ready": placed, "waiting": len(open_jobs) - placed}
