"""Verdicts on settings: each criterion by its own cause, failure modes by name, and what is advised."""

from dataclasses import replace

import pytest
from builders import CENTER, ended, planned, study, study_folder

from analysis.evidence.load import load_study
from analysis.evidence.point_summary import paired_quality, summarize_points
from analysis.studies.sensitivity.one_at_a_time import sweep_of
from analysis.studies.sensitivity.recommend import clock_noise
from analysis.studies.sensitivity.results import analyse
from grit.geometry.events import RankChange
from ray_jobs.design.points import Point, one_at_a_time
from ray_jobs.records.study_file import Caps
from ray_jobs.records.trial_tables import write_rows


def _study(folder, outcome, **options):
    """Step-matched records with these outcomes."""
    options = {"regimes": ("step",), **options}
    study_folder(folder, [outcome(record) for record in planned(study(**options))], **options)
    return load_study(folder)


def _bands(data):
    return {band.knob: band for band in analyse(data).bands}


def _modes(bands):
    return {
        (knob, setting.value): [mode.name for mode in setting.modes]
        for knob, band in bands.items()
        for setting in band.settings
    }


def test_equal_settings_are_all_safe(tmp_path):
    assert {band.verdict for band in _bands(_study(tmp_path, ended)).values()} == {"robust"}


def test_each_criterion_fails_by_its_own_cause(tmp_path):
    def outcome(record):
        if record.tau == 0.9:
            return ended(record, footprint=0.95)
        if record.T == 5:
            return ended(record, forgetting=0.3)
        if record.lambda_ == 0.1:
            status = "completed" if record.plan.seed == 41 else "diverged"
            return ended(record, status=status, quality=0.2)
        return ended(record)

    bands = _bands(_study(tmp_path, outcome))
    failed = {knob: {s.value: s.failed for s in band.settings} for knob, band in bands.items()}
    assert failed["tau"] == {0.9: ("footprint",), 0.99: ()}
    assert failed["T"] == {5: ("retention",), 10: ()}
    assert failed["lambda"] == {0.001: (), 0.1: ("stability", "near-best quality")}


