"""BERTScore: greedy matching of contextual embeddings (Zhang et al., 2019, section 3).

The package of that name does not run with this transformers on empty texts (it calls a method that is gone),
so its forty lines stand here; tests compare the two where both run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from grit.errors import ConfigError

#: The layer whose output the authors chose by correlation with human judgement (bert_score 0.3.13,
#: model2layers).
LAYERS = {
    "roberta-large": 17,
    "roberta-base": 10,
    "bert-base-uncased": 9,
    "bert-large-uncased": 18,
    "microsoft/deberta-xlarge-mnli": 40,
}
BATCH = 32


@cache
def _load(encoder: str) -> tuple[Any, Any, int]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        model = AutoModel.from_pretrained(
            encoder, use_safetensors=True, output_hidden_states=True, dtype=torch.float32
        ).eval()
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            "bertscore_encoder", encoder, f"cannot be read: {str(error).strip().splitlines()[0]}"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    # RoBERTa counts positions from its pad token's id + 1: two fewer fit than its table has.
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None:
        tokenizer.model_max_length = min(
            tokenizer.model_max_length,
            longest - (2 if model.config.model_type in ("roberta", "xlm-roberta") else 0),
        )
    # A copy in a folder is known by the folder's name.
    layer = next(
        (
            depth
            for name, depth in LAYERS.items()
            if encoder == name or Path(encoder).name == name.rpartition("/")[2]
        ),
        model.config.num_hidden_layers,
    )
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu"), layer


@torch.inference_mode()
def _embeddings(texts: Sequence[str], encoder: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Unit vectors (tokens, width) of each text's tokens, and which of them are words (tokens,).

    Not the special ones. On the CPU.
    """
    tokenizer, model, layer = _load(encoder)
    order = sorted(set(texts), key=lambda text: (len(text), text))
    embeddings = {}
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        batch = tokenizer(
            part, return_tensors="pt", padding=True, truncation=True, return_special_tokens_mask=True
        )
        special = batch.pop("special_tokens_mask").bool()
        hidden = model(**batch.to(model.device)).hidden_states[layer].cpu()
        for text, rows, real, left_out in zip(
            part, hidden, batch["attention_mask"].cpu().bool(), special, strict=True
        ):
            embeddings[text] = (torch.nn.functional.normalize(rows[real], dim=-1), ~left_out[real])
    return embeddings


def bert_scores(predictions: Sequence[str], references: Sequence[str], *, encoder: str) -> list[float]:
    """F1 of each prediction.

    Harmonic mean of the means of its words' best cosine in the reference, and the reverse; 0 for an empty
    text.

    Raises:
        ConfigError: the encoder cannot be read.
    """
    try:
        vectors = _embeddings(
            [*(text.strip() for text in predictions), *(text.strip() for text in references)], encoder
        )
    except (ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(
            "bertscore_encoder", encoder, f"cannot embed these texts: {str(error).strip().splitlines()[0]}"
        ) from error
    return [
        f1(*vectors[p.strip()], *vectors[r.strip()]) for p, r in zip(predictions, references, strict=True)
    ]


def f1(prediction: Tensor, prediction_weights: Tensor, reference: Tensor, meant: Tensor) -> float:
    """Greedy-matching F1 of unit vectors (tokens, width), averaged over their words only.

    As in the authors' code, a word may find its best match in a special token of the other text.
    """
    if not prediction_weights.any() or not meant.any():
        return 0.0
    cosines = prediction @ reference.mT
    precision, recall = (
        float(cosines.max(1).values[prediction_weights].mean()),
        float(cosines.max(0).values[meant].mean()),
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
