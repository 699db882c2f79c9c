"""From examples to batches.

Tokens, labels on what carries loss, and an order that depends on the seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grit.config.sections import LossOn
from grit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One example as tokens; `first_label` is the index of the first token that carries loss."""

    tokens: tuple[int, ...]
    first_label: int
    truncated: bool

    @property
    def labels(self) -> int:
        """Tokens that carry loss."""
        return len(self.tokens) - self.first_label


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """A prompt's tokens, opened as the tokenizer opens texts, and never closed: the answer follows."""
    tokens: list[int] = tokenizer(prompt, add_special_tokens=True)["input_ids"]
    return tokens[:-1] if tokens and tokens[-1] == tokenizer.eos_token_id else tokens


def encode_documents(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> list[Encoded]:
    """General text as tokens, each but the first with a label; over-long ones keep their beginning."""
    rows = [tuple(tokenizer(text)["input_ids"][:max_length]) for text in texts]
    return [Encoded(tokens=row, first_label=1, truncated=False) for row in rows]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    answer: str,
    max_length: int,
    *,
    loss_on: LossOn = "answer",
) -> Encoded:
    """Prompt, answer and end-of-text as tokens; with `loss_on="text"` all but the first carry loss.

    What is over `max_length` is cut from the start of the prompt; an answer that fills the length by itself
    loses its end, and the prompt keeps its last token. Either is reported as `truncated`.
    """
    head = prompt_tokens(tokenizer, prompt)
    tail = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    truncated = len(head) + len(tail) > max_length
    tail = tail[: max_length - 1]
    head = head[-(max_length - len(tail)) :]
    # Nothing stands before the first token, so that nothing can predict it.
    first_label = len(head) if loss_on == "answer" else 1
    return Encoded(tokens=(*head, *tail), first_label=first_label, truncated=truncated)


def collate(encoded: Sequence[Encoded], pad_token: int) -> dict[str, Tensor]:
    """Right-padded `input_ids`, `attention_mask` and `labels`, each (batch, longest) int64.

    Only what carries loss has labels.
    """
    length = max(len(item.tokens) for item in encoded)
    batch = {
        "input_ids": torch.full((len(encoded), length), pad_token),
        "attention_mask": torch.zeros(len(encoded), length, dtype=torch.int64),
        "labels": torch.full((len(encoded), length), IGNORED_LABEL),
    }
    for row, item in enumerate(encoded):
        tokens = torch.tensor(item.tokens)
        batch["input_ids"][row, : len(tokens)] = tokens
        batch["attention_mask"][row, : len(tokens)] = 1
        batch["labels"][row, item.first_label : len(tokens)] = tokens[item.first_label :]
    return batch


def micro_batches(rows: Sequence[Encoded], size: int, pad_token: int, device: str) -> list[dict[str, Tensor]]:
    """`rows` in parts of at most `size`, collated, on `device`."""
    parts = [collate(rows[start : start + size], pad_token) for start in range(0, len(rows), size)]
    return [moved(part, device) for part in parts]


def moved(batch: Mapping[str, Tensor], device: str | torch.device) -> dict[str, Tensor]:
    """A batch on `device`."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


class TrainingOrder:
    """Which examples make up which step: a fresh permutation per epoch, from the seed alone.

    Stateless, so that any step can be resumed.
    """

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ConfigError("train split", "empty", "must hold at least one example")
        self._count, self._seed = count, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self._count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(self._count, generator=generator)
        return int(self._order[offset])

    def step(self, step: int, size: int) -> list[int]:
        """The `size` example indices of optimizer step `step` (from 0)."""
        return [self._at(position) for position in range(step * size, (step + 1) * size)]


IGNORED_LABEL = -100