def test_seed_spread_is_what_a_setting_adds_to_the_seeds_own_effect(tmp_path):
    """All settings swing with the seed, the control too; one swings by itself."""

    def outcome(record):
        swing = 0.1 * (-1) ** record.plan.seed
        own = 0.3 * (-1) ** (record.plan.seed // 2) if record.T == 5 else 0.0
        return ended(record, quality=0.5 + swing + own)

    spread = {}
    for knob, band in _bands(_study(tmp_path, outcome, seeds=range(41, 49))).items():
        for setting in band.settings:
            outcomes = {criterion.name: criterion.outcome for criterion in setting.criteria}
            spread[knob, setting.value] = outcomes["seed spread"]
    assert spread.pop(("T", 5)) == "fail"
    assert "fail" not in spread.values()  # a share of its swing is in every residual


def test_what_was_not_measured_is_not_advised(tmp_path):
    def outcome(record):
        return record if record.T == 5 or record.lambda_ == 0.1 else ended(record)

    recommendation = analyse(_study(tmp_path, outcome)).recommendation
    advised = {advice.knob: advice.value for advice in recommendation.knobs}
    assert advised["T"] == 10
    assert advised["lambda"] == 1e-3


def test_a_sweep_holds_the_other_knobs_at_the_default(tmp_path):
    points = summarize_points(_study(tmp_path, ended).records)
    for knob in ("tau", "T", "lambda"):
        assert len(sweep_of(points, knob, "step")) == 2


def test_pairing_is_by_seed_and_example(tmp_path):
    data = _study(tmp_path, lambda record: ended(record, quality=0.75 if record.tau == 0.9 else 0.5))
    low, center = sweep_of(summarize_points(data.records), "tau", "step")
    assert paired_quality(data, low, center).mean == pytest.approx(0.25)
    lonely = replace(low, records=low.records[:1])
    other = replace(center, records=center.records[1:])
    assert paired_quality(data, lonely, other) is None


def test_front_means_and_probabilities(tmp_path):
    data = _study(tmp_path, lambda record: ended(record, quality=0.3 if record.T == 5 else 0.6))
    (result,) = analyse(data).regimes
    worse = next(point for point in result.points if point.T == 5)
    assert worse not in result.front
    assert result.placings[worse.point_id].probability < 0.5
    assert result.hypervolume > 0


def test_a_cheap_setting_of_equal_merit_comes_first_and_a_cap_takes_the_dear_ones_out(tmp_path):
    def outcome(record):
        return ended(record, footprint=0.3, overhead=0.02) if record.tau == 0.9 else ended(record)

    data = _study(tmp_path, outcome)
    (capped,) = analyse(data, Caps(footprint=0.5)).regimes
    assert capped.knee.tau == 0.9
    assert [point.tau for point in capped.cheapest] == [0.9]
    (free,) = analyse(data).regimes
    assert free.cheapest[0].tau == 0.9
    assert len(free.cheapest) == len(free.points)


@pytest.mark.parametrize("seeds", [(41,), (41, 42, 43)])
def test_what_is_beaten_beyond_noise_in_quality_is_not_among_the_cheapest(tmp_path, seeds):
    def outcome(record):
        return ended(record, quality=0.1, footprint=0.3) if record.tau == 0.9 else ended(record, quality=0.8)

    (result,) = analyse(_study(tmp_path, outcome, seeds=seeds)).regimes
    beaten = next(point for point in result.points if point.tau == 0.9)
    assert beaten not in result.cheapest
    assert len(result.cheapest) == len(result.points) - 1


def test_failure_modes_are_named(tmp_path):
    def outcome(record):
        if record.tau == 0.9:
            return ended(record, footprint=0.5, quality=0.1)
        if record.T == 5:
            return ended(record, overhead=0.3)
        if record.lambda_ == 0.1:
            return ended(record, skipped_steps=4)
        return ended(record)

    named = _modes(_bands(_study(tmp_path, outcome)))
    assert named["tau", 0.9] == ["under-triggering"]
    assert named["tau", 0.99] == []
    assert named["T", 5] == ["overhead domination"]
    assert named["T", 10] == []
    assert named["lambda", 0.1] == ["instability", "washed-out geometry"]


@pytest.mark.parametrize("by_seed, named", [(0, []), (200, ["noisy triggering"])])
def test_noisy_triggering_is_judged_across_seeds(tmp_path, by_seed, named):
    """Every look moves ranks both ways; what counts is whether seeds agree on what is kept."""
    data = _study(tmp_path, ended)
    for record in data.records:
        if record.tau == 0.9:
            kept = 800 + by_seed * (record.plan.seed - 41)
            events = [
                RankChange(step=10 * look, up=5, down=5, effective_parameters=kept).row() for look in range(6)
            ]
            write_rows(tmp_path, "events", record.trial_id, events)
    assert _modes(_bands(load_study(tmp_path)))["tau", 0.9] == named


def test_drift_and_over_triggering_need_evidence(tmp_path):
    from ray_jobs.design.points import one_at_a_time

    center = {"tau": 0.99, "T": 10, "lambda": 1e-3}
    points = one_at_a_time(center, {"tau": (0.999,), "T": (None,), "lambda": (1e-2,)})

    def outcome(record):
        if record.config.uses_grit and record.T is None:
            return ended(record, forgetting=0.4)
        return ended(record, footprint=1.0 if record.tau == 0.999 else 0.8)

    named = _modes(_bands(_study(tmp_path, outcome, oat=points)))
    assert named["T", None] == ["drift"]
    assert named["tau", 0.999] == ["over-triggering"]
    assert named["lambda", 1e-2] == []


def test_the_clock_is_judged_among_trials_of_the_same_batch_and_rank(tmp_path):
    """Small batches take many more steps in the same seconds; that is no noise of the clock."""
    points = [*one_at_a_time(CENTER, {}), Point.of("small-batch", {**CENTER, "micro_batch": 2})]
    made = {"seeds": (41, 42), "regimes": ("time",), "oat": points}

    def steps(record, jitter):
        many = record.config.optimization.micro_batch == 2
        return (80 if many else 20) + jitter * (record.plan.seed == 42)

    for jitter, noisy in ((0, False), (12, True)):
        records = [ended(record, steps=steps(record, jitter)) for record in planned(study(**made))]
        folder = tmp_path / str(jitter)
        study_folder(folder, records, **made)
        sentence = clock_noise(summarize_points(load_study(folder).records))
        assert (sentence is not None) == noisy
