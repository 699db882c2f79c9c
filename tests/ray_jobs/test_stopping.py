import asyncio

import pytest
from builders import study

from ray_jobs.execution.outcome import JobOutcome
from ray_jobs.execution.warm.board import TrialBoard
from ray_jobs.schedule.job import Job
from ray_jobs.schedule.stopping import Standing, certainly_above, dominated

LOW = Standing(
    scores=(0.0, 0.1, 0.0, 0.2) * 10, document_losses=(2.0, 2.1, 2.2) * 10, footprint=0.8, overhead=0.03
)


def _better(**changes):
    values = {
        "scores": tuple(s + 0.5 + 0.01 * (i % 3) for i, s in enumerate(LOW.scores)),
        "document_losses": tuple(x - 0.3 - 0.01 * (i % 2) for i, x in enumerate(LOW.document_losses)),
        "footprint": 0.8,
        "overhead": 0.03,
    }
    return Standing(**{**values, **changes})


def test_better_in_both_and_no_dearer_dominates():
    assert dominated(LOW, [_better()])
    assert not dominated(_better(), [LOW])
    assert not dominated(LOW, [])
    assert not dominated(LOW, [LOW])


@pytest.mark.parametrize(
    "changes",
    [
        {"footprint": 0.9},
        {"overhead": 0.04},
        {"scores": LOW.scores},
        {"document_losses": LOW.document_losses},
        {"document_losses": tuple(x + 1 for x in LOW.document_losses)},
    ],
)
def test_one_objective_that_is_no_better_saves_a_trial(changes):
    assert not dominated(LOW, [_better(**changes)])


def test_noise_is_not_domination():
    """Differences of mean 0.1 and deviation 1.

    With 40 pairs that is 0.6 standard errors, with 4,000 it is 6.
    """
    noise = [0.1 + (1 if i % 2 else -1) for i in range(40)]
    assert not certainly_above(noise)
    assert certainly_above(noise * 100)
    assert not certainly_above([5.0])
    assert not certainly_above([])


def test_the_board_compares_like_with_like():
    async def scene():
        board = TrialBoard()
        await board.expect(1)

        async def trial(name, where, standing, status="completed"):
            await board.offer(Job(job_id=name, config=study().base))
            await board.take("s")
            told = await board.evaluated(name, where, standing)
            await board.finish("s", name, JobOutcome(status=status))
            assert await board.wait(name) == status
            return told

        assert not await trial("failed", ("step", 41, 1), _better(), status="failed")
        assert not await trial("first", ("step", 41, 1), LOW)  # a failed trial dominates nobody
        assert not await trial("good", ("step", 41, 1), _better())
        assert await trial("late", ("step", 41, 1), LOW)
        for elsewhere in (("time", 41, 1), ("step", 42, 1), ("step", 41, 2)):
            assert not await trial(f"other {elsewhere}", elsewhere, LOW)

    asyncio.run(asyncio.wait_for(scene(), timeout=10))
