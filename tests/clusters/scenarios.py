"""For test_engine: studies under Ray's own engine on fake nodes, to which something happens.

Arguments: the scenario's name, and the folder for the study.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from launching import THREE, descendants, start
from ray.cluster_utils import Cluster

from ray_jobs.design.resources import TrialResources
from ray_jobs.design.study_spec import read_spec
from ray_jobs.execution.drain import drain
from ray_jobs.execution.running_file import read_running

#: Trials long enough for something to happen to them, under Ray's own engine.
ENGINE = (
    "--execution",
    "ray",
    "--no-share",
    "--T",
    "15",
    "--budget-steps",
    "150",
    "--set",
    "checkpoint_steps=5",
)
#: Under time budgets, which are measured before the first trial.
TIMED = ("--regimes", "time", "--budget-steps", "40", "--T", "4")


class Scenario:
    """A cluster whose head trains nothing, and a study on it."""

    def __init__(self, folder):
        self.folder, self.study = folder, folder / "study"
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.processes = []

    def add(self, count=1, **node):
        """Nodes with one core each."""
        return [self.cluster.add_node(num_cpus=1, **node) for _ in range(count)]

    def add_unfit(self, **variables):
        """A node with what tests/clusters/sitecustomize.py reads in its environment."""
        variables = {"PYTHONPATH": str(Path(__file__).parent), **variables}
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        (node,) = self.add()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        return node

    def start(self, *more, concurrent=1, name="study"):
        """The command that a user types."""
        address = ("--address", self.cluster.address, "--max-concurrent", str(concurrent))
        process = start(self.folder, *THREE, *ENGINE, *address, *more, name=name)
        self.processes.append(process)
        return process

    @property
    def process(self):
        """The command that was given last."""
        return self.processes[-1]

    def training(self, checkpoints=4):
        """Waits until a trial has left some checkpoints, one after the other."""
        deadline, seen = time.time() + 180, set()
        while time.time() < deadline:
            if self.process.poll() is not None:
                raise TimeoutError(f"the study has ended: {self.process.communicate()}")
            seen |= set((self.study / "ray").glob("train-*/checkpoint_*"))
            if len(seen) >= checkpoints:
                return
            time.sleep(0.05)
        raise TimeoutError(f"only {len(seen)} checkpoints were written")

    def busy(self):
        """Waits until a worker is there."""
        deadline = time.time() + 180
        while time.time() < deadline:
            names = [child.cmdline()[:1] for child in descendants(os.getpid())]
            if any("RayTrainWorker" in name[0] for name in names if name):
                return
            time.sleep(0.2)
        raise TimeoutError("no worker has started")

    def stepping(self, steps):
        """Waits until a trial has taken so many steps; its host and process."""
        deadline = time.time() + 180
        while time.time() < deadline:
            seen = read_running(self.study)
            trials = () if seen is None else seen.trials
            taken = [trial for trial in trials if (trial.step or 0) >= steps]
            if taken:
                return taken[0].place
            time.sleep(0.2)
        raise TimeoutError("no trial has taken a step")

    def ended(self, timeout=300, process=None):
        """The study's exit code and words."""
        process = process or self.process
        said, errors = process.communicate(timeout=timeout)
        print(said, errors)
        return process.returncode

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
        self.cluster.shutdown()


def node_lost_without_spare(here):
    """The only node dies under a trial; another one comes after a while."""
    (first,) = here.add()
    here.start()
    here.training()
    here.cluster.remove_node(first, allow_graceful=False)
    time.sleep(10)
    here.add()
    return here.ended()


def node_drained(here):
    """A notice that the node goes in 15 seconds; then it goes. Nothing else would leave a checkpoint."""
    (first,) = here.add()
    here.start("--budget-steps", "600", "--set", "checkpoint_steps=none")
    here.busy()
    time.sleep(12)
    here.add()
    assert drain(here.cluster.gcs_address, first.node_id, seconds=15) is None
    time.sleep(16)
    here.cluster.remove_node(first, allow_graceful=False)
    return here.ended()


def driver_killed(here):
    """The driver is killed under a trial, and the same command is given again."""
    here.add()
    here.start()
    here.training()
    os.killpg(here.process.pid, signal.SIGKILL)
    here.process.communicate()
    here.start()
    return here.ended()


def step_hangs(here):
    """A worker makes no progress any more."""
    for _ in range(2):
        here.add_unfit(GRIT_TEST_HANG=f"20:{here.folder / 'hung'}")
    here.start()
    return here.ended()


def unfit_nodes(here):
    """Beside a good node one that kills whatever trains on it, and one that does not share the storage."""
    here.add()
    here.add_unfit(GRIT_TEST_DIES="3")
    here.add_unfit(GRIT_TEST_STORAGE=str(here.folder / "another"))
    here.start("--T", "15", "30", concurrent=3)
    return here.ended()


def worker_terminated(here):
    """A worker is told to end (SIGTERM) while it trains, beside another study on the same cluster."""
    here.add(2)
    other = here.start(name="other")
    here.start("--budget-steps", "300", "--set", "checkpoint_steps=none")
    place = here.stepping(50)
    os.kill(int(place.rpartition(" ")[2]), signal.SIGTERM)
    return here.ended() or here.ended(process=other)


def boots_slowly(here):
    """No node for a minute, 30 times as long as Ray waits for a worker; then another kind of node as well."""
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "2"
    here.start(*TIMED, "--may-grow", concurrent=2)
    time.sleep(60)
    here.add()
    deadline = time.time() + 120
    while not (here.study / "study.json").exists() and time.time() < deadline:
        time.sleep(0.2)
    here.add_unfit(GRIT_TEST_PROCESSOR="Another CPU")
    code = here.ended()
    here.start(*TIMED, concurrent=2, name="mixed")
    return code or here.ended() - 2


def gpu_missing(here):
    """Nodes say that they have a GPU, and torch cannot use it."""
    here.add(2, num_gpus=1)
    spec = here.folder / "study.yaml"
    subprocess.run(
        [
            sys.executable,
            "sweeps/tau_T_lambda.py",
            "--preset",
            "smoke",
            *THREE[:2],
            "--save-study",
            str(spec),
        ],
        check=True,
        cwd=Path(__file__).parents[2],
    )
    wanted = replace(read_spec(spec), resources=TrialResources(cpus=1, gpus=1))
    wanted.write(spec)
    options = ("--execution", "ray", "--no-share", "--address", here.cluster.address, "--max-concurrent", "2")
    here.processes.append(start(here.folder, "--study", str(spec), *options, preset=()))
    return here.ended()


def main(name, folder):
    here = Scenario(folder)
    try:
        return globals()[name](here)
    finally:
        here.close()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], Path(sys.argv[2])))
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        sys.exit(str(error))
