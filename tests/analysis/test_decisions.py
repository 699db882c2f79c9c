"""Decisions: one way to be wrong each, and the family's error rate is kept under repeated looks."""

import numpy as np
import pytest
from builders import ended, planned, study, study_folder

from analysis.evidence.foresight import foreseen, seen_noise
from analysis.stats.decisions import ERROR_RATE, Looks, Question, decide, seeds_needed, smallest_difference
from analysis.stats.pooled_noise import Contrast

ONCE = Looks(sequential=False, most_seeds=10)


def _contrast(mean, error=0.01, freedom=14.0, seeds=3, item_variance=0.0):
    return Contrast(
        mean=mean,
        error=float(np.sqrt(error**2 + item_variance)),
        freedom=freedom,
        seed_variance=error**2,
        item_variance=item_variance,
        seeds=seeds,
    )


def _question(contrast, bound=-0.05):
    return Question.of(contrast, bound)


def test_a_difference_is_decided_where_its_bound_is_far():
    decisions = decide([_question(_contrast(mean)) for mean in (0.0, -0.15, -0.045)], ONCE)
    assert [decision.outcome for decision in decisions[:2]] == ["pass", "fail"]
    assert decisions[2].outcome in ("open", "out of reach")


def test_what_examples_alone_leave_unclear_is_out_of_reach():
    near = _question(_contrast(-0.04, item_variance=0.02**2))
    assert decide([near], ONCE)[0].outcome == "out of reach"
    assert decide([near], ONCE)[0].seeds_needed is None


def test_the_predicted_number_of_seeds_decides():
    contrast = _contrast(-0.02, error=0.02)
    question = _question(contrast)
    assert decide([question], ONCE)[0].outcome == "open"
    needed = seeds_needed(contrast, -0.05, ONCE, 1)
    more = _contrast(-0.02, error=0.02 * np.sqrt(3 / needed), freedom=14 * needed / 3, seeds=needed)
    less = _contrast(-0.02, error=0.02 * np.sqrt(3 / (needed - 1)), freedom=14 * (needed - 1) / 3)
    assert decide([_question(more)], ONCE)[0].outcome == "pass"
    assert decide([_question(less)], ONCE)[0].outcome == "open"


def test_the_smallest_difference_is_told_four_times_in_five():
    generator, contrast = np.random.default_rng(2), _contrast(0.0)
    distance = smallest_difference(contrast, ERROR_RATE)
    told = []
    for _ in range(4000):
        error = 0.01 * np.sqrt(generator.chisquare(14) / 14)
        seen = _contrast(generator.normal(distance, 0.01), error=error)
        told.append(seen.p_above(0.0) <= ERROR_RATE)
    assert np.mean(told) == pytest.approx(0.8, abs=0.02)


def test_looks_spend_the_error_rate_and_no_more():
    looks = Looks(sequential=True, most_seeds=8)
    spent = [looks.spent_at(seeds) for seeds in range(2, 9)]
    assert sum(spent) == pytest.approx(ERROR_RATE)
    assert spent == sorted(spent, reverse=True)
    assert ONCE.spent_at(3) == ERROR_RATE


def test_the_error_rate_holds_under_repeated_looks():
    """Six settings at their bound exactly, looked at with 2 to 8 seeds: any answer would be a coin's."""
    generator, looks, false = np.random.default_rng(6), Looks(sequential=True, most_seeds=8), 0
    rounds, settings = 250, 6
    for _ in range(rounds):
        draws = generator.normal(-0.05, 0.02, (settings, 8))
        passed = False
        for seeds in range(2, 9):
            freedom = settings * (seeds - 1)
            pooled = np.sqrt(draws[:, :seeds].var(axis=1, ddof=1).mean() / seeds)
            questions = [
                _question(_contrast(mean, error=pooled, freedom=freedom, seeds=seeds))
                for mean in draws[:, :seeds].mean(axis=1)
            ]
            passed |= any(decision.outcome == "pass" for decision in decide(questions, looks))
        false += passed
    assert false / rounds <= ERROR_RATE + 2 * np.sqrt(ERROR_RATE * (1 - ERROR_RATE) / rounds)


def test_what_a_design_can_tell_is_foreseen_from_earlier_records(tmp_path):
    """Settings that are equal are decided with the number of seeds that was foreseen, four times in five."""
    options = {"seeds": (41, 42, 43), "regimes": ("step",)}
    generator = np.random.default_rng(4)
    records = [
        ended(record, quality=float(np.clip(0.5 + 0.01 * generator.normal(), 0, 1)))
        for record in planned(study(**options))
    ]
    strays = [
        ended(
            record.model_copy(
                update={
                    "trial_id": f"{number:016x}",
                    "config": record.config.changed(learning_rate=0.1),
                    "plan": record.plan.model_copy(update={"overrides": {"learning_rate": 0.1}}),
                }
            ),
            quality=float(generator.uniform()),
        )
        for number, record in enumerate(records)
    ]
    study_folder(tmp_path / "earlier", [*records, *strays], **options)
    seen = seen_noise(tmp_path, study(**options).base)["quality"]
    assert seen.source == "the records of earlier"
    assert 0.004 < seen.seed_setting < 0.02
    tells = foreseen(seen, 0.05, first=2, settings=6, looks=ONCE)
    assert tells.most < tells.first
    contrast = seen.contrast(tells.seeds_needed, 6)
    assert decide([_question(contrast)] * 6, ONCE)[0].outcome == "pass"
    other = study(**options).base.changed(learning_rate=1.0)
    assert seen_noise(tmp_path, other) == {}
