"""Continuations of prompts, greedy or sampled, that do not depend on how prompts are batched.

Rows whose text has ended leave their batch: the library's own loop would compute them until the last has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from grit.io.hashing import digest

#: Told of every finished batch: how many prompts are done.
Bar = Callable[[int], object]

#: New tokens between two looks at which rows have ended.
LOOK_EVERY = 16


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Greedily at temperature 0, else drawn at `temperature` from the `top_p` most likely mass, from `seed`.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class OwnNoise(LogitsProcessor):
    """Adds Gumbel noise of each row's own generator.

    After which the largest sum is a draw from the distribution (the Gumbel-max trick).

    A row's draws depend on the seed and on its name alone, not on its neighbours.
    """

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self._generators = [
            torch.Generator().manual_seed(int(digest([seed, name]), 16) % 2**63) for name in names
        ]

    def keep(self, rows: Sequence[int]) -> None:
        """The batch is these of its rows from now on."""
        self._generators = [self._generators[row] for row in rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (batch, vocabulary) with noise."""
        uniform = torch.stack(
            [
                torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64)
                for generator in self._generators
            ]
        )
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        return scores + gumbel.to(scores)


@contextmanager
def _own_settings(model: Any) -> Iterator[None]:
    """Takes the checkpoint's generation settings away for a while.

    Transformers fills whatever we leave open from them.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = inner.generation_config
    inner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = before


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    names: Sequence[str],
    sampling: Sampling,
    *,
    batch_size: int,
    bar: Bar | None = None,
) -> list[str]:
    """The continuation of each prompt up to the end of text, in the given order.

    Prompts are padded on the left, sorted by length, `batch_size` at a time; keys and values are cached.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer.
        prompts: token ids, none empty.
        names: one per prompt; equal names draw the same noise.
        sampling: how tokens are chosen.
        batch_size: prompts at a time.
        bar: told how many are done.
    """
    texts = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    end = tokenizer.eos_token_id
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        noise = _noise([names[i] for i in part], sampling)
        continued = Continuation(model, tokenizer, [prompts[i] for i in part], noise)
        with _own_settings(model):
            while continued.running and continued.made < sampling.max_new_tokens:
                continued.go_on(min(LOOK_EVERY, sampling.max_new_tokens - continued.made), sampling)
        for i, row in zip(part, continued.rows, strict=True):
            answer = row[: row.index(end)] if end in row else row
            texts[i] = str(tokenizer.decode(answer, skip_special_tokens=True))
        if bar is not None:
            bar(len(part))
    return texts


class Continuation:
    """A batch of prompts that is continued until all of its rows have ended.

    Attributes:
        rows: the new tokens of each prompt so far, the end of text and what follows it included.
        running: the prompts whose text has not ended.
        made: new tokens of those.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Sequence[int]],
        noise: OwnNoise | None,
    ) -> None:
        self._model, self._noise = model, noise
        self._pad, self._end = tokenizer.pad_token_id, tokenizer.eos_token_id
        self._ids, self._mask = _left_padded(prompts, self._pad, model.device)
        self._prompt_length = self._ids.shape[1]
        self._cache: Cache | None = None
        self.rows: list[list[int]] = [[] for _ in prompts]
        self.running = list(range(len(prompts)))

    @property
    def made(self) -> int:
        """New tokens of the rows that are running."""
        return self._ids.shape[1] - self._prompt_length

    def go_on(self, count: int, sampling: Sampling) -> None:
        """Adds up to `count` tokens to every row that is running, and lets go those that have ended."""
        # A configuration of our own: the checkpoint's may sample, penalize repetition, or end elsewhere than
        # training taught.
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=count,
            pad_token_id=self._pad,
            eos_token_id=self._end,
            return_dict_in_generate=True,
        )
        output = self._model.generate(
            input_ids=self._ids,
            attention_mask=self._mask,
            generation_config=config,
            logits_processor=_processors(sampling, self._noise),
            past_key_values=self._cache,
        )
        grown = output.sequences.shape[1] - self._ids.shape[1]
        self._ids, self._cache = output.sequences, output.past_key_values
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), grown)], dim=1)
        new = self._ids[:, self._prompt_length :]
        for place, row in zip(self.running, new.tolist(), strict=True):
            self.rows[place] = row
        self._keep((new != self._end).all(dim=1).nonzero().flatten())

    def _keep(self, still: Any) -> None:
        """Only these of the rows that are running, by number (a LongTensor), go on."""
        if len(still) == len(self.running):
            return
        kept = still.tolist()
        self.running = [self.running[row] for row in kept]
        self._ids, self._mask = self._ids[still], self._mask[still]
        if self._cache is not None and kept:
            self._cache.reorder_cache(still)
        if self._noise is not None:
            self._noise.keep(kept)


def _left_padded(
    prompts: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (prompts, longest)."""
    length = max(len(prompt) for prompt in prompts)
    ids = [[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _noise(names: Sequence[str], sampling: Sampling) -> OwnNoise | None:
    """Of each row; None for greedy decoding."""
    return OwnNoise(names, sampling.seed) if sampling.temperature > 0 else None


def _processors(sampling: Sampling, noise: OwnNoise | None) -> LogitsProcessorList:
    """What makes scores into choices; nothing for greedy decoding."""
    processors = LogitsProcessorList()
    if noise is not None:
        processors += [TemperatureLogitsWarper(sampling.temperature), TopPLogitsWarper(sampling.top_p), noise]
    return processors
