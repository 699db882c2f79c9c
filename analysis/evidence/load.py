"""Reads a study's folder, or takes its records from memory.

Per-example values are read when they are asked for.

Needs neither Ray nor torch. What is damaged is named: a trial whose predictions cannot be read is left out,
and `damage` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.stats.arrays import Floats
from grit.geometry.events import Event, event_of
from grit.io.files import Row
from grit.tasks.metrics import METRICS
from ray_jobs.records.study_file import StudyFile, read_study
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trial_tables import TableError, read_columns, read_rows
from ray_jobs.records.trials_file import read_trials_and_damage

#: How far a record's number may lie from its predictions' mean, relative to numbers above 1.
AGREEMENT = 1e-3


@dataclass(frozen=True, kw_only=True)
class PerExample:
    """Values of one trial on fixed items, in the same order for all trials of a study.

    `values` (items,), `weights` (items,).
    """

    items: tuple[str, ...]
    values: Floats
    weights: Floats


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What one trial's predictions say.

    Attributes:
        quality: per-example quality: the task's score, or the answer's log-likelihood in nats per token.
        answers: per-example log-likelihood of the reference answer, in nats per token, whatever decides.
        untuned: quality of the model before training.
        forgetting: per held-out document, in nats per token, weighted by tokens.
    """

    quality: PerExample
    answers: PerExample
    untuned: PerExample
    forgetting: PerExample


#: Tables that are kept in memory: several figures look at the same few trials.
RECENT_TABLES = 32


@dataclass(kw_only=True)
class StudyData:
    """One study's records and tables.

    Attributes:
        records: a trial whose predictions cannot be read has a `damage`, and is not usable.
        damage: sentences on what could not be read.
    """

    folder: Path
    study: StudyFile
    records: list[TrialRecord]
    damage: list[str] = field(default_factory=list)
    _predictions: dict[str, Predictions] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reads the predictions of every usable trial.

        All pages need them, and what is damaged must be known first.
        """
        self._recent_rows = lru_cache(RECENT_TABLES)(partial(read_rows, self.folder))
        self.records = [self._checked(record) for record in self.records]

    def _checked(self, record: TrialRecord) -> TrialRecord:
        if not record.usable:
            return record
        try:
            predictions = read_predictions(self.folder, record)
            _check_agreement(record, predictions)
            self._predictions[record.trial_id] = predictions
        except TableError as error:
            self.damage.append(f"Trial {record.trial_id} is left out: {error}.")
            return record.changed(damage=str(error))
        return record

    def quality_values(self, record: TrialRecord) -> PerExample:
        """Per-example quality of a usable trial."""
        return self._predictions[record.trial_id].quality

    def answer_values(self, record: TrialRecord) -> PerExample:
        """Per-example log-likelihood of the reference answer of a usable trial, in nats per token."""
        return self._predictions[record.trial_id].answers

    def untuned_values(self, record: TrialRecord) -> PerExample:
        """Per-example quality of the model before training."""
        return self._predictions[record.trial_id].untuned

    def retention_losses(self, record: TrialRecord) -> PerExample:
        """Per-document forgetting in nats per token, weighted by tokens."""
        return self._predictions[record.trial_id].forgetting

    def table(self, kind: str, record: TrialRecord) -> list[Row]:
        """The rows of one of a trial's tables (grit/training/result.py).

        None of them where the trial has no such table, or it cannot be read: `damage` then says so.
        """
        try:
            return self._recent_rows(kind, record.trial_id)
        except TableError as error:
            self._note(error)
            return []

    def geometry(self, record: TrialRecord) -> list[Row]:
        """One row per adapted module of the trained adapter (grit/audits/update_geometry.py)."""
        return self.table("geometry", record)

    def telemetry(self, record: TrialRecord) -> dict[str, list[Any]]:
        """The trial's rows of telemetry, by column; nothing where there are none."""
        try:
            return read_columns(self.folder, "telemetry", record.trial_id)
        except TableError as error:
            self._note(error)
            return {}

    def events(self, record: TrialRecord) -> list[Event]:
        """What happened in the trial, in order."""
        try:
            return [event_of(row) for row in self.table("events", record)]
        except (ValueError, TypeError) as error:
            self._note(TableError(f"events of trial {record.trial_id} cannot be read: {error}"))
            return []

    def _note(self, error: TableError) -> None:
        sentence = f"Left out: {error}."
        if sentence not in self.damage:
            self.damage.append(sentence)


