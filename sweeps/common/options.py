"""The command line that all sweeps share, as one frozen object.

Parsed and validated before anything is launched.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grit.cli.options import OneLineParser, add_data_options, with_data_options
from grit.config.method import KNOBS, GritConfig
from grit.config.overrides import parse_cadence, parse_setting, with_overrides
from grit.config.registry import Method
from grit.config.sections import Budget, Regime
from grit.config.settings import POSITIVE, at_least
from grit.errors import ConfigError
from ray_jobs.design.forecast import USD_PER_GPU_HOUR
from ray_jobs.design.study import Interval
from ray_jobs.design.study_presets import PRESETS, Preset, preset
from ray_jobs.schedule.search import SAMPLERS

#: A preset by name, method, steps and task.
PresetOf = Callable[[str, Method, int | None, str | None], Preset]


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What the user asked for.

    `budget_seconds` None: to be measured on this machine (a model or task the preset does not know).

    `own` holds the whole command line by name, for the options that one script adds.
    """

    preset: Preset
    preset_name: str
    regimes: tuple[Regime, ...]
    budget_steps: int
    budget_seconds: float | None
    seeds: tuple[int, ...]
    search_points: int
    sampler: str
    space: Mapping[str, Interval]
    max_overhead: float | None
    max_footprint: float | None
    stop_dominated: bool
    optuna_storage: str | None
    concurrent: int | None
    output: Path | None
    tracking_uri: str | None
    address: str | None
    may_grow: bool
    resume: bool
    reuse: bool
    share: bool
    workers: int
    small_batch: int | None
    usd_per_gpu_hour: float
    accelerator: str | None
    listed: tuple[Mapping[str, Any], ...]
    dry_run: bool
    verbose: bool
    own: Mapping[str, Any]

    def budgets(self, seconds: float) -> tuple[Budget, ...]:
        """One budget per regime."""
        return tuple(
            Budget(regime=r, amount=self.budget_steps if r == "step" else seconds) for r in self.regimes
        )


def parser(description: str, regimes: Sequence[Regime] = ("step", "time")) -> argparse.ArgumentParser:
    """The common command line."""
    p = OneLineParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add(
        "--preset",
        choices=PRESETS,
        default="embedded",
        help="starting point for every setting (default: embedded)",
    )
    add("--model", metavar="ID_OR_PATH", help="backbone: `embedded`, a folder, or a hub id")
    add_data_options(p)
    add(
        "--method",
        choices=("grit", "qgrit"),
        default="grit",
        help="qgrit keeps the backbone in 4-bit NF4; the control is then QLoRA",
    )
    add(
        "--regimes",
        nargs="+",
        choices=("step", "time"),
        default=list(regimes),
        help=f"budgets that are matched (default: {' '.join(regimes)})",
    )
    add("--budget-steps", type=int, metavar="N", help="optimizer steps of a step-matched trial")
    add(
        "--budget-seconds",
        type=float,
        metavar="S",
        help="training seconds of a time-matched trial (evaluation excluded)",
    )
    add("--seeds", nargs="+", type=int, metavar="SEED", help="every setting is run with each of them")
    add("--tau", nargs="+", type=float, metavar="V", help="energy thresholds of the one-at-a-time design")
    add("--T", nargs="+", metavar="V", help="reprojection cadences in steps, or `none`")
    add("--lambda", nargs="+", type=float, metavar="V", dest="lambda_", help="dampings")
    add(
        "--grid",
        action="store_true",
        help="add the coarse grid: every combination of each knob's lowest, default and highest value",
    )
    add(
        "--point",
        nargs="+",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="one more setting to measure (repeat for more), e.g. tau=0.9 T=25",
    )
    add(
        "--small-batch",
        type=int,
        metavar="N",
        help="repeat the one-at-a-time design with micro-batches of N and no accumulation",
    )
    add("--search-points", type=int, metavar="N", help="points of the multi-objective search in each regime")
    add("--sampler", choices=SAMPLERS, default="tpe", help="Optuna's sampler (default: tpe)")
    add(
        "--space",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=LOW:HIGH[:log][:int]",
        help="ranges of the search, instead of tau, T and lambda: any field of the configuration",
    )
    add(
        "--max-overhead",
        type=float,
        metavar="SHARE",
        help="the search keeps below this overhead (0.05 is 5%% of a step)",
    )
    add(
        "--max-footprint",
        type=float,
        metavar="SHARE",
        help="the search keeps below this share of the full adapter's parameters",
    )
    add(
        "--stop-dominated",
        action="store_true",
        help="searched trials may stop at an evaluation where another is better beyond noise and no dearer",
    )
    add(
        "--optuna-storage",
        metavar="URI",
        help="Optuna's storage: sqlite:///..., a server's URL, journal:PATH (default: optuna.db in --output)",
    )
    add(
        "--max-concurrent",
        type=int,
        metavar="N",
        help="trials at once (default: what this machine allows; on a cluster 1)",
    )
    add("--output", type=Path, metavar="DIR", help="where everything goes (default: results/<study>-<time>)")
    add("--tracking-uri", metavar="URI", help="MLflow store (default: mlflow.db in the output folder)")
    add(
        "--address",
        metavar="ADDR",
        help="a running Ray, e.g. auto or host:6379 (default: RAY_ADDRESS, else one is started here)",
    )
    add(
        "--may-grow",
        action="store_true",
        help="the cluster scales by itself: wait for nodes instead of refusing what does not fit now",
    )
    add("--resume", action="store_true", help="continue the study in --output")
    add(
        "--no-reuse",
        action="store_false",
        dest="reuse",
        help="do not take results from other studies beside --output",
    )
    add(
        "--no-share",
        action="store_false",
        dest="share",
        help="do not run shared beginnings once: every trial from its first step",
    )
    add(
        "--workers-per-trial",
        type=int,
        default=1,
        metavar="N",
        help="data-parallel processes for each trial, each with the preset's resources",
    )
    add(
        "--accelerator",
        metavar="TYPE",
        help="nodes that trials must run on, by Ray's name for their kind, e.g. A100",
    )
    add(
        "--usd-per-gpu-hour",
        type=float,
        default=USD_PER_GPU_HOUR,
        metavar="USD",
        help="for the cost that --dry-run predicts (default: 2.5)",
    )
    add(
        "--dry-run", action="store_true", help="print every trial with its estimated cost, and launch nothing"
    )
    add("-v", "--verbose", action="store_true", help="show Ray's own logs")
    return p


