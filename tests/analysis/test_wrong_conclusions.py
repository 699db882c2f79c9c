"""Conclusions that were wrong once, each with a study that drew it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from builders import ended, planned, prediction_rows, study, study_folder

from analysis.evidence.fronts import costs, dominated_beyond_noise, replicated_costs
from analysis.evidence.load import load_study
from analysis.evidence.noise import regime_noise
from analysis.evidence.point_summary import summarize_points
from analysis.stats.decisions import ERROR_RATE
from analysis.studies.sensitivity.criteria import NEAR_BEST, RETENTION
from analysis.studies.sensitivity.results import analyse
from ray_jobs.records.trial_tables import write_rows

THREE = {"regimes": ("step",), "seeds": (41, 42, 43)}


def _analysed(folder, outcome, **options):
    """The result of a study with these outcomes."""
    options = {**THREE, **options}
    study_folder(folder, [outcome(record) for record in planned(study(**options))], **options)
    return analyse(load_study(folder))


def _criteria(result, name):
    """A criterion's outcome for every setting of every knob."""
    found = {}
    for band in result.bands:
        for setting in band.settings:
            held = [c.outcome for c in setting.criteria if c.name == name]
            assert len(held) == 1, f"{name} was skipped"
            found[band.knob, setting.value] = held[0]
    return found


def _noisy(seed, deviation):
    generator = np.random.default_rng(seed)
    return lambda record: ended(record, quality=float(np.clip(generator.normal(0.5, deviation), 0, 1)))


def test_the_best_looking_setting_is_not_its_own_proof(tmp_path):
    """Where seeds swing by 0.15, nothing is known to be near the best: not the best either."""
    result = _analysed(tmp_path, _noisy(3, 0.15))
    assert "pass" not in _criteria(result, NEAR_BEST).values()


def test_a_setting_that_lost_most_of_its_seeds_sets_no_standard(tmp_path):
    def outcome(record):
        lucky = record.tau == 0.9
        if lucky and record.plan.seed != 41:
            return ended(record, status="diverged")
        return ended(record, quality=0.9 if lucky else 0.5)

    near = _criteria(_analysed(tmp_path, outcome), NEAR_BEST)
    assert near["tau", 0.99] != "fail"


def test_replicates_pair_seeds_by_identity(tmp_path):
    """One setting lost its first seed, another its last: they are not laid side by side."""

    def outcome(record):
        lost = {0.9: 41, 0.99: 43}.get(record.tau)
        if record.plan.seed == lost and record.T == 10 and record.lambda_ == 1e-3:
            return ended(record, status="failed")
        return ended(record)

    study_folder(tmp_path, [outcome(r) for r in planned(study(**THREE))], **THREE)
    data = load_study(tmp_path)
    replicated = replicated_costs(data, summarize_points(data.records))
    assert len({point.seeds for point in replicated.points}) == 1


def test_no_difference_names_nobody_dominated(tmp_path):
    """Equal settings, three seeds, tied costs: neither in all objectives nor in quality and retention."""
    named, left_out = 0, 0
    for number in range(20):
        result = _analysed(tmp_path / str(number), _noisy(number, 0.05))
        named += any(regime.dominated for regime in result.regimes)
        for regime in result.regimes:
            left_out += len(regime.cheapest) < sum(not point.lost for point in regime.points)
    assert named <= 3  # 5% of 20, and twice their deviation
    assert left_out <= 3


def test_the_strongest_rival_is_the_one_that_all_pairs_give(tmp_path):
    """A few pairs are looked at closely; a slow twin looks at all."""
    named = 0
    for number in range(4):
        study_folder(tmp_path / str(number), [_apart(r, number) for r in planned(study(**THREE))], **THREE)
        data = load_study(tmp_path / str(number))
        points = [p for p in summarize_points(data.records) if p.regime == "step"]
        noise = regime_noise(data, points)
        dominated = {name: rival.point_id for name, rival in dominated_beyond_noise(points, noise).items()}
        assert dominated == _dominated_by_all_pairs(points, noise)
        named += len(dominated)
    assert named


def _apart(record, number):
    """Settings are apart by more than seeds are, and some are better in everything."""
    knobs = (record.lambda_ or 0.0, record.T or 0, record.tau or 0.0)
    generator = np.random.default_rng([number, record.plan.seed, *(int(1e4 * knob) for knob in knobs)])
    level = {1e-4: 0.0, 1e-3: 0.1, 1e-2: 0.2, 1e-1: 0.3}.get(knobs[0], 0.0)
    return ended(
        record,
        quality=0.4 + level + 0.001 * generator.normal(),
        forgetting=0.5 - level + 0.001 * generator.normal(),
        footprint=0.5,
    )


def _dominated_by_all_pairs(points, noise):
    models = [(noise.quality, 1), (noise.forgetting, -1), (noise.overhead, -1), (noise.footprint, -1)]
    tests = len(points) * (len(points) - 1) * len(models)
    strongest = {}
    for point, rival in itertools.permutations(points, 2):
        if any(costs([rival])[0] > costs([point])[0]):
            continue
        for model, sign in models:
            pair = (rival.point_id, point.point_id)[::sign]
            p_value = model.difference(*pair).p_above(0.0) if model.several_seeds else 1.0
            if p_value * tests <= ERROR_RATE and p_value < strongest.get(point.point_id, (2.0, ""))[0]:
                strongest[point.point_id] = (p_value, rival.point_id)
    return {name: rival for name, (_, rival) in strongest.items()}


