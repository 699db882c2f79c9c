"""Continuations of prompts, greedy or sampled, that do not depend on how prompts are batched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
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
    # A configuration of our own: the checkpoint's may sample, penalize repetition, or end elsewhere than
    # training taught.
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end,
    )
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        ids, mask = _left_padded([prompts[i] for i in part], tokenizer.pad_token_id, model.device)
        with _own_settings(model):
            made = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=_processors([names[i] for i in part], sampling),
            )[:, ids.shape[1] :].tolist()
        for i, row in zip(part, made, strict=True):
            answer = row[: row.index(end)] if end in row else row
            texts[i] = str(tokenizer.decode(answer, skip_special_tokens=True))
        if bar is not None:
            bar(len(part))
    return texts


def _left_padded(
    prompts: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (prompts, longest)."""
    length = max(len(prompt) for prompt in prompts)
    ids = [[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _processors(names: Sequence[str], sampling: Sampling) -> LogitsProcessorList:
    """What makes scores into choices; nothing for greedy decoding."""
    processors = LogitsProcessorList()
    if sampling.temperature > 0:
        processors += [
            TemperatureLogitsWarper(sampling.temperature),
            TopPLogitsWarper(sampling.top_p),
            OwnNoise(names, sampling.seed),
        ]
    return processors
