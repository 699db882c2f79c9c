"""Tasks that are learned one after the other by one adapter, of which the run's own is the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grit.config.sections import TaskSource
from grit.config.settings import NOT_NEGATIVE, SHARE, check_names, check_settings, setting
from grit.errors import ConfigError

#: What a setting needs that keeps something of earlier tasks.
NAME_TASKS = "name tasks in `before` (sweeps/continual.py has options of its own)"
#: What makes a run one of its own task alone, whatever came before it.
ALONE: dict[str, Any] = {"before": (), "replay": 0.0, "earlier_penalty": 0.0}

#: Tokens of an earlier task that are sampled for its penalty.
EARLIER_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """What is learned before the run's own task, each in an equal share of its steps."""

    before: tuple[str, ...] = setting(
        (),
        "tasks that are learned before the run's own, in this order, by name or as "
        "NAME=TRAIN_FILE,EVAL_FILE (grit/training/stages.py)",
        identity="never",
    )
    replay: float = setting(
        0.0,
        "share of each step's examples that come from the tasks learned before",
        allowed=SHARE,
        identity="changed",
    )
    earlier_penalty: float = setting(
        0.0,
        "weight of EWC's penalty by the curvature of each task learned before, around the adapter as it was "
        "then: nats of loss per nat of forgetting that is predicted (grit/stepping/earlier_tasks.py)",
        allowed=NOT_NEGATIVE,
        identity="changed",
    )
    general_replay: float = setting(
        0.0,
        "share of the examples (of the packs, with packing) in whose place general text is read, a document "
        "that nothing is measured on",
        allowed=SHARE,
        identity="changed",
    )

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_settings(self)
        check_names("before", self.before, 'names, e.g. ["reading", "gsm8k=TRAIN,EVAL"]')
        if self.replay and not self.before:
            raise ConfigError("replay", self.replay, f"has nothing to draw from: {NAME_TASKS}")
        if self.earlier_penalty and not self.before:
            raise ConfigError("earlier_penalty", self.earlier_penalty, f"has nothing to hold: {NAME_TASKS}")

    def sources(self, own: TaskSource) -> tuple[TaskSource, ...]:
        """Where the tasks come from that are learned before `own`, whose general text they share.

        Raises:
            ConfigError: a text that names no task and two files.
        """
        sources = []
        for text in self.before:
            name, equals, files = text.partition("=")
            train, comma, evaluation = files.partition(",")
            if not name or (equals and not (train and comma and evaluation)):
                raise ConfigError("before", text, "must be a task's name, or NAME=TRAIN_FILE,EVAL_FILE")
            sources.append(
                TaskSource(
                    name=name,
                    train_file=train or None,
                    eval_file=evaluation or None,
                    retention_file=own.retention_file,
                )
            )
        return tuple(sources)
