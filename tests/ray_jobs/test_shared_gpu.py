"""Several trials on one GPU: what may share it, and that Ray places as many as were asked for."""

import json
import subprocess
import sys

import pytest
from builders import ended, planned, study, study_file
from launching import environment

from analysis.page.document import shared_gpu_limits
from grit.backbone import EMBEDDED, resolve
from grit.config.sections import Budget
from grit.errors import ConfigError
from ray_jobs.design.forecast import A100_BYTES, check_memory, memory_bytes, shape_of
from ray_jobs.design.resources import TrialResources
from ray_jobs.execution.cluster import room
from ray_jobs.records.study_file import Execution
from sweeps.common.run_options import check_clock_is_not_shared, held_by_trial
from sweeps.common.study_options import ExecutionOptions

ONE_GPU = TrialResources(cpus=1, gpus=1)
#: Three trials that share one GPU run at the same time, and each sees it; a fourth waits.
SHARING = """
import json, ray
from ray_jobs.design.resources import TrialResources
from ray_jobs.execution.cluster import check_resources
from ray_jobs.execution.per_trial.gpu_hold import gpus_here
ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
shared = TrialResources(cpus=1, gpus=1, trials_per_gpu=3)
check_resources(3, shared, may_grow=False)
refused = ""
try:
    check_resources(4, shared, may_grow=False)
except ValueError as error:
    refused = str(error)
held = shared.as_dict()
@ray.remote(num_cpus=held["CPU"], num_gpus=held["GPU"])
class Trial:
    def gpus(self):
        return gpus_here()
trials = [Trial.remote() for _ in range(4)]
asked = [trial.gpus.remote() for trial in trials]
ready, waiting = ray.wait(asked, num_returns=4, timeout=20)
print(json.dumps({"given": ray.get(ready), "waiting": len(waiting), "refused": refused}))
"""


@pytest.mark.parametrize("count", range(1, 12))
def test_all_that_share_a_gpu_fit_on_it(count):
    held = TrialResources(cpus=0, gpus=1, trials_per_gpu=count).as_dict()
    assert room({"GPU": 1.0}, {"GPU": held["GPU"]}) == count


@pytest.mark.parametrize(
    ("resources", "options", "words"),
    [
        (TrialResources(cpus=1), {"trials_per_gpu": 2}, "hold none"),
        (TrialResources(cpus=1, gpus=2), {"trials_per_gpu": 2}, "hold 2"),
        (ONE_GPU, {"trials_per_gpu": 2, "workers_per_trial": 2}, "several workers"),
        (ONE_GPU, {"trials_per_gpu": 0}, "from 1 to 100"),
        (ONE_GPU, {"trials_per_gpu": 101}, "from 1 to 100"),
    ],
)
def test_what_cannot_share_a_gpu_is_refused(resources, options, words):
    with pytest.raises(ConfigError, match=f"trials-per-gpu.*{words}"):
        held_by_trial(resources, ExecutionOptions(**options))


def test_a_gpu_is_whole_unless_it_is_asked_for():
    assert held_by_trial(ONE_GPU, ExecutionOptions()).as_dict()["GPU"] == 1.0


def test_no_clock_is_disturbed():
    shared = held_by_trial(ONE_GPU, ExecutionOptions(trials_per_gpu=2))
    check_clock_is_not_shared(study(regimes=("step",)), shared)
    with pytest.raises(ConfigError, match="would disturb a time budget"):
        check_clock_is_not_shared(study(regimes=("step", "time")), shared)


def test_trials_that_share_a_gpu_share_its_memory():
    config = study(regimes=("step",)).base.changed(budget=Budget(regime="step", amount=10))
    shape = shape_of(EMBEDDED, resolve(EMBEDDED))
    fit = A100_BYTES // memory_bytes(config, shape, gpu=True)
    check_memory(config, shape, gpu=True, concurrent=1, machine_bytes=None, per_gpu=fit)
    with pytest.raises(ConfigError, match=f"trials-per-gpu = .*at most {fit}$"):
        check_memory(config, shape, gpu=True, concurrent=1, machine_bytes=None, per_gpu=2 * fit)


def test_the_report_says_that_seconds_are_of_a_shared_device():
    plan = study(regimes=("step",))
    alone = study_file(plan)
    assert ended(planned(plan)[0]).usable and shared_gpu_limits(alone) == []
    call = alone.made_by.model_copy(update={"execution": Execution(resources={"GPU": 0.3333})})
    (sentence,) = shared_gpu_limits(alone.model_copy(update={"calls": (call,)}))
    assert sentence.startswith("3 trials shared a GPU")


@pytest.mark.slow
def test_ray_places_as_many_trials_on_a_gpu_as_share_it():
    done = subprocess.run(
        [sys.executable, "-c", SHARING],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=180,
        check=True,
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["given"] == [["0"]] * 3 and seen["waiting"] == 1
    assert "have room for 3" in seen["refused"]
