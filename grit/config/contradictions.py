"""Switches of GRIT that do not go together. `config` is a `GritConfig`, whose module imports this one."""

from __future__ import annotations

from typing import Any

from grit.errors import ConfigError


def check_fit(config: Any) -> None:
    """Refuses settings that contradict each other.

    Raises:
        ConfigError: with one of them, and what it needs.
    """
    _check_reprojection(config)
    _check_ranks(config)
    if config.preconditioner == "none" and config.cadence == "adaptive":
        raise ConfigError(
            "cadence",
            config.cadence,
            "must be fixed with preconditioner = 'none': there are no inverses to refresh",
        )


def _check_reprojection(config: Any) -> None:
    if config.suppression == "gate" and config.reprojection_mix != 1.0:
        raise ConfigError(
            "reprojection_mix",
            config.reprojection_mix,
            "must be 1 with suppression = 'gate', which mixes nothing",
        )
    if config.basis == "balanced" and not config.two_sided:
        raise ConfigError(
            "two_sided", config.two_sided, "must be true with basis = 'balanced', which is made of both sides"
        )
    if config.reprojection_freq is not None:
        return
    if config.reprojection_trigger == "adaptive":
        raise ConfigError(
            "reprojection_trigger",
            config.reprojection_trigger,
            "must be fixed with T = none: an adaptive trigger looks every T steps",
        )
    if config.lambda_r > 0:
        raise ConfigError(
            "lambda_r", config.lambda_r, "must be 0 with T = none: without reprojection there is no projector"
        )
    if config.source_weight > 0:
        raise ConfigError(
            "source_weight", config.source_weight, "must be 0 with T = none: it acts at reprojections"
        )
    if config.subspace_mixing > 0:
        raise ConfigError(
            "subspace_mixing", config.subspace_mixing, "must be 0 with T = none: it acts at reprojections"
        )


def _check_ranks(config: Any) -> None:
    if not config.rank_adaptation and config.rank_policy != "coverage":
        raise ConfigError(
            "rank_policy",
            config.rank_policy,
            "must be coverage with rank_adaptation = false, which keeps reprojection_k directions",
        )
    if config.rank_hysteresis == 0:
        return
    if config.rank_policy == "growth":
        raise ConfigError(
            "rank_hysteresis",
            config.rank_hysteresis,
            "must be 0 with rank_policy = 'growth', which never shrinks",
        )
    if config.rank_adaptation_threshold + config.rank_hysteresis >= 1:
        raise ConfigError(
            "rank_hysteresis",
            config.rank_hysteresis,
            f"must be below 1 - tau = {1 - config.rank_adaptation_threshold:g}: a band that reaches 1 "
            "would keep "
            "every direction for ever",
        )
