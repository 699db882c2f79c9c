"""Pretrains the embedded backbone from nothing on the generated corpus.

Tokenizer, packing, training, held-out loss.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grit.backbone import world
from grit.runtime.allocator import keep_freed_memory

SPECIAL_TOKENS = ("<bos>", "<eos>", "<pad>")

#: Words that only tasks use. The tokenizer has seen them (as any tokenizer has seen more than one model's
#: corpus); the model has not.
TASK_WORDS = (
    "Instruction: Please Tell me Think Answer briefly. Give a short answer. Reply in a word or two. Say "
    "only what is asked. Be brief.\n"
    "Response: Context: Question: Where does live? What is the craft trade of? Which animal does own? What "
    "colour is the door? Name the "
    "town? What does like to eat?\nAnswer: Passage: Is the animal a bird? Does work indoors? Is the food "
    "sweet? Sentence: Statement: keeps "
    "a bird has an indoor craft likes sweet food\nLabel: Problem: How many now?\nSolution: "
)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Sizes and budget of the pretraining run. `steps` x `sequences` x `length` tokens are seen."""

    vocabulary: int = 1024
    hidden: int = 128
    intermediate: int = 344
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    documents: int = 40_000
    length: int = 128
    sequences: int = 16
    steps: int = 2800
    learning_rate: float = 3e-3
    warmup: int = 100
    seed: int = 0


def build_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos, eos, pad = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad)


def build_model(config: PretrainConfig) -> LlamaForCausalLM:
    """A freshly initialized Llama; `torch.manual_seed` decides its weights."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.hidden,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    )


def pack(tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int) -> Tensor:
    """Documents, each closed by end-of-text, as one stream cut into rows of `length` tokens.

    The tail is dropped. (rows, length) int64.
    """
    stream = [token for ids in tokenizer(texts)["input_ids"] for token in (*ids, tokenizer.eos_token_id)]
    rows = len(stream) // length
    return torch.tensor(stream[: rows * length]).view(rows, length)


def _batches(rows: Tensor, sequences: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for start in range(0, len(rows) - sequences + 1, sequences):
            yield rows[order[start : start + sequences]]


def learning_rate_factor(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then linear decay to 2%."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    return max(0.02, 1 - (step - config.warmup) / (config.steps - config.warmup))


def held_out_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 200) -> float:
    """Mean loss on held-out general documents, packed, in nats per token."""
    rows = pack(tokenizer, world.documents(world.HELD_OUT_SEED, count, held_out=True), 128)
    with torch.no_grad():
        return float(
            torch.stack(
                [model(input_ids=part, labels=part).loss * len(part) for part in rows.split(32)]
            ).sum()
            / len(rows)
        )


def pretrain(config: PretrainConfig, out: Path, *, progress: bool = True) -> dict[str, float]:
    """Builds tokenizer and weights (bfloat16 safetensors) in `out`.

    Returns held-out loss in nats per token, parameters, seconds.
    """
    started = time.perf_counter()
    keep_freed_memory()
    texts = world.documents(world.TRAIN_SEED, config.documents)
    tokenizer = build_tokenizer([*texts[:4000], *[TASK_WORDS] * 400], config.vocabulary)
    rows = pack(tokenizer, texts, config.length)
    model = build_model(config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.05
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
    batches = _batches(rows, config.sequences, torch.Generator().manual_seed(config.seed))
    bar: Any = tqdm(range(config.steps), desc="pretraining", unit="step", disable=not progress)
    for _, batch in zip(bar, batches, strict=False):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    loss_nats = held_out_loss(model.float(), tokenizer)
    return {
        "held_out_loss": loss_nats,
        "parameters": float(model.num_parameters()),
        "seconds": time.perf_counter() - started,
    }
