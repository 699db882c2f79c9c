"""Backbones and tokenizers, from a folder or the hub: whole or in 4 bits, weights left as they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from grit.config.sections import Attention, Dtype
from grit.errors import ConfigError

transformers_logging.disable_progress_bar()


DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_tokenizer(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    One without a pad token pads with its end-of-text token (masked everywhere, so it changes nothing).

    Raises:
        ConfigError: it cannot be read, or has no end-of-text token.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            "model", model, f"its tokenizer cannot be read: {str(error).strip().splitlines()[0]}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError("model", model, "its tokenizer has no end-of-text token, so no answer could end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_weights(folder: Path) -> None:
    """Reads the headers of a model folder's weights; a hub id is left to the hub.

    Raises:
        ConfigError: a file is damaged.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ConfigError("model", str(path), f"is damaged: {error}") from error


def load_backbone(
    model: str,
    *,
    quantized: bool,
    dtype: Dtype,
    device: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attention: Attention = "auto",
) -> PreTrainedModel:
    """A frozen causal LM from safetensors.

    `quantized` stores its linear layers in NF4 with double quantization (QLoRA).

    Raises:
        ConfigError: the model cannot be read.
    """
    quantization = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=DTYPES[dtype],
        )
        if quantized
        else None
    )
    try:
        backbone: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=DTYPES[dtype],
            quantization_config=quantization,
            device_map={"": device},
            use_safetensors=True,
            revision=revision,
            trust_remote_code=trust_remote_code,
            attn_implementation=None if attention == "auto" else attention,
        )
    except ImportError as error:
        raise ConfigError("attention", attention, str(error).splitlines()[0]) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(
            "model", model, f"cannot be read as a causal LM: {str(error).splitlines()[0]}"
        ) from error
    # not peft's preparation for k-bit training: it makes embeddings, norms and head float32, whatever dtype
    # was asked for
    if quantized:
        _keep_weights_as_stored(backbone)
    return backbone.requires_grad_(False)


def _keep_weights_as_stored(backbone: PreTrainedModel) -> None:
    """Turns off bitsandbytes' repacking of NF4 weights for some CPUs.

    It rewrites the shared weights at the first evaluation, so that later trials would compute with another
    kernel than the first, and it refuses widths that are not multiples of 32.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in backbone.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def count_parameters(model: nn.Module) -> int:
    """Parameters of a backbone; NF4 weights, stored two to a byte, count as what they stand for."""
    stored: list[Any] = list(model.parameters())
    shapes = (getattr(parameter, "quant_state", parameter).shape for parameter in stored)
    return sum(int(shape.numel()) for shape in shapes)