def test_settings_without_a_common_seed_are_compared_all_the_same(tmp_path):
    def outcome(record):
        mine = record.plan.seed in ((41, 42) if record.lambda_ == 0.1 else (43, 44))
        if record.config.uses_grit and not mine:
            return ended(record, status="failed")
        return ended(record, quality=0.1 if record.lambda_ == 0.1 else 0.5)

    result = _analysed(tmp_path, outcome, seeds=(41, 42, 43, 44))
    assert _criteria(result, NEAR_BEST)["lambda", 0.1] == "fail"
    assert _criteria(result, RETENTION)["lambda", 0.1] in ("pass", "open", "out of reach")


def test_interval_and_p_value_agree(tmp_path):
    result = _analysed(tmp_path, _noisy(5, 0.03))
    for setting in (s for band in result.bands for s in band.settings if not s.is_default):
        delta = setting.quality_delta
        assert (delta.p_value < 0.05) == (not delta.low <= 0 <= delta.high)


def test_the_default_is_kept_where_no_setting_differs(tmp_path):
    for number in range(10):
        advice = _analysed(tmp_path / str(number), _noisy(number, 0.01)).recommendation
        assert [one.shown() for one in advice.knobs] == ["0.001", "10", "0.99"]


def test_a_collapse_is_named_and_not_averaged(tmp_path):
    def outcome(record):
        collapsed = record.T == 5 and record.plan.seed == 42
        swing = 0.002 * record.plan.seed % 0.005
        return ended(record, quality=0.05 if collapsed else 0.5 + swing)

    result = _analysed(tmp_path, outcome)
    point = next(point for point in result.points if point.T == 5)
    assert point.lost == 1
    assert point.mean("quality") > 0.49
    assert any("collapsed" in sentence for sentence in result.data.damage)
    assert _criteria(result, "stability")["T", 5] == "fail"


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"quality": 0.75}, "its predictions 0.5"),
        ({"forgetting": 0.3}, "its predictions 0.1"),
        ({"footprint": -0.2}, "below zero"),
        ({"quality": 1.5}, "exact_match cannot be"),
        ({"eval_seconds": None}, "has no eval_seconds"),
    ],
)
def test_numbers_that_cannot_be_are_left_out_and_named(tmp_path, wrong, words):
    records = [ended(record) for record in planned(study(**THREE))]
    study_folder(tmp_path, records, **THREE)
    rows = prediction_rows(records[3])
    if wrong == {"quality": 1.5}:
        rows = [{**row, "score": 1.5} if row["kind"] == "task" else row for row in rows]
        write_rows(tmp_path, "predictions", records[3].trial_id, rows)
    measured = records[3].measured.model_copy(update=wrong)
    records[3] = records[3].model_copy(update={"measured": measured})
    data = load_study(tmp_path, records)
    assert not data.records[3].usable
    assert any(words in sentence for sentence in data.damage), data.damage


def test_a_study_says_first_that_its_combination_was_not_run(tmp_path):
    """Two knobs leave their defaults, each alone."""

    def outcome(record):
        seed = record.plan.seed
        cheap = 0.02 if record.T == 5 else 0.05
        small = 0.5 if record.tau == 0.9 else 0.8
        return ended(record, overhead=cheap + 1e-4 * (seed % 3), footprint=small + 1e-3 * (seed % 2))

    result = _analysed(tmp_path, outcome)
    assert [one.shown() for one in result.recommendation.knobs] == ["0.001", "5", "0.9"]
    assert any("was not run" in sentence for sentence in result.recommendation.openings())


def test_spread_that_all_settings_share_is_not_held_against_one(tmp_path):
    """Every setting swings with the seed as the control does."""

    def outcome(record):
        return ended(record, quality=0.5 + 0.1 * (record.plan.seed - 42))

    result = _analysed(tmp_path, outcome)
    assert set(_criteria(result, "seed spread").values()) == {"pass"}
    assert {band.verdict for band in result.bands} == {"robust"}


def test_one_seed_proves_nothing(tmp_path):
    result = _analysed(tmp_path, ended, seeds=(41,))
    assert set(_criteria(result, NEAR_BEST).values()) == {"open"}
    assert replace(result).recommendation.knobs[0].confidence.startswith("not excluded")


def test_a_cadence_that_never_acted_is_named(tmp_path):
    """Its footprint fails because nothing was reprojected, which is no property of the cadence."""

    def outcome(record):
        slow = record.T == 10
        return ended(record, reprojections=0 if slow else 2, footprint=1.0 if slow else 0.5)

    result = _analysed(tmp_path, outcome)
    said = [sentence for sentence in result.recommendation.openings() if "never acted" in sentence]
    assert said == [
        "T = 10 never acted in the step-matched trials, which had at most 20 steps: what is said of it "
        "there is said of no reprojection at all."
    ]


def test_a_regime_without_its_default_is_not_silent(tmp_path):
    """An interrupted study once said nothing of it, and called settings open that had not been run."""
    options = {"regimes": ("step", "time"), "seeds": (41,)}
    records = [ended(r) if r.plan.regime == "time" else r for r in planned(study(**options))]
    study_folder(tmp_path, records, **options)
    result = analyse(load_study(tmp_path))
    said = "Step-matched, nothing is judged: no trial of the default has ended."
    assert said in result.recommendation.openings()
    assert not any(
        sentence.startswith("Time-matched, nothing") for sentence in result.recommendation.openings()
    )


def test_a_setting_that_was_not_run_is_not_open(tmp_path):
    records = [r if r.tau == 0.9 else ended(r) for r in planned(study(regimes=("step",), seeds=(41, 42)))]
    study_folder(tmp_path, records, regimes=("step",), seeds=(41, 42))
    words = {
        s.value: s.word for b in analyse(load_study(tmp_path)).bands if b.knob == "tau" for s in b.settings
    }
    assert words.pop(0.9) == "not run" and "not run" not in words.values()
