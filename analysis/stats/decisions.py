"""Deciding whether a difference keeps to a bound, at a stated error rate, for a family of settings at once.

Each setting is asked one question: does its difference lie above a bound? Either answer can be shown, by a
one-sided test; exactly one of the two can be wrong. So the smaller of a setting's two p-values is corrected
by Holm's method over the settings of the family, and the rate of any false answer in it is kept.

Where trials are added until a setting is decided, it is looked at again with every seed. Each number of seeds
spends a part of the error rate (`spent_at`), and the parts add up to it, whatever these looks have to do with
each other. With the same seeds of its own a contrast is also judged anew when other settings get more, which
moves the common variance a little: that is not paid for, and benchmarks/verdicts.py shows what the whole
procedure keeps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import t

from analysis.stats.estimates import holm
from analysis.stats.pooled_noise import Contrast

Outcome = Literal["pass", "fail", "open", "out of reach"]

#: The rate of any false answer in a family of settings.
ERROR_RATE = 0.05
#: With this probability a difference of the stated size is told.
POWER = 0.8
#: Seeds with which a setting is looked at first where trials are added one by one.
FIRST_LOOK = 2
#: A setting is given up only if it could not be decided even were the distance to its bound this many
#: standard errors larger than it looks.
BENEFIT_OF_DOUBT = 1.0


@dataclass(frozen=True, kw_only=True)
class Looks:
    """How often settings are looked at.

    Attributes:
        sequential: whether trials are added until a setting is decided; a fixed design is looked at once.
        most_seeds: seeds that a setting can have.
    """

    sequential: bool
    most_seeds: int

    def spent_at(self, seeds: int) -> float:
        """What the look with so many seeds may spend: a half, a quarter, ..., and last what is left."""
        if not self.sequential:
            return ERROR_RATE
        number = seeds - FIRST_LOOK + 1
        if number < 1:
            return 0.0
        last = max(1, self.most_seeds - FIRST_LOOK + 1)
        return float(ERROR_RATE / 2 ** min(number, last - 1 if last > 1 else 0))


#: Seeds that a fixed design could be repeated with: what even they would not decide is out of reach.
AFFORDABLE_SEEDS = 10


def looks_of(*, sequential: bool, seeds: int) -> Looks:
    """How often the settings of a study with so many seeds are looked at."""
    if sequential:
        return Looks(sequential=True, most_seeds=seeds)
    return Looks(sequential=False, most_seeds=max(AFFORDABLE_SEEDS, seeds))


@dataclass(frozen=True, kw_only=True)
class Question:
    """Whether a setting's difference lies above a bound.

    Attributes:
        p_above: p-value of its not lying above: small where it does.
        p_below: p-value of its not lying below.
        contrast: the difference that decides, from the bound's point of view the least favourable.
        bound: in the contrast's units.
        against: the setting it is a difference to.
    """

    p_above: float
    p_below: float
    contrast: Contrast
    bound: float
    against: str | None = None

    @classmethod
    def of(cls, contrast: Contrast, bound: float, against: str | None = None) -> Question:
        """A question about one difference alone."""
        return cls(
            p_above=contrast.p_above(bound),
            p_below=contrast.p_below(bound),
            contrast=contrast,
            bound=bound,
            against=against,
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The answer.

    Attributes:
        p_value: of the answer, or of the likelier one while it is open, corrected over the family.
        level: the error rate that this look could spend.
        smallest: the smallest difference from the bound that this design tells with a probability of `POWER`.
        seeds_needed: seeds with which an open question is predicted to be decided, its estimate staying what
            it is; None where no number that can be had is enough, or nothing is open.
    """

    outcome: Outcome
    p_value: float
    level: float
    smallest: float
    seeds_needed: int | None


def decide(questions: Sequence[Question], looks: Looks) -> list[Decision]:
    """The family's answers, in the given order."""
    likelier = [min(question.p_above, question.p_below) for question in questions]
    decisions = []
    for question, p_value in zip(questions, holm(likelier), strict=True):
        contrast = question.contrast
        level = looks.spent_at(contrast.seeds)
        share = level / len(questions)
        outcome: Outcome = "open"
        needed = None
        if level > 0 and p_value <= level:
            outcome = "pass" if question.p_above <= question.p_below else "fail"
        else:
            needed = seeds_needed(contrast, question.bound, looks, len(questions))
            if needed is None:
                outcome = "out of reach"
        decisions.append(
            Decision(
                outcome=outcome,
                p_value=p_value,
                level=level,
                smallest=smallest_difference(contrast, share),
                seeds_needed=needed,
            )
        )
    return decisions


def smallest_difference(contrast: Contrast, level: float) -> float:
    """What is told with a probability of `POWER` by a one-sided test at `level`."""
    if contrast.error == 0:
        return 0.0
    if level == 0:
        return math.inf
    quantiles = t.isf(level, contrast.freedom) + t.isf(1 - POWER, contrast.freedom)
    return float(quantiles) * contrast.error


def seeds_needed(contrast: Contrast, bound: float, looks: Looks, settings: int) -> int | None:
    """Seeds with which the question is predicted to be decided.

    Seeds lessen the seeds' part of the variance alone; examples stay what they are. None where not even
    `most_seeds` are enough, were the distance to the bound larger by `BENEFIT_OF_DOUBT` standard errors.
    """
    distance = abs(contrast.mean - bound)
    hopeful = distance + BENEFIT_OF_DOUBT * contrast.error
    candidates = range(contrast.seeds + 1, looks.most_seeds + 1)
    if not any(_decides(contrast, hopeful, seeds, looks, settings) for seeds in candidates):
        return None
    enough = (seeds for seeds in candidates if _decides(contrast, distance, seeds, looks, settings))
    return next(enough, looks.most_seeds)


def _decides(contrast: Contrast, distance: float, seeds: int, looks: Looks, settings: int) -> bool:
    more = seeds / contrast.seeds
    error = math.sqrt(contrast.seed_variance / more + contrast.item_variance)
    freedom = contrast.freedom * more if np.isfinite(contrast.freedom) else contrast.freedom
    return distance >= float(t.isf(looks.spent_at(seeds) / settings, freedom)) * error
