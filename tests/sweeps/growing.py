"""For test_clusters: a study on a cluster that Ray's fake autoscaler grows.

Run it in a process namespace: it calls `ray stop`.

Arguments: the folder for the study, the engine, and the steps of a trial.
"""

import sys
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import ray
from builders import study_file
from ray.cluster_utils import AutoscalingCluster

from grit.tasks.loading import content_hashes, load_documents, load_task
from ray_jobs.design.plan import Study
from ray_jobs.design.points import one_at_a_time
from ray_jobs.design.resources import TrialResources
from ray_jobs.design.study_presets import preset
from ray_jobs.execution.runner import RunOptions, StudyRunner
from ray_jobs.records.store import StudyStore
from ray_jobs.records.study_file import read_study
from ray_jobs.tracking.marks import StudyMarks
from ray_jobs.tracking.mlflow_tracker import MlflowTracker


class Autoscaling(AutoscalingCluster):
    """Ray's own, with the configuration file that its wheel lacks."""

    def _generate_config(self, head_resources, worker_node_types, autoscaler_v2=False, **config):
        types = {
            **worker_node_types,
            "ray.head.default": {"resources": head_resources, "node_config": {}, "max_workers": 0},
        }
        lists = (
            "cluster_synced_files",
            "file_mounts_sync_continuously",
            "initialization_commands",
            "setup_commands",
            "head_setup_commands",
            "worker_setup_commands",
            "head_start_ray_commands",
            "worker_start_ray_commands",
            "rsync_exclude",
            "rsync_filter",
        )
        return {
            **{name: [] for name in lists},
            "file_mounts": {},
            "auth": {},
            "docker": {},
            "cluster_name": "fake",
            "max_workers": 8,
            "provider": {"type": "fake_multinode", "disable_node_updaters": True, "use_node_id_as_ip": True},
            "available_node_types": types,
            "head_node_type": "ray.head.default",
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 0.2,
            **config,
        }


def a100_nodes():
    return sum("accelerator_type:A100" in node["Resources"] for node in ray.nodes() if node["Alive"])


def study(folder, steps):
    chosen = preset("smoke", "grit", steps)
    task, documents = load_task(chosen.base.task), load_documents(chosen.base.task)
    from grit.backbone import resolve

    content = content_hashes(task, documents, chosen.base, resolve("embedded"))
    points = one_at_a_time(
        {"tau": 0.99, "T": 4, "lambda": 1e-3}, {"tau": (0.9,), "T": (8,), "lambda": (1e-1,)}
    )

    base = chosen.base.changed(checkpoint_steps=None)
    made = Study(
        name="tau_T_lambda",
        base=base,
        points=tuple(points),
        seeds=(41,),
        budgets=(chosen.base.budget,),
        content=content,
    )
    store = StudyStore(folder / "study", made.fingerprint(), resume=False)
    store.open(study_file(made))
    return made, store


def main(folder, engine, steps):
    cluster = Autoscaling(
        {"CPU": 0},
        {
            "a100": {
                "resources": {"CPU": 1, "accelerator_type:A100": 1},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            }
        },
    )
    cluster.start()
    seen, stop = [], threading.Event()

    def watch():
        while not stop.wait(0.5):
            if ray.is_initialized() and (not seen or a100_nodes() != seen[-1]):
                seen.append(a100_nodes())

    made, store = study(folder, steps)
    tracker = MlflowTracker(f"sqlite:///{folder / 'mlflow.db'}", read_study(folder / "study"))
    options = RunOptions(
        concurrent=2,
        resources=TrialResources(cpus=1, accelerator="A100"),
        address="auto",
        may_grow=True,
        engine=engine,
        share=engine == "warm",
    )
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        outcome = StudyRunner(made, options, store, tracker=tracker).run()
        tracker.finish(StudyMarks(), [], interrupted=outcome.interrupted)
    finally:
        stop.set()
        watcher.join()
    ray.init(address="auto", log_to_driver=False)  # a driver that asks for nothing, to look
    deadline = time.monotonic() + 60
    while a100_nodes() and time.monotonic() < deadline:
        time.sleep(0.5)
    print(f"nodes with an A100 while trials ran: {' '.join(map(str, seen))}; afterwards: {a100_nodes()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
