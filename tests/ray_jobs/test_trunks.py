"""Shared beginnings: planned as a tree, run once, and bit for bit what each trial would have been alone."""

from dataclasses import replace

import pytest
from builders import CONTENT, ended

from grit.config.first_effect import (
    CURVATURE_FIELDS,
    REPROJECTION_FIELDS,
    curvature_onset,
    reprojection_onset,
)
from grit.config.method import GritConfig
from grit.config.run_config import RunConfig
from grit.config.sections import Budget, TaskSource
from grit.training.hooks import Hooks
from grit.training.trainer import train, train_trunk
from ray_jobs.design.plan import Study
from ray_jobs.design.points import one_at_a_time
from ray_jobs.design.trunk_plan import plan_trunks, seconds_saved
from ray_jobs.execution.job_run import Placement, run_job
from ray_jobs.records.trunk_record import TrunkOutcome, TrunkRecord
from ray_jobs.schedule.scheduler import Elsewhere, StudyScheduler

#: method.md's long-run defaults, a tenth as long: warm-ups of 50 steps, kfac update 15, T 30.
GRIT = GritConfig(
    cov_update_freq=5,
    kfac_update_freq=15,
    kfac_min_samples=16,
    ng_warmup_steps=30,
    reprojection_freq=30,
    reprojection_warmup_steps=50,
    rank_adaptation_start_step=50,
    min_lora_rank=2,
)
CENTER = {"tau": 0.99, "T": 30, "lambda": 3e-3}
OAT = {"tau": (0.8, 0.9), "T": (15, 120, None), "lambda": (1e-4, 1e-1)}


def _study(*, amount=300, seeds=(41,), regimes=("step",), grit=GRIT, oat=OAT, cadence=30):
    base = RunConfig.of(
        task=TaskSource(name="arithmetic"),
        budget=Budget(regime="step", amount=amount),
        grit=grit,
        rank=8,
        alpha=16.0,
        dropout=0.1,
        micro_batch=4,
        accumulation=2,
        max_length=96,
        learning_rate=2e-3,
        eval_examples=8,
        retention_documents=4,
        evaluations=3,
    )
    return Study(
        name="t",
        base=base,
        points=tuple(one_at_a_time({**CENTER, "T": cadence}, oat)),
        seeds=tuple(seeds),
        budgets=tuple(Budget(regime=r, amount=amount if r == "step" else 5.0) for r in regimes),
        content=CONTENT,
    )


def test_the_tree_of_the_one_at_a_time_plan():
    """All share the steps before the first inverse (29).

    Then those of one lambda until the first reprojection (59); then T = 120 and none go on.
    """
    trials = {t.trial_id: t for t in _study().trials}
    shared = plan_trunks(trials.values())
    grit = [t for t in trials.values() if t.config.uses_grit]
    shape = sorted((trunk.steps, len(trunk.members)) for trunk in shared.trunks)
    # 8 settings: lambda parts them at step 29 (6 stay together); tau = .8, .9 and T = 15 act at 59 (T = 15:
    # first multiple past 50 is 60).
    assert shape == [(29, 8), (59, 6), (119, 2)]
    assert len(grit) == 8
    assert all(trial.trial_id in shared.fork_of for trial in grit)
    by_steps = {trunk.steps: trunk for trunk in shared.trunks}
    assert by_steps[29].parent is None
    assert by_steps[59].parent == by_steps[29].trunk_id
    assert by_steps[119].parent == by_steps[59].trunk_id
    assert not any(t.trial_id in shared.fork_of for t in trials.values() if not t.config.uses_grit)


def test_seeds_budgets_and_methods_share_nothing():
    shared = plan_trunks(_study(seeds=(41, 42), regimes=("step", "time")).trials)
    assert len(shared.trunks) == 3 * 2 * 2
    for trunk in shared.trunks:
        assert len({(shared.fork_of[m] is not None) for m in trunk.members}) == 1
    assert (
        plan_trunks(_study(grit=replace(GRIT, cadence="adaptive")).trials).trunks[0].steps >= 10
    )  # only what reprojects later is shared


def test_beginnings_too_short_to_pay_are_not_shared():
    assert (
        plan_trunks(
            _study(amount=100, grit=GritConfig(kfac_update_freq=10), oat={"tau": (0.9,)}, cadence=10).trials
        ).trunks
        == ()
    )
    assert (
        plan_trunks(_study(amount=2000).trials).trunks[0].steps == 119
    )  # 29 and 59 are less than a twentieth


