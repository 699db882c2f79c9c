"""GRIT's configuration: every switch of the method, validated once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_type_hints

from grit.errors import ConfigError

#: Version of the numerical method. Part of every trial's identity: change it whenever the same settings train
#: differently.
METHOD_VERSION = 2

Preconditioner = Literal["paper", "kfac", "none"]
DampingScale = Literal["absolute", "relative"]
Basis = Literal["fisher", "balanced"]
Suppression = Literal["project", "gate"]
RankPolicy = Literal["coverage", "growth"]
Device = Literal["cpu", "model"]
Cadence = Literal["fixed", "adaptive"]
Sharing = Literal["none", "projection"]

#: The three knobs of the sensitivity study, by the names they have in records and on command lines.
KNOBS = {"tau": "rank_adaptation_threshold", "T": "reprojection_freq", "lambda": "kfac_damping"}
#: `GritConfig` takes either name. A trailing underscore is allowed, since `lambda` is a word of the language:
#: GritConfig(tau=0.9, T=100, lambda_=3e-3).
ALIASES = {**KNOBS, "lambda_": KNOBS["lambda"]}


class _Aliased(type):
    """Lets a configuration be made with the aliases of its fields."""

    def __call__(cls, **values: Any) -> Any:
        """Raises ConfigError where a field and its alias are both given."""
        fields: dict[str, Any] = {}
        for name, value in values.items():
            field = ALIASES.get(name, name)
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
    `rank_adaptation_threshold`,
    T is `reprojection_freq` (None: never), lambda is `kfac_damping`.

    Attributes:
        preconditioner: `paper` scales grad A by the activation factor and grad B by the gradient factor, as
            the paper states it; `kfac` pairs them as K-FAC does (grad A lives in the space of u, grad B in
            that of z); `none` leaves gradients alone.
        damping_scale: `absolute` adds lambda I; `relative` adds lambda (tr Sigma / r) I.
        damping_reference_batch: batch-aware damping: lambda is multiplied by reference / B where a step holds
            B < reference sequences (all micro-batches and workers). None: lambda as set. Appendix G.4, M3.
        kfac_update_freq: steps between refreshes of the inverses.
        kfac_min_samples: tokens a factor must have seen before it is used.
        ng_warmup_steps: steps before gradients are preconditioned.
        cov_update_freq: steps between captures of statistics.
        cadence: `adaptive` lets the controller (patent, paragraph 99) stretch the two periods above while
            training is stable, up to `cadence_max_stretch` times, and refresh at once when it is not. Looked
            at every `cadence_window` steps.
        accumulated_statistics: fold in all micro-batches of a step at once (appendix G.4, M4); false observes
            its first micro-batch alone, as a hook does that knows nothing of accumulation.
        ema_decay: None keeps the running mean of A.7; a factor in (0, 1) keeps a bias-corrected exponential
            mean.
        inversion_device: where factors are inverted and decomposed.
        reprojection_warmup_steps: no reprojection before this step.
        reprojection_trigger: `fixed` reprojects every T steps. `adaptive` looks every T steps, and reprojects
            where the share of energy inside the kept directions has left a band of half-width
            `reprojection_band` around its value at the last reprojection.
        reprojection_mix: gamma, the share of the projected weights (1: all).
        reprojection_k: directions kept when rank adaptation is off.
        two_sided: project B by its own basis once the gradient factor has its samples, else by that of A.
        basis: `fisher` takes each factor's eigenvectors; `balanced` is invariant to how the adapter is
            factored (docs/method.md).
        suppression: `project` overwrites A and B; `gate` keeps them and projects between them, so that
            directions can re-enter.
        project_momentum: project the optimizer's first moment with the weights.
        rank_policy: `coverage` keeps the fewest directions that hold tau of the energy; `growth` starts at
            `min_lora_rank` and adds directions while more than `rank_growth_threshold` of the energy lies
            outside.
        rank_hysteresis: half-width of the band around tau inside which a rank does not change.
        rank_energy_ema: None judges ranks by the spectrum as it is; a factor in (0, 1) by an exponential mean
            of the energy curves seen at reprojections.
        lambda_k, lambda_r: weights of the curvature and the reprojection regularizers, ramped up linearly
            over `regularizer_warmup_steps`.
        spectral_snr_min: a factor is used only while its top eigenvalue stands this many times further above
            the mean than sampling noise alone would put it (docs/method.md, 8). 0: off. This and what follows
            are the mitigations of the paper's limitations.
        entropy_floor: spectra are flattened to at least this share of the maximal entropy before ranks are
            chosen, in [0, 1). 0: off.
        subspace_mixing: at a reprojection each kept direction is left out with this probability, in favour of
            the next one. 0: off.
        mixing_seed: of those draws.
        quantization_damping: lambda is multiplied by 1 + this x (noise-to-signal ratio of the layer's 4-bit
            weights). 0: off.
        dequantized_refresh: steps whose statistics are captured compute the 4-bit layers in float32.
        share_statistics: `projection` pools the statistics of layers with the same name (all q_proj, ...).
        max_grad_norm: clip after preconditioning (the trust region); None leaves clipping to the caller.
    """

    preconditioner: Preconditioner = "paper"
    damping_scale: DampingScale = "absolute"
    kfac_damping: float = 1e-3
    damping_reference_batch: int | None = None
    kfac_update_freq: int = 50
    kfac_min_samples: int = 64
    cov_update_freq: int = 15
    accumulated_statistics: bool = True
    cadence: Cadence = "fixed"
    cadence_window: int = 20
    cadence_max_stretch: int = 4
    ema_decay: float | None = None
    ng_warmup_steps: int = 0
    reprojection_freq: int | None = 50
    reprojection_warmup_steps: int = 0
    reprojection_trigger: Cadence = "fixed"
    reprojection_band: float = 0.01
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
    rank_energy_ema: float | None = None
    min_lora_rank: int = 4
    inversion_device: Device = "cpu"
    lambda_k: float = 0.0
    lambda_r: float = 0.0
    regularizer_warmup_steps: int = 0
    spectral_snr_min: float = 0.0
    entropy_floor: float = 0.0
    subspace_mixing: float = 0.0
    mixing_seed: int = 0
    quantization_damping: float = 0.0
    dequantized_refresh: bool = False
    share_statistics: Sharing = "none"
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError with the name, the value and what is allowed."""
        check_types(self)
        for name in (
            "kfac_update_freq",
            "cov_update_freq",
            "reprojection_k",
            "min_lora_rank",
            "cadence_max_stretch",
        ):
            check_count(name, getattr(self, name), minimum=1)
        check_count("cadence_window", self.cadence_window, minimum=4)
        for name in (
            "kfac_min_samples",
            "ng_warmup_steps",
            "reprojection_warmup_steps",
            "rank_adaptation_start_step",
            "regularizer_warmup_steps",
            "mixing_seed",
        ):
            check_count(name, getattr(self, name), minimum=0)
        if self.reprojection_freq is not None:
            check_count("T (reprojection_freq)", self.reprojection_freq, minimum=1)
        if self.damping_reference_batch is not None:
            check_count("damping_reference_batch", self.damping_reference_batch, minimum=1)
        self._check_numbers()
        self._refuse_combinations()

    def _check_numbers(self) -> None:
        check_interval("tau (rank_adaptation_threshold)", self.rank_adaptation_threshold, 0.0, 1.0)
        check_positive("lambda (kfac_damping)", self.kfac_damping)
        for name in ("reprojection_mix", "rank_growth_threshold", "reprojection_band"):
            check_interval(name, getattr(self, name), 0.0, 1.0)
        for name in ("rank_hysteresis", "entropy_floor", "subspace_mixing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "must lie in [0, 1)")
        for name in ("lambda_k", "lambda_r", "spectral_snr_min", "quantization_damping"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(name, getattr(self, name), "must be a finite number of at least 0")
        for name in ("ema_decay", "rank_energy_ema"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < 1:
                raise ConfigError(
                    name, getattr(self, name), "must lie in (0, 1), or be none for the running mean"
                )
        if self.max_grad_norm is not None:
            check_positive("max_grad_norm", self.max_grad_norm)

    def _refuse_combinations(self) -> None:
        never = self.reprojection_freq is None
        refused = (
            (
                "reprojection_mix",
                self.reprojection_mix,
                self.suppression == "gate" and self.reprojection_mix != 1.0,
                "must be 1 with suppression = 'gate', which mixes nothing",
            ),
            (
                "reprojection_trigger",
                self.reprojection_trigger,
                never and self.reprojection_trigger == "adaptive",
                "must be fixed with T = none: an adaptive trigger looks every T steps",
            ),
            (
                "lambda_r",
                self.lambda_r,
                never and self.lambda_r > 0,
                "must be 0 with T = none: without reprojection there is no projector",
            ),
            (
                "subspace_mixing",
                self.subspace_mixing,
                never and self.subspace_mixing > 0,
                "must be 0 with T = none: it acts at reprojections",
            ),
            (
                "cadence",
                self.cadence,
                self.preconditioner == "none" and self.cadence == "adaptive",
                "must be fixed with preconditioner = 'none': there are no inverses to refresh",
            ),
            (
                "two_sided",
                self.two_sided,
                self.basis == "balanced" and not self.two_sided,
                "must be true with basis = 'balanced', which is made of both sides",
            ),
            (
                "rank_policy",
                self.rank_policy,
                not self.rank_adaptation and self.rank_policy != "coverage",
                "must be coverage with rank_adaptation = false, which keeps reprojection_k directions",
            ),
            (
                "rank_hysteresis",
                self.rank_hysteresis,
                self.rank_policy == "growth" and self.rank_hysteresis > 0,
                "must be 0 with rank_policy = 'growth', which never shrinks",
            ),
            (
                "rank_hysteresis",
                self.rank_hysteresis,
                self.rank_hysteresis > 0 and self.rank_adaptation_threshold + self.rank_hysteresis >= 1,
                f"must be below 1 - tau = {1 - self.rank_adaptation_threshold:g}: a band that reaches 1 "
                "would keep every direction for ever",
            ),
        )
        for name, value, wrong, allowed in refused:
            if wrong:
                raise ConfigError(name, value, allowed)

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


def check_types(config: object) -> None:
    """Raises ConfigError for a field whose value is not of its annotated type.

    Or not one of the values of its Literal.
    """
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
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise ConfigError(name, value, "must be a finite number above 0")


def check_interval(name: str, value: object, low: float, high: float) -> None:
    """Raises ConfigError unless `value` is a number in (low, high]."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low < value <= high:
        raise ConfigError(name, value, f"must lie in ({low:g}, {high:g}]")
