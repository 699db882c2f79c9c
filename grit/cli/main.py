"""One run without a study: `python -m grit train | show | eval | export | push` (see `--help` of each)."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from grit.adapters.kept_adapter import ADAPTER_FILE, MODELS
from grit.cli.fields import HelpFields
from grit.cli.one_line import EXIT_BAD_INPUT, EXIT_INTERRUPTED, ends_with_its_reader
from grit.cli.options import DataOptions, ModelOptions, named_settings, with_data_options
from grit.cli.parser import OneLineParser, flag, taken
from grit.cli.pasted import command_into, pasted
from grit.cli.phases import passing
from grit.cli.run_file import EXPORTED, MERGED, check_empty, check_room, read_run
from grit.config.first_effect import beyond_budget, idle_schedules
from grit.config.overrides import parse_cadence, with_overrides
from grit.config.registry import METHODS
from grit.config.run_config import RunConfig
from grit.config.sections import Budget
from grit.config.settings import at_least
from grit.errors import ConfigError
from grit.presets.run_presets import CONFIGURATIONS, configuration


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """One run into a folder."""

    _argument_group_name = "the run"

    output: Path = flag(MISSING, "where the run goes: run.json, tables, state", metavar="DIR")
    resume: bool = flag(False, "continue the run in --output from its last checkpoint")
    preset: str = flag(
        "embedded", "starting point for every setting (default: embedded)", choices=tuple(CONFIGURATIONS)
    )
    method: str = flag(
        "grit",
        "grit, qgrit (in 4-bit NF4), or what they are compared with: "
        + ", ".join(name for name in METHODS if name not in ("grit", "qgrit")),
        choices=METHODS,
        metavar="NAME",
    )
    tau: float | None = flag(None, "energy threshold", metavar="V")
    T: str | None = flag(None, "reprojection cadence in steps, or `none`", metavar="V")
    lambda_: float | None = flag(None, "damping", metavar="V")
    seed: int | None = flag(None, "of initialization, order and dropout", metavar="N")
    live: bool = flag(False, "a line every second: step, loss, mean rank")
    budget_steps: int | None = flag(None, "optimizer steps", metavar="N")
    budget_seconds: float | None = flag(None, "training seconds (evaluation excluded)", metavar="S")


@dataclass(frozen=True)
class ShowOptions:
    """What is shown of a trained run."""

    _argument_group_name = "what is shown"

    examples: int = flag(3, "evaluation examples that are answered, before and after", metavar="N")


@dataclass(frozen=True)
class ExportOptions:
    """A trained run's adapter as files."""

    _argument_group_name = "the export"

    to: Path | None = flag(None, "an empty folder (default: DIR/export, or DIR/merged)", metavar="DIR")
    merged: bool = flag(False, "a whole model instead, with the adapter added to the weights; needs no PEFT")


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Where an adapter goes."""

    _argument_group_name = "the hub"

    to: str = flag(MISSING, "the repository; made if need be", metavar="OWNER/NAME")
    private: bool = flag(False, "a new repository is private")


def parser() -> OneLineParser:
    """The five commands."""
    p = OneLineParser(prog="python -m grit", description=__doc__)
    commands = p.add_subparsers(dest="command", required=True, metavar="train | show | eval | export | push")
    train = commands.add_parser(
        "train",
        help="train one adapter into a folder",
        dataclass_types=[TrainOptions, ModelOptions, DataOptions],
    )
    train.add_argument("--help-fields", action=HelpFields)
    evaluate = commands.add_parser(
        "eval", help="score a trained run, on its own data or on others", dataclass_types=[DataOptions]
    )
    show = commands.add_parser(
        "show",
        help="a trained run at a glance: numbers, geometry, answers before and after",
        dataclass_types=[ShowOptions],
    )
    export = commands.add_parser(
        "export",
        help="write a trained run's adapter, truncated to its ranks, as a plain PEFT adapter",
        dataclass_types=[ExportOptions],
    )
    push = commands.add_parser(
        "push",
        help="upload a kept adapter with its model card to a model hub (HF_ENDPOINT, HF_TOKEN)",
        dataclass_types=[PushOptions],
    )
    for command in (show, evaluate, export, push):
        command.add_argument(
            "place",
            metavar="DIR",
            help="what `train` wrote, a study's adapters/<trial>, or models:/NAME/VERSION of MLflow",
        )
    return p


def run_configuration(arguments: Namespace) -> RunConfig:
    """What `train` was asked for.

    Raises:
        ConfigError: a value that cannot be used.
    """
    options, data = taken(TrainOptions, arguments), taken(DataOptions, arguments)
    if options.budget_steps is not None and options.budget_seconds is not None:
        raise ConfigError("budget-seconds", options.budget_seconds, "cannot be given beside --budget-steps")
    if options.budget_steps is not None:
        at_least(1).check("budget-steps", options.budget_steps)
    method = options.method
    named_settings(data)  # before a preset may have to measure something
    base = configuration(options.preset, method, task=data.task, steps=options.budget_steps)
    base = with_data_options(base, data, arguments.model)
    if base.execution.checkpoint_steps is None:
        base = base.changed(checkpoint_steps=max(1, int(base.budget.amount) // 10))
    if options.budget_seconds is not None:
        base = base.changed(budget=Budget(regime="time", amount=options.budget_seconds))
    if options.seed is not None:
        base = base.changed(seed=options.seed)
    knobs: dict[str, Any] = {"tau": options.tau, "lambda": options.lambda_}
    knobs = {name: value for name, value in knobs.items() if value is not None}
    if options.T is not None:
        knobs["T"] = parse_cadence(options.T)
    if knobs and not base.uses_grit:
        name, value = next(iter(knobs.items()))
        raise ConfigError(name, value, f"is a knob of GRIT; method {base.method} does not use it")
    return with_overrides(base, knobs)


@ends_with_its_reader
def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 the run diverged, 2 bad input, 130 interrupted."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.command != "train":
            _check_place(arguments.place)
        commands = {"train": _train, "show": _show, "eval": _evaluate, "export": _export, "push": _push}
        return commands[arguments.command](arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(_interrupted(arguments), file=sys.stderr)
        return EXIT_INTERRUPTED


def _interrupted(arguments: Namespace) -> str:
    if arguments.command != "train":
        return "interrupted"
    command = command_into(arguments.output, without=("--resume",), more=("--resume",))
    return f"interrupted: this goes on from its last checkpoint, if there is one:\n  {command}"


def _train(arguments: Namespace) -> int:
    with passing("checking the task and the model"):
        config = run_configuration(arguments)
        check_room(arguments.output, config, resume=arguments.resume)
        # With torch: what is no use has been refused by now.
        from grit.cli.show import measures_table
        from grit.cli.single_run import open_run, train_into
        from grit.cli.watching import RunDisplay, evaluation_bar
        from grit.runtime.allocator import keep_freed_memory
        from grit.tasks.loading import beyond_backbone
        from grit.training.workbench import Workbench

        record = open_run(arguments.output, config, resume=arguments.resume)
        beyond = beyond_backbone(config)
    _say_what_cannot_act(config)
    if beyond is not None:
        print(beyond, file=sys.stderr)
    if record.status == "planned":
        keep_freed_memory()
        signal.signal(signal.SIGTERM, _interrupt)
        display = RunDisplay(config.method, live=arguments.live)
        try:
            record = train_into(arguments.output, record, Workbench(progress=evaluation_bar), display.hooks())
        finally:
            display.close()
    else:
        print("this run has ended already; its results:", file=sys.stderr)
    measured = record.measured
    print(measures_table(measured))
    print(
        f"{record.status} after {measured.steps} steps, {measured.train_seconds:.1f} s of training; "
        f"footprint {_share(measured.footprint)}, overhead {_share(measured.overhead)}; "
        f"{measured.truncated_examples} training examples were truncated"
        + (f"; {record.reason}" if record.reason else "")
    )
    for what, command in (("look at it", "show"), ("export it", "export")):
        print(f"{what + ':':12}{pasted(sys.executable, '-m', 'grit', command, arguments.output)}")
    return 0 if record.status == "completed" else 1


def _say_what_cannot_act(config: RunConfig) -> None:
    """A line for each part of the geometry that comes too late for the budget of steps."""
    if not config.uses_grit or config.budget.regime != "step":
        return
    for reason in idle_schedules(config.grit, config.budget.amount):
        print(beyond_budget(reason, config.budget.amount), file=sys.stderr)


def _check_place(place: str) -> None:
    """Refuses a folder that is not there, or holds neither run nor adapter, before torch is imported."""
    if place.startswith(MODELS):
        return
    if not Path(place).is_dir():
        raise ConfigError("DIR", place, "is no folder")
    if not (Path(place) / ADAPTER_FILE).exists():
        read_run(Path(place))


def _own_folder(place: str) -> Path:
    """Where what is made of a run or an adapter goes: its folder; of MLflow's models, the present one."""
    return Path() if place.startswith(MODELS) else Path(place)


