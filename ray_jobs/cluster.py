"""Connects to Ray, here or elsewhere, and says what a trial needs of it before anything is launched."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from grit.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]

#: Train polls its workers this often: its default of 2 s would be most of a short trial.
ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
               "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false",
               "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
               "RAY_worker_niceness": "0"}


@dataclass(frozen=True, kw_only=True)
class TrialResources:
    """What one trial's worker holds."""

    cpus: int
    gpus: int = 0

    def as_dict(self) -> dict[str, float]:
        """In Ray's words."""
        return {"CPU": float(self.cpus), **({"GPU": float(self.gpus)} if self.gpus else {})}


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_concurrency(address: str | None, concurrent: int, resources: TrialResources) -> None:
    """Refuses more trials at once than this machine has cores for: they would disturb each other's clocks.

    Raises:
        ConfigError: with what a trial asks for and what is there.
    """
    if address is None and concurrent * resources.cpus > cores():
        raise ConfigError("max-concurrent", concurrent,
                          f"each trial needs {resources.cpus} core(s) to itself and this machine has {cores()}: at most {cores() // resources.cpus}")


def check_address(address: str) -> None:
    """Refuses an address where nothing answers, within seconds.

    Raises:
        ConfigError: no Ray there.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return
    except (OSError, ValueError) as error:
        raise ConfigError("address", address, f"no Ray answers there ({error}); start one with `ray start --head`, or leave --address out") from error


def connect(address: str | None, *, verbose: bool) -> None:
    """Connects to the Ray at `address`, or starts one in this process.

    Raises:
        ConfigError: no Ray at the address.
    """
    os.environ.update({key: value for key, value in ENVIRONMENT.items() if key not in os.environ})
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray

    level = logging.INFO if verbose else logging.ERROR
    if address is None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        ray.init(address="local", num_cpus=cores(), include_dashboard=False, log_to_driver=verbose, logging_level=level,
                 runtime_env={"env_vars": {"PYTHONPATH": path}})
        return
    check_address(address)
    try:
        ray.init(address=address, log_to_driver=verbose, logging_level=level)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError("address", address, f"no Ray answers there: {str(error).strip().splitlines()[0]}") from error


def check_resources(concurrent: int, resources: TrialResources) -> None:
    """Refuses trials that the connected cluster can never run, instead of hanging.

    Raises:
        ConfigError: with what the cluster has and what the trials ask for.
    """
    import ray

    have: dict[str, float] = ray.cluster_resources()
    for name, needed in resources.as_dict().items():
        if concurrent * needed > have.get(name, 0):
            raise ConfigError("max-concurrent", concurrent,
                              f"{concurrent} trial(s) of {needed:g} {name} need {concurrent * needed:g}; the cluster has {have.get(name, 0):g}")
