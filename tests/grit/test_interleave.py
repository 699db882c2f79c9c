"""Runs that take turns compute what they compute alone, and leave one row per method and step."""

from collections import Counter

import pytest

from grit.config.sections import Budget
from grit.runtime.step_sections import SECTIONS
from grit.training.memory_probe import peak_memory, probe
from grit.training.side_by_side import train


def test_turns_change_nothing(bench, short_run):
    alone, together = train(short_run(), bench), train(short_run(beside=("lora", "dora", "qgrit")), bench)
    assert [r["loss"] for r in alone.telemetry] == [r["loss"] for r in together.telemetry]
    assert (alone.measured.quality, alone.measured.forgetting, alone.measured.final_ranks) == (
        together.measured.quality,
        together.measured.forgetting,
        together.measured.final_ranks,
    )
    assert not alone.interleaved
    assert Counter(row["method"] for row in together.interleaved) == dict.fromkeys(
        ("grit", "lora", "dora", "qgrit"), 10
    )
    row = together.interleaved[0]
    assert sum(row[f"ms_{name}"] for name in SECTIONS) == pytest.approx(row["ms_step"])
    assert [
        row["step"] for row in together.interleaved if row["method"] == "grit" and row["reprojected"]
    ] == [4, 8]
    assert not any(
        row["reprojected"] or row["ms_fisher"] for row in together.interleaved if row["method"] == "lora"
    )
    assert train(short_run(), bench).measured.quality == alone.measured.quality  # the bench is as it was


def test_one_that_diverges_is_told(bench, short_run, monkeypatch):
    from grit.training.divergence import DivergenceRule

    calls = []

    def third_is_bad(self, loss, *, skipped):
        calls.append(self)
        return "made to" if len(calls) == 3 else None

    monkeypatch.setattr(DivergenceRule, "update", third_is_bad)
    result = train(short_run(beside=("lora",)), bench)
    assert result.status == "diverged"
    assert result.reason == "lora, step 2: made to"


def test_the_probe_of_memory_reaches_everything_that_takes_memory(short_run):
    found = probe(
        short_run(beside=("lora",), memory=True, checkpoint_steps=2, budget=Budget(regime="step", amount=500))
    )
    assert found.budget.amount == 4
    assert found.grit.reprojection_freq == 2
    assert found.audits.beside == ()
    assert not found.audits.memory


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(short_run):
    assert 10**8 < peak_memory(short_run()) < 4 * 10**9


def test_audits_are_those_of_the_runs_own_method(bench, short_run):
    result = train(short_run(beside=("qgrit",), stability=True), bench)
    assert result.audits["stability"]
    assert result.interleaved
