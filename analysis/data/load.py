"""Reads a study's folder: its configuration, records, and per-example values. Needs neither Ray nor torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from analysis.stats.arrays import Floats
from ray_jobs.records.study_file import read_study
from ray_jobs.records.trial_record import TrialRecord
from ray_jobs.records.trials_file import read_trials


@dataclass(frozen=True, kw_only=True)
class PerExample:
    """Values of one trial on fixed items, in the same order for all trials of a study.

    `values` (items,), `weights` (items,).
    """

    items: tuple[str, ...]
    values: Floats
    weights: Floats


@dataclass
class StudyData:
    """One study's records, with predictions read when they are asked for."""

    folder: Path
    study: Mapping[str, Any]
    records: list[TrialRecord]
    _cache: dict[str, dict[str, PerExample]] = field(default_factory=dict)

    def quality_values(self, record: TrialRecord) -> PerExample:
        """Per-example quality: the task's score, or the answer's log-likelihood in nats per token."""
        return self._read(record)["quality"]

    def untuned_values(self, record: TrialRecord) -> PerExample:
        """Per-example quality of the model before training."""
        return self._read(record)["untuned"]

    def retention_losses(self, record: TrialRecord) -> PerExample:
        """Per-document forgetting in nats per token, weighted by tokens."""
        return self._read(record)["forgetting"]

    def _read(self, record: TrialRecord) -> dict[str, PerExample]:
        if record.trial_id not in self._cache:
            table = pq.read_table(self.folder / "predictions" / f"{record.trial_id}.parquet")
            columns = {
                name: table[name].to_pylist()
                for name in ("kind", "example_id", "score", "base_score", "loss", "base_loss", "tokens")
            }
            task = [i for i, kind in enumerate(columns["kind"]) if kind == "task"]
            general = [i for i, kind in enumerate(columns["kind"]) if kind == "retention"]
            by_likelihood = record.measured.quality_metric == "answer_logprob"
            quality = [-columns["loss"][i] if by_likelihood else columns["score"][i] for i in task]
            untuned = [-columns["base_loss"][i] if by_likelihood else columns["base_score"][i] for i in task]
            self._cache[record.trial_id] = {
                "quality": PerExample(
                    items=tuple(columns["example_id"][i] for i in task),
                    values=np.array(quality, dtype=float),
                    weights=np.ones(len(task)),
                ),
                "untuned": PerExample(
                    items=tuple(columns["example_id"][i] for i in task),
                    values=np.array(untuned, dtype=float),
                    weights=np.ones(len(task)),
                ),
                "forgetting": PerExample(
                    items=tuple(columns["example_id"][i] for i in general),
                    values=np.array(
                        [columns["loss"][i] - columns["base_loss"][i] for i in general], dtype=float
                    ),
                    weights=np.array([columns["tokens"][i] for i in general], dtype=float),
                ),
            }
        return self._cache[record.trial_id]

    def table(self, kind: str, record: TrialRecord) -> list[dict[str, Any]]:
        """The rows of one of the tables that audits leave (grit/training/result.py).

        None where the trial has no such table.
        """
        path = self.folder / kind / f"{record.trial_id}.parquet"
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.exists() else []
        return rows

    def geometry(self, record: TrialRecord) -> list[dict[str, Any]]:
        """One row per adapted module of the trained adapter (grit/audits/update_geometry.py).

        None where the study did not measure it.
        """
        return self.table("geometry", record)

    def telemetry(self, record: TrialRecord) -> dict[str, list[Any]]:
        """The trial's rows of telemetry, by column."""
        columns: dict[str, list[Any]] = pq.read_table(
            self.folder / "telemetry" / f"{record.trial_id}.parquet"
        ).to_pydict()
        return columns


def load_study(folder: Path) -> StudyData:
    """The study in `folder`.

    Raises:
        ConfigError: it holds none, or a malformed one.
    """
    return StudyData(folder=folder, study=read_study(folder), records=read_trials(folder))
