"""The law of forgetting and its two-stage fit (paper D.4, appendix J).

Pure functions on arrays; every draw comes from an explicit generator.

    forgetting = c D^beta / (N Xi)^alpha,      Xi = (1 + g_r r_eff)(1 + g_a rho)(1 + g_p pi),  g >= 0

Stage 1 finds c, beta and, where backbones of several sizes are there, alpha from LoRA runs. Stage 2 finds the
g from GRIT runs at these exponents.
Where there is one backbone, alpha cannot be told from c: it is set to `ALPHA`, and the g are those that
belong to it. We depart from the paper in one
thing: Xi counts relative to its value without geometry, at the same rank and budget, so that the law without
geometry is LoRA's (its "calibrating"),
which has a c for each rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from analysis.stats.arrays import Floats

#: The exponent of capacity where one backbone cannot tell it.
ALPHA = 1.0
NAMES = ("g_r (effective rank)", "g_a (alignment)", "g_p (retained mass)")
#: Profiles of a coefficient look this far, in units of the inverse of its feature's mean.
REACH = (1e-3, 1e3)
PROFILE_POINTS = 41
#: Twice the log-likelihood that a 95% profile interval of one coefficient may lose (chi squared, one degree
#: of freedom).
DEVIANCE = 3.841


@dataclass(frozen=True, kw_only=True)
class LawRuns:
    """Runs as columns.

    `tokens` D, `parameters` N, `ranks` of the adapter, `forgetting` (nats/token, above 0), `features`,
    `neutral` (n, 3).

    `neutral` are the features that LoRA has at the same rank and budget; `budgets` (steps) and `settings`
    (numbers) say what was asked for.
    """

    tokens: Floats
    parameters: Floats
    ranks: Floats
    budgets: Floats
    settings: Floats
    forgetting: Floats
    features: Floats
    neutral: Floats

    def __len__(self) -> int:
        """How many."""
        return len(self.tokens)

    def take(self, numbers: Sequence[int] | NDArray[np.int64]) -> LawRuns:
        """Some of them, as often as they are named."""
        index = np.asarray(numbers, dtype=int)
        return LawRuns(
            tokens=self.tokens[index],
            parameters=self.parameters[index],
            ranks=self.ranks[index],
            budgets=self.budgets[index],
            settings=self.settings[index],
            forgetting=self.forgetting[index],
            features=self.features[index],
            neutral=self.neutral[index],
        )


@dataclass(frozen=True, kw_only=True)
class BudgetLaw:
    """Stage 1: log forgetting = log c + beta log D - alpha log N, with a c for each rank.

    `alpha_found`: whether the data told alpha.
    """

    constants: dict[float, float]
    beta: float
    alpha: float
    alpha_found: bool

    def predict(self, runs: LawRuns) -> Floats:
        """Log forgetting (n,); a rank that was not seen has the mean constant."""
        usual = float(np.mean(list(self.constants.values())))
        constants = np.array([self.constants.get(float(rank), usual) for rank in runs.ranks])
        return np.asarray(
            constants + self.beta * np.log(runs.tokens) - self.alpha * np.log(runs.parameters), dtype=float
        )


def tells_slope(runs: LawRuns) -> bool:
    """Whether some rank has several budgets.

    Tokens alone differ by seed, and a slope through that would be noise.
    """
    return any(len(np.unique(runs.budgets[runs.ranks == rank])) > 1 for rank in np.unique(runs.ranks))


def fit_budget(runs: LawRuns) -> BudgetLaw:
    """Least squares in logarithms.

    With a single D the slope beta is 0, with a single N alpha is `ALPHA`: neither can be told.
    """
    sizes = len(np.unique(runs.parameters)) > 1
    target = np.log(runs.forgetting) + (0.0 if sizes else ALPHA * np.log(runs.parameters))
    ranks = np.unique(runs.ranks)
    columns = [
        *((runs.ranks == rank).astype(float) for rank in ranks),
        np.log(runs.tokens),
        *([-np.log(runs.parameters)] if sizes else []),
    ]
    coefficients = np.linalg.lstsq(np.stack(columns, axis=1), target, rcond=None)[0]
    constants = {float(rank): float(value) for rank, value in zip(ranks, coefficients, strict=False)}
    beta, rest = float(coefficients[len(ranks)]), coefficients[len(ranks) + 1 :]
    return BudgetLaw(
        constants=constants, beta=beta, alpha=float(rest[0]) if sizes else ALPHA, alpha_found=sizes
    )


def log_multiplier(gains: Floats, runs: LawRuns) -> Floats:
    """Log of Xi over its value without geometry, (n,); gains are the three g."""
    return np.asarray(
        (np.log1p(gains * runs.features) - np.log1p(gains * runs.neutral)).sum(axis=1), dtype=float
    )


def predict(law: BudgetLaw, gains: Floats, runs: LawRuns) -> Floats:
    """Log forgetting under the whole law, (n,)."""
    return np.asarray(law.predict(runs) - law.alpha * log_multiplier(gains, runs), dtype=float)


def fit_gains(law: BudgetLaw, runs: LawRuns, fixed: tuple[int, float] | None = None) -> tuple[Floats, float]:
    """Stage 2: the g >= 0 of least squares, and the sum of squares; `fixed` holds one of them (index, value).

    Args:
        law: from stage 1, kept as it is.
        runs: of GRIT.
        fixed: for a profile.
    """
    free = [i for i in range(3) if fixed is None or i != fixed[0]]
    scale = 1.0 / np.maximum(np.abs(runs.features).mean(axis=0), 1e-12)
    residual = np.log(runs.forgetting) - law.predict(runs)

    def gains_of(x: Floats) -> Floats:
        gains = np.zeros(3)
        gains[free] = x * scale[free]
        if fixed is not None:
            gains[fixed[0]] = fixed[1]
        return gains

    best: tuple[Floats, float] | None = None
    linear = nnls((law.alpha * (runs.features - runs.neutral))[:, free] * -scale[free], residual)[0]
    for start in (np.clip(linear, 1e-6, 1e3), np.full(len(free), 0.1), np.full(len(free), 10.0)):
        fit = least_squares(
            lambda x: residual + law.alpha * log_multiplier(gains_of(x), runs), start, bounds=(0.0, np.inf)
        )
        if best is None or 2 * fit.cost < best[1]:
            best = (gains_of(fit.x), float(2 * fit.cost))
    assert best is not None
    return best


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One coefficient's profile.

    `values` and the `deviance` above the best fit (twice the log-likelihood lost); what 95% of it allows.
    """

    values: Floats
    deviance: Floats
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the data identify the coefficient."""
        if not np.isfinite(self.high):
            return "not identified: no upper end" if self.low == 0 else "bounded below only"
        return "identified: above 0" if self.low > 0 else "bounded above, 0 not excluded"


def profile(law: BudgetLaw, runs: LawRuns, index: int) -> Profile:
    """Profile likelihood of one g with Gaussian errors of unknown variance.

    The others are fitted anew at every value.
    """
    scale = 1.0 / max(float(np.abs(runs.features[:, index]).mean()), 1e-12)
    best, least = fit_gains(law, runs)
    values = np.unique(
        np.concatenate(
            [
                [0.0, best[index]],
                scale * np.geomspace(*REACH, PROFILE_POINTS),
                best[index] * np.geomspace(0.5, 2, 41),
            ]
        )
    )
    squares = np.array([fit_gains(law, runs, (index, float(value)))[1] for value in values])
    deviance = len(runs) * np.log(np.maximum(squares, 1e-300) / max(min(least, float(squares.min())), 1e-300))
    inside = values[deviance <= DEVIANCE]
    top = float(inside.max()) if len(inside) else float(best[index])
    return Profile(
        values=values,
        deviance=deviance,
        low=float(inside.min()) if len(inside) else float(best[index]),
        high=np.inf if top >= values.max() else top,
    )


def bootstrap(lora: LawRuns, grit: LawRuns, *, replicates: int = 300, seed: int = 0) -> Floats:
    """Both stages on runs drawn again with replacement, LoRA's and GRIT's apart: (replicates, ranks + 5).

    Log c by rank, beta, alpha, the g.

    Draws in which a rank of LoRA's runs, or the slope, is lost are left out.
    """
    generator, drawn = np.random.default_rng(seed), []
    ranks, sizes = len(np.unique(lora.ranks)), len(np.unique(lora.parameters))
    for _ in range(replicates):
        first = lora.take(generator.integers(0, len(lora), len(lora)))
        if (
            not tells_slope(first)
            or len(np.unique(first.ranks)) < ranks
            or len(np.unique(first.parameters)) < sizes
        ):
            continue
        law = fit_budget(first)
        gains, _ = fit_gains(law, grit.take(generator.integers(0, len(grit), len(grit))))
        drawn.append([*law.constants.values(), law.beta, law.alpha, *gains])
    return np.array(drawn).reshape(-1, ranks + 5)


def by_setting(
    values: Floats, settings: Floats, *, replicates: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95% interval of the mean of values (n,) with whole settings drawn again.

    LawRuns of one setting share what made them.
    """
    groups = [values[settings == setting] for setting in np.unique(settings)]
    generator, means = np.random.default_rng(seed), []
    for _ in range(replicates):
        means.append(
            float(np.concatenate([groups[i] for i in generator.integers(0, len(groups), len(groups))]).mean())
        )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def error(predicted: Floats, runs: LawRuns) -> Floats:
    """Squared errors of predicted log forgetting, (n,)."""
    return np.asarray((predicted - np.log(runs.forgetting)) ** 2, dtype=float)
