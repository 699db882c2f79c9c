"""The options that every command line here shares: which model and which data are meant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grit.cli.parser import flag
from grit.config.overrides import parse_setting, with_overrides
from grit.config.run_config import RunConfig, section_of
from grit.config.sections import TaskSource
from grit.tasks.loading import NAMES


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Task, files, general text and probes; and any other setting."""

    _argument_group_name = "data"

    task: str | None = flag(None, "what is learned: " + ", ".join(NAMES), metavar="NAME")
    train_file: str | None = flag(
        None,
        "training examples (JSON Lines, CSV or Parquet); without it a task of the paper comes from the hub",
        metavar="F",
    )
    eval_file: str | None = flag(
        None,
        "held-out examples; without it a dataset that has none gives up some of its training examples",
        metavar="F",
    )
    retention_file: str | None = flag(
        None,
        "held-out general text on which forgetting is measured (a file with `text`, or plain text)",
        metavar="F",
    )
    template: str | None = flag(
        None,
        'for --task custom: "Q: {question}\\nA: => {answer}", or a JSON file (docs/reference/tasks.md)',
        metavar="T",
    )
    probes: list[str] | None = flag(
        None,
        "zero-shot probes of lm-evaluation-harness for retention, e.g. hellaswag winogrande=F",
        metavar="NAME[=FILE]",
    )
    set: list[str] = flag(
        [],
        "any field of the configuration, e.g. basis=balanced rank=8 (`python -m grit train --help-fields` "
        "lists them)",
        metavar="FIELD=VALUE",
        action="extend",
    )


@dataclass(frozen=True)
class ModelOptions:
    """The backbone."""

    _argument_group_name = "model"

    model: str | None = flag(None, "backbone: `embedded`, a folder, or a hub id", metavar="ID_OR_PATH")


def named_settings(options: DataOptions) -> dict[str, Any]:
    """What `--set` says, by name.

    Raises:
        ConfigError: an unknown name, or no `=`.
    """
    settings = dict(parse_setting(text) for text in options.set)
    for name in settings:
        section_of(name)
    return settings


def with_data_options(config: RunConfig, options: DataOptions, model: str | None = None) -> RunConfig:
    """`config` with these options laid over it.

    Paths become absolute, since workers have folders of their own.

    Raises:
        ConfigError: a value that cannot be used.
    """
    changes: dict[str, Any] = {"task": _task(config.task, options)}
    if model is not None:
        changes["model"] = _absolute(model) if Path(model).is_dir() else model
    if options.probes is not None:
        changes["probes"] = tuple(_absolute_probe(text) for text in options.probes)
    settings = named_settings(options)
    for name in ("model", "bertscore_encoder"):
        if isinstance(settings.get(name), str) and Path(settings[name]).is_dir():
            settings[name] = _absolute(settings[name])
    changed = with_overrides(config.changed(**changes), settings)
    if changed.sequence.before:
        changed = changed.changed(before=tuple(map(absolute_task, changed.sequence.before)))
    return changed


def _task(preset_task: TaskSource, options: DataOptions) -> TaskSource:
    """The task that is meant: another one keeps the general text, and nothing else of the known one's."""
    base = preset_task
    if options.task not in (None, preset_task.name):
        base = TaskSource(name=str(options.task), retention_file=preset_task.retention_file)
    files = {
        name: _absolute(path)
        for name in ("train_file", "eval_file", "retention_file")
        if (path := getattr(options, name)) is not None
    }
    if options.template is not None:
        is_file = options.template.endswith(".json")
        files["template"] = _absolute(options.template) if is_file else options.template
    return replace(base, **files)


def absolute_task(text: str) -> str:
    """A task of a sequence with whole paths, since workers have folders of their own.

    `text` is NAME or NAME=TRAIN_FILE,EVAL_FILE.
    """
    name, equals, files = text.partition("=")
    return f"{name}={','.join(map(_absolute, files.split(',')))}" if equals else text


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _absolute_probe(text: str) -> str:
    name, equals, path = text.partition("=")
    return f"{name}={_absolute(path)}" if equals else text
