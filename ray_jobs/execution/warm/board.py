"""The board: where Tune's trials leave their specs, and where warm workers take them and leave outcomes.

One async actor per study.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ray_jobs.schedule.stopping import Standing, dominated

#: Deliveries of one trial to workers before it counts as failed: a worker that dies gets its trial again,
#: from its checkpoint.
MAX_ATTEMPTS = 3


@dataclass
class _Entry:
    """One trial on the board."""

    trial_id: str
    job: dict[str, Any]
    queued_at: float
    done: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: dict[str, Any] | None = None
    attempts: int = 0
    started_at: float | None = None


class TrialBoard:
    """Hands trials to slots in the order in which they came.

    Plain asyncio: Ray makes an actor of it, a test needs no Ray.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._waiting: deque[str] = deque()
        self._assigned: dict[str, str] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self._standings: dict[str, dict[tuple[str, int, int], Standing]] = {}
        self._completed: dict[tuple[str, int, int], list[Standing]] = {}
        self._ready: set[str] = set()
        self._lost: dict[str, str] = {}
        self._changed = asyncio.Condition()
        self._closed = False
        self._expected_slots = 0

    async def run(self, trial_id: str, job: dict[str, Any]) -> dict[str, Any]:
        """Queues a trial (or a trunk) and waits for its outcome."""
        async with self._changed:
            entry = self._entries.get(trial_id)
            if entry is None:  # else its first driver was lost: wait for the run that is under way
                entry = _Entry(trial_id=trial_id, job=job, queued_at=time.time())
                self._entries[trial_id] = entry
                self._waiting.append(trial_id)
                self._fail_if_no_slot()
                self._changed.notify_all()
        await entry.done.wait()
        assert entry.outcome is not None
        return {"status": entry.outcome["status"]}

    async def take(self, slot: str) -> dict[str, Any] | None:
        """The next trial for `slot`; the one it had, if its worker died in it.

        None once the board is closed.
        """
        async with self._changed:
            self._ready.add(slot)
            self._settle_interrupted(slot)
            await self._changed.wait_for(lambda: self._closed or self._waiting or slot in self._assigned)
            if slot not in self._assigned:
                if self._closed or not self._waiting:
                    return None
                self._assigned[slot] = self._waiting.popleft()
            entry = self._entries[self._assigned[slot]]
            entry.attempts += 1
            entry.started_at = entry.started_at or time.time()
            return {"trial_id": entry.trial_id, "attempt": entry.attempts, **entry.job}

    def _settle_interrupted(self, slot: str) -> None:
        trial_id = self._assigned.get(slot)
        if trial_id is None:
            return
        entry = self._entries[trial_id]
        if entry.attempts >= MAX_ATTEMPTS:
            self._finish(
                slot,
                entry,
                {
                    "status": "failed",
                    "error": f"its worker died {entry.attempts} times (out of memory or killed)",
                },
            )

    def _finish(self, slot: str, entry: _Entry, outcome: dict[str, Any]) -> None:
        entry.outcome = {
            **outcome,
            "attempts": entry.attempts,
            "queued_at": entry.queued_at,
            "started_at": entry.started_at,
            "ended_at": time.time(),
            "worker": slot,
        }
        for where, standing in self._standings.pop(entry.trial_id, {}).items():
            if outcome["status"] == "completed":
                self._completed.setdefault(where, []).append(standing)
        self._assigned.pop(slot, None)
        self._progress.pop(entry.trial_id, None)
        entry.done.set()

    async def finish(self, slot: str, trial_id: str, outcome: dict[str, Any]) -> None:
        """Leaves an outcome: {"status", "error", "result"}.

        One from a slot that no longer has the trial is dropped.
        """
        async with self._changed:
            if self._assigned.get(slot) == trial_id:
                self._finish(slot, self._entries[trial_id], outcome)
                self._changed.notify_all()

    async def lose_slot(self, slot: str, reason: str) -> None:
        """A slot's workers ended for good.

        Its trial fails, and so does every waiting one when no slot is left.
        """
        async with self._changed:
            self._lost[slot] = reason
            self._ready.discard(slot)
            if slot in self._assigned:
                self._finish(
                    slot,
                    self._entries[self._assigned[slot]],
                    {"status": "failed", "error": f"its slot ended: {reason}"},
                )
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
            self._finish("none", entry, {"status": "failed", "error": f"no worker is left: {reason}"})

    async def collect(self, trial_id: str) -> dict[str, Any] | None:
        """The full outcome of a trial, once; the board forgets it. None when it has none."""
        entry = self._entries.get(trial_id)
        if entry is None or entry.outcome is None:
            return None
        del self._entries[trial_id]
        return entry.outcome

    async def report(self, trial_id: str, progress: dict[str, Any]) -> None:
        """Where a running trial is."""
        self._progress[trial_id] = progress

    async def evaluated(self, trial_id: str, where: tuple[str, int, int], standing: dict[str, Any]) -> bool:
        """Takes a trial's standing at an evaluation; says whether a completed trial dominates it there.

        Args:
            trial_id: the trial.
            where: regime, seed and the number of the evaluation: only trials that agree in these are
                compared.
            standing: the fields of `Standing`.
        """
        stands = Standing(**standing)
        self._standings.setdefault(trial_id, {})[where] = stands
        return dominated(stands, self._completed.get(where, []))

    async def snapshot(self) -> dict[str, Any]:
        """Running trials with their progress, and how many slots are ready."""
        return {"running": dict(self._progress), "ready": len(self._ready), "waiting": len(self._waiting)}

    async def close(self) -> None:
        """Lets the slots end: no trial is handed out any more."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
