"""Which node, or which GPU of a node, repeated faults are of: it gets no trial any more."""

from __future__ import annotations

from dataclasses import dataclass

from ray_jobs.records.faults import NODE_PATIENCE

#: In the place of a GPU: faults that are not one GPU's.
WHOLE_NODE = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an attempt runs: Ray's id of the node, its address, the process, and the GPUs it was given.

    `shared`: others run on them at the same time.
    """

    node_id: str
    address: str
    process: int
    gpus: tuple[str, ...] = ()
    shared: bool = False

    def shown(self) -> str:
        """For records and people."""
        gpus = "".join(f", GPU {gpu}" for gpu in self.gpus)
        return f"{self.address} ({self.node_id[:8]}), process {self.process}{gpus}"

    @property
    def suspect(self) -> str:
        """The GPU, where there is one: of several nobody knows which, and a shared one cannot be held."""
        return self.gpus[0] if len(self.gpus) == 1 and not self.shared else WHOLE_NODE


class Blame:
    """Faults by node and GPU since the last success there.

    Faults of one GPU alone put that aside; faults of several, or of a second one, the node.

    Attributes:
        nodes: put aside, by Ray's id, and why.
        gpus: of which nodes one is put aside, and which and why: the node's others are used.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self.gpus: dict[str, str] = {}
        self._faults: dict[str, dict[str, set[str]]] = {}

    def fault(self, place: Place, fault: str, why: str) -> str | None:
        """Counts a fault; equal ones count once. Returns the GPU that is put aside by it, if one is."""
        node = self._faults.setdefault(place.node_id, {})
        node.setdefault(place.suspect, set()).add(fault)
        if sum(map(len, node.values())) < NODE_PATIENCE or place.node_id in self.nodes:
            return None
        node_too = len(node) > 1 or place.suspect == WHOLE_NODE or place.node_id in self.gpus
        if node_too:
            self.nodes[place.node_id] = f"{place.address}: {why}"
            return None
        self.gpus[place.node_id] = f"{place.address}, GPU {place.suspect}: {why}"
        node.clear()
        return place.suspect

    def success(self, place: Place) -> None:
        """The GPU, or the node, has shown that it works."""
        node = self._faults.get(place.node_id, {})
        if place.suspect == WHOLE_NODE:
            node.clear()
        node.pop(place.suspect, None)

    def not_held(self, node_id: str) -> None:
        """The GPU of a node that was put aside could not be taken: its faults count anew."""
        self.gpus.pop(node_id, None)

    def reasons(self) -> list[str]:
        """Why what is put aside is, in words."""
        return sorted({*self.nodes.values(), *self.gpus.values()})
