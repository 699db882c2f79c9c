"""What a trial takes on the workers of a cluster, measured there before a time budget is set.

As many probes on a node as trials would run there at once, on `NODES` nodes, each on a worker with a trial's
own resources that is admitted first: by the same steps and evaluation that a laptop is measured with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from grit.cli.phases import phase
from grit.config.run_config import RunConfig
from grit.errors import ConfigError
from ray_jobs.design.resources import TrialResources
from ray_jobs.execution.calibrate import MeasuredCosts, measure, median_costs, probe_of
from ray_jobs.execution.cluster import check_resources, room_on_nodes
from ray_jobs.execution.nodes.admission import Expected, admitted, expected_of
from ray_jobs.execution.quiet import chatter, connected

#: More say nothing new.
NODES = 2


@dataclass(frozen=True, kw_only=True)
class CalibratedCosts:
    """Medians over the probes, and the name of the device that all of them ran on."""

    costs: MeasuredCosts
    device: str


def costs_on_workers(
    base: RunConfig,
    resources: TrialResources,
    content: Mapping[str, str],
    *,
    address: str,
    concurrent: int,
    may_grow: bool,
    verbose: bool = False,
) -> CalibratedCosts:
    """Measures what a trial of `base` takes on the cluster at `address`.

    Args:
        base: the study's configuration.
        resources: what one worker of a trial holds.
        content: hashes of task, documents and model, as the driver has them.
        address: of the cluster.
        concurrent: trials at once.
        may_grow: whether more nodes may come: where none is there yet, one probe waits for the first.
        verbose: whether Ray's words go to the terminal.

    Raises:
        ConfigError: there is no room, no worker is fit, a trial does not train, or workers are of different
            kinds.
    """
    probe = probe_of(base)
    with tempfile.TemporaryDirectory() as logs, chatter(Path(logs) / "ray.log", keep=verbose):
        with connected(address, verbose=verbose):
            check_resources(concurrent, resources, may_grow=may_grow)
            places = probe_places(room_on_nodes(resources.as_dict()), concurrent)
            answers = _answers(probe, expected_of(resources.gpus, content), resources, places)
    refused = [answer for answer in answers if isinstance(answer, str)]
    for reason in refused:
        phase(f"a worker was not measured: {reason}")
    measured = [answer for answer in answers if not isinstance(answer, str)]
    if not measured:
        raise ConfigError("budget-seconds", None, f"could not be measured on any worker: {refused[0]}")
    devices = sorted({device for _, device in measured})
    if len(devices) > 1:
        raise ConfigError(
            "accelerator",
            resources.accelerator,
            f"must name one kind for time budgets to mean the same: workers have {' and '.join(devices)}",
        )
    return CalibratedCosts(costs=median_costs([costs for costs, _ in measured]), device=devices[0])


def probe_places(on_nodes: Mapping[str, int], concurrent: int) -> list[str | None]:
    """The node of every probe, the roomiest first; None for whichever comes, where there is none yet."""
    if not on_nodes:
        return [None]
    share = -(-concurrent // len(on_nodes))
    roomiest = sorted(on_nodes, key=lambda name: (-on_nodes[name], name))[:NODES]
    places: list[str | None] = []
    for name in roomiest:
        places += [name] * min(share, on_nodes[name])
    return places


def _answers(
    probe: RunConfig, expected: Expected, resources: TrialResources, places: list[str | None]
) -> list[tuple[MeasuredCosts, str] | str]:
    held = resources.as_dict()
    remote: Any = ray.remote(max_calls=1)  # its process ends with it, and gives back its GPU
    task = remote(_probe)
    needs = {"num_cpus": held.pop("CPU"), "num_gpus": held.pop("GPU", 0.0), "resources": held}
    answers: list[tuple[MeasuredCosts, str] | str] = []
    running = []
    for place in places:
        where = "DEFAULT" if place is None else NodeAffinitySchedulingStrategy(place, soft=False)
        running.append(task.options(**needs, scheduling_strategy=where).remote(probe.to_dict(), expected))
    for pending in running:
        try:
            answers.append(ray.get(pending))
        except ray.exceptions.RayTaskError as error:
            answers.append(str(error.cause))
        except ray.exceptions.RayError as error:
            answers.append(str(error).strip().splitlines()[0])
    return answers


def _probe(values: dict[str, Any], expected: Expected) -> tuple[MeasuredCosts, str]:
    """On a worker: what it is, and what a trial takes on it."""
    from grit.training.workbench import Workbench

    config = RunConfig.from_dict(values)
    admission = admitted(expected, None, config, Workbench())
    return measure(config), admission.name
