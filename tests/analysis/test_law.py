"""The law against data made with known coefficients.

Both stages, LoRA's limit, what cannot be identified, and prediction.
"""

import numpy as np
import pytest

from analysis.stats.forgetting_fit import (
    ALPHA,
    LawRuns,
    bootstrap,
    error,
    fit_budget,
    fit_gains,
    log_multiplier,
    predict,
    profile,
)

C, BETA, CAPACITY, GAINS = 3.0, 0.6, 0.4, np.array([0.3, 1.5, 0.8])


def _runs(
    count,
    *,
    gains=GAINS,
    noise=0.01,
    sizes=(1e6, 1e7, 1e8),
    geometry=True,
    alpha=CAPACITY,
    features=None,
    seed=0,
):
    generator = np.random.default_rng(seed)
    neutral = np.tile([12.0, 0.25, 1.0], (count, 1))
    if features is None:
        features = np.stack(
            [
                generator.uniform(3, 12, count),
                generator.uniform(0.1, 0.9, count),
                generator.uniform(0.3, 1, count),
            ],
            1,
        )
    tokens, parameters = np.exp(generator.uniform(8, 12, count)), generator.choice(sizes, count)
    ranks, budgets, settings = (
        np.where(np.arange(count) % 2, 8.0, 16.0),
        np.round(np.log(tokens)),
        np.arange(count) // 2.0,
    )
    empty = LawRuns(
        tokens=tokens,
        parameters=parameters,
        ranks=ranks,
        budgets=budgets,
        settings=settings,
        forgetting=np.ones(count),
        features=features if geometry else neutral,
        neutral=neutral,
    )
    log = (
        np.log(np.where(ranks == 8, C, 2 * C))
        + BETA * np.log(tokens)
        - alpha * (np.log(parameters) + log_multiplier(gains, empty))
    )
    log += noise * generator.normal(size=count)
    return LawRuns(
        tokens=tokens,
        parameters=parameters,
        ranks=ranks,
        budgets=budgets,
        settings=settings,
        forgetting=np.exp(log),
        features=empty.features,
        neutral=neutral,
    )


def test_both_stages_find_known_coefficients():
    lora, grit = _runs(40, geometry=False), _runs(80, seed=1)
    law = fit_budget(lora)
    assert law.alpha_found
    assert list(law.constants) == [8.0, 16.0]
    assert [np.exp(c) for c in law.constants.values()] == pytest.approx([C, 2 * C], rel=0.05)
    assert (law.beta, law.alpha) == (pytest.approx(BETA, abs=0.01), pytest.approx(CAPACITY, abs=0.01))
    gains, _ = fit_gains(law, grit)
    assert gains == pytest.approx(GAINS, rel=0.15)
    low, high = np.quantile(bootstrap(lora, grit, replicates=120), [0.025, 0.975], axis=0)
    truth = np.array([np.log(C), np.log(2 * C), BETA, CAPACITY, *GAINS])
    assert ((low <= truth) & (truth <= high)).all()
    assert (high - low)[2] < 0.05
    for index in range(3):
        found = profile(law, grit, index)
        assert found.verdict == "identified: above 0"
        assert found.low * 0.9 <= GAINS[index] <= found.high * 1.1


def test_without_geometry_the_law_is_loras():
    """Features at their neutral values, or gains of zero.

    The whole law predicts exactly what the budget law does.
    """
    lora = _runs(30, geometry=False)
    law = fit_budget(lora)
    assert predict(law, GAINS, lora) == pytest.approx(law.predict(lora), abs=1e-12)
    assert predict(law, np.zeros(3), _runs(10)) == pytest.approx(law.predict(_runs(10)), abs=1e-12)
    plain = _runs(60, gains=np.zeros(3), noise=0.05, seed=3)  # GRIT that forgets as LoRA does
    for index in range(3):
        assert profile(law, plain, index).low == 0


def test_one_backbone_cannot_tell_alpha():
    law = fit_budget(_runs(30, geometry=False, sizes=(1e7,)))
    assert not law.alpha_found
    assert law.alpha == ALPHA
    assert law.beta == pytest.approx(BETA, abs=0.01)


def test_a_feature_that_does_not_vary_is_not_identified():
    count = 40
    features = np.tile([12.0, 0.25, 1.0], (count, 1))
    features[:, 1] = np.linspace(0.1, 0.9, count)  # only alignment differs from the neutral values
    law, grit = fit_budget(_runs(30, geometry=False)), _runs(count, features=features)
    assert profile(law, grit, 1).verdict == "identified: above 0"
    assert profile(law, grit, 2).verdict == "not identified: no upper end"


def test_geometry_predicts_what_it_has_not_seen():
    law = fit_budget(_runs(40, geometry=False))
    gains, _ = fit_gains(law, _runs(60, seed=5))
    held = _runs(40, seed=6)
    with_geometry, without = error(predict(law, gains, held), held), error(law.predict(held), held)
    assert with_geometry.mean() < 0.001 < without.mean()