def _show(arguments: Namespace) -> int:
    at_least(0).check("examples", arguments.examples)
    with passing("loading torch and the model, then answering"):
        from grit.cli.kept_run import adapter_at, is_kept
        from grit.cli.show import shown_adapter, shown_run

        with adapter_at(arguments.place) as folder:
            shown = shown_adapter if is_kept(folder) else shown_run
            text = shown(folder, arguments.examples)
    print(text)
    return 0


def _interrupt(_number: int, _frame: Any) -> None:
    """SIGTERM ends a run as Ctrl-C does: it goes on from its last checkpoint with --resume."""
    raise KeyboardInterrupt


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _evaluate(arguments: Namespace) -> int:
    with passing("loading torch"):
        from grit.cli.kept_run import adapter_at, evaluate_kept, is_kept
        from grit.cli.show import measures_table
        from grit.cli.single_run import PREDICTIONS_FILE, evaluate_run, with_config
        from grit.cli.watching import evaluation_bar
        from grit.training.workbench import Workbench

    data, bench = taken(DataOptions, arguments), Workbench(progress=evaluation_bar, training=False)
    with adapter_at(arguments.place) as folder:
        config = with_config(lambda trained: with_data_options(trained, data), folder)
        to = _own_folder(arguments.place)
        if is_kept(folder):
            measured = evaluate_kept(folder, config, bench, to)
        else:
            measured = evaluate_run(folder, config, bench)
    print(measures_table(measured))
    print(f"per example: {to / PREDICTIONS_FILE} (the next evaluation replaces it)")
    return 0


def _export(arguments: Namespace) -> int:
    to = arguments.to or _own_folder(arguments.place) / (MERGED if arguments.merged else EXPORTED)
    check_empty(to)
    with passing("loading torch"):
        from grit.cli.kept_run import adapter_at, export_kept, is_kept
        from grit.cli.single_run import export_run
        from grit.training.workbench import Workbench

    with adapter_at(arguments.place) as folder:
        if is_kept(folder):
            export_kept(folder, to, Workbench(), merged=arguments.merged)
            print(to)
            return 0
        written = export_run(folder, to, Workbench(), merged=arguments.merged)
    print(
        f"{to}: {written.effective_parameters:,} of {written.parameters:,} adapter parameters, "
        f"{written.bytes:,} bytes"
    )
    return 0


def _push(arguments: Namespace) -> int:
    from grit.cli.kept_run import adapter_at, is_kept, push_kept
    from grit.cli.run_file import ADAPTER

    with adapter_at(arguments.place) as folder:
        adapter = folder if is_kept(folder) else folder / ADAPTER
        print(push_kept(adapter, arguments.to, private=arguments.private))
    return 0
