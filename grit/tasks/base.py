"""What a task is: examples with a reference answer, and one exact rule by which a prediction is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from grit.io.hashing import digest

#: How a prediction is made. `generate`: continuation of the prompt. `choose`: one of the labels
#: (docs/reference/tasks.md).
Decoding = Literal["generate", "choose"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt with its reference answer. Only the answer (and the end of text) carries loss."""

    example_id: str
    prompt: str
    answer: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """A named set of examples with its scoring.

    Attributes:
        metric: name of the primary metric, the mean of `score` over the evaluation examples, in [0, 1].
        score: (predicted text, example) -> value in [0, 1].
        max_new_tokens: longest answer that is generated, in tokens.
        also: further metrics, computed once at the end of a run.
        left_out: rows of the source that have no answer.
    """

    name: str
    metric: str
    decoding: Decoding
    train: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    score: Callable[[str, Example], float]
    max_new_tokens: int
    also: tuple[str, ...] = ()
    left_out: int = 0

    def content_hash(self) -> str:
        """Hash of everything of the task that can change a result.

        Its examples, decoding and metrics (the scorer by its name).
        """
        return digest(
            [
                self.name,
                self.metric,
                self.decoding,
                self.max_new_tokens,
                self.score.__qualname__,
                self.also,
                [asdict(e) for e in self.train],
                [asdict(e) for e in self.evaluation],
            ]
        )


def without_overlap(train: Sequence[Example], evaluation: Sequence[Example]) -> tuple[Example, ...]:
    """The evaluation examples whose prompt does not occur in training, each prompt once."""
    seen = {e.prompt for e in train}
    unique = {e.prompt: e for e in evaluation if e.prompt not in seen}
    return tuple(unique.values())
