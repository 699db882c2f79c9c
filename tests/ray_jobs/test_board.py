import asyncio

import pytest
from builders import study

from ray_jobs.execution.nodes.timed_device import TimedDevice
from ray_jobs.execution.outcome import JobOutcome
from ray_jobs.execution.warm.board import MAX_ATTEMPTS, TrialBoard
from ray_jobs.schedule.job import Job

CONFIG = study().base
COMPLETED = JobOutcome(status="completed")


def _job(name):
    return Job(job_id=name, config=CONFIG)


async def _run(board, name):
    """A job from its offer to its status, as a Tune trial sees it."""
    await board.offer(_job(name))
    return await board.wait(name)


def _play(scene):
    return asyncio.run(asyncio.wait_for(scene(), timeout=10))


def test_trials_go_out_in_order_and_outcomes_come_back():
    async def scene():
        board = TrialBoard()
        await board.expect(1)
        waits = [asyncio.create_task(_run(board, name)) for name in "abc"]
        for name in "abc":
            job = await board.take("slot-0")
            assert (job.job_id, job.config) == (name, CONFIG)
            await board.finish("slot-0", name, COMPLETED)
        assert await asyncio.gather(*waits) == ["completed"] * 3
        collected = await board.collect("b")
        assert (collected.outcome, collected.worker, collected.attempts) == (COMPLETED, "slot-0", 1)
        assert collected.ended_at >= collected.started_at >= collected.queued_at
        assert await board.collect("b") is None

    _play(scene)


def test_a_worker_that_died_gets_its_trial_again_until_it_has_died_too_often():
    async def scene():
        board = TrialBoard()
        await board.expect(1)
        wait = asyncio.create_task(_run(board, "a"))
        for attempt in range(1, MAX_ATTEMPTS + 1):
            assert (await board.take("slot-0")).job_id == "a", attempt
        after = asyncio.create_task(board.take("slot-0"))
        assert await wait == "failed"
        collected = await board.collect("a")
        assert collected.attempts == MAX_ATTEMPTS
        assert [attempt.worker for attempt in collected.deliveries] == ["slot-0"] * MAX_ATTEMPTS
        lost = [attempt.lost_at is not None for attempt in collected.deliveries]
        assert lost == [True] * MAX_ATTEMPTS
        assert "died 3 times" in collected.outcome.error
        await board.close()
        assert await after is None

    _play(scene)


def test_two_slots_never_share_a_trial():
    async def scene():
        board = TrialBoard()
        await board.expect(2)
        waits = [asyncio.create_task(_run(board, name)) for name in "ab"]
        await asyncio.sleep(0)
        first, second = await asyncio.gather(board.take("slot-0"), board.take("slot-1"))
        assert {first.job_id, second.job_id} == {"a", "b"}
        for slot, job in (("slot-0", first), ("slot-1", second)):
            await board.finish(slot, job.job_id, COMPLETED)
        await asyncio.gather(*waits)

    _play(scene)


def test_losing_the_last_slot_fails_what_waits_instead_of_hanging():
    async def scene():
        board = TrialBoard()
        await board.expect(2)
        waits = [asyncio.create_task(_run(board, name)) for name in "abc"]
        await asyncio.sleep(0)
        await board.take("slot-0")
        await board.lose_slot("slot-1", "node lost")
        assert not waits[1].done()
        await board.lose_slot("slot-0", "node lost")
        assert await asyncio.gather(*waits) == ["failed"] * 3
        late = await _run(board, "d")
        assert late == "failed"
        assert "node lost" in (await board.collect("d")).outcome.error

    _play(scene)


def test_a_second_driver_of_a_running_trial_waits_for_the_same_run():
    async def scene():
        board = TrialBoard()
        first = asyncio.create_task(_run(board, "a"))
        await asyncio.sleep(0)
        await board.take("slot-0")
        first.cancel()
        second = asyncio.create_task(_run(board, "a"))
        idle = asyncio.create_task(board.take("slot-1"))
        await asyncio.sleep(0.01)
        assert not idle.done()
        await board.finish("slot-1", "a", JobOutcome(status="failed"))  # not its trial: dropped
        await board.finish("slot-0", "a", COMPLETED)
        assert await second == "completed"
        await board.close()
        await idle

    _play(scene)