def resolve(
    arguments: argparse.Namespace, environment: Mapping[str, str], presets: PresetOf = preset
) -> SweepOptions:
    """Lays the command line over the preset.

    Raises:
        ConfigError: a value that cannot be used.
    """
    method: Method = arguments.method
    if arguments.budget_steps is not None:
        at_least(1).check("budget-steps", arguments.budget_steps)
    chosen = presets(arguments.preset, method, arguments.budget_steps, arguments.task)
    base, usual = chosen.base, presets(arguments.preset, method, None, None).base.task.name
    base = with_data_options(base, arguments)
    known = arguments.model in (None, chosen.base.backbone.model) and (
        base.task.name == usual or chosen.resources.gpus > 0
    )
    oat = {**chosen.oat, **{name: tuple(values) for name, values in _grids(arguments).items()}}
    for knob, values in oat.items():
        for value in values:
            with_overrides(base, {knob: value})
    grid = _coarse_grid(base.grit, oat) if arguments.grid and not chosen.grid else chosen.grid
    options = SweepOptions(
        preset=replace(chosen, base=base, oat=oat, grid=grid),
        preset_name=arguments.preset,
        regimes=tuple(dict.fromkeys(arguments.regimes)),
        budget_steps=chosen.budget_steps,
        budget_seconds=arguments.budget_seconds
        or (chosen.budget_seconds * _scale(chosen, arguments, presets) if known else None),
        seeds=tuple(dict.fromkeys(arguments.seeds or chosen.seeds)),
        search_points=chosen.search_points if arguments.search_points is None else arguments.search_points,
        sampler=arguments.sampler,
        space=dict(parse_range(text) for text in arguments.space),
        max_overhead=arguments.max_overhead,
        max_footprint=arguments.max_footprint,
        stop_dominated=arguments.stop_dominated,
        optuna_storage=arguments.optuna_storage,
        concurrent=arguments.max_concurrent,
        output=arguments.output,
        tracking_uri=arguments.tracking_uri,
        address=arguments.address or environment.get("RAY_ADDRESS"),
        may_grow=arguments.may_grow,
        resume=arguments.resume,
        dry_run=arguments.dry_run,
        verbose=arguments.verbose,
        reuse=arguments.reuse,
        share=arguments.share,
        workers=arguments.workers_per_trial,
        small_batch=arguments.small_batch,
        usd_per_gpu_hour=arguments.usd_per_gpu_hour,
        accelerator=arguments.accelerator,
        listed=tuple(dict(parse_setting(text) for text in point) for point in arguments.point),
        own=vars(arguments),
    )
    _check(options, arguments)
    return options


