from functools import partial

import pytest

from grit.config.method import GritConfig
from grit.config.run_config import RunConfig
from grit.config.sections import Budget, TaskSource
from grit.errors import ConfigError


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("rank_adaptation_threshold", 0.0, "tau .* must lie in"),
        ("rank_adaptation_threshold", 1.2, "tau .* must lie in"),
        ("reprojection_freq", 0, "T .* at least 1"),
        ("reprojection_freq", 2.5, "T .* whole number"),
        ("kfac_damping", 0.0, "lambda .* above 0"),
        ("kfac_damping", float("nan"), "lambda .* finite"),
        ("kfac_damping", -1e-3, "lambda"),
        ("preconditioner", "adam", "paper, kfac, soap, none"),
        ("basis", "svd", "fisher, balanced"),
        ("two_sided", "yes", "true or false"),
        ("ema_decay", 1.0, "running mean"),
        ("min_lora_rank", 0, "at least 1"),
        ("rank_hysteresis", -0.1, r"\[0, 1\)"),
        ("rank_hysteresis", None, "must be a number"),
        ("ema_decay", "slow", "must be a number"),
    ],
)
def test_bad_values_are_refused_by_name(field, value, words):
    with pytest.raises(ConfigError, match=words) as caught:
        GritConfig(**{field: value})
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unsupported_combinations_are_refused_by_name():
    with pytest.raises(ConfigError, match="suppression = 'gate'"):
        GritConfig(suppression="gate", reprojection_mix=0.5)
    with pytest.raises(ConfigError, match="at most the rank, 2"):
        RunConfig.of(task=TaskSource(name="x"), budget=Budget(regime="step", amount=1), rank=2)


@pytest.mark.parametrize(
    "field, value",
    [
        ("dropout", "abc"),
        ("weight_decay", -5.0),
        ("weight_decay", "abc"),
        ("targets", "q_proj"),
        ("targets", ()),
        ("learning_rate", True),
        ("model", 3),
    ],
)
def test_bad_run_settings_are_refused_by_name(short_run, field, value):
    with pytest.raises(ConfigError, match=f"^{field} = "):
        short_run(**{field: value})


def test_never_is_a_cadence():
    assert GritConfig(reprojection_freq=None).reprojection_freq is None


@pytest.mark.parametrize(
    "regime, amount", [("step", 0), ("step", 1.5), ("time", 0.0), ("time", float("inf"))]
)
def test_bad_budgets_are_refused(regime, amount):
    with pytest.raises(ConfigError, match="budget-"):
        Budget(regime=regime, amount=amount)


def test_time_budget_ends_within_half_a_step():
    budget = Budget(regime="time", amount=10.0)
    assert not budget.is_spent(0, 0.0)
    assert not budget.is_spent(9, 9.0)
    assert budget.is_spent(10, 9.9)
    assert not budget.is_spent(10, 9.4)


def test_config_survives_a_round_trip(short_run):
    config = short_run()
    assert RunConfig.from_dict(config.to_dict()) == config


def test_identity_counts_what_decides_and_nothing_else(short_run):
    content = {"task": "t", "documents": "d", "model": "m"}
    base = short_run().identity(content)
    assert short_run(checkpoint_steps=5).identity(content) == base
    assert short_run(model="/elsewhere/the/same").identity(content) == base
    assert short_run(seed=42).identity(content) != base
    assert short_run(grit=GritConfig()).identity(content) != base
    assert short_run().identity({**content, "model": "n"}) != base
    assert short_run(method="lora", grit=GritConfig()).identity(content) == short_run(method="lora").identity(
        content
    )


def test_a_misspelt_setting_is_answered_with_the_nearest():
    for make in (GritConfig, partial(GritConfig.for_steps, 100)):
        with pytest.raises(TypeError, match="has no setting 'taau': did you mean 'tau'?"):
            make(taau=0.9)
