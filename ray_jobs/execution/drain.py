"""Tells Ray that this node is about to go: `python -m ray_jobs.execution.drain`, before a pod ends.

Trials on it leave a checkpoint, nothing new is placed on it, and what ends there is a preemption, no fault.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.core.generated import autoscaler_pb2
from ray.util import get_node_ip_address

#: Within a pod the head is known by KubeRay's variables.
ADDRESS_VARIABLES = ("RAY_ADDRESS", "FQ_RAY_IP")
PORT = 6379


def drain(address: str, node_id: str, *, seconds: float) -> str | None:
    """Asks for a node to be drained, as a cloud's notice would; Ray's reason where it refuses.

    Args:
        address: of the head, `host:port`.
        node_id: Ray's id of the node, in hex.
        seconds: until the node goes.
    """
    why = autoscaler_pb2.DrainNodeReason  # type: ignore[attr-defined]  # generated
    accepted, reason = GcsClient(address=address).drain_node(
        node_id,
        why.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "the node is taken away",
        int((time.time() + seconds) * 1000),
    )
    return None if accepted else str(reason)


def nodes_at(address: str, host: str) -> list[str]:
    """Ids of the nodes that are alive at an address."""
    nodes = GcsClient(address=address).get_all_node_info().values()
    alive = [node for node in nodes if node.state == 0 and node.node_manager_address == host]
    return [node.node_id.hex() for node in alive]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: drains this machine's node, and waits until its time is up."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.execution.drain", description=__doc__)
    parser.add_argument("--address", help="of the head, host:port (default: as KubeRay says)")
    parser.add_argument("--seconds", type=float, default=20.0, help="until the node goes (default: 20)")
    options = parser.parse_args(argv)
    named = [os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)]
    address = options.address or next(iter(named), None)
    if address is None:
        print("error: address = None: give the head's, host:port", file=sys.stderr)
        return 2
    address = address if ":" in address else f"{address}:{PORT}"
    for node_id in nodes_at(address, get_node_ip_address()):
        reason = drain(address, node_id, seconds=options.seconds)
        if reason is not None:
            print(f"error: Ray does not drain this node: {reason}", file=sys.stderr)
            return 1
    time.sleep(options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
