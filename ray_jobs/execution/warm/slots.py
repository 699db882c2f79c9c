"""Slots: long-lived Ray Train runs, one per concurrent trial, whose workers stay warm between trials.

A trainer started per trial costs 10 to 18 seconds; a slot costs that once. Each slot is one trainer's `fit()`
inside a small actor without CPUs of its own, so that drivers never hold what workers need. (A thread of the
study's own process would start sooner, but Ray ends a process whose thread speaks to it after its shutdown.)
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as TrainRunConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from grit.config.run_config import RunConfig
from ray_jobs.execution.nodes.admission import expected_at
from ray_jobs.execution.nodes.storage import StudyStorage
from ray_jobs.execution.nodes.timed_device import TimedDevice
from ray_jobs.execution.outcome import Collected
from ray_jobs.execution.warm.board import TrialBoard
from ray_jobs.execution.warm.group_watch import GroupWatch
from ray_jobs.execution.warm.lean_trainer import LeanTrainer
from ray_jobs.execution.warm.tune_trial import tune_trial
from ray_jobs.execution.warm.worker import SlotSettings, slot_loop
from ray_jobs.schedule.job import Job

#: Seconds after which a study gives up when not one worker has started: its packages do not import, or
#: nothing can be scheduled.
START_SECONDS = 600.0


class SlotDriver:
    """Runs one slot's trainer to its end."""

    def serve(self, settings: SlotSettings, resources: dict[str, float], workers: int, storage: str) -> None:
        """Blocks until the board is closed; a dead worker is replaced."""
        scaling = ScalingConfig(
            num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=resources
        )
        watch: Any = GroupWatch(settings.board, settings.namespace, settings.slot)
        run = TrainRunConfig(
            name=settings.slot,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=-1),
            callbacks=[watch],
        )
        loop_config: dict[str, Any] = {"settings": settings}
        trainer_of_slot(scaling)(
            slot_loop, train_loop_config=loop_config, scaling_config=scaling, run_config=run
        ).fit()


def trainer_of_slot(scaling: ScalingConfig) -> Any:
    """The Ray Train trainer for slots of this size.

    One worker without a GPU needs no process group, so that neither driver nor controller loads torch.
    """
    if scaling.num_workers == 1 and not scaling.use_gpu:
        return LeanTrainer
    from ray.train.torch import TorchTrainer

    return TorchTrainer


class SlotPool:
    """All slots of a study and their board.

    Args:
        name: of the pool, unlike any other on the cluster.
        slots: trials at once.
        resources: what one worker holds, e.g. {"CPU": 1} or {"CPU": 8, "GPU": 1}.
        workers: processes that train one trial together.
        folder: the study's, which every node can reach.
        content: hashes of task, documents, model and the user's modules, as the driver has them.
        keeps: whether trials leave their adapters there.
        examined: the study's configuration, where workers are examined before they get work.
        timed_device: of time-matched trials; None where there are none.
    """

    def __init__(
        self,
        *,
        name: str,
        slots: int,
        resources: dict[str, float],
        workers: int,
        folder: Path,
        content: Mapping[str, str],
        keeps: bool = False,
        examined: RunConfig | None = None,
        timed_device: TimedDevice | None = None,
    ) -> None:
        self.namespace = ray.get_runtime_context().namespace
        self.board_name = f"board-{name}"
        remote: Any = ray.remote
        # Beside the driver, not on a node that may be taken away.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.board: Any = (
            remote(TrialBoard)
            .options(name=self.board_name, num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
            .remote(timed_device)
        )
        ray.get(self.board.expect.remote(slots))
        expected = None
        if examined is not None:
            expected = expected_at(StudyStorage(str(folder)), resources, content)
        driver = remote(SlotDriver).options(num_cpus=0, scheduling_strategy=here)
        self._drivers: list[Any] = [driver.remote() for _ in range(slots)]
        self._fits: dict[Any, str] = {}
        for index, actor in enumerate(self._drivers):
            settings = SlotSettings(
                board=self.board_name,
                namespace=self.namespace,
                slot=f"slot-{index}",
                folder=str(folder),
                keeps=keeps,
                extensions=content.get("extensions"),
                expected=expected,
                examined=examined,
            )
            fit = actor.serve.remote(settings, resources, workers, str(folder / "ray"))
            self._fits[fit] = settings.slot
        self._closing = threading.Event()
        self._deadline = time.monotonic() + START_SECONDS
        self._watch = threading.Thread(target=self._watch_slots, daemon=True)
        self._watch.start()

    def offer(self, job: Job) -> None:
        """Puts a job on the board."""
        ray.get(self.board.offer.remote(job))

    def trainable(self) -> Any:
        """What Tune runs: it waits for the board.

        A byte of memory, not a CPU: a driver that held one would keep it from the worker it waits for.
        """
        trainable = tune.with_parameters(tune_trial, board=self.board_name, namespace=self.namespace)
        return tune.with_resources(trainable, tune.PlacementGroupFactory([{"memory": 1}]))

    def collect(self, job_id: str) -> Collected | None:
        """Takes what is known of a job that has ended off the board; None when it has no outcome."""
        collected: Collected | None = ray.get(self.board.collect.remote(job_id))
        return collected

    def _watch_slots(self) -> None:
        """Tells the board of a slot that ended before it was asked to."""
        open_fits = dict(self._fits)
        while open_fits and not self._closing.wait(1.0):
            if time.monotonic() > self._deadline:
                if ray.get(self.board.snapshot.remote())["started"] == 0:
                    for slot in open_fits.values():
                        ray.get(
                            self.board.lose_slot.remote(
                                slot,
                                f"no worker started within {START_SECONDS:.0f} s; see ray/driver.log, or "
                                "use -v",
                            )
                        )
                    return
                self._deadline = float("inf")
            ended, _ = ray.wait(list(open_fits), num_returns=1, timeout=0)
            for fit in ended:
                slot = open_fits.pop(fit)
                if self._closing.is_set():
                    return
                try:
                    ray.get(fit)
                    reason = "it returned"
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().splitlines()[-1]
                ray.get(self.board.lose_slot.remote(slot, reason))

    def close(self, *, timeout: float = 10.0) -> None:
        """Lets the workers end; those that have not after `timeout` seconds are ended with their driver."""
        self._closing.set()
        self._watch.join()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.board.close.remote())
            ray.wait(list(self._fits), num_returns=len(self._fits), timeout=timeout)
        for actor in (*self._drivers, self.board):
            ray.kill(actor)