def _scale(chosen: Preset, arguments: argparse.Namespace, presets: PresetOf) -> float:
    """How much longer than the preset's own step budget the user's is: the preset's seconds grow with it."""
    if arguments.budget_steps is None:
        return 1.0
    return (
        float(arguments.budget_steps)
        / presets(arguments.preset, arguments.method, None, arguments.task).budget_steps
    )


def _check(options: SweepOptions, arguments: argparse.Namespace) -> None:
    for seed in options.seeds:
        at_least(0).check("seeds", seed)
    at_least(0).check("search-points", options.search_points)
    _check_designs(options)
    if options.concurrent is not None:
        at_least(1).check("max-concurrent", options.concurrent)
    if arguments.budget_seconds is not None:
        Budget(regime="time", amount=arguments.budget_seconds)
    if options.resume and options.output is None:
        raise ConfigError("resume", True, "needs --output: the folder of the study to continue")


def _check_designs(options: SweepOptions) -> None:
    at_least(1).check("workers-per-trial", options.workers)
    if options.preset.base.optimization.accumulation % options.workers:
        raise ConfigError(
            "workers-per-trial",
            options.workers,
            f"must divide accumulation = {options.preset.base.optimization.accumulation}, whose micro-batches they "
            "share (see --set accumulation=N)",
        )
    if options.small_batch is not None:
        at_least(1).check("small-batch", options.small_batch)
        if options.workers > 1:
            raise ConfigError(
                "small-batch", options.small_batch, "has no accumulation for several workers to share"
            )
    for name in ("max_overhead", "max_footprint"):
        if getattr(options, name) is not None:
            POSITIVE.check(name.replace("_", "-"), getattr(options, name))
    for name, interval in options.space.items():
        for value in (interval.low, interval.high):
            with_overrides(
                options.preset.base,
                {name: 1 - value if interval.complement else int(value) if interval.integer else value},
            )
    for point in options.listed:
        with_overrides(options.preset.base, point)


def _grids(arguments: argparse.Namespace) -> dict[str, Sequence[Any]]:
    found: dict[str, Sequence[Any]] = {}
    if arguments.tau is not None:
        found["tau"] = arguments.tau
    if arguments.T is not None:
        found["T"] = [parse_cadence(text) for text in arguments.T]
    if arguments.lambda_ is not None:
        found["lambda"] = arguments.lambda_
    return found


def _coarse_grid(grit: GritConfig, oat: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """Each knob's lowest, default and highest value (paper H.3); a cadence of `none` stays out."""
    found = {}
    for knob, values in oat.items():
        center = getattr(grit, KNOBS[knob].field)
        numbers = [value for value in (*values, center) if value is not None]
        found[knob] = tuple(dict.fromkeys((min(numbers), center, max(numbers))))
    return found


def parse_range(text: str) -> tuple[str, Interval]:
    """`field=low:high[:log][:int]`; tau is searched as 1 - tau, on a logarithmic scale.

    Raises:
        ConfigError: it does not look like that.
    """
    name, _, rest = text.partition("=")
    parts = rest.split(":")
    flags = set(parts[2:])
    try:
        low, high = float(parts[0]), float(parts[1])
        if not low < high or not flags <= {"log", "int"} or ("log" in flags and low <= 0):
            raise ValueError
    except (ValueError, IndexError):
        raise ConfigError(
            "space", text, "must look like field=low:high[:log][:int], with low < high (above 0 for log)"
        ) from None
    if name == "tau":
        if not 0 < low < high <= 1:
            raise ConfigError("space", text, "must keep tau (rank_adaptation_threshold) in (0, 1]")
        return name, Interval(low=max(1e-6, 1 - high), high=1 - low, complement=True)
    return name, Interval(low=low, high=high, log="log" in flags, integer="int" in flags)
