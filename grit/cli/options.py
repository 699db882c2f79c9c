"""What every command line here shares.

One line for bad input, and the options that say which model and data are meant.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from grit.config.overrides import parse_setting, with_overrides
from grit.config.run import RunConfig
from grit.config.sections import TaskSource
from grit.tasks.registry import NAMES


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        self.exit(2, f"error: {message} (see --help)\n")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options for the task, its files, the general text and the probes."""
    add = parser.add_argument
    add("--task", metavar="NAME", help="what is learned: " + ", ".join(NAMES))
    add(
        "--train-file",
        metavar="F",
        help="training examples (JSON Lines, CSV or Parquet); without it a task of the paper comes from "
        "the hub",
    )
    add(
        "--eval-file",
        metavar="F",
        help="held-out examples; without it a dataset that has none gives up some of its training examples",
    )
    add(
        "--retention-file",
        metavar="F",
        help="held-out general text on which forgetting is measured (a file with `text`, or plain text)",
    )
    add(
        "--template",
        metavar="T",
        help='for --task custom: "Q: {question}\\nA: => {answer}", or a JSON file (docs/tasks.md)',
    )
    add(
        "--probes",
        nargs="+",
        metavar="NAME[=FILE]",
        help="zero-shot probes of lm-evaluation-harness for retention, e.g. hellaswag winogrande=F",
    )
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="any field of the configuration, e.g. basis=balanced rank=8",
    )


def with_data_options(config: RunConfig, arguments: argparse.Namespace) -> RunConfig:
    """`config` with the options of `add_data_options` and `--model` laid over it.

    Paths become absolute, since workers have folders of their own.

    Raises:
        ConfigError: a value that cannot be used.
    """
    given = {
        name: _absolute(getattr(arguments, name)) for name in ("train_file", "eval_file", "retention_file")
    }
    template = arguments.template
    if template is not None and template.endswith(".json"):
        template = _absolute(template)
    same = arguments.task in (None, config.task.name)
    base = config.task if same else TaskSource(name=arguments.task, retention_file=config.task.retention_file)
    task = replace(
        base,
        **{name: path for name, path in given.items() if path is not None},
        **({} if template is None else {"template": template}),
    )
    changes: dict[str, Any] = {"task": task}
    if getattr(arguments, "model", None) is not None:
        changes["model"] = (
            str(Path(arguments.model).absolute()) if Path(arguments.model).is_dir() else arguments.model
        )
    if arguments.probes is not None:
        changes["probes"] = tuple(_absolute_probe(text) for text in arguments.probes)
    settings = dict(parse_setting(text) for text in arguments.set)
    for name in ("model", "bertscore_encoder"):
        if isinstance(settings.get(name), str) and Path(settings[name]).is_dir():
            settings[name] = _absolute(settings[name])
    return with_overrides(config.changed(**changes), settings)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())


def _absolute_probe(text: str) -> str:
    name, equals, path = text.partition("=")
    return f"{name}={_absolute(path)}" if equals else text
