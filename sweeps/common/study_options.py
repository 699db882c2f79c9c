"""The options that all sweeps share: what is measured, what is searched, how it runs.

Each is written once.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grit.cli.parser import flag
from grit.config.declared_knobs import KNOBS
from grit.errors import ConfigError
from ray_jobs.design.forecast import USD_PER_GPU_HOUR
from ray_jobs.design.search_space import SearchRange
from ray_jobs.design.study_presets import PRESETS
from ray_jobs.records.kept_adapters import KEEPS
from ray_jobs.schedule.search import SAMPLERS

#: The options that take a knob's values, as fields below; `lambda` is a word of the language.
KNOB_OPTIONS = {name + "_" * keyword.iskeyword(name): name for name in KNOBS}


@dataclass(frozen=True, kw_only=True)
class DesignOptions:
    """Which settings are measured, under which budgets, with which seeds."""

    _argument_group_name = "what is measured"

    preset: str = flag("embedded", "starting point for every setting (default: embedded)", choices=PRESETS)
    method: str = flag(
        "grit", "qgrit keeps the backbone in 4-bit NF4; the control is then QLoRA", choices=("grit", "qgrit")
    )
    regimes: list[str] | None = flag(
        None, "budgets that are matched (default: those of the study)", choices=("step", "time")
    )
    budget_steps: int | None = flag(None, "optimizer steps of a step-matched trial", metavar="N")
    budget_seconds: float | None = flag(
        None, "training seconds of a time-matched trial (evaluation excluded)", metavar="S"
    )
    clock: str | None = flag(
        None,
        "what a time budget counts: wall time, or the process's CPU time (default: cpu for the small "
        "presets, wall on GPUs)",
        choices=("wall", "cpu"),
    )
    seeds: list[int] | None = flag(
        None, "fix the design: every setting is run with each of these seeds", metavar="SEED"
    )
    decide: bool = flag(
        False,
        "begin with few seeds and add trials where they decide most, until every setting is decided or out "
        "of reach (the default where a study can and no --seeds are named; with --seeds these are the most "
        "that a setting gets)",
    )
    max_trials: int | None = flag(None, "add no trial beyond this number", metavar="N")
    max_hours: float | None = flag(None, "add no trial after this many wall hours of a call", metavar="H")
    max_gpu_hours: float | None = flag(
        None, "add no trial after this many training hours, times the GPUs of a trial", metavar="H"
    )
    tau: list[float] | None = flag(
        None, f"values of the one-at-a-time design: {KNOBS['tau'].title}", metavar="V"
    )
    T: list[str] | None = flag(None, f"{KNOBS['T'].title} in steps, or `none`", metavar="V")
    lambda_: list[float] | None = flag(None, KNOBS["lambda"].title, metavar="V")
    grid: bool = flag(
        False, "add the coarse grid: every combination of each knob's lowest, default and highest value"
    )
    point: list[str] = flag(
        [],
        "one more setting to measure (repeat for more), e.g. tau=0.9 T=25",
        metavar="FIELD=VALUE",
        action="append",
    )
    small_batch: int | None = flag(
        None, "repeat the one-at-a-time design with micro-batches of N and no accumulation", metavar="N"
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The multi-objective search."""

    _argument_group_name = "what is searched"

    search_points: int | None = flag(None, "points of the multi-objective search in each regime", metavar="N")
    sampler: str = flag(
        "parego",
        "how points are proposed (default: parego): "
        + "; ".join(f"{name}: {s.help}" for name, s in SAMPLERS.items()),
        choices=tuple(SAMPLERS),
        metavar="NAME",
    )
    space: list[str] = flag(
        [],
        "ranges of the search, instead of tau, T and lambda: any field of the configuration",
        metavar="FIELD=LOW:HIGH[:log][:int]",
        action="extend",
    )
    max_overhead: float | None = flag(
        None, "the search keeps below this overhead (0.05 is 5%% of a step)", metavar="SHARE"
    )
    max_footprint: float | None = flag(
        None, "the search keeps below this share of the full adapter's parameters", metavar="SHARE"
    )
    stop_dominated: bool = flag(
        False, "searched trials may stop at an evaluation where another is better beyond noise and no dearer"
    )
    optuna_storage: str | None = flag(
        None,
        "Optuna's storage: sqlite:///..., a server's URL, journal:PATH (default: optuna.db in --output)",
        metavar="URI",
    )


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Where it runs, and where everything goes."""

    _argument_group_name = "how it runs"

    output: Path | None = flag(None, "where everything goes (default: results/<study>-<time>)", metavar="DIR")
    resume: bool = flag(
        False, "refuse to begin: --output must hold this study (which is continued without this, too)"
    )
    study: Path | None = flag(
        None,
        "run the study in this YAML file (--save-study writes one, and every result folder holds one); "
        "options of what is measured or searched are in it, and refused beside it",
        metavar="FILE",
    )
    save_study: Path | None = flag(
        None, "write the study as it would run into this YAML file, and launch nothing", metavar="FILE"
    )
    dry_run: bool = flag(False, "print every trial with its estimated cost, and launch nothing")
    max_concurrent: int | None = flag(
        None, "trials at once (default: what this machine allows; on a cluster 1)", metavar="N"
    )
    workers_per_trial: int = flag(
        1, "data-parallel processes for each trial, each with the preset's resources", metavar="N"
    )
    trials_per_gpu: int | None = flag(
        None,
        "trials that share a GPU, each in a process of its own, step-matched alone (default: 1)",
        metavar="N",
    )
    address: str | None = flag(
        None,
        "a running Ray, e.g. auto or host:6379 (default: RAY_ADDRESS, else one is started here)",
        metavar="ADDR",
    )
    may_grow: bool = flag(
        False, "the cluster scales by itself: wait for nodes instead of refusing what does not fit now"
    )
    execution: str = flag(
        "auto",
        "warm: slots that stay loaded between trials, for many short ones; ray: a Ray Train run per trial, "
        "which Ray places, restarts and releases (auto, the default: ray on a cluster whose trials take ten "
        "minutes or more)",
        choices=("auto", "warm", "ray"),
    )
    storage: str | None = flag(
        None,
        "where --execution ray keeps checkpoints and tables: a folder or a URI (s3://, gs://) that every "
        "node can reach (default: ray/ in --output)",
        metavar="URI",
    )
    accelerator: str | None = flag(
        None, "nodes that trials must run on, by Ray's name for their kind, e.g. A100", metavar="TYPE"
    )
    tracking_uri: str | None = flag(
        None,
        "MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in the output folder)",
        metavar="URI",
    )
    keep: str = flag(
        "recommended",
        "trained adapters that stay in --output: "
        + "; ".join(f"{name}: {words}" for name, words in KEEPS.items()),
        choices=tuple(KEEPS),
    )
    register: str | None = flag(
        None,
        "register the recommended adapter (the default's, where the recommended setting was not run) in "
        "MLflow under this name",
        metavar="NAME",
    )
    reuse: bool = flag(True, "do not take results from other studies beside --output")
    share: bool = flag(
        True, "run no trunks (what trials share until they differ): every trial from its first step"
    )
    measure: bool = flag(True, "--dry-run predicts from the preset's guess, at once, and measures nothing")
    usd_per_gpu_hour: float = flag(
        USD_PER_GPU_HOUR, "for the cost that --dry-run predicts (default: 2.5)", metavar="USD"
    )
    verbose: bool = flag(False, "show Ray's own logs", aliases=("-v",))


def parse_range(text: str) -> tuple[str, SearchRange]:
    """`field=low:high[:log][:int]`; tau is searched as 1 - tau, on a logarithmic scale.

    Raises:
        ConfigError: it does not look like that.
    """
    name, _, rest = text.partition("=")
    parts = rest.split(":")
    flags = set(parts[2:])
    try:
        low, high = float(parts[0]), float(parts[1])
    except (ValueError, IndexError):
        low, high = 1.0, 0.0
    if not low < high or not flags <= {"log", "int"} or ("log" in flags and low <= 0):
        raise ConfigError(
            "space", text, "must look like field=low:high[:log][:int], with low < high (above 0 for log)"
        )
    if name == "tau":
        if not 0 < low < high <= 1:
            raise ConfigError("space", text, "must keep tau (rank_adaptation_threshold) in (0, 1]")
        return name, SearchRange(low=max(1e-6, 1 - high), high=1 - low, complement=True)
    return name, SearchRange(low=low, high=high, log="log" in flags, integer="int" in flags)


def parse_space(texts: list[str]) -> Mapping[str, SearchRange]:
    """The ranges of a search by field."""
    return dict(parse_range(text) for text in texts)
