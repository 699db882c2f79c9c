"""A setting that is said not to act does not: the same run, bit for bit; one that acts changes it."""

import pytest

from grit.config.first_effect import idle_reason
from grit.config.method import GritConfig
from grit.config.overrides import with_overrides
from grit.config.sections import Budget
from grit.config.settings import declared

#: Values of a setting, one of which keeps those that need another one from acting.
VALUES = {
    "preconditioner": ("none", "paper"),
    "rank_adaptation": (False, True),
    "cadence": ("fixed",),
    "reprojection_trigger": ("fixed",),
    "rank_policy": ("coverage",),
}
#: Another value of every setting that acts only beside another.
CHANGED = {
    "damping_scale": "relative",
    "kfac_damping": 0.3,
    "damping_reference_batch": 64,
    "kfac_update_freq": 3,
    "cadence_window": 5,
    "cadence_max_stretch": 2,
    "cadence_stretches_reprojection": True,
    "ng_warmup_steps": 3,
    "reprojection_band": 0.5,
    "reprojection_k": 2,
    "rank_adaptation_threshold": 0.5,
    "rank_adaptation_start_step": 5,
    "rank_growth_threshold": 0.3,
    "rank_hysteresis": 0.005,
    "rank_energy_ema": 0.5,
    "entropy_floor": 0.9,
    "min_lora_rank": 2,
    "quantization_damping": 0.5,
    "trust_region": 1e-4,
}
CONDITIONAL = {item.name: declaration for item, declaration in declared(GritConfig) if declaration.acts_with}


def test_every_conditional_setting_is_tried():
    assert set(CHANGED) == set(CONDITIONAL)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_beside_what_keeps_it_from_acting_it_changes_nothing(name, short_run, reference):
    against = {
        other: value
        for other, allowed in CONDITIONAL[name].acts_with.items()
        for value in VALUES[other]
        if value not in allowed
    }
    other, value = next(iter(against.items()))
    method = "qgrit" if name == "quantization_damping" else "grit"
    few = {"eval_examples": 2, "retention_documents": 1, "accumulation": 1}
    base = short_run(**{other: value}, min_lora_rank=1, method=method, **few)
    assert f"acts only with {other}" in idle_reason(base, {name: CHANGED[name]})
    one, two = reference(base), reference(base.changed(**{name: CHANGED[name]}))
    assert [row["loss"] for row in one.telemetry] == [row["loss"] for row in two.telemetry]
    assert one.measured.final_ranks == two.measured.final_ranks
    assert one.measured.forgetting == two.measured.forgetting


def test_beside_what_it_needs_a_setting_acts(short_run):
    base = short_run()
    assert idle_reason(base, {"tau": 0.9}) is None
    assert idle_reason(base, {"rank_adaptation": False, "reprojection_k": 2}) is None
    assert idle_reason(base, {"tau": base.grit.tau}) == "tau = 0.96 is the default here already"


@pytest.mark.parametrize(
    "changes, overrides, words",
    [
        ({"reprojection_freq": 40}, {"basis": "balanced"}, "reprojection acts after 39 steps"),
        ({"ng_warmup_steps": 50}, {"lambda": 0.1}, "the preconditioner acts after 4"),
        (
            {"kfac_update_freq": 40},
            {"kfac_min_samples": 9},
            None,
        ),  # the gate of a reprojection has it as well
        ({}, {"cadence": "adaptive"}, "the controller looks after 20 steps"),
        ({"cadence_window": 5}, {"cadence": "adaptive"}, None),
    ],
)
def test_what_first_acts_when_the_budget_is_spent_is_idle(changes, overrides, words, short_run):
    reason = idle_reason(short_run(**changes), overrides)
    if words is None:
        assert reason is None
    else:
        assert words in reason


def test_under_a_time_budget_nothing_is_known_to_come_too_late(short_run):
    timed = short_run(budget=Budget(regime="time", amount=1.0), reprojection_freq=4000)
    assert idle_reason(timed, {"basis": "balanced"}) is None


def test_where_ranks_grow_tau_moves_the_growth_threshold(short_run):
    growing = short_run(rank_policy="growth", reprojection_freq=2)
    moved = with_overrides(growing, {"tau": 0.9})
    assert moved.grit.rank_growth_threshold == 0.1
    assert idle_reason(growing, {"tau": 0.9}) is None
    named = with_overrides(growing, {"tau": 0.9, "rank_growth_threshold": 0.5})
    assert named.grit.rank_growth_threshold == 0.5
    assert with_overrides(short_run(), {"tau": 0.9}).grit.rank_growth_threshold == 0.01
    # its center stands where it stood: tau's default and the threshold's say the same
    center = short_run(rank_policy="growth", reprojection_freq=2, rank_adaptation_threshold=0.99)
    assert with_overrides(center, {"tau": 0.99}) == center


def test_a_smaller_tau_keeps_fewer_directions_where_ranks_grow(short_run, reference):
    growing = short_run(rank_policy="growth", reprojection_freq=2, min_lora_rank=1)
    ranks = [reference(with_overrides(growing, {"tau": tau})).measured.final_ranks for tau in (0.5, 0.99)]
    assert sum(ranks[0]) < sum(ranks[1])
