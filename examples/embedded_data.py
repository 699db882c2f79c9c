"""What the examples share: the small model that ships with this package, with LoRA on it, and some sums."""

from __future__ import annotations

import random
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from grit.backbone import resolve

LORA = LoraConfig(
    r=16,
    lora_alpha=32,
    lora_dropout=0.05,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    task_type="CAUSAL_LM",
)


def load_backbone() -> tuple[Any, PreTrainedTokenizerBase]:
    """The backbone and its tokenizer; put any causal language model's name here."""
    path = resolve("embedded")
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def load_model() -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The backbone with a LoRA adapter, and its tokenizer."""
    backbone, tokenizer = load_backbone()
    return get_peft_model(backbone, LORA), tokenizer


def sums(count: int, seed: int) -> list[dict[str, str]]:
    """Prompts with right and wrong answers."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        first, second = generator.randint(2, 40), generator.randint(2, 40)
        prompt = f"Question: What is {first} + {second}?\nAnswer:"
        rows.append(
            {
                "prompt": prompt,
                "completion": f" #### {first + second}",
                "chosen": f" #### {first + second}",
                "rejected": f" #### {first + second + generator.randint(1, 9)}",
            }
        )
    return rows


def encoded(tokenizer: Any, row: dict[str, str]) -> dict[str, list[int]]:
    """One row as token ids, with labels on the completion alone."""
    prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def batch(tokenizer: Any, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Encoded rows, padded on the right."""
    longest = max(len(row["input_ids"]) for row in rows)
    padded: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        missing = longest - len(row["input_ids"])
        padded["input_ids"].append(row["input_ids"] + [tokenizer.pad_token_id] * missing)
        padded["attention_mask"].append([1] * len(row["input_ids"]) + [0] * missing)
        padded["labels"].append(row["labels"] + [-100] * missing)
    return {name: torch.tensor(values) for name, values in padded.items()}
