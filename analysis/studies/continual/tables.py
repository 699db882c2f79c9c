"""What is known in the end, what was lost on the way, and what each stage left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.evidence.corrected import CorrectedContrast, contrast_of
from analysis.evidence.point_summary import PointSummary
from analysis.page.columns import mean_column, seeds_column
from analysis.page.table import Column, Table, shown
from analysis.studies.continual.learned import BACKWARD, FINAL, GENERAL, Learned

Differences = Mapping[str, Mapping[str, CorrectedContrast]]


@dataclass(frozen=True, kw_only=True)
class ContinualRow:
    """One method: means over seeds, and its differences from the reference (None: it is the reference)."""

    learned: Learned
    final: CorrectedContrast | None
    backward: CorrectedContrast | None
    general: CorrectedContrast | None

    @property
    def point(self) -> PointSummary:
        """The setting."""
        return self.learned.point

    def mean(self, measure: str) -> float:
        """Of a measure, over seeds and examples."""
        one = self.learned
        if measure == GENERAL:
            return float(np.average(one.forgetting[-1].mean(axis=0), weights=one.tokens))
        values = one.final() if measure == FINAL else one.backward()
        weights = one.weights(one.stages if measure == FINAL else one.stages - 1)
        return float(values.mean(axis=0) @ weights)

    def words(self) -> str | None:
        """Where it differs from the reference beyond noise."""
        if self.final is None or self.backward is None or self.general is None:
            return None
        words = {
            FINAL: self.final.word(),
            BACKWARD: self.backward.word(),
            GENERAL: self.general.word(higher_is_better=False),
        }
        verdicts = [f"{name} {word}" for name, word in words.items() if word != "inconclusive"]
        return ", ".join(verdicts) or "inconclusive"


def continual_rows(settings: Sequence[Learned], against: Differences) -> list[ContinualRow]:
    """Every method."""
    rows = []
    for one in settings:
        differences = {name: by_point.get(one.point.point_id) for name, by_point in against.items()}
        rows.append(
            ContinualRow(
                learned=one,
                final=differences[FINAL],
                backward=differences[BACKWARD],
                general=differences[GENERAL],
            )
        )
    return rows


def continual_table(rows: Sequence[ContinualRow]) -> Table[ContinualRow]:
    """One row per method."""
    columns: list[Column[ContinualRow]] = [
        Column(header="method", value=lambda row: row.learned.title, terminal=True),
        seeds_column(),
        Column(header="learning rate", value=lambda row: row.learned.shown_rate(), terminal=True),
        Column(header=FINAL, value=lambda row: row.mean(FINAL), style=".3f", terminal=True),
        Column(header="vs LoRA [95%]", value=lambda row: contrast_of(row.final), terminal=True),
        Column(header=BACKWARD, value=lambda row: row.mean(BACKWARD), style="+.3f", terminal=True),
        Column(header="backward transfer vs LoRA [95%]", value=lambda row: contrast_of(row.backward)),
        Column(header=GENERAL, value=lambda row: row.mean(GENERAL), style="+.3f", terminal=True),
        Column(header="general forgetting vs LoRA [95%]", value=lambda row: contrast_of(row.general)),
        mean_column("effective_parameters", header="effective"),
        Column(
            header="against LoRA", value=lambda row: row.words() or "the reference", terminal=True, wide=True
        ),
    ]
    return Table(name="continual", columns=columns, rows=rows)


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """A task after a stage, of one method."""

    learned: Learned
    after: int
    task: int

    @property
    def quality(self) -> float:
        """Mean over seeds and examples."""
        return float(self.learned.quality[self.after, self.task].mean())


def stage_rows(settings: Sequence[Learned]) -> list[StageRow]:
    """Every method, stage and task learned by then."""
    rows = []
    for one in settings:
        for after in range(1, one.stages + 1):
            rows += [StageRow(learned=one, after=after, task=task) for task in range(1, after + 1)]
    return rows


def stage_table(rows: Sequence[StageRow]) -> Table[StageRow]:
    """One row per method, stage and task."""
    columns: list[Column[StageRow]] = [
        Column(header="method", value=lambda row: row.learned.title),
        Column(header="learning rate", value=lambda row: row.learned.rate, style="g"),
        Column(header="after learning", value=lambda row: row.learned.tasks[row.after - 1]),
        Column(header="task", value=lambda row: row.learned.tasks[row.task - 1]),
        Column(header="quality", value=lambda row: row.quality, style=".3f"),
        Column(
            header="untuned", value=lambda row: float(row.learned.untuned[row.task - 1].mean()), style=".3f"
        ),
    ]
    return Table(name="stages", columns=columns, rows=rows)


def continual_answer(rows: Sequence[ContinualRow]) -> list[str]:
    """GRIT and whoever differs from LoRA beyond noise, in a sentence each."""
    answer = []
    for row in rows:
        words = row.words()
        if words is not None and (row.point.method == "grit" or words != "inconclusive"):
            answer.append(
                f"{row.learned.title} against LoRA: final quality over {row.learned.stages} tasks "
                f"{shown(contrast_of(row.final))}, backward transfer {shown(contrast_of(row.backward))}, "
                f"forgetting of general text {shown(contrast_of(row.general))} nats/token: {words}."
            )
    return answer