def read_predictions(folder: Path, record: TrialRecord) -> Predictions:
    """A usable trial's predictions as arrays.

    Raises:
        TableError: there are none, or they cannot be read.
    """
    columns = read_columns(folder, "predictions", record.trial_id)
    place = f"predictions/{record.trial_id}.parquet"
    if not columns:
        raise TableError(f"{place} is missing")
    try:
        return _predictions(columns, likelihood=record.measured.quality_metric == "answer_logprob")
    except (TypeError, ValueError) as error:
        raise TableError(f"{place} holds values that cannot be used: {error}") from error


def _check_agreement(record: TrialRecord, predictions: Predictions) -> None:
    """A record's numbers must be those of its predictions, and possible.

    Raises:
        TableError: they are not.
    """
    measured, metric = record.measured, record.measured.quality_metric
    forgetting = predictions.forgetting
    means = {
        "quality": float(predictions.quality.values.mean()),
        "forgetting": float(np.average(forgetting.values, weights=forgetting.weights)),
    }
    for name, mean in means.items():
        value = getattr(measured, name)
        if abs(value - mean) > AGREEMENT * max(1.0, abs(mean)):
            raise TableError(f"its record says {name} {value:.4g}, and its predictions {mean:.4g}")
    spec = METRICS.get(metric or "")
    if spec is not None and not spec.low <= measured.quality <= spec.high:  # type: ignore[operator]
        raise TableError(f"its quality is {measured.quality:.4g}, which {metric} cannot be")
    for name in ("train_seconds", "eval_seconds"):
        if getattr(measured, name) is None:
            raise TableError(f"its record has no {name}")
    for name in ("footprint", "overhead"):
        if getattr(measured, name) < 0:
            raise TableError(f"its {name} is {getattr(measured, name):.4g}, below zero")


def _predictions(columns: dict[str, list[Any]], *, likelihood: bool) -> Predictions:
    task = [i for i, kind in enumerate(columns["kind"]) if kind == "task"]
    general = [i for i, kind in enumerate(columns["kind"]) if kind == "retention"]
    if not task or not general:
        raise ValueError("no evaluated example, or no held-out document")

    def likelihoods(loss: str) -> PerExample:
        return _per_example(columns, task, [-columns[loss][i] for i in task], np.ones(len(task)))

    def quality(score: str, loss: str) -> PerExample:
        if likelihood:
            return likelihoods(loss)
        return _per_example(columns, task, [columns[score][i] for i in task], np.ones(len(task)))

    lost = [columns["loss"][i] - columns["base_loss"][i] for i in general]
    weights = np.array([columns["tokens"][i] for i in general], dtype=float)
    if not weights.sum() > 0:
        raise ValueError("held-out documents without tokens")
    return Predictions(
        quality=quality("score", "loss"),
        answers=likelihoods("loss"),
        untuned=quality("base_score", "base_loss"),
        forgetting=_per_example(columns, general, lost, weights),
    )


def _per_example(
    columns: dict[str, list[Any]], rows: Sequence[int], values: Sequence[float], weights: Floats
) -> PerExample:
    array = np.array(values, dtype=float)
    if not np.isfinite(array).all():
        raise ValueError("a value that is not finite")
    return PerExample(items=tuple(str(columns["example_id"][i]) for i in rows), values=array, weights=weights)


def load_study(folder: Path, records: Sequence[TrialRecord] | None = None) -> StudyData:
    """The study in `folder`; its records are read there unless they are given.

    Raises:
        ConfigError: it holds none, or a malformed one.
    """
    study, damage = read_study(folder), list[str]()
    if records is None:
        records, damage = read_trials_and_damage(folder)
    data = StudyData(folder=folder, study=study, records=list(records), damage=damage)
    _leave_out_odd_ones(data)
    return data


def _leave_out_odd_ones(data: StudyData) -> None:
    """Trials whose examples are not those of most.

    Values can only be paired where they are about the same items.
    """
    usable = [record for record in data.records if record.usable]
    items = {record.trial_id: _items(data, record) for record in usable}
    if len(set(items.values())) < 2:
        return
    candidates = list(items.values())
    usual = max(set(candidates), key=candidates.count)
    odd = [record for record in usable if items[record.trial_id] != usual]
    for record in odd:
        reason = "its predictions are about other examples, or in another order, than most trials'"
        data.damage.append(f"Trial {record.trial_id} is left out: {reason}.")
        data.records[data.records.index(record)] = record.changed(damage=reason)


def _items(data: StudyData, record: TrialRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return data.quality_values(record).items, data.retention_losses(record).items
