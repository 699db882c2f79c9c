"""One run without a study: `python -m grit train | eval | export` (see `--help` of each)."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from grit.cli.options import OneLineParser, add_data_options, with_data_options
from grit.config.method import KNOBS
from grit.config.overrides import parse_cadence, with_overrides
from grit.config.registry import METHODS
from grit.config.run import RunConfig
from grit.config.sections import Budget
from grit.errors import ConfigError
from grit.training.run_presets import CONFIGURATIONS, configuration

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130


def parser() -> argparse.ArgumentParser:
    """The three commands."""
    p = OneLineParser(prog="python -m grit", description=__doc__)
    commands = p.add_subparsers(dest="command", required=True, metavar="train | eval | export")
    train = commands.add_parser("train", help="train one adapter into a folder")
    train.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="where the run goes: run.json, telemetry, predictions, state",
    )
    train.add_argument(
        "--resume", action="store_true", help="continue the run in --output from its last checkpoint"
    )
    train.add_argument(
        "--preset",
        choices=tuple(CONFIGURATIONS),
        default="embedded",
        help="starting point for every setting (default: embedded)",
    )
    train.add_argument(
        "--method",
        choices=tuple(METHODS),
        default="grit",
        metavar="NAME",
        help="grit, qgrit (in 4-bit NF4), or what they are compared with: "
        + ", ".join(m for m in METHODS if not METHODS[m].geometry),
    )
    train.add_argument("--model", metavar="ID_OR_PATH", help="backbone: `embedded`, a folder, or a hub id")
    train.add_argument("--tau", type=float, help="energy threshold")
    train.add_argument("--T", help="reprojection cadence in steps, or `none`")
    train.add_argument("--lambda", type=float, dest="lambda_", help="damping")
    train.add_argument("--seed", type=int, help="of initialization, order and dropout")
    budget = train.add_mutually_exclusive_group()
    budget.add_argument("--budget-steps", type=int, metavar="N", help="optimizer steps")
    budget.add_argument(
        "--budget-seconds", type=float, metavar="S", help="training seconds (evaluation excluded)"
    )
    add_data_options(train)
    evaluate = commands.add_parser("eval", help="score a trained run, on its own data or on others")
    evaluate.add_argument("folder", type=Path, metavar="DIR", help="what `train` wrote")
    add_data_options(evaluate)
    export = commands.add_parser(
        "export", help="write a trained run's adapter, truncated to its ranks, as a plain PEFT adapter"
    )
    export.add_argument("folder", type=Path, metavar="DIR", help="what `train` wrote")
    export.add_argument("--to", type=Path, metavar="DIR", help="an empty folder (default: DIR/export)")
    export.add_argument(
        "--merged",
        action="store_true",
        help="a whole model instead, with the adapter added to the weights; needs no PEFT",
    )
    return p


def run_configuration(arguments: argparse.Namespace) -> RunConfig:
    """What `train` was asked for.

    Raises:
        ConfigError: a value that cannot be used.
    """
    base = configuration(
        arguments.preset, arguments.method, task=arguments.task, steps=arguments.budget_steps
    )
    base = with_data_options(base, arguments)
    if base.execution.checkpoint_steps is None:
        base = base.changed(checkpoint_steps=max(1, int(base.budget.amount) // 10))
    if arguments.budget_seconds is not None:
        base = replace(base, budget=Budget(regime="time", amount=arguments.budget_seconds))
    if arguments.seed is not None:
        base = replace(base, seed=arguments.seed)
    knobs: dict[str, Any] = {
        name: value
        for name, value in zip(KNOBS, (arguments.tau, None, arguments.lambda_), strict=True)
        if value is not None
    }
    if arguments.T is not None:
        knobs["T"] = parse_cadence(arguments.T)
    if knobs and not base.uses_grit:
        raise ConfigError(
            next(iter(knobs)),
            next(iter(knobs.values())),
            f"is a knob of GRIT; method {base.method} does not use it",
        )
    return with_overrides(base, knobs)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 the run diverged, 2 bad input, 130 interrupted."""
    arguments = parser().parse_args(argv)
    try:
        return {"train": _train, "eval": _evaluate, "export": _export}[arguments.command](arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; continue from the last checkpoint with --resume", file=sys.stderr)
        return EXIT_INTERRUPTED


@contextmanager
def _bar(what: str, count: int) -> Iterator[Any]:
    with tqdm(total=count, desc=what, file=sys.stderr, leave=False, disable=not sys.stderr.isatty()) as bar:
        yield bar.update


def _train(arguments: argparse.Namespace) -> int:
    from grit.cli.single_run import open_run, train_into
    from grit.runtime.allocator import keep_freed_memory
    from grit.training.trainer import Hooks
    from grit.training.workbench import Workbench

    config = run_configuration(arguments)
    record = open_run(arguments.output, config, resume=arguments.resume)
    if record["status"] == "planned":
        keep_freed_memory()
        signal.signal(signal.SIGTERM, _interrupt)
        with tqdm(
            total=100,
            desc=config.method,
            unit="%",
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        ) as bar:

            def progress(step: int, share: float, loss: float, rank: float) -> None:
                bar.n = round(100 * share, 1)
                bar.set_postfix_str(f"step {step}, loss {loss:.3f}, rank {rank:.1f}")

            record = train_into(arguments.output, record, Workbench(progress=_bar), Hooks(progress=progress))
    print(_table(record))
    print(
        f"{record['status']} after {record['steps']} steps, {record['train_seconds']:.1f} s of training; "
        f"footprint {_share(record['footprint'])}, "
        f"overhead {_share(record['overhead'])}; {record['truncated_examples']} training examples were "
        "truncated" + (f"; {record['reason']}" if record["reason"] else "")
    )
    print(f"export it:  python -m grit export {arguments.output}")
    return 0 if record["status"] == "completed" else 1


def _interrupt(_number: int, _frame: Any) -> None:
    """SIGTERM ends a run as Ctrl-C does: it goes on from its last checkpoint with --resume."""
    raise KeyboardInterrupt


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _evaluate(arguments: argparse.Namespace) -> int:
    from grit.cli.single_run import evaluate_run, with_config
    from grit.training.workbench import Workbench

    config = with_config(lambda trained: with_data_options(trained, arguments), arguments.folder)
    print(_table(evaluate_run(arguments.folder, config, Workbench(progress=_bar, training=False))))
    print(f"per example: {arguments.folder / 'eval-predictions.parquet'}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from grit.cli.single_run import export_run
    from grit.training.workbench import Workbench

    to = arguments.to or arguments.folder / "export"
    written = export_run(arguments.folder, to, Workbench(), merged=arguments.merged)
    print(
        f"{to}: {written['effective_parameters']:,} of {written['parameters']:,} adapter parameters, "
        f"{written['bytes']:,} bytes"
    )
    return 0


def _table(found: dict[str, Any]) -> str:
    """Every measure before and after training; what could not be computed says why."""
    rows = [
        [found["quality_metric"], found["base_quality"], found["quality"], ""],
        ["answer loss (nats/token)", found["base_answer_loss"], found["answer_loss"], ""],
        [
            "general loss (nats/token)",
            found["base_retention_loss"],
            None if found["forgetting"] is None else found["base_retention_loss"] + found["forgetting"],
            "",
        ],
        ["retention", 1.0, found["retention"], ""],
    ]
    rows += [
        [name, item["base_value"], item["value"], item["problem"] or ""]
        for name, item in found["metrics"].items()
    ]
    rows += [
        [f"probe {name} (n = {item['items']})", item["base_accuracy"], item["accuracy"], ""]
        for name, item in found["probes"].items()
    ]
    return str(tabulate(rows, headers=["", "untuned", "trained", ""], floatfmt=".4f", missingval="-"))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
