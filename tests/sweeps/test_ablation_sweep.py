"""Switches that would change nothing are refused before anything starts; the rest is planned once each."""

import pytest

from grit.config.sections import Budget
from grit.errors import ConfigError
from grit.presets.run_presets import configuration
from sweeps import ablation
from sweeps.ablation import SWITCHES, check_acts, grids


@pytest.mark.parametrize(
    "preset, method",
    [("embedded", "grit"), ("embedded", "qgrit"), ("llama-3.2-3b", "qgrit"), ("llama-3.1-8b", "grit")],
)
def test_every_switch_acts_on_every_preset(preset, method):
    base = configuration(preset, method)
    for name, overrides in (*SWITCHES.items(), *((str(o), o) for o in grids(base))):
        check_acts(base, name, overrides)


@pytest.mark.parametrize(
    "changes, overrides, said",
    [
        ({}, {"preconditioner": "paper"}, "is the default here already"),
        ({}, {"T": 16}, "is the default here already"),
        ({"reprojection_freq": 200}, {"basis": "balanced"}, "reprojection acts after 199 steps"),
        ({"reprojection_freq": None}, {"suppression": "gate"}, "reprojection acts after inf steps"),
        ({"ng_warmup_steps": 500}, {"damping_scale": "relative"}, "the preconditioner acts after"),
        ({"cadence_window": 100}, {"cadence": "adaptive"}, "the controller looks after 100 steps"),
        ({}, {"reprojection_k": 4}, "reprojection_k acts only with rank_adaptation = False"),
    ],
)
def test_a_switch_that_changes_nothing_is_refused(changes, overrides, said):
    base = configuration("embedded", "grit").changed(budget=Budget(regime="step", amount=100), **changes)
    with pytest.raises(ConfigError, match=said):
        check_acts(base, "it", overrides)


def test_bad_input_is_one_line_and_the_plan_needs_nothing(capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ablation.SCRIPT.main(["--set", "reprojection_freq=1000", "--dry-run", "--no-measure"]) == 2
    refused = capsys.readouterr().err
    assert refused.startswith("error: ablation = ")
    assert refused.count("\n") == 1
    assert ablation.SCRIPT.main(["--dry-run", "--no-measure"]) == 0
    planned = capsys.readouterr().out
    assert "qgrit" in planned
    assert "81 trials" in planned
    assert " time " not in planned
