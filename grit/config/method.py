"""The method's configuration: every switch of GRIT, declared and validated once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import model_validator

from grit.config.contradictions import check_fit
from grit.config.declared_knobs import ALIASES
from grit.config.earlier_methods import of_this_method
from grit.config.settings import (
    DECAY,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Moment,
    at_least,
    check_settings,
    setting,
    within,
)
from grit.errors import ConfigError, nearest

#: Version of the numerical method. Part of every trial's identity: change it whenever the same settings train
#: differently.
METHOD_VERSION = 3

Preconditioner = Literal["paper", "kfac", "soap", "none"]
DampingScale = Literal["absolute", "relative"]
Basis = Literal["fisher", "balanced"]
Suppression = Literal["project", "gate"]
RankPolicy = Literal["coverage", "growth"]
Device = Literal["cpu", "model"]
Cadence = Literal["fixed", "adaptive"]
Sharing = Literal["none", "projection"]
GradientTokens = Literal["real", "labelled"]

#: The gates of both sides wait for whatever comes first of the two.
_GATE: tuple[Moment, Moment] = ("refresh", "reprojection")
#: Beside which values of other settings a switch acts.
_PRECONDITIONED: dict[str, tuple[Any, ...]] = {"preconditioner": ("paper", "kfac")}
_REFRESHED: dict[str, tuple[Any, ...]] = {"preconditioner": ("paper", "kfac", "soap")}
_BY_SPECTRUM: dict[str, tuple[Any, ...]] = {"rank_adaptation": (True,)}
_BY_COVERAGE: dict[str, tuple[Any, ...]] = {**_BY_SPECTRUM, "rank_policy": ("coverage",)}
_ADAPTIVE: dict[str, tuple[Any, ...]] = {"cadence": ("adaptive",)}
_TRIGGERED: dict[str, tuple[Any, ...]] = {"reprojection_trigger": ("adaptive",)}


class _Aliased(type):
    """Lets a configuration be made with the aliases of its fields."""

    def __call__(cls, **values: Any) -> Any:
        """Raises ConfigError where a field and its alias are both given, TypeError for what is no field."""
        fields: dict[str, Any] = {}
        settings: dict[str, Any] = getattr(cls, "__dataclass_fields__", {})
        for name, value in values.items():
            field = ALIASES.get(name, name)
            if field not in settings:
                meant = nearest(name, [*settings, *ALIASES])
                hint = "" if meant is None else f": did you mean {meant!r}?"
                raise TypeError(f"{cls.__name__} has no setting {name!r}{hint}")
            if field in fields:
                raise ConfigError(
                    field, value, "must be given once: by its name or by its alias, not by both"
                )
            fields[field] = value
        return super().__call__(**fields)


@dataclass(frozen=True, kw_only=True)
class GritConfig(metaclass=_Aliased):
    """Switches of GRIT; defaults are the paper's (Table 5, section A.10). Steps are optimizer steps.

    The three knobs of the sensitivity study have short names, which may be used here too: tau is
    `rank_adaptation_threshold`, T is `reprojection_freq` (None: never), lambda is `kfac_damping`. What each
    switch does stands beside it.
    """

    preconditioner: Preconditioner = setting(
        "paper",
        "`paper` scales grad A by the activation factor and grad B by the gradient factor, as the paper "
        "states it; "
        "`kfac` pairs them as K-FAC does (grad A lives in the space of u, grad B in that of z); `soap` lets "
        "the optimizer work in the factors' eigenbases, paired like that; `none` leaves gradients alone",
        waits_for="refresh",
    )
    damping_scale: DampingScale = setting(
        "absolute",
        "`absolute` adds lambda I; `relative` adds lambda (tr Sigma / r) I",
        waits_for="refresh",
        acts_with=_PRECONDITIONED,
    )
    kfac_damping: float = setting(
        1e-3,
        "damping lambda of the curvature",
        label="lambda (kfac_damping)",
        allowed=POSITIVE,
        waits_for="refresh",
        acts_with=_PRECONDITIONED,
    )
    damping_reference_batch: int | None = setting(
        None,
        "batch-aware damping: lambda is multiplied by reference / B where a step holds B < reference "
        "sequences (all "
        "micro-batches and workers); none: lambda as set (appendix G.4, M3)",
        allowed=at_least(1),
        waits_for="refresh",
        acts_with=_PRECONDITIONED,
    )
    kfac_update_freq: int = setting(
        50,
        "steps between refreshes of the inverses, or of the eigenbases",
        allowed=at_least(1),
        waits_for="refresh",
        acts_with=_REFRESHED,
    )
    kfac_min_samples: int = setting(
        64,
        "samples a factor must be worth before it is used: tokens for Sigma_a, labels for Sigma_g",
        allowed=at_least(0),
        waits_for=_GATE,
    )
    gradient_tokens: GradientTokens = setting(
        "real",
        "`real` sums Sigma_g over every token that is not padding; `labelled` over positions with a label "
        "alone, as method version 2 and much public code do",
    )
    cov_update_freq: int = setting(15, "steps between captures of statistics", allowed=at_least(1))
    accumulated_statistics: bool = setting(
        True,
        "fold in all micro-batches of a step at once (appendix G.4, M4); false observes its first "
        "micro-batch alone, as a hook does that knows nothing of accumulation",
        identity="changed",
    )
    cadence: Cadence = setting(
        "fixed",
        "`adaptive` lets the controller (patent, paragraph 99) stretch the periods of capture and "
        "inversion while "
        "training is stable, and refresh at once when it is not",
    )
    cadence_window: int = setting(
        20, "steps between looks of the controller", allowed=at_least(4), acts_with=_ADAPTIVE
    )
    cadence_max_stretch: int = setting(
        4,
        "by how much the controller stretches the periods at most",
        allowed=at_least(1),
        acts_with=_ADAPTIVE,
    )
    cadence_stretches_reprojection: bool = setting(
        False,
        "the controller stretches T as well (the patent's claim); T is then the shortest cadence",
        waits_for="reprojection",
        acts_with=_ADAPTIVE,
    )
    ema_decay: float | None = setting(
        None,
        "none keeps the running mean of A.7; a factor in (0, 1) keeps a bias-corrected exponential mean",
        allowed=DECAY,
    )
    ng_warmup_steps: int = setting(
        0,
        "steps before gradients are preconditioned",
        allowed=at_least(0),
        waits_for="refresh",
        acts_with=_PRECONDITIONED,
    )
    reprojection_freq: int | None = setting(
        50,
        "cadence T: steps between reprojections; none: never",
        label="T (reprojection_freq)",
        allowed=at_least(1),
        waits_for="reprojection",
    )
    reprojection_warmup_steps: int = setting(
        0, "no reprojection before this step", allowed=at_least(0), waits_for="reprojection"
    )
    reprojection_trigger: Cadence = setting(
        "fixed",
        "`fixed` reprojects every T steps; `adaptive` looks every T steps, and reprojects where the share "
        "of energy "
        "inside the kept directions has left a band around its value at the last reprojection",
        waits_for="reprojection",
    )
    reprojection_band: float = setting(
        0.01, "half-width of that band", allowed=within(0, 1), waits_for="reprojection", acts_with=_TRIGGERED
    )
    reprojection_mix: float = setting(
        1.0,
        "gamma, the share of the projected weights (1: all)",
        allowed=within(0, 1),
        waits_for="reprojection",
    )
    reprojection_k: int = setting(
        8,
        "directions kept when rank adaptation is off",
        allowed=at_least(1),
        waits_for="reprojection",
        acts_with={"rank_adaptation": (False,)},
    )
    two_sided: bool = setting(
        True,
        "project B by its own basis once the gradient factor has its samples, else by that of A",
        waits_for="reprojection",
    )
    basis: Basis = setting(
        "fisher",
        "`fisher` takes each factor's eigenvectors; `balanced` is invariant to how the adapter is factored "
        "(docs/reference/method.md)",
        waits_for="reprojection",
    )
    suppression: Suppression = setting(
        "project",
        "`project` overwrites A and B; `gate` keeps them and projects between them, so that directions can "
        "re-enter",
        waits_for="reprojection",
    )
    project_momentum: bool = setting(
        True, "project the optimizer's first moment with the weights", waits_for="reprojection"
    )
    rank_adaptation: bool = setting(
        True,
        "choose ranks by the spectrum; false keeps `reprojection_k` directions",
        waits_for="reprojection",
    )
    rank_adaptation_threshold: float = setting(
        0.99,
        "energy threshold tau: the fewest directions that hold this share are kept",
        label="tau (rank_adaptation_threshold)",
        allowed=within(0, 1),
        waits_for="reprojection",
        acts_with=_BY_COVERAGE,
    )
    rank_adaptation_start_step: int = setting(
        0,
        "ranks stay full before this step",
        allowed=at_least(0),
        waits_for="reprojection",
        acts_with=_BY_SPECTRUM,
    )
    rank_policy: RankPolicy = setting(
        "coverage",
        "`coverage` keeps the fewest directions that hold tau of the energy; `growth` starts at "
        "`min_lora_rank` and "
        "adds directions while more than `rank_growth_threshold` of the energy lies outside",
        waits_for="reprojection",
    )
    rank_growth_threshold: float = setting(
        0.01,
        "energy outside the kept directions above which `growth` adds",
        allowed=within(0, 1),
        waits_for="reprojection",
        acts_with={**_BY_SPECTRUM, "rank_policy": ("growth",)},
    )
    rank_hysteresis: float = setting(
        0.0,
        "half-width of the band around tau inside which a rank does not change",
        allowed=SHARE,
        waits_for="reprojection",
        acts_with=_BY_COVERAGE,
    )
    rank_energy_ema: float | None = setting(
        None,
        "none judges ranks by the spectrum as it is; a factor in (0, 1) by an exponential mean of the "
        "energy curves "
        "seen at reprojections",
        allowed=DECAY,
        waits_for="reprojection",
        acts_with=_BY_SPECTRUM,
    )
    min_lora_rank: int = setting(
        4,
        "directions that every module keeps",
        allowed=at_least(1),
        waits_for="reprojection",
        acts_with=_BY_SPECTRUM,
    )
    inversion_device: Device = setting("cpu", "where factors are inverted and decomposed")
    lambda_k: float = setting(0.0, "weight of the curvature regularizer", allowed=NOT_NEGATIVE)
    lambda_r: float = setting(0.0, "weight of the reprojection regularizer", allowed=NOT_NEGATIVE)
    regularizer_warmup_steps: int = setting(
        0, "steps over which both regularizers are ramped up linearly", allowed=at_least(0)
    )
    spectral_snr_min: float = setting(
        0.0,
        "a factor is used only while its top eigenvalue stands this many times further above the mean than "
        "sampling "
        "noise alone would put it (docs/reference/method.md, 8); 0: off",
        allowed=NOT_NEGATIVE,
        waits_for=_GATE,
    )
    entropy_floor: float = setting(
        0.0,
        "spectra are flattened to at least this share of the maximal entropy before ranks are chosen; 0: off",
        allowed=SHARE,
        waits_for="reprojection",
        acts_with=_BY_SPECTRUM,
    )
    subspace_mixing: float = setting(
        0.0,
        "at a reprojection each kept direction is left out with this probability, in favour of the next "
        "one; 0: off",
        allowed=SHARE,
        waits_for="reprojection",
    )
    mixing_seed: int = setting(0, "of those draws", allowed=at_least(0), waits_for="reprojection")
    quantization_damping: float = setting(
        0.0,
        "lambda is multiplied by 1 + this x (noise-to-signal ratio of the layer's 4-bit weights); 0: off",
        allowed=NOT_NEGATIVE,
        waits_for="refresh",
        acts_with=_PRECONDITIONED,
    )
    share_statistics: Sharing = setting(
        "none", "`projection` pools the statistics of layers with the same name (all q_proj, ...)"
    )
    trust_region: float | None = setting(
        None,
        "bound on a step in the metric of its preconditioner, rate^2 / 2 <F^-1 g, g>; none: no bound "
        "(docs/reference/method.md, 3)",
        allowed=POSITIVE,
        waits_for="refresh",
        identity="changed",
        acts_with={"preconditioner": ("kfac",)},
    )
    source_weight: float = setting(
        0.0,
        "how much a direction's share of general text's curvature counts against its share of the task's "
        "when directions are kept (docs/reference/method.md, 6)",
        allowed=SHARE,
        waits_for="reprojection",
        identity="changed",
    )
    source_penalty: float = setting(
        0.0,
        "weight of the forgetting that general text's curvature predicts: nats of training loss per nat",
        allowed=NOT_NEGATIVE,
        identity="changed",
    )
    source_tokens: int = setting(
        256,
        "tokens of general text that stand for it in both, taken once before training",
        allowed=at_least(1),
        identity="changed",
        acts_if="knows_source",
    )
    max_grad_norm: float | None = setting(
        None,
        "clip after preconditioning (the trust region); none leaves clipping to the caller",
        allowed=POSITIVE,
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        return of_this_method(values)

    def __post_init__(self) -> None:
        """Raises ConfigError with the name, the value and what is allowed."""
        check_settings(self)
        check_fit(self)

    @classmethod
    def for_steps(cls, steps: int, **settings: Any) -> GritConfig:
        """The paper's schedules, which are for thousands of steps, scaled to a training of `steps`.

        Statistics 20 times, inverses and reprojections 10 times in all; `settings` are as of `GritConfig`.
        """
        at_least(1).check("steps", steps)
        tenth = max(1, steps // 10)
        schedule = {"cov_update_freq": max(1, steps // 20), "kfac_update_freq": tenth}
        if not {"T", "reprojection_freq"} & settings.keys():
            schedule["reprojection_freq"] = tenth
        return cls(**{**schedule, **settings})

    @classmethod
    def recommended(cls, steps: int, **settings: Any) -> GritConfig:
        """What was measured to work best for a training of `steps`, by whoever has some general text.

        The paper's method with general text's own curvature (`attach(..., source=batches)`): on SmolLM2 and
        on the embedded backbone it forgets a fifth to a tenth of what LoRA does at its quality, with 70% of
        the parameters (docs/results/source.md). Basis, suppression and preconditioner stay the paper's: which
        of theirs is better is not settled.
        """
        return cls.for_steps(steps, **{"source_penalty": 300.0, "source_weight": 0.2, **settings})

    @property
    def knows_source(self) -> bool:
        """Whether general text is looked at before training."""
        return self.source_weight > 0 or self.source_penalty > 0

    @property
    def tau(self) -> float:
        """`rank_adaptation_threshold`."""
        return self.rank_adaptation_threshold

    @property
    def T(self) -> int | None:
        """`reprojection_freq`."""
        return self.reprojection_freq

    @property
    def lambda_(self) -> float:
        """`kfac_damping`."""
        return self.kfac_damping

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serializable."""
        return asdict(self)