def test_a_closed_board_sends_idle_workers_home():
    async def scene():
        board = TrialBoard()
        idle = asyncio.create_task(board.take("slot-0"))
        await asyncio.sleep(0)
        assert not idle.done()
        await board.close()
        assert await idle is None

    _play(scene)


@pytest.mark.parametrize("unknown", ["nothing"])
def test_an_outcome_that_does_not_exist_is_none(unknown):
    async def scene():
        board = TrialBoard()
        asyncio.create_task(_run(board, "a"))
        await asyncio.sleep(0)
        assert await board.collect("a") is None
        assert await board.collect(unknown) is None
        await board.take("s")
        await board.finish("s", "a", COMPLETED)

    _play(scene)


def test_a_slot_of_another_device_gets_no_work_and_the_others_have_it_on_record():
    async def scene():
        board = TrialBoard(TimedDevice())
        await board.expect(2)
        assert await board.admit("slot-0", {"name": "A100"}, ["A100"]) is None
        refusal = await board.admit("slot-1", {"name": "H100"}, ["H100"])
        assert refusal == "it is a H100, and time budgets of this study are for a A100"
        await board.lose_slot("slot-1", refusal)
        await board.lose_slot("slot-1", "it returned")
        wait = asyncio.create_task(_run(board, "a"))
        await board.take("slot-0")
        await board.finish("slot-0", "a", COMPLETED)
        assert await wait == "completed"
        collected = await board.collect("a")
        assert [attempt.admission for attempt in collected.deliveries] == [{"name": "A100"}]
        await board.lose_slot("slot-0", "its node was taken away")
        assert await _run(board, "b") == "failed"
        assert refusal in (await board.collect("b")).outcome.error

    _play(scene)


def test_a_trial_whose_worker_is_gone_goes_to_whoever_is_free():
    """Not to the slot that had it, whose next worker has to start first; nor does it end with its slot."""

    async def scene():
        board = TrialBoard()
        await board.expect(3)
        wait = asyncio.create_task(_run(board, "a"))
        idle = [asyncio.create_task(board.take(slot)) for slot in ("slot-0", "slot-1", "slot-2")]
        done, _ = await asyncio.wait(idle, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result().job_id for task in done} == {"a"}
        await board.free_slot("slot-0")
        assert (await idle[1]).job_id == "a"
        await board.finish("slot-0", "a", COMPLETED)  # of the worker that is gone: nobody hears it
        assert not wait.done()
        await board.lose_slot("slot-1", "its node was taken away")
        assert (await idle[2]).job_id == "a"
        await board.finish("slot-2", "a", COMPLETED)
        assert await wait == "completed"
        collected = await board.collect("a")
        assert [attempt.worker for attempt in collected.deliveries] == ["slot-0", "slot-1", "slot-2"]
        assert [attempt.lost_at is None for attempt in collected.deliveries] == [False, False, True]

    _play(scene)


def test_a_worker_that_died_in_waiting_takes_nothing():
    """What it had asked for is given to the one that asks in its place."""

    async def scene():
        board = TrialBoard()
        await board.expect(1)
        await board.started("slot-0")
        stale = asyncio.create_task(board.take("slot-0"))
        await asyncio.sleep(0)
        await board.free_slot("slot-0")
        assert await stale is None
        unheard = asyncio.create_task(board.take("slot-0"))  # nobody said that this one has died
        await asyncio.sleep(0)
        fresh = asyncio.create_task(board.take("slot-0"))
        await asyncio.sleep(0)
        wait = asyncio.create_task(_run(board, "a"))
        assert (await fresh).job_id == "a"
        assert await unheard is None
        await board.finish("slot-0", "a", COMPLETED)
        assert await wait == "completed"
        await board.free_slot("slot-0")
        seen = await board.snapshot()
        assert (seen["ready"], seen["started"]) == (0, 1)  # a slot that starts anew has been there

    _play(scene)
