"""Connects to Ray, here or elsewhere, and says what a trial needs of it before anything is launched."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any

from grit.cli.phases import phase
from grit.config.extensions import VARIABLE as EXTENSIONS
from grit.errors import ConfigError
from ray_jobs.design.resources import RESOLUTION, TrialResources

ROOT = Path(__file__).resolve().parents[2]

#: For every process of a study. Train polls its workers often: its default of 2 s would be most of a short
#: trial; a trial without a GPU sees none.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS reads it once: for runs that are to repeat themselves
}
#: For a Ray that is started here: its workers would otherwise give way to every other process, and a clock
#: would measure those; and nobody takes its one node away, so that nothing need watch for that.
LOCAL_ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_gcs_server_port_wait_time_s": "120",  # a busy machine needs more than the usual 20 s
}
#: For a Ray elsewhere, whose nodes may be taken away.
CLUSTER_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}
#: Ray sets it for the driver of a submitted job.
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
#: How often a Ray of one's own is started before it is given up, and what Ray says of one that was too slow.
STARTS, _TIMED_OUT = 3, "timed out during startup"
#: Those that depend on where Ray is.
PLACE_VARIABLES = (*LOCAL_ENVIRONMENT, *CLUSTER_ENVIRONMENT)


class SlowStartError(RuntimeError):
    """A Ray of one's own that did not start in time."""


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_concurrency(address: str | None, concurrent: int, resources: TrialResources) -> None:
    """Refuses more trials at once than this machine has cores for: they would disturb each other's clocks.

    Raises:
        ConfigError: with what a trial asks for and what is there.
    """
    if address is None and concurrent * resources.cpus > cores():
        raise ConfigError(
            "max-concurrent",
            concurrent,
            f"each trial needs {resources.cpus} core(s) to itself and this machine has {cores()}: at most "
            f"{cores() // resources.cpus}",
        )


def check_address(address: str | None) -> None:
    """Refuses an address where nothing answers, within seconds; None is this machine.

    Raises:
        ConfigError: no Ray there.
    """
    if address in (None, "", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return
    except (OSError, ValueError) as error:
        raise ConfigError(
            "address",
            address,
            f"no Ray answers there ({error}); start one with `ray start --head`, or leave --address out",
        ) from error


def connect(address: str | None, *, verbose: bool) -> None:
    """Connects to the Ray at `address`, or starts one in this process.

    Raises:
        ConfigError: no Ray at the address.
        SlowStartError: none could be started here.
    """
    usual = {**ENVIRONMENT, **(LOCAL_ENVIRONMENT if address is None else CLUSTER_ENVIRONMENT)}
    variables = {key: os.environ.get(key, value) for key, value in usual.items()}
    os.environ.update(variables)
    if EXTENSIONS in os.environ and IN_A_JOB not in os.environ:  # a job's variables reach its workers anyway
        variables[EXTENSIONS] = os.environ[EXTENSIONS]
    import ray

    level = logging.INFO if verbose else logging.ERROR
    if address is None:
        # Ray's processes inherit this one's variables: a runtime environment would start each of them twice.
        paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(ROOT), *paths]))
        _start_here(
            {
                "include_dashboard": False,
                "log_to_driver": verbose,
                "logging_level": level,
                "num_cpus": cores(),
            }
        )
        return
    check_address(address)
    try:
        ray.init(
            address=address, log_to_driver=verbose, logging_level=level, runtime_env={"env_vars": variables}
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            "address", address, f"no Ray answers there: {str(error).strip().splitlines()[0]}"
        ) from error


def _start_here(settings: dict[str, Any]) -> None:
    """Starts a Ray of this machine's own; a busy one may take longer than the 30 s for which Ray waits.

    Raises:
        SlowStartError: it did not start, however often it was tried.
    """
    import ray

    for attempt in range(1, STARTS + 1):
        try:
            ray.init(address="local", **settings)
            return
        except Exception as error:  # Ray has no class of its own for it
            if _TIMED_OUT not in str(error):
                raise
            ray.shutdown()
            if attempt == STARTS:
                raise SlowStartError(f"Ray did not start in {STARTS} attempts (a busy machine?)") from error
            phase(f"starting Ray, attempt {attempt + 1} of {STARTS}: the last one was too slow")


def room(node: dict[str, float], needs: dict[str, float]) -> int:
    """How many workers with these needs a node has room for, if it does nothing else."""
    parts = {name: round(RESOLUTION * amount) for name, amount in needs.items()}  # fifths are not exact
    return min(round(RESOLUTION * node.get(name, 0)) // amount for name, amount in parts.items())


def room_on_nodes(needs: dict[str, float], short_of_a_gpu: Collection[str] = ()) -> dict[str, int]:
    """Nodes that are there now, by Ray's id, and how many workers each could hold if it did nothing else.

    Of nodes in `short_of_a_gpu` one GPU is out of use.
    """
    import ray

    nodes = {node["NodeID"]: dict(node["Resources"]) for node in ray.nodes() if node["Alive"]}
    for name in nodes.keys() & set(short_of_a_gpu):
        nodes[name]["GPU"] = nodes[name].get("GPU", 0) - 1
    counts = {name: room(held, needs) for name, held in nodes.items()}
    return {name: count for name, count in counts.items() if count}


def _shown(node: dict[str, float], needs: dict[str, float]) -> str:
    return " ".join(f"{node.get(name, 0):g} {name}" for name in needs)


def check_resources(concurrent: int, resources: TrialResources, *, may_grow: bool) -> None:
    """Refuses trials that the connected cluster cannot run, instead of hanging.

    `may_grow`: an autoscaler may add what is missing.

    Raises:
        ConfigError: with what the cluster has and what the trials ask for.
    """
    import ray

    if may_grow:
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = resources.as_dict()
    fitting = sum(room(node, needs) for node in nodes)
    if fitting < concurrent:
        asked = " and ".join(f"{amount:g} {name}" for name, amount in needs.items())
        have = "; ".join(_shown(node, needs) for node in nodes)
        raise ConfigError(
            "max-concurrent",
            concurrent,
            f"a trial needs {asked} on one node, and the cluster's nodes ({have}) have room for {fitting}; "
            "add --may-grow if it scales by itself",
        )
