"""One run without a study: trained into a folder, evaluated from it, exported from it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from grit.adapters.check_model import check_earlier_tasks, check_model
from grit.adapters.kept_adapter import ADAPTER_FILE, read_kept_adapter
from grit.adapters.peft_adapters import merged_model
from grit.backbone import resolve
from grit.cli.model_card import Card, CardNumber, energy_in_words, ranks_in_words, write_card
from grit.cli.run_file import (
    ADAPTER,
    RUN_FILE,
    STATE,
    RunFile,
    check_empty,
    check_room,
    has_begun,
    holds_another,
    read_run,
)
from grit.config.run_config import RunConfig
from grit.config.sections import AdapterConfig
from grit.errors import ConfigError
from grit.evaluation.probes import check_probes
from grit.evaluation.scores import Scores
from grit.geometry.export import ExportReport, export_lora, export_quietly
from grit.io.files import PRIVATE, write_atomically, write_table
from grit.io.provenance import provenance
from grit.runtime import checkpoint
from grit.tasks.loading import content_hashes, load_documents, load_task, source_documents
from grit.training.hooks import Hooks
from grit.training.measurements import QUANTITIES, Measurements, finite
from grit.training.run import RunState
from grit.training.score_rows import score_rows
from grit.training.summary import score_summary
from grit.training.trainer import on_finished, train
from grit.training.workbench import Workbench

#: What scoring a trained adapter again leaves.
EVALUATION_FILE, PREDICTIONS_FILE = "eval.json", "eval-predictions.parquet"
ROOT = Path(__file__).resolve().parents[2]
#: Settings that a trained adapter fits: dropout alone may change with what it is evaluated on.
WITH_THE_ADAPTER = (
    "model",
    "dtype",
    *(item.name for item in fields(AdapterConfig) if item.name != "dropout"),
)


def check_content(config: RunConfig, *, training: bool = True) -> dict[str, str]:
    """Loads task, documents, model and probes far enough to refuse what cannot be used; their hashes.

    Raises:
        ConfigError: something cannot be used.
    """
    check_probes(config.evaluation.probes)
    task = load_task(config.task, training=training)
    check_model(config, task)
    documents = load_documents(config.task)
    if training and config.reads_source:
        source_documents(config, documents)
    check_earlier_tasks(config, training=training)
    content = config if training else config.stages()[-1]  # what is evaluated alone needs no earlier task
    return content_hashes(task, documents, content, resolve(config.backbone.model))


def open_run(folder: Path, config: RunConfig, *, resume: bool) -> RunFile:
    """Makes the folder of a run, or finds this run in it.

    Raises:
        ConfigError: it holds another run, or this one and `resume` is off, or cannot be written.
    """
    check_room(folder, config, resume=resume)
    identity = config.identity(check_content(config))
    if not (folder / RUN_FILE).exists():
        return _begun(folder, identity, config)
    record = read_run(folder)
    if not has_begun(folder, record) and not (resume and record.run_id != identity):
        # It never came to a first checkpoint: nothing is lost by starting anew, with whatever settings.
        return _begun(folder, identity, config)
    if record.run_id != identity:
        raise holds_another(folder, record, config)
    if record.status != "planned":
        return record
    return record.model_copy(update={"config": config})  # files may have moved: their content is the same


def _begun(folder: Path, identity: str, config: RunConfig) -> RunFile:
    created = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    record = RunFile(run_id=identity, config=config, created=created, provenance=provenance(ROOT))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
        record.write(folder)
    except OSError as error:
        raise ConfigError("output", str(folder), f"cannot be written: {error.strerror}") from error
    return record


def train_into(folder: Path, record: RunFile, bench: Workbench, hooks: Hooks) -> RunFile:
    """Trains the run that `open_run` found or made, from its last checkpoint.

    Leaves result, tables and final state.
    """
    config = record.config
    if config.audits.beside:
        raise ConfigError(
            "beside", config.audits.beside, "is for studies: a single run has nobody to take turns with"
        )
    adapter = None if config.why_no_adapter else folder / ADAPTER
    result = train(config, bench, checkpoints=folder / STATE, hooks=hooks, keep=True, adapter=adapter)
    for name, rows in result.tables().items():
        write_table(folder / f"{name}.parquet", rows)
    ended = record.model_copy(
        update={
            "status": result.status,
            "reason": result.reason,
            "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "measured": result.measured,
        }
    )
    ended.write(folder)
    if adapter is not None and adapter.exists():
        write_card(adapter, read_kept_adapter(adapter), card_of_run(ended))
    return ended


def card_of_run(run: RunFile) -> Card:
    """What a single run knows of itself: one seed, and no interval."""
    measured, versions = run.measured, run.provenance.get("versions", {})
    pairs = {
        "quality": measured.base_quality,
        "answer_loss": measured.base_answer_loss,
        "forgetting": 0.0,
        "footprint": None,
    }
    numbers = [
        CardNumber(
            label=QUANTITIES[name].label,
            value=QUANTITIES[name].shown(getattr(measured, name)),
            untuned=QUANTITIES[name].shown(untuned),
        )
        for name, untuned in pairs.items()
    ]
    return Card(
        kept_as="",
        numbers=numbers,
        geometry=[ranks_in_words(measured)],
        energy=energy_in_words(measured),
        limits=["One run with one seed: how much another seed would differ is not known."],
        provenance={"run": run.run_id, "commit": str(run.provenance.get("git_commit")), **versions},
    )


def ended_config(folder: Path) -> RunConfig:
    """The configuration of a run that has ended, or of a kept adapter.

    Raises:
        ConfigError: the folder holds none, or one that has not ended.
    """
    if (folder / ADAPTER_FILE).exists():
        return read_kept_adapter(folder).config
    record = read_run(folder)
    if record.status == "planned" or not checkpoint.exists(folder / STATE):
        raise ConfigError(
            "run folder", str(folder), "holds a run that has not ended; continue it with --resume"
        )
    return record.config


def evaluate_run(folder: Path, config: RunConfig, bench: Workbench) -> Measurements:
    """Scores the trained adapter as `config` (the run's own, or one with other data) says.

    Also writes `eval.json` and its predictions.

    Raises:
        ConfigError: data that cannot be used, or a run that has not ended.
    """
    trained, content = ended_config(folder), check_content(config, training=False)

    def work(state: RunState) -> Measurements:
        base = bench.base_scores(config, state.untrained())
        scores = bench.score_fully(state.restored(folder / STATE), config)
        return write_evaluation(folder, config, content, scores, base, bench)

    return on_finished(trained, bench, work)


def write_evaluation(
    to: Path, config: RunConfig, content: dict[str, str], scores: Scores, base: Scores, bench: Workbench
) -> Measurements:
    """Leaves `eval.json` and predictions in `to`: what `scores` say, beside the untuned model's `base`."""
    measured = Measurements(**score_summary(scores, base, config, bench.task(config).metric))
    to.mkdir(parents=True, exist_ok=True)
    write_table(to / PREDICTIONS_FILE, score_rows(scores, base))
    result = {
        "config": config.to_dict(),
        "content": content,
        "measured": measured.model_dump(exclude_none=True),
    }
    write_atomically(to / EVALUATION_FILE, json.dumps(finite(result), indent=2))
    return measured


def export_run(folder: Path, to: Path, bench: Workbench, *, merged: bool) -> ExportReport:
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
    check_empty(to)
    adapter = to / "adapter" if merged else to

    def work(state: RunState) -> ExportReport:
        model = state.restored(folder / STATE)
        return (
            export_lora(model, adapter)
            if state.handle is None
            else export_quietly(model, state.handle, adapter)
        )

    written = on_finished(config, bench, work)
    if merged:
        write_merged(config, adapter, to, bench)
    return written


def write_merged(config: RunConfig, adapter: Path, to: Path, bench: Workbench) -> None:
    """Writes a whole model: the backbone with the adapter in that folder added to its weights."""
    backbone = config.backbone
    model = merged_model(
        resolve(backbone.model),
        adapter,
        dtype=backbone.dtype,
        revision=backbone.revision,
        trust_remote_code=backbone.trust_remote_code,
    )
    model.save_pretrained(to)
    bench.tokenizer(config).save_pretrained(to)


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