@pytest.mark.parametrize("field", sorted({*CURVATURE_FIELDS, *REPROJECTION_FIELDS} - {"mixing_seed"}))
def test_a_late_field_does_nothing_before_its_onset(reference, short_run, field):
    """What the planner assumes and what the method does are one.

    The losses agree up to the onset, for every field that is planned with.
    """
    values = {
        "preconditioner": "kfac",
        "damping_scale": "relative",
        "damping_reference_batch": 64,
        "quantization_damping": 1.0,
        "two_sided": False,
        "cadence_stretches_reprojection": True,
        "reprojection_trigger": "adaptive",
        "basis": "balanced",
        "suppression": "gate",
        "project_momentum": False,
        "rank_adaptation": False,
        "rank_policy": "growth",
        "rank_energy_ema": 0.5,
        "rank_hysteresis": 0.005,
        "trust_region": 1e-6,
    }
    grit = replace(
        short_run().grit, kfac_update_freq=6, ng_warmup_steps=7, reprojection_freq=8, min_lora_rank=2
    )
    if field == "trust_region":
        grit = replace(grit, preconditioner="kfac")
    changed = replace(grit, **{field: values[field] if field in values else _another(getattr(grit, field))})
    if field == "quantization_damping":
        pytest.skip("needs a 4-bit backbone: tests/grit/test_trainer.py")
    kinds = [
        onset
        for fields, onset in ((CURVATURE_FIELDS, curvature_onset), (REPROJECTION_FIELDS, reprojection_onset))
        if field in fields
    ]
    shared = int(min(onset(config) for onset in kinds for config in (grit, changed)))
    assert shared >= 3
    brief = short_run(accumulation=1, budget=Budget(regime="step", amount=shared + 1), eval_examples=2)
    runs = [reference(brief.changed(grit=config)) for config in (grit, changed)]
    losses = [[row["loss"] for row in run.telemetry][:shared] for run in runs]
    assert losses[0] == losses[1]


def _another(value):
    return value / 2 if isinstance(value, float) and value else 0.5 if isinstance(value, float) else value + 3


@pytest.mark.parametrize("suppression", ["project", "gate"])
def test_a_forked_trial_is_what_it_would_have_been_alone(bench, tmp_path, suppression):
    """Every trial of a small tree, through the worker's own code, against the same trial run whole."""
    grit = replace(
        GRIT, kfac_update_freq=6, ng_warmup_steps=12, reprojection_warmup_steps=0, suppression=suppression
    )
    study = _study(amount=28, grit=grit, oat={"tau": (0.8,), "T": (None,), "lambda": (1e-1,)}, cadence=24)
    study = replace(study, base=study.base.changed(accumulation=1, evaluations=2))
    scheduler = StudyScheduler(study, elsewhere=Elsewhere(share=True))
    place = Placement(checkpoints=tmp_path / "checkpoints", tables=tmp_path)
    forked = {}
    while (job := scheduler.next()) is not None:
        outcome = run_job(job, bench, None, place)
        if outcome.trunk is not None:
            scheduler.trunk_ended(job.job_id, outcome.trunk)
        else:
            scheduler.complete(ended(scheduler.records[job.job_id], status=outcome.status))
            forked[job.job_id] = (job, outcome)
    assert scheduler.finished
    assert sorted(trunk.steps for trunk in scheduler.trunks()) == [11, 23]
    assert sum(job.fork_from is not None for job, _ in forked.values()) == 4
    for job, outcome in forked.values():
        alone = train(job.config, bench).measured
        for name in ("quality", "answer_loss", "forgetting", "final_ranks", "tokens"):
            assert getattr(outcome.measured, name) == getattr(alone, name), name
        qualities = [point["quality"] for point in outcome.measured.curve]
        assert qualities == [point["quality"] for point in alone.curve]
        if job.fork_from is not None:
            assert outcome.fork.step in (11, 23)
            assert 0 < outcome.fork.train_seconds < outcome.measured.train_seconds
    left = {path.parent.name for path in place.checkpoints.glob("*/run.pt")}
    assert left == {trunk.trunk_id for trunk in scheduler.trunks()}


