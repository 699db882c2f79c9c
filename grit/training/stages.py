"""The training data of a run, stage by stage: a stage is a task; most runs have one.

Tasks that are learned one after the other (continual learning) have equal shares of the steps, the learning
rate rises and falls anew for each, and a share of every step may be drawn from the tasks learned before
(replay). How well the earlier ones are still known, and what was forgotten of general text, is measured after
each stage (table `stages`). In the place of some examples general text may be read (general replay).
"""

from __future__ import annotations

from typing import Any

import torch

from grit.config.run_config import RunConfig
from grit.data.encode import TrainingOrder
from grit.data.packing import Pack
from grit.evaluation.scores import example_quality
from grit.io.files import Row
from grit.training.workbench import Workbench

#: In the place of a stage: general text.
GENERAL = -1
#: What a row of the table `stages` measures.
_VALUES = ("value", "base_value", "tokens")


class Stages:
    """Which examples make up which step.

    Args:
        config: the run.
        bench: loads the data.

    Attributes:
        configs: the run with each stage's task as its own, in order; the last is the run itself.
    """

    def __init__(self, config: RunConfig, bench: Workbench) -> None:
        self.configs = config.stages()
        self._packs = [bench.packs(stage) for stage in self.configs]
        self._orders = [TrainingOrder(len(packs), config.seed) for packs in self._packs]
        self._config = config
        self._size = config.step_sequences
        self._replayed = round(config.sequence.replay * self._size)
        self._general = bench.source_packs(config) if config.sequence.general_replay else []

    def __len__(self) -> int:
        return len(self.configs)

    def first(self, count: int) -> list[Pack]:
        """The first `count` packs of the data, whatever the order."""
        return self._packs[0][:count]

    def stage_of(self, step: int) -> int:
        """The stage, from 0, to which optimizer step `step` (from 0) belongs."""
        if len(self) == 1:
            return 0
        return min(len(self) - 1, step * len(self) // int(self._config.budget.amount))

    def begins(self, stage: int) -> int:
        """The first step of a stage."""
        return -(-stage * int(self._config.budget.amount) // len(self))

    def progress(self, step: int, share: float) -> float:
        """Share of its stage that is over before `step`; of a run of one stage, its `share` of the budget."""
        if len(self) == 1:
            return share
        stage = self.stage_of(step)
        begins = self.begins(stage)
        return (step - begins) / (self.begins(stage + 1) - begins)

    def ended(self, steps: int) -> int | None:
        """The stage, but not the last, that ends with the run's first `steps` steps; None within a stage."""
        stage = self.stage_of(steps)
        return stage - 1 if stage and steps == self.begins(stage) else None

    def step(self, step: int) -> list[Pack]:
        """The packs of optimizer step `step`."""
        return [self._pack(place) for place in self._places(step)]

    def _pack(self, place: tuple[int, int]) -> Pack:
        stage, index = place
        return self._general[index] if stage == GENERAL else self._packs[stage][index]

    def _places(self, step: int) -> list[tuple[int, int]]:
        """Stage and index of every pack of a step."""
        stage = self.stage_of(step)
        replayed = self._replayed if stage else 0
        fresh = self._orders[stage].step(step - (self.begins(stage) if stage else 0), self._size - replayed)
        places = [(stage, index) for index in fresh]
        generator = torch.Generator().manual_seed(self._config.seed * 1_000_003 + step)
        for _ in range(replayed):
            earlier = int(torch.randint(stage, (), generator=generator))
            index = int(torch.randint(len(self._packs[earlier]), (), generator=generator))
            places.append((earlier, index))
        if not self._general:
            return places
        return [self._or_general_text(place, generator) for place in places]

    def _or_general_text(self, place: tuple[int, int], generator: torch.Generator) -> tuple[int, int]:
        """An example's place, or with the asked probability that of a document instead."""
        draw = float(torch.rand((), generator=generator))
        index = int(torch.randint(len(self._general), (), generator=generator))
        return (GENERAL, index) if draw < self._config.sequence.general_replay else place

    def unique_tokens(self, steps: int) -> int:
        """Tokens of the distinct training examples seen in the first `steps` steps."""
        seen = {place for step in range(steps) for place in self._places(step)}
        return sum(len(row.tokens) for place in seen for row in self._pack(place))


def rows_after(stage: int, stages: Stages, bench: Workbench, model: Any) -> list[Row]:
    """Every example of the tasks learned so far, and general text, after a stage (from 0).

    A document's value is what was forgotten of it, in nats per token.
    """
    metric = stages.configs[-1].evaluation.quality
    rows: list[Row] = []
    for number, config in enumerate(stages.configs[: stage + 1]):
        now, untuned = bench.predictions(model, config), bench.base_scores(config, model).predictions
        learned = {"after": stage + 1, "learned": number + 1, "task": config.task.name, "kind": "task"}
        for after, before in zip(now, untuned, strict=True):
            values = (example_quality(after, metric), example_quality(before, metric), after.answer_tokens)
            rows.append({**learned, **dict(zip(_VALUES, values, strict=True))})
    own = stages.configs[-1]
    texts, general = bench.base_scores(own, model).documents, {"after": stage + 1, "kind": "retention"}
    for text, base in zip(bench.general_losses(model, own), texts, strict=True):
        values = (text.loss - base.loss, 0.0, text.tokens)
        rows.append({**general, "learned": None, "task": None, **dict(zip(_VALUES, values, strict=True))})
    return rows
