"""The tree of trunks while a study runs: which trunk may start, which is ready to be forked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ray_jobs.design.trunk_plan import Trunk, TrunkPlan
from ray_jobs.records.trunk_record import TrunkOutcome, TrunkRecord

#: `lost`: it failed or diverged, and its trials run alone.
TrunkStatus = Literal["waiting", "running", "ready", "lost"]


@dataclass
class _Node:
    """A trunk and where it stands."""

    trunk: Trunk
    status: TrunkStatus
    outcome: TrunkOutcome | None = None


@dataclass(frozen=True)
class StartedTrunk:
    """A trunk to train now, and the one whose checkpoint it starts from."""

    trunk: Trunk
    fork_from: str | None


class TrunkTree:
    """The trunks of a plan, by id.

    Args:
        plan: which trunks there are, and which of them each trial goes on from.
        known: what an earlier call left of a trunk whose checkpoint still exists, or None.
    """

    def __init__(self, plan: TrunkPlan, outcome_of: Callable[[str], TrunkOutcome | None]) -> None:
        self._fork_of = plan.fork_of
        self._nodes: dict[str, _Node] = {}
        self._trunks_of: dict[str, list[str]] = {}
        self._left = {trunk.trunk_id: len(trunk.members) for trunk in plan.trunks}
        for trunk in plan.trunks:
            for member in trunk.members:
                self._trunks_of.setdefault(member, []).append(trunk.trunk_id)
            outcome = outcome_of(trunk.trunk_id)
            self._nodes[trunk.trunk_id] = _Node(trunk, "waiting" if outcome is None else "ready", outcome)

    @property
    def busy(self) -> bool:
        """Whether a trunk is running."""
        return any(node.status == "running" for node in self._nodes.values())

    def before(self, trial_id: str) -> str | None:
        """The trunk that a trial goes on from; None where it runs from its first step."""
        return self._not_lost(self._fork_of.get(trial_id))

    def is_ready(self, trunk_id: str) -> bool:
        """Whether its checkpoint can be forked."""
        return self._nodes[trunk_id].status == "ready"

    def _not_lost(self, trunk_id: str | None) -> str | None:
        """The deepest trunk at or above this one that is not lost."""
        while trunk_id is not None and self._nodes[trunk_id].status == "lost":
            trunk_id = self._nodes[trunk_id].trunk.parent
        return trunk_id

    def start(self, trunk_id: str) -> StartedTrunk | None:
        """Starts a trunk, or the one it goes on from; None where it, or that one, is running."""
        node = self._nodes[trunk_id]
        if node.status != "waiting":
            return None
        parent = self._not_lost(node.trunk.parent)
        if parent is not None and not self.is_ready(parent):
            return self.start(parent)
        node.status = "running"
        return StartedTrunk(node.trunk, parent)

    def ended(self, trunk_id: str, outcome: TrunkOutcome | None) -> None:
        """Takes what a trunk left; None: it is lost."""
        node = self._nodes[trunk_id]
        node.status, node.outcome = ("lost" if outcome is None else "ready"), outcome

    def give_back(self, trunk_id: str) -> None:
        """A started trunk that was not run may be started again."""
        if trunk_id in self._nodes:
            self._nodes[trunk_id].status = "waiting"

    def records(self) -> list[TrunkRecord]:
        """The trunks that have run."""
        records = []
        for node in self._nodes.values():
            if node.status == "ready" and node.outcome is not None:
                records.append(
                    TrunkRecord(
                        trunk_id=node.trunk.trunk_id,
                        parent=self._not_lost(node.trunk.parent),
                        members=node.trunk.members,
                        **node.outcome.model_dump(),
                    )
                )
        return records

    def trial_ended(self, trial_id: str) -> list[str]:
        """Notes that a trial has ended; the trunks that nobody will go on from any more because of it."""
        spent = []
        for trunk_id in self._trunks_of.pop(trial_id, ()):
            self._left[trunk_id] -= 1
            if self.is_spent(trunk_id):
                spent.append(trunk_id)
        return spent

    def is_spent(self, trunk_id: str) -> bool:
        """Whether all its trials have ended, and it is not running itself."""
        return self._left[trunk_id] == 0 and self._nodes[trunk_id].status in ("ready", "lost")