def test_a_time_budget_counts_the_trunk(bench, tmp_path):
    config = _study().base.changed(budget=Budget(regime="time", amount=1.5), seed=41)
    trunk = train_trunk(config, bench, steps=6, checkpoints=tmp_path)
    assert trunk.steps == 6
    result = train(config, bench, checkpoints=tmp_path)
    assert result.measured.resumed_from_step == 6
    slowest = max(row["ms_step"] for row in result.telemetry) / 1e3
    assert abs(result.measured.train_seconds - 1.5) <= slowest
    assert result.telemetry[5]["train_seconds"] == trunk.train_seconds


def test_a_trunk_that_spends_its_budget_early_is_its_last_step(bench, tmp_path):
    config = _study().base.changed(budget=Budget(regime="time", amount=0.3), seed=41)
    trunk = train_trunk(config, bench, steps=10_000, checkpoints=tmp_path)
    assert trunk.steps < 10_000
    result = train(config, bench, checkpoints=tmp_path)
    assert (result.measured.steps, result.measured.train_seconds, result.status) == (
        trunk.steps,
        trunk.train_seconds,
        "completed",
    )


def test_a_trunk_that_diverges_leaves_nothing_to_go_on_from(bench, tmp_path):
    """Each of its trials would have ended there: they run alone, and tell so."""
    config = _study(amount=200).base.changed(seed=41, learning_rate=3.0, max_grad_norm=1e6, accumulation=1)
    assert train_trunk(config, bench, steps=100, checkpoints=tmp_path) is None
    assert not (tmp_path / "run.pt").exists()
    assert train(config, bench).status == "diverged"


def test_a_lost_trunk_leaves_its_trials_to_run_alone():
    scheduler = StudyScheduler(_study(), elsewhere=Elsewhere(share=True))
    jobs = []
    while (job := scheduler.next()) is not None:
        jobs.append(job)
        if job.trunk_steps is not None:
            scheduler.trunk_ended(
                job.job_id,
                None
                if job.trunk_steps == 59
                else TrunkOutcome(steps=job.trunk_steps, train_seconds=job.trunk_steps, eval_seconds=0),
            )
    trials = [job for job in jobs if job.trunk_steps is None]
    assert len(trials) == 9
    first = next(job.job_id for job in jobs if job.trunk_steps == 29)
    deepest = next(job for job in jobs if job.trunk_steps == 119)
    assert deepest.fork_from == first  # it goes on from what is left above it
    assert sorted(job.fork_from or "" for job in trials).count(first) == 6


def test_children_wait_for_their_trunk_and_others_do_not():
    scheduler = StudyScheduler(_study(), elsewhere=Elsewhere(share=True))
    control, trunk = scheduler.next(), scheduler.next()
    assert control.trunk_steps is None
    assert trunk.trunk_steps == 29
    assert scheduler.next() is None
    assert not scheduler.finished
    scheduler.give_back(trunk.job_id)  # interrupted
    assert scheduler.next().job_id == trunk.job_id


def test_a_resumed_plan_names_its_trunks_as_the_first_did():
    """Some forked trials have ended: what is left shares the same beginnings under the same names."""
    trials = _study().trials
    first = {trunk.steps: trunk.trunk_id for trunk in plan_trunks(trials).trunks}
    left = [trial for trial in trials if trial.record.tau != 0.8 and trial.record.lambda_ != 1e-4]
    second = {trunk.steps: trunk.trunk_id for trunk in plan_trunks(left).trunks}
    assert second == first
    assert len(set(first.values())) == 3
    other = {trunk.trunk_id for trunk in plan_trunks(_study(seeds=(42,)).trials).trunks}
    assert not other & set(first.values())


def test_a_trunk_that_waits_keeps_nobody_else_from_starting():
    scheduler = StudyScheduler(_study(regimes=("step", "time")), elsewhere=Elsewhere(share=True))
    started = []
    while (job := scheduler.next()) is not None:
        started.append(job)
    assert sorted(job.trunk_steps or 0 for job in started) == [
        0,
        0,
        29,
        29,
    ]  # two controls, and a trunk in each regime


