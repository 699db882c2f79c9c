"""Whose fault it is that attempts fail on a node: the node's, or one of its GPUs'."""

import asyncio
import json
import subprocess
import sys

import pytest
from launching import environment

from grit.config.run_config import RunConfig
from grit.config.sections import Budget, TaskSource
from ray_jobs.execution.outcome import JobOutcome
from ray_jobs.execution.per_trial.blame import Blame, Place
from ray_jobs.execution.per_trial.ledger import TrialLedger
from ray_jobs.records.faults import NODE_PATIENCE
from ray_jobs.schedule.job import Job

WHY = "CUDA error: an illegal memory access"
#: One of three GPUs is held; two trials get the others, and one that a trial has cannot be had.
HOLDING = """
import asyncio, json, ray
from ray_jobs.execution.per_trial.gpu_hold import gpus_here, held_gpu
ray.init(address="local", num_cpus=2, num_gpus=3, include_dashboard=False, log_to_driver=False)
node = ray.get_runtime_context().get_node_id()
@ray.remote(num_gpus=1, num_cpus=0)
class Trial:
    def gpus(self):
        return gpus_here()
holder = asyncio.run(held_gpu(node, "1"))
trials = [Trial.remote() for _ in range(2)]
given = sorted(gpu for trial in trials for gpu in ray.get(trial.gpus.remote()))
import ray_jobs.execution.per_trial.gpu_hold as gpu_hold
gpu_hold.HOLD_SECONDS = 2.0
busy = asyncio.run(held_gpu(node, "0"))
ray.kill(holder)
free = Trial.remote()
print(json.dumps({"given": given, "busy": busy is None, "after": ray.get(free.gpus.remote())}))
"""


def _place(*gpus, node="n"):
    return Place(node_id=node, address="10.0.0.1", process=7, gpus=gpus)


def _faults(blame, *places):
    return [blame.fault(place, f"trial {number}", WHY) for number, place in enumerate(places)]


def test_faults_of_one_gpu_put_it_aside_and_not_its_node():
    blame = Blame()
    assert _faults(blame, *[_place("3")] * NODE_PATIENCE) == [None] * (NODE_PATIENCE - 1) + ["3"]
    assert blame.nodes == {}
    assert blame.reasons() == [f"10.0.0.1, GPU 3: {WHY}"]


def test_successes_of_the_others_do_not_clear_a_gpu():
    """They once did: the others' work kept a bad GPU in the game."""
    blame = Blame()
    for number in range(NODE_PATIENCE - 1):
        assert blame.fault(_place("3"), f"trial {number}", WHY) is None
        blame.success(_place("0"))
    assert blame.fault(_place("3"), "one more", WHY) == "3"


def test_its_own_success_clears_a_gpu():
    blame = Blame()
    _faults(blame, *[_place("3")] * (NODE_PATIENCE - 1))
    blame.success(_place("3"))
    assert blame.fault(_place("3"), "one more", WHY) is None


@pytest.mark.parametrize(
    "gpus", [[("0",), ("1",), ("2",)], [(), (), ()], [("0", "1")] * 3, [("0",), ("0",), ("1",)]]
)
def test_faults_that_are_not_of_one_gpu_are_the_nodes(gpus):
    blame = Blame()
    assert _faults(blame, *(_place(*each) for each in gpus)) == [None] * 3
    assert blame.nodes == {"n": f"10.0.0.1: {WHY}"}


def test_a_second_gpu_puts_the_node_aside():
    blame = Blame()
    _faults(blame, *[_place("3")] * NODE_PATIENCE)
    _faults(blame, *[_place("4")] * NODE_PATIENCE)
    assert set(blame.nodes) == {"n"}


def test_one_trial_that_fails_again_and_again_blames_nothing():
    blame = Blame()
    assert [blame.fault(_place("3"), "the same", WHY) for _ in range(9)] == [None] * 9
    assert blame.reasons() == []


@pytest.mark.parametrize("can_be_held", [True, False])
def test_the_ledger_takes_the_gpu_out_of_use_and_says_so(can_be_held):
    config = RunConfig.of(task=TaskSource(name="arithmetic"), budget=Budget(regime="step", amount=4))
    asked = []

    async def hold(node_id, gpu):
        asked.append((node_id, gpu))
        return "what holds it" if can_be_held else None

    async def drive():
        ledger = TrialLedger(hold=hold)
        for number in range(NODE_PATIENCE):
            job, place = f"t{number}", _place("3")
            await ledger.offer(Job(job_id=job, config=config))
            await ledger.begin(job, "a", place)
            await ledger.fault(job, "a", "node", WHY, place)
            await ledger.ended_early(job, "-")
        await asyncio.sleep(0.01)
        await ledger.offer(Job(job_id="next", config=config))
        await ledger.begin("next", "a", _place("0"))
        await ledger.finish("next", "a", JobOutcome(status="completed"))
        return await ledger.avoided("t0")

    aside, failed_on, short_of_a_gpu = asyncio.run(drive())
    assert asked == [("n", "3")]
    assert (aside, failed_on) == (set(), {"n"})
    assert short_of_a_gpu == ({"n"} if can_be_held else set())


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_a_gpu_that_is_held_to_nobody():
    done = subprocess.run(
        [sys.executable, "-c", HOLDING], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    expected = {"given": ["0", "2"], "busy": True, "after": ["1"]}
    assert json.loads(done.stdout.splitlines()[-1]) == expected
