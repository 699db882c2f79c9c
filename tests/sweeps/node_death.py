"""For test_clusters: a study on a cluster of fake nodes, one of which dies under a running trial.

Arguments: the folder for the study.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from launching import THREE, after_trials, start
from ray.cluster_utils import Cluster


def main(folder):
    modules = (
        folder / "modules"
    )  # of the user's own: every node can import them, and is told by the driver alone
    modules.mkdir()
    (modules / "my_methods.py").write_text(
        "from grit.config.registry import METHODS, MethodSpec\n"
        "METHODS['mine'] = MethodSpec(title='Mine', source='here')\n"
    )
    os.environ["PYTHONPATH"] = os.pathsep.join([str(modules), os.environ.get("PYTHONPATH", "")])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    first = cluster.add_node(num_cpus=1)
    process = None
    try:
        os.environ["GRIT_EXTENSIONS"] = "my_methods"
        process = start(
            folder,
            *THREE,
            "--set",
            "checkpoint_steps=5",
            "--address",
            cluster.address,
            "--max-concurrent",
            "1",
        )
        del os.environ["GRIT_EXTENSIONS"]  # the spare node does not know it either
        after_trials(folder / "study", 1, process)
        cluster.add_node(num_cpus=1)  # a spare first: somewhere to go on
        checkpoints = folder / "study" / "checkpoints"
        earlier = set(checkpoints.glob("*/run.pt"))
        while (
            not set(checkpoints.glob("*/run.pt")) - earlier
        ):  # a trial that has just begun: it will not end before its node does
            if process.poll() is not None:
                raise TimeoutError(f"the study ended before its node did: {process.communicate()}")
            time.sleep(0.02)
        cluster.remove_node(first, allow_graceful=False)
        said, errors = process.communicate(timeout=240)
        print(said, errors)
        return process.returncode
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.communicate()
        cluster.shutdown()


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        sys.exit(str(error))