def test_trunks_of_an_earlier_call_are_not_run_again():
    known = TrunkOutcome(steps=29, train_seconds=3.0, eval_seconds=1.0)
    first = plan_trunks(_study().trials).trunks[0]
    scheduler = StudyScheduler(
        _study(),
        elsewhere=Elsewhere(share=True, trunk=lambda trunk_id: known if trunk_id == first.trunk_id else None),
    )
    started = [scheduler.next() for _ in range(2)]
    assert first.trunk_id not in {job.job_id for job in started}


def test_the_seconds_saved_by_hand():
    trunks = [
        TrunkRecord(trunk_id="a", parent=None, members=(), steps=1, train_seconds=10.0, eval_seconds=0),
        TrunkRecord(trunk_id="b", parent="a", members=(), steps=2, train_seconds=25.0, eval_seconds=0),
    ]
    assert seconds_saved(trunks, [10.0, 25.0, 25.0]) == 60.0 - 25.0
    assert seconds_saved([], []) == 0


def test_a_trunk_can_be_interrupted_and_resumed(bench, tmp_path):
    class Killed(Exception):
        pass

    def killed(step, *_):
        if step == 4:
            raise Killed

    config = _study(amount=12).base.changed(checkpoint_steps=1, seed=41)
    with pytest.raises(Killed):
        train_trunk(config, bench, steps=8, checkpoints=tmp_path / "a", hooks=Hooks(progress=killed))
    train_trunk(config, bench, steps=8, checkpoints=tmp_path / "a")
    resumed, whole = train(config, bench, checkpoints=tmp_path / "a"), train(config, bench)
    assert [row["loss"] for row in resumed.telemetry] == [row["loss"] for row in whole.telemetry]
    assert resumed.predictions == whole.predictions


def _to_the_end(scheduler, places):
    """Runs a plan with so many places: trials by their end, those that ran alone, the most idle places."""
    running, order, alone, most_idle = [], [], [], 0
    while True:
        while len(running) < places and (job := scheduler.next()) is not None:
            running.append(job)
        if not running:
            return order, alone, most_idle
        most_idle = max(
            most_idle, places - len(running) if scheduler.ended + places < scheduler.expected else 0
        )
        job = running.pop(0)
        if job.trunk_steps is not None:
            outcome = TrunkOutcome(steps=job.trunk_steps, train_seconds=1.0, eval_seconds=0.0)
            scheduler.trunk_ended(job.job_id, outcome)
            continue
        order.append(job.job_id)
        if job.fork_from is None and job.config.uses_grit:
            alone.append(job.job_id)
        scheduler.complete(ended(scheduler.records[job.job_id]))
        scheduler.spent_trunks(job.job_id)


@pytest.mark.parametrize("places", [1, 4, 16])
def test_a_place_that_would_idle_runs_a_waiting_trial_alone_where_that_is_asked_for(places):
    study = _study(seeds=(41, 42, 43))
    waits = StudyScheduler(study, elsewhere=Elsewhere(share=True))
    fills = StudyScheduler(study, elsewhere=Elsewhere(share=True, fill=True))
    order, alone, idle = _to_the_end(waits, places)
    filled, alone_filled, idle_filled = _to_the_end(fills, places)
    assert sorted(order) == sorted(filled) == sorted(waits.records)  # each once
    assert waits.finished and fills.finished
    assert idle_filled == 0
    assert (idle > 0) == (places > 1)
    assert set(alone) <= set(alone_filled)
    assert (len(alone_filled) > len(alone)) == (places > 1)


def test_every_trunk_is_spent_once_and_only_when_its_last_trial_has_ended():
    scheduler = StudyScheduler(_study(), elsewhere=Elsewhere(share=True))
    spent, ended_trials = [], set()
    while (job := scheduler.next()) is not None:
        if job.trunk_steps is not None:
            outcome = TrunkOutcome(steps=job.trunk_steps, train_seconds=1.0, eval_seconds=0.0)
            scheduler.trunk_ended(job.job_id, outcome)
            continue
        scheduler.complete(ended(scheduler.records[job.job_id]))
        ended_trials.add(job.job_id)
        for trunk_id in scheduler.spent_trunks(job.job_id):
            (trunk,) = [record for record in scheduler.trunks() if record.trunk_id == trunk_id]
            assert set(trunk.members) <= ended_trials
            spent.append(trunk_id)
    assert sorted(spent) == sorted(trunk.trunk_id for trunk in scheduler.trunks())
