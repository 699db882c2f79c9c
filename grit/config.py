"""GRIT's configuration: every switch of the method, validated once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_type_hints

from grit.errors import ConfigError

#: Version of the numerical method. Part of every trial's identity: change it whenever the same settings train differently.
METHOD_VERSION = 1

Preconditioner = Literal["paper", "kfac", "none"]
DampingScale = Literal["absolute", "relative"]
Basis = Literal["fisher", "balanced"]
Suppression = Literal["project", "gate"]
RankPolicy = Literal["coverage", "growth"]
Device = Literal["cpu", "model"]


@dataclass(frozen=True, kw_only=True)
class GritConfig:
    """Switches of GRIT; defaults are the paper's (Table 5, section A.10). Steps are optimizer steps.

    The three knobs of the sensitivity study have short names on command lines and in records: tau is `rank_adaptation_threshold`,
    T is `reprojection_freq` (None: never), lambda is `kfac_damping`.

    Attributes:
        preconditioner: `paper` scales grad A by the activation factor and grad B by the gradient factor, as the paper states it; `kfac`
            pairs them as K-FAC does (grad A lives in the space of u, grad B in that of z); `none` leaves gradients alone.
        damping_scale: `absolute` adds lambda I; `relative` adds lambda (tr Sigma / r) I.
        kfac_update_freq: steps between refreshes of the inverses.
        kfac_min_samples: tokens a factor must have seen before it is used.
        cov_update_freq: steps between captures of statistics.
        ema_decay: None keeps the running mean of A.7; a factor in (0, 1) keeps a bias-corrected exponential mean.
        reprojection_mix: gamma, the share of the projected weights (1: all).
        reprojection_k: directions kept when rank adaptation is off.
        two_sided: project B by its own basis once the gradient factor has its samples, else by that of A.
        basis: `fisher` takes each factor's eigenvectors; `balanced` is invariant to how the adapter is factored (docs/method.md).
        suppression: `project` overwrites A and B; `gate` keeps them and projects between them, so that directions can re-enter.
        project_momentum: project the optimizer's first moment with the weights.
        rank_policy: `coverage` keeps the fewest directions that hold tau of the energy; `growth` starts at `min_lora_rank` and adds
            directions while more than `rank_growth_threshold` of the energy lies outside.
        rank_hysteresis: half-width of the band around tau inside which a rank does not change.
        max_grad_norm: clip after preconditioning (the trust region); None leaves clipping to the caller.
    """

    preconditioner: Preconditioner = "paper"
    damping_scale: DampingScale = "absolute"
    kfac_damping: float = 1e-3
    kfac_update_freq: int = 50
    kfac_min_samples: int = 64
    cov_update_freq: int = 15
    ema_decay: float | None = None
    ng_warmup_steps: int = 0
    reprojection_freq: int | None = 50
    reprojection_warmup_steps: int = 0
    reprojection_mix: float = 1.0
    reprojection_k: int = 8
    two_sided: bool = True
    basis: Basis = "fisher"
    suppression: Suppression = "project"
    project_momentum: bool = True
    rank_adaptation: bool = True
    rank_adaptation_threshold: float = 0.99
    rank_adaptation_start_step: int = 0
    rank_policy: RankPolicy = "coverage"
    rank_growth_threshold: float = 0.01
    rank_hysteresis: float = 0.0
    min_lora_rank: int = 4
    inversion_device: Device = "cpu"
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError with the name, the value and what is allowed."""
        check_types(self)
        for name in ("kfac_update_freq", "cov_update_freq", "reprojection_k", "min_lora_rank"):
            check_count(name, getattr(self, name), minimum=1)
        for name in ("kfac_min_samples", "ng_warmup_steps", "reprojection_warmup_steps", "rank_adaptation_start_step"):
            check_count(name, getattr(self, name), minimum=0)
        if self.reprojection_freq is not None:
            check_count("T (reprojection_freq)", self.reprojection_freq, minimum=1)
        check_interval("tau (rank_adaptation_threshold)", self.rank_adaptation_threshold, 0.0, 1.0)
        check_positive("lambda (kfac_damping)", self.kfac_damping)
        check_interval("reprojection_mix", self.reprojection_mix, 0.0, 1.0)
        check_interval("rank_growth_threshold", self.rank_growth_threshold, 0.0, 1.0)
        if not 0 <= self.rank_hysteresis < 1:
            raise ConfigError("rank_hysteresis", self.rank_hysteresis, "must lie in [0, 1)")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError("ema_decay", self.ema_decay, "must lie in (0, 1), or be none for the running mean")
        if self.max_grad_norm is not None:
            check_positive("max_grad_norm", self.max_grad_norm)
        if self.suppression == "gate" and self.reprojection_mix != 1.0:
            raise ConfigError("reprojection_mix", self.reprojection_mix, "must be 1 with suppression = 'gate', which mixes nothing")

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serializable."""
        return asdict(self)


def check_types(config: object) -> None:
    """Raises ConfigError for a field whose value is not of its annotated type, or not one of the values of its Literal."""
    for name, hint in get_type_hints(type(config)).items():
        value, allowed = getattr(config, name), get_args(hint)
        if allowed and all(isinstance(item, str) for item in allowed):
            if value not in allowed:
                raise ConfigError(name, value, f"must be one of {', '.join(allowed)}")
        elif hint is bool:
            if not isinstance(value, bool):
                raise ConfigError(name, value, "must be true or false")
        elif hint in (float, float | None):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number and not (value is None and hint is not float):
                raise ConfigError(name, value, "must be a number")
        elif hint is str and not isinstance(value, str):
            raise ConfigError(name, value, "must be a word")


def check_count(name: str, value: object, *, minimum: int) -> None:
    """Raises ConfigError unless `value` is a whole number of at least `minimum`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(name, value, f"must be a whole number of at least {minimum}")


def check_positive(name: str, value: object) -> None:
    """Raises ConfigError unless `value` is a finite number above zero."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise ConfigError(name, value, "must be a finite number above 0")


def check_interval(name: str, value: object, low: float, high: float) -> None:
    """Raises ConfigError unless `value` is a number in (low, high]."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low < value <= high:
        raise ConfigError(name, value, f"must lie in ({low:g}, {high:g}]")
