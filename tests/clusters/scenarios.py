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
#: Read by tests/clusters/sitecustomize.py: at which step a worker hangs, once, and where that is noted.
HANG = "GRIT_TEST_HANG"


class Scenario:
    """A cluster whose head trains nothing, and a study on it."""

    def __init__(self, folder):
        self.folder, self.study = folder, folder / "study"
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.process = None

    def add(self, count=1, **node):
        """Nodes with one core each."""
        return [self.cluster.add_node(num_cpus=1, **node) for _ in range(count)]

    def start(self, *more, concurrent=1):
        """The command that a user types."""
        address = ("--address", self.cluster.address, "--max-concurrent", str(concurrent))
        self.process = start(self.folder, *THREE, *ENGINE, *address, *more)
        return self.process

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

    def ended(self, timeout=300):
        """The study's exit code and words."""
        said, errors = self.process.communicate(timeout=timeout)
        print(said, errors)
        return self.process.returncode

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
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
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.environ[HANG] = f"20:{here.folder / 'hung'}"
    here.add(2)  # their workers have these variables
    del os.environ[HANG]
    here.start()
    return here.ended()


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
    here.process = start(here.folder, "--study", str(spec), *options, preset=())
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
