"""A trained run at a glance: its numbers, its geometry, and what it answers now and did before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from grit.adapters.kept_adapter import CARD_FILE, read_kept_adapter
from grit.cli.kept_run import Answering
from grit.cli.model_card import ranks_in_words
from grit.cli.run_file import ADAPTER, RunFile, read_run
from grit.config.declared_knobs import KNOBS
from grit.config.run_config import RunConfig
from grit.errors import ConfigError, reason
from grit.io.files import Row, read_table
from grit.tasks.base import Example
from grit.tasks.loading import load_task
from grit.tasks.metrics import metric_label
from grit.training.measurements import Measurements

#: Characters of a prompt's end and of an answer that are shown.
PROMPT_END, ANSWER_LENGTH = 160, 160
#: Modules that are named.
NAMED = 3
_EVENTS, _GEOMETRY = "events.parquet", "geometry.parquet"


def shown_run(folder: Path, examples: int) -> str:
    """What `python -m grit show` prints of a folder that `train` wrote.

    Args:
        folder: the run's.
        examples: how many evaluation examples are answered, before and after.

    Raises:
        ConfigError: it holds no run that has ended.
    """
    run = read_run(folder)
    if run.status == "planned":
        raise ConfigError("DIR", str(folder), "holds a run that has not ended; continue it with --resume")
    parts = [_headline(run), measures_table(run.measured), *_geometry(folder, run)]
    if examples == 0:
        return "\n\n".join(parts)
    if run.config.why_no_adapter is None and (folder / ADAPTER).is_dir():
        parts.append(shown_answers(folder / ADAPTER, examples))
    else:
        parts.append(f"answers: none, {run.config.why_no_adapter or 'the run left no adapter'}")
    return "\n\n".join(parts)


def shown_adapter(folder: Path, examples: int) -> str:
    """The same of a kept adapter, whose numbers stand on its card."""
    what = f"{_what(read_kept_adapter(folder).config)}; its numbers: {folder / CARD_FILE}"
    return f"{what}\n\n{shown_answers(folder, examples)}" if examples else what


def shown_answers(adapter: Path, examples: int) -> str:
    """The first evaluation examples with the answers of the untuned model and of the adapter, greedily."""
    config, answering = read_kept_adapter(adapter).config, Answering(adapter)
    asked = load_task(config.task, training=False).evaluation[:examples]
    prompts = [example.prompt for example in asked]
    before, after = answering.answers(prompts, tuned=False), answering.answers(prompts)
    rows = zip(asked, before, after, strict=True)
    return "\n\n".join(_answered(example, untuned, trained) for example, untuned, trained in rows)


def measures_table(measured: Measurements) -> str:
    """Every measure before and after training; what could not be computed says why."""
    base_loss, forgetting = measured.base_retention_loss, measured.forgetting
    general = None if forgetting is None or base_loss is None else base_loss + forgetting
    rows: list[list[Any]] = [
        [metric_label(str(measured.quality_metric)), measured.base_quality, measured.quality],
        ["answer loss (nats/token)", measured.base_answer_loss, measured.answer_loss],
        ["general loss (nats/token)", base_loss, general],
        ["retention", 1.0, measured.retention],
    ]
    for name, item in (measured.metrics or {}).items():
        problem = [item["problem"]] if item["problem"] else []
        rows.append([name, item["base_value"], item["value"], *problem])
    for name, item in (measured.probes or {}).items():
        label = f"probe {name} (n = {item['items']})"
        rows.append([label, item["base_accuracy"], item["accuracy"]])
    headers = ["", "untuned", "trained", "problem"][: max(len(row) for row in rows)]
    return str(tabulate(rows, headers=headers, floatfmt=".4f", missingval="-"))


def _rows_of(path: Path) -> list[Row]:
    try:
        return read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise ConfigError("DIR", str(path), f"cannot be read: {reason(error)}") from error


def _what(config: RunConfig) -> str:
    what = f"{config.spec.title} on {config.task_title}, model {config.backbone.model}, seed {config.seed}"
    if config.uses_grit:
        knobs = [f"{name} = {KNOBS[name].shown(config.setting(name))}" for name in KNOBS]
        what = f"{what}, {', '.join(knobs)}"
    return what


def _headline(run: RunFile) -> str:
    measured = run.measured
    reason = f": {run.reason}" if run.reason else ""
    seconds = "" if measured.train_seconds is None else f", {measured.train_seconds:.1f} s of training"
    return f"{_what(run.config)}\n{run.status} after {measured.steps} steps{seconds}{reason}"


def _geometry(folder: Path, run: RunFile) -> list[str]:
    """Ranks, reprojections, and the modules that gave up and that moved general text most."""
    if not run.config.uses_grit:
        return []
    measured, lines = run.measured, [f"ranks         {ranks_in_words(run.measured)}"]
    if measured.footprint is not None and measured.overhead is not None:
        lines.append(
            f"footprint     {measured.footprint:.1%} of the adapter; overhead {measured.overhead:.1%}"
        )
    if (folder / _EVENTS).exists():
        events = _rows_of(folder / _EVENTS)
        kept = [row["retained_mass"] for row in events if row["kind"] == "reprojection"]
        held = "" if not kept else f", each keeping {min(kept):.1%} of the update or more"
        if not kept and run.config.grit.T is not None and measured.steps is not None:
            held = f": T = {run.config.grit.T}, and {measured.steps} steps were made"
        lines.append(f"reprojections {len(kept)}{held}")
    if (folder / _GEOMETRY).exists():
        modules = _rows_of(folder / _GEOMETRY)
        least = sorted(modules, key=lambda row: row["rank"])[:NAMED]
        named = [f"{_short(row['module'])} ({row['rank']})" for row in least]
        if least and least[0]["rank"] < run.config.adapter.rank:
            lines.append(f"least kept    {', '.join(named)}")
        exposed = [row for row in modules if row.get("curvature_exposure") is not None]
        most = sorted(exposed, key=lambda row: -row["curvature_exposure"])[:NAMED]
        if most:
            lines.append(
                f"most exposed  {', '.join(_short(row['module']) for row in most)} (to general text)"
            )
    return ["\n".join(lines)]


def _short(module: str) -> str:
    """A module's path from its layer's number on."""
    return module.rpartition("layers.")[2]


def _answered(example: Example, untuned: str, trained: str) -> str:
    rows: Sequence[tuple[str, str]] = (
        ("prompt", _end_of(example.prompt)),
        ("expected", _start_of(example.answer)),
        ("untuned", _start_of(untuned)),
        ("trained", _start_of(trained)),
    )
    return "\n".join(f"{name:9} {text}" for name, text in rows)


def _end_of(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= PROMPT_END else f"... {words[-PROMPT_END:]}"


def _start_of(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= ANSWER_LENGTH else f"{words[:ANSWER_LENGTH]} ..."
