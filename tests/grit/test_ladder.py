"""A rung of the ladder is what a reprojection at the end would leave, and costs the run nothing else."""

import pytest

from grit.config.sections import Budget
from grit.errors import ConfigError
from grit.training.trainer import train


def _task_losses(rows):
    return [row["loss"] for row in rows if row["kind"] == "task"]


@pytest.mark.parametrize(
    "kind", [{}, {"two_sided": False}, {"basis": "balanced"}], ids=["two-sided", "one-sided", "balanced"]
)
@pytest.mark.parametrize(
    "rung, setting", [(0.6, {"tau": 0.6}), (3, {"rank_adaptation": False, "reprojection_k": 3})]
)
def test_a_rung_is_a_reprojection_at_the_end(kind, rung, setting, bench, short_run):
    """The oracle: the same run whose only reprojection comes after its last step, with that threshold."""
    few = {"budget": Budget(regime="step", amount=6), "eval_examples": 4, "retention_documents": 2}
    base = short_run(reprojection_freq=6, min_lora_rank=2, **few, **kind)
    really = train(base.changed(**setting), bench)
    assert really.measured.reprojections == 1
    rungs = train(base.changed(reprojection_freq=40, ladder=(rung,)), bench)
    assert rungs.measured.reprojections == 0
    rows = rungs.audits["ladder"]
    assert {row["rung"] for row in rows} == {float(rung)}
    assert _task_losses(rows) == pytest.approx(_task_losses(really.predictions), abs=2e-4)
    assert rows[0]["footprint"] == pytest.approx(really.measured.footprint)
    assert rows[0]["footprint"] < 1


def test_the_ladder_leaves_the_run_as_it_was(bench, short_run, reference):
    with_ladder = reference(short_run(ladder=(0.7, 0.9)))
    without = reference(short_run())
    assert with_ladder.measured.quality == without.measured.quality
    assert with_ladder.measured.final_ranks == without.measured.final_ranks
    assert "ladder" not in without.audits


def test_a_smaller_threshold_keeps_fewer_parameters(reference, short_run):
    rows = reference(short_run(ladder=(0.7, 0.9))).audits["ladder"]
    kept = {row["rung"]: row["footprint"] for row in rows}
    assert kept[0.7] < kept[0.9] <= 1


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"ladder": (0.0,)}, "ladder = 0.0: must be a finite number above 0"),
        ({"ladder": (2.5,)}, "ladder = 2.5: must be a whole number"),
        ({"ladder": (9,)}, "ladder = 9: must be at most the rank, 8"),
        ({"ladder": (0.9,), "suppression": "gate"}, "needs suppression = 'project'"),
        ({"ladder": (0.9,), "method": "lora"}, "needs the statistics of method grit"),
    ],
)
def test_a_ladder_that_cannot_be_is_refused(changes, words, short_run):
    with pytest.raises(ConfigError, match=words):
        short_run(**changes)
