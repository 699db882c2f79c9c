"""The board: where jobs wait, and where warm workers take them and leave outcomes.

One async actor per study.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_jobs.execution.nodes.timed_device import TimedDevice
from ray_jobs.execution.outcome import Collected, JobOutcome, JobStatus
from ray_jobs.execution.standings import EvaluationKey, Standings
from ray_jobs.records.trial_record import Attempt
from ray_jobs.schedule.job import Job
from ray_jobs.schedule.stopping import Standing

#: Deliveries of one trial to workers before it counts as failed: a worker that dies gets its trial again,
#: from its checkpoint.
MAX_ATTEMPTS = 3


@dataclass(kw_only=True)
class _Entry:
    """One job on the board."""

    job: Job
    queued_at: float
    done: asyncio.Event = field(default_factory=asyncio.Event)
    collected: Collected | None = None
    deliveries: list[Attempt] = field(default_factory=list)

    def deliver(self, slot: str, now: float, admission: dict[str, Any] | None) -> None:
        """Notes that a slot takes the job."""
        self.deliveries.append(Attempt(worker=slot, began_at=now, admission=admission))

    def lose(self, now: float) -> None:
        """Notes that the worker of the last delivery has died."""
        self.deliveries[-1] = self.deliveries[-1].model_copy(update={"lost_at": now})


class TrialBoard:
    """Hands jobs to slots in the order in which they came.

    Plain asyncio: Ray makes an actor of it, a test needs no Ray.

    Args:
        timed_device: of a study with time budgets, whose slots must all be of one kind.
    """

    def __init__(self, timed_device: TimedDevice | None = None) -> None:
        self._timed_device = timed_device
        self._admissions: dict[str, dict[str, Any]] = {}
        self._entries: dict[str, _Entry] = {}
        self._waiting: deque[str] = deque()
        self._assigned: dict[str, str] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self._standings = Standings()
        self._ready: set[str] = set()
        self._started: set[str] = set()
        self._takes: Counter[str] = Counter()
        self._lost: dict[str, str] = {}
        self._changed = asyncio.Condition()
        self._closed = False
        self._expected_slots = 0

    async def offer(self, job: Job) -> None:
        """Puts a job up for any slot; one that is up already (its first driver was lost) stays as it is."""
        async with self._changed:
            if job.job_id in self._entries:
                return
            self._entries[job.job_id] = _Entry(job=job, queued_at=time.time())
            self._waiting.append(job.job_id)
            self._fail_if_no_slot()
            self._changed.notify_all()

    async def started(self, slot: str) -> None:
        """A slot's worker is there: it is examined, and loads, before it asks for a job."""
        self._started.add(slot)

    async def admit(self, slot: str, admission: dict[str, Any], names: Sequence[str]) -> str | None:
        """What a slot's first worker was found to be; why it may not have work, if so.

        `names` are the devices of all its workers.
        """
        self._admissions[slot] = admission
        return None if self._timed_device is None else self._timed_device.refusal(names)

    async def wait(self, job_id: str) -> JobStatus:
        """The status of an offered job, once it has one."""
        entry = self._entries[job_id]
        await entry.done.wait()
        assert entry.collected is not None
        return entry.collected.outcome.status

    async def take(self, slot: str) -> Job | None:
        """The next job for `slot`: first one whose worker has died in it. None once the board is closed."""
        async with self._changed:
            self._ready.add(slot)
            self._settle_interrupted(slot)
            self._takes[slot] += 1
            turn = self._takes[slot]
            await self._changed.wait_for(lambda: self._closed or self._waiting or self._takes[slot] != turn)
            # Where the slot's worker has died in waiting, another asks in its place.
            if self._closed or self._takes[slot] != turn:
                return None
            self._assigned[slot] = self._waiting.popleft()
            entry = self._entries[self._assigned[slot]]
            entry.deliver(slot, time.time(), self._admissions.get(slot))
            return entry.job

    def _settle_interrupted(self, slot: str) -> None:
        """Where a slot has a job still, its worker has died: the job goes to whoever asks first."""
        job_id = self._assigned.get(slot)
        if job_id is None:
            return
        entry = self._entries[job_id]
        entry.lose(time.time())
        if len(entry.deliveries) >= MAX_ATTEMPTS:
            error = f"its worker died {len(entry.deliveries)} times (out of memory or killed)"
            self._finish(slot, entry, JobOutcome(status="failed", error=error))
        else:
            del self._assigned[slot]
            self._progress.pop(job_id, None)
            self._waiting.appendleft(job_id)

    async def free_slot(self, slot: str) -> None:
        """A slot's workers are gone, and others may come in their place."""
        async with self._changed:
            self._ready.discard(slot)
            self._takes[slot] += 1
            self._settle_interrupted(slot)
            self._fail_if_no_slot()
            self._changed.notify_all()

    def _finish(self, slot: str, entry: _Entry, outcome: JobOutcome) -> None:
        job_id = entry.job.job_id
        entry.collected = Collected(
            outcome=outcome,
            worker=slot,
            deliveries=tuple(entry.deliveries),
            queued_at=entry.queued_at,
            ended_at=time.time(),
        )
        self._standings.ended(job_id, completed=outcome.status == "completed")
        self._assigned.pop(slot, None)
        self._progress.pop(job_id, None)
        entry.done.set()

    async def finish(self, slot: str, job_id: str, outcome: JobOutcome) -> None:
        """Leaves an outcome. One from a slot that no longer has the job is dropped."""
        async with self._changed:
            if self._assigned.get(slot) == job_id:
                self._finish(slot, self._entries[job_id], outcome)
                self._changed.notify_all()

    async def lose_slot(self, slot: str, reason: str) -> None:
        """A slot's workers ended for good.

        Its job goes to another slot; when none is left, all that wait fail.
        """
        async with self._changed:
            self._lost.setdefault(slot, reason)  # what its worker said comes before what followed
            self._ready.discard(slot)
            self._settle_interrupted(slot)
            self._fail_if_no_slot()
            self._changed.notify_all()

    async def expect(self, slots: int) -> None:
        """How many slots there are."""
        self._expected_slots = slots

    def _fail_if_no_slot(self) -> None:
        if not self._lost or len(self._lost) < self._expected_slots:
            return
        reason = next(iter(self._lost.values()))
        while self._waiting:
            entry = self._entries[self._waiting.popleft()]
            self._finish("none", entry, JobOutcome(status="failed", error=f"no worker is left: {reason}"))

    async def collect(self, job_id: str) -> Collected | None:
        """What is known of a job that has ended, once; the board forgets it. None when it has no outcome."""
        entry = self._entries.get(job_id)
        if entry is None or entry.collected is None:
            return None
        del self._entries[job_id]
        return entry.collected

    async def report(self, job_id: str, progress: dict[str, Any]) -> None:
        """Where a running job is."""
        self._progress[job_id] = progress

    async def evaluated(self, job_id: str, where: EvaluationKey, standing: Standing) -> bool:
        """Takes a trial's standing at an evaluation; says whether a completed trial dominates it there."""
        return self._standings.dominated(job_id, where, standing)

    async def snapshot(self) -> dict[str, Any]:
        """Running jobs with their progress, how many slots are ready, and how many have ever been there."""
        return {
            "running": dict(self._progress),
            "ready": len(self._ready),
            "started": len(self._started),
            "waiting": len(self._waiting),
        }

    async def close(self) -> None:
        """Lets the slots end: no job is handed out any more."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
