"""Thresholds read off one training: what is called equivalent is, and a search then leaves tau alone."""

from dataclasses import replace

import numpy as np
import pytest
from builders import CENTER, SPACE, ended, planned, study, study_file, write_tables

from analysis.evidence.load import load_study
from analysis.evidence.point_summary import summarize_points
from analysis.page.document import write_table
from analysis.stats.pooled_noise import NoiseModel, SettingScores
from analysis.studies.knob_axes.rungs import ladder_of, ladder_table
from analysis.studies.sensitivity.growth import SettledKnobs
from grit.tasks.metrics import tolerance_of
from ray_jobs.design.points import one_at_a_time
from ray_jobs.design.search_space import Search
from ray_jobs.records.trial_tables import write_rows
from ray_jobs.records.trials_file import write_trials
from ray_jobs.schedule.scheduler import Decisions, Elsewhere, StudyScheduler
from ray_jobs.schedule.search import OptunaSearch

TOLERANCE = tolerance_of("answer_logprob")
RUNGS = (0.9, 0.99, 4)


def _made(**options):
    """The design of `sweeps/tau_T_lambda.py`: the highest tau has the ladder."""
    points = one_at_a_time(CENTER, {"tau": (0.9, 0.999)})
    with_ladder = [
        replace(point, audits=(("ladder", RUNGS),)) if ("tau", 0.999) in point.overrides else point
        for point in points
    ]
    return study(seeds=(41, 42, 43), regimes=("step",), oat=with_ladder, **options)


def _folder(folder, *, gain=0.0, seeds_with_ladder=3):
    """A finished study in which training with tau = 0.9 is `gain` better than its rung."""
    made = _made()
    records = []
    for record in planned(made):
        noise = np.random.default_rng(record.plan.seed).normal(scale=0.01)
        own = np.random.default_rng([record.plan.seed, int(1e4 * (record.tau or 0))]).normal(scale=0.002)
        shift = gain if record.tau == 0.9 else 0.0
        done = ended(
            record, quality_metric="answer_logprob", quality=-0.5 + noise + own + shift, forgetting=0.1 + own
        )
        records.append(done)
        write_tables(folder, done)
        if record.config.audits.ladder and record.plan.seed < 41 + seeds_with_ladder:
            write_rows(folder, "ladder", record.trial_id, _rows(noise))
    write_trials(folder, records)
    study_file(made).write(folder)
    return folder


def _rows(noise):
    """Every rung scores as the source does, up to the seed's own effect."""
    rows = []
    for place, rung in enumerate(RUNGS):
        about = {"rung": float(rung), "footprint": 0.5 + 0.1 * place}
        rows += [
            {**about, "kind": "task", "value": -0.5 + noise, "loss": 0.5, "tokens": 3} for _ in range(40)
        ]
        rows += [{**about, "kind": "retention", "value": 0.1, "loss": 0.6, "tokens": 20} for _ in range(10)]
    return rows


def _ladder(folder):
    data = load_study(folder)
    return ladder_of(data, summarize_points(data.records), "step")


def test_where_training_makes_the_same_of_it_tau_is_settled(tmp_path):
    ladder = _ladder(_folder(tmp_path))
    assert [rung.shown_value for rung in ladder.rungs] == ["tau 0.9", "tau 0.99", "k 4"]
    assert [rung.verdict for rung in ladder.rungs] == ["equivalent", "equivalent", None]
    assert ladder.settles_tau
    assert "tau needs no training of its own" in ladder.sentence()
    assert SettledKnobs(folder=tmp_path)(load_study(tmp_path).records, "step") == {"tau": CENTER["tau"]}
    footprints = [rung.footprint for rung in ladder.rungs]
    assert footprints == pytest.approx([0.5, 0.6, 0.7])


def test_where_training_makes_more_of_it_tau_is_trained(tmp_path):
    ladder = _ladder(_folder(tmp_path, gain=3 * TOLERANCE))
    assert ladder.rungs[0].verdict == "differs"
    assert ladder.rungs[0].quality_gap.mean == pytest.approx(3 * TOLERANCE, abs=0.01)
    assert not ladder.settles_tau
    assert "tau is trained in" in ladder.sentence()
    assert SettledKnobs(folder=tmp_path)(load_study(tmp_path).records, "step") == {}


def test_a_seed_without_its_ladder_is_counted(tmp_path):
    ladder = _ladder(_folder(tmp_path, seeds_with_ladder=2))
    assert ladder.left_out == 1
    assert {rung.seeds for rung in ladder.rungs} == {2}


def test_no_ladder_no_section(tmp_path):
    assert _ladder(_folder(tmp_path, seeds_with_ladder=0)) is None


def test_the_table_has_every_rung(tmp_path):
    table = ladder_table([_ladder(_folder(tmp_path))])
    write_table(table, tmp_path)
    text = (tmp_path / "tables" / "ladder.csv").read_text().splitlines()
    assert len(text) == 4
    assert text[1].startswith("step,tau 0.9,3,")


@pytest.mark.parametrize("seeds", [2, 3])
def test_what_differs_by_the_tolerance_is_seldom_called_equivalent(seeds):
    """200 pairs, one exactly a tolerance better: at most 5% are called equivalent, up to chance."""
    generator, called = np.random.default_rng(5), 0
    for _ in range(200):
        common = generator.normal(scale=0.02, size=(seeds, 1))
        scores = {}
        for number in range(4):
            own = generator.normal(scale=0.006, size=(seeds, 1)) + generator.normal(
                scale=0.05, size=(seeds, 60)
            )
            scores[str(number)] = SettingScores(
                seeds=tuple(range(seeds)), values=common + own + (TOLERANCE if number == 0 else 0.0)
            )
        model = NoiseModel(scores=scores, weights=np.full(60, 1 / 60))
        called += model.difference("0", "1").p_not_within(TOLERANCE) <= 0.05
    assert called <= 20


def test_a_search_holds_what_is_settled():
    made = replace(_made(), search=Search(space=SPACE, points=3, sampler="random"))
    decisions = Decisions(held=lambda records, regime: {"tau": 0.99, "rank": 4})
    scheduler = StudyScheduler(made, elsewhere=Elsewhere(decisions=decisions))
    while not scheduler.finished:
        job = scheduler.next()
        scheduler.complete(ended(scheduler.records[job.job_id]))
    searched = [r for r in scheduler.records.values() if r.plan.design == "search"]
    assert {record.tau for record in searched} == {0.99}
    assert len({(record.T, record.lambda_) for record in searched}) == 3


def test_a_value_outside_the_space_is_not_held():
    search = OptunaSearch(Search(space=SPACE, points=1, sampler="random"))
    _, knobs = search.ask({"tau": 0.5})
    assert 0.8 <= knobs["tau"] <= 0.999
