"""Plain LoRA and what differs from it in PEFT's options alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from grit.adapters.peft_adapters import quiet_peft
from grit.methods.maker import Adaptation, AdapterMaker


def add_lora(
    backbone: PreTrainedModel, *, ranks: Mapping[str, int], scaling: float, dropout: float, seed: int
) -> nn.Module:
    """A PEFT LoRA model around `backbone`, with an adapter of its own rank on each module named.

    A is drawn from `seed`, B is zero.
    """
    torch.manual_seed(seed)  # PEFT initializes from the global generator
    with quiet_peft():
        return get_peft_model(backbone, lora_config(ranks, scaling, dropout, {}))


def lora_config(
    ranks: Mapping[str, int], scaling: float, dropout: float, options: Mapping[str, Any]
) -> LoraConfig:
    """PEFT's configuration with a rank for each module, and alpha so that all have the same `scaling`."""
    common = max(ranks.values())
    config = LoraConfig(
        r=common,
        lora_alpha=scaling * common,  # type: ignore[arg-type]  # PEFT computes with any number
        lora_dropout=dropout,
        target_modules=list(ranks),
        bias="none",
        task_type="CAUSAL_LM",
        **options,
    )
    config.rank_pattern = {name: rank for name, rank in ranks.items() if rank != common}
    config.alpha_pattern = {name: scaling * rank for name, rank in config.rank_pattern.items()}
    return config


class Lora(AdapterMaker):
    """PEFT's LoRA layers with the options of the method's declaration."""

    def make(self, backbone: PreTrainedModel, wanted: Adaptation) -> Any:
        """A and B of each module's own rank."""
        return get_peft_model(backbone, configured(wanted))


def configured(wanted: Adaptation, **more: Any) -> LoraConfig:
    """PEFT's configuration of LoRA layers, with the options of the method and `more`."""
    options = {**wanted.config.spec.options, **more}
    return lora_config(wanted.ranks, wanted.scaling, wanted.config.adapter.dropout, options)
