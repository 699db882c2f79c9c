"""One run without a study: trained into a folder, evaluated from it, exported from it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from grit.adapters.check_model import check_model
from grit.adapters.peft_adapters import merged_model
from grit.backbone import resolve
from grit.config.run import RunConfig
from grit.config.sections import AdapterConfig
from grit.errors import ConfigError
from grit.evaluation.probes import check_probes
from grit.geometry.export import export_adapter, export_lora
from grit.io.files import finite, read_object, write_atomically, write_table
from grit.io.provenance import provenance
from grit.runtime import checkpoint
from grit.tasks.registry import content_hashes, load_documents, load_task
from grit.training.result import TABLES, Row, RunResult
from grit.training.summary import score_rows, score_summary
from grit.training.trainer import Hooks, Run, on_finished, train
from grit.training.workbench import Workbench

RUN_FILE, STATE = "run.json", "state"
#: Settings that a trained adapter fits: dropout alone may change with what it is evaluated on.
WITH_THE_ADAPTER = (
    "model",
    "dtype",
    *(item.name for item in fields(AdapterConfig) if item.name != "dropout"),
)
ROOT = Path(__file__).resolve().parents[2]


def check_content(config: RunConfig, *, training: bool = True) -> dict[str, str]:
    """Loads task, documents, model and probes far enough to refuse what cannot be used; their hashes.

    Raises:
        ConfigError: something cannot be used.
    """
    check_probes(config.evaluation.probes)
    task = load_task(config.task, training=training)
    check_model(config, task)
    return content_hashes(task, load_documents(config.task), config, resolve(config.backbone.model))


def open_run(folder: Path, config: RunConfig, *, resume: bool) -> dict[str, Any]:
    """Makes the folder of a run, or finds this run in it.

    Raises:
        ConfigError: it holds another run, or this one and `resume` is off, or cannot be written.
    """
    identity = config.identity(check_content(config))
    if folder.exists() and not folder.is_dir():
        raise ConfigError("output", str(folder), "is a file; choose a folder")
    if (folder / RUN_FILE).exists():
        known = read_run(folder)
        begun = known["status"] != "planned" or checkpoint.exists(folder / STATE)
        if (
            not begun
        ):  # it never came to a first checkpoint: nothing is lost by starting anew, with whatever settings
            return _begin(folder, identity, config)
        if known["run_id"] != identity:
            raise ConfigError(
                "output", str(folder), "holds another run (other settings or data); choose another folder"
            )
        if not resume:
            raise ConfigError(
                "output",
                str(folder),
                "holds this run already; add --resume to continue it, or choose another folder",
            )
        return (
            known if known["status"] != "planned" else known | {"config": config.to_dict()}
        )  # files may have moved: their content is the same
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError("output", str(folder), "is not empty and holds no run; choose an empty folder")
    if resume:
        raise ConfigError("output", str(folder), "holds no run to resume")
    return _begin(folder, identity, config)


def _begin(folder: Path, identity: str, config: RunConfig) -> dict[str, Any]:
    record = {
        "run_id": identity,
        "status": "planned",
        "config": config.to_dict(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **provenance(ROOT),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, record)
    except OSError as error:
        raise ConfigError("output", str(folder), f"cannot be written: {error.strerror}") from error
    return record


def read_run(folder: Path) -> dict[str, Any]:
    """`run.json`.

    Raises:
        ConfigError: it is missing or malformed.
    """
    return read_object(folder / RUN_FILE, "run folder")


def train_into(folder: Path, record: dict[str, Any], bench: Workbench, hooks: Hooks) -> dict[str, Any]:
    """Trains the run that `open_run` found or made, from its last checkpoint.

    Leaves result, telemetry, predictions and final state.
    """
    config = RunConfig.from_dict(record["config"])
    if config.audits.beside:
        raise ConfigError(
            "beside", config.audits.beside, "is for studies: a single run has nobody to take turns with"
        )
    result = train(config, bench, checkpoints=folder / STATE, hooks=hooks, keep=True)
    for name in TABLES:
        if rows := getattr(result, name):
            write_table(folder / f"{name}.parquet", rows)
    record |= {"ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **_plain(result)}
    _write(folder, record)
    return record


def _plain(result: RunResult) -> dict[str, Any]:
    """A result without its tables."""
    values = asdict(result)
    return {name: value for name, value in values.items() if name not in TABLES}


def _write(folder: Path, record: dict[str, Any]) -> None:
    write_atomically(
        folder / RUN_FILE, json.dumps(finite(record), indent=2, ensure_ascii=False, allow_nan=False)
    )


def ended_config(folder: Path) -> RunConfig:
    """The configuration of a run that has ended.

    Raises:
        ConfigError: the folder holds none, or one that has not ended.
    """
    record = read_run(folder)
    if record["status"] == "planned" or not checkpoint.exists(folder / STATE):
        raise ConfigError(
            "run folder", str(folder), "holds a run that has not ended; continue it with --resume"
        )
    return RunConfig.from_dict(record["config"])


def evaluate_run(folder: Path, config: RunConfig, bench: Workbench) -> Row:
    """Scores the trained adapter as `config` (the run's own, or one with other data) says.

    Also writes `eval.json` and its predictions.

    Raises:
        ConfigError: data that cannot be used, or a run that has not ended.
    """
    trained, content = ended_config(folder), check_content(config, training=False)

    def work(run: Run) -> Row:
        base, scores = (
            bench.base_scores(config, run.untrained()),
            bench.score(run.restored(), config, last=True),
        )
        write_table(folder / "eval-predictions.parquet", score_rows(scores, base))
        return score_summary(scores, base, config, bench.task(config).metric)

    found = on_finished(trained, bench, folder / STATE, work)
    write_atomically(
        folder / "eval.json",
        json.dumps(finite({"config": config.to_dict(), "content": content, **found}), indent=2),
    )
    return found


def export_run(folder: Path, to: Path, bench: Workbench, *, merged: bool) -> Row:
    """Writes the trained adapter, truncated to its ranks, as a plain PEFT adapter.

    With `merged` a whole model that needs no PEFT.

    Raises:
        ConfigError: the folder holds no ended run, or `to` is not empty.
    """
    config = ended_config(folder)
    if not config.spec.factors:
        raise ConfigError(
            "method",
            config.method,
            f"{config.spec.title} is no plain LoRA adapter beside an unchanged backbone, and stays here",
        )
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError("to", str(to), "is not empty; choose an empty folder")
    adapter = to / "adapter" if merged else to

    def work(run: Run) -> Row:
        model = run.restored()
        written = (
            export_lora(model, adapter) if run.handle is None else export_adapter(model, run.handle, adapter)
        )
        return {
            "parameters": written.parameters,
            "effective_parameters": written.effective_parameters,
            "bytes": written.bytes,
        }

    found = on_finished(config, bench, folder / STATE, work)
    if merged:
        model = merged_model(
            resolve(config.backbone.model),
            adapter,
            dtype=config.backbone.dtype,
            revision=config.backbone.revision,
            trust_remote_code=config.backbone.trust_remote_code,
        )
        model.save_pretrained(to)
        bench.tokenizer(config).save_pretrained(to)
    return found


def with_config(change: Callable[[RunConfig], RunConfig], folder: Path) -> RunConfig:
    """The configuration of the ended run in `folder`, changed; what was trained stays as it was."""
    trained = ended_config(folder)
    changed = change(trained)
    if changed.method != trained.method:
        raise ConfigError(
            "method", changed.method, f"cannot be changed after training: it was {trained.method!r}"
        )
    for name in WITH_THE_ADAPTER:
        now, then = changed.setting(name), trained.setting(name)
        if now != then:
            raise ConfigError(name, now, f"cannot be changed after training: it was {then!r}")
    return replace(changed, grit=trained.grit)
