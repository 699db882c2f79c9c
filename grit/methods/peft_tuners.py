"""Adapters of PEFT that are no LoRA layers, each by its own configuration.

Settings are as published, or as PEFT has them where the paper says none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from peft import (
    DeloraConfig,
    IA3Config,
    OFTConfig,
    OSFConfig,
    PeftConfig,
    RandLoraConfig,
    ShiraConfig,
    VeraConfig,
    get_peft_model,
)
from torch import Tensor, nn
from transformers import PreTrainedModel

from grit.methods.fixed_factors import singular_factors
from grit.methods.maker import Adaptation, AdapterMaker

#: VeRA's shared rank and initial scale; RandLoRA's alpha per rank.
VERA_RANK, VERA_SCALE = 256, 0.1
RANDLORA_ALPHA = 20
#: Kinds of layer that IA3 rescales, where the model has any.
IA3_KINDS = ("k_proj", "v_proj", "down_proj")
#: OFT's blocks at most.
OFT_BLOCK = 32


class Tuner(AdapterMaker):
    """An adapter that PEFT makes of a configuration.

    Args:
        configure: makes it, of the adaptation and the backbone.
    """

    def __init__(self, configure: Callable[[Adaptation, nn.Module], PeftConfig]) -> None:
        self.configure = configure

    def make(self, backbone: PreTrainedModel, wanted: Adaptation) -> Any:
        """The backbone with it."""
        # SHiRA's sparse weights are its own: nobody else's indices are to be checked.
        torch.sparse.check_sparse_tensor_invariants.disable()
        return get_peft_model(backbone, self.configure(wanted, backbone))


def _common(wanted: Adaptation) -> dict[str, Any]:
    return {"target_modules": wanted.targets, "task_type": "CAUSAL_LM"}


def ia3(wanted: Adaptation, _backbone: nn.Module) -> IA3Config:
    """Scales of keys, values and the inputs of the MLP's last layer."""
    targets = wanted.targets
    adapted = [name for name in targets if name.rpartition(".")[2] in IA3_KINDS] or targets
    return IA3Config(
        target_modules=adapted,
        task_type="CAUSAL_LM",
        feedforward_modules=[name for name in adapted if name.endswith("down_proj")],
    )


def vera(wanted: Adaptation, _backbone: nn.Module) -> VeraConfig:
    """Scales of shared random factors."""
    return VeraConfig(
        **_common(wanted),
        r=VERA_RANK,
        projection_prng_key=wanted.config.seed,
        save_projection=True,
        vera_dropout=wanted.config.adapter.dropout,
        d_initial=VERA_SCALE,
        bias="none",
    )


def randlora(wanted: Adaptation, _backbone: nn.Module) -> RandLoraConfig:
    """Scales of many random factors, together of full rank."""
    rank = wanted.config.adapter.rank
    return RandLoraConfig(
        **_common(wanted),
        r=rank,
        randlora_alpha=RANDLORA_ALPHA * rank,
        projection_prng_key=wanted.config.seed,
        save_projection=True,
        randlora_dropout=wanted.config.adapter.dropout,
        bias="none",
    )


def osf(wanted: Adaptation, backbone: nn.Module) -> OSFConfig:
    """The weights' smallest singular directions, as many as the rank; all others stay."""
    frozen: dict[str, Any] = {}
    for name in wanted.targets:
        directions = min(backbone.get_parameter(f"{name}.weight").shape)
        frozen[f"^{re.escape(name)}$"] = max(1, directions - wanted.config.adapter.rank)
    return OSFConfig(**_common(wanted), rank_pattern=frozen)


def oft(wanted: Adaptation, backbone: nn.Module) -> OFTConfig:
    """Rotations of the layers' inputs, block by block, exactly orthogonal.

    The blocks are the largest that divide every layer's inputs.
    """
    widths = [backbone.get_parameter(f"{name}.weight").shape[1] for name in wanted.targets]
    common = math.gcd(*widths)
    return OFTConfig(
        **_common(wanted),
        oft_block_size=max(size for size in range(1, OFT_BLOCK + 1) if common % size == 0),
        use_cayley_neumann=False,
        bias="none",
    )


def delora(wanted: Adaptation, _backbone: nn.Module) -> DeloraConfig:
    """LoRA's directions apart from their strength, which is bounded."""
    return DeloraConfig(**_common(wanted), r=wanted.config.adapter.rank, bias="none")


def shira(wanted: Adaptation, _backbone: nn.Module) -> ShiraConfig:
    """As many of the weights' own entries as LoRA would train, at random places."""
    return ShiraConfig(
        **_common(wanted), r=wanted.config.adapter.rank, mask_type="random", random_seed=wanted.config.seed
    )


def low_rank_mask(weight: Tensor, rank: int) -> Tensor:
    """1 where a weight's best approximation of this rank is largest, as often as LoRA has entries.

    (d_out, d_in). As LIFT's paper says; the authors' scripts select the smallest, by a lost word.
    """
    rows, columns = weight.shape
    left, values, right = singular_factors(weight.float(), rank)
    size = ((left * values) @ right).abs().flatten()
    mask = torch.zeros_like(size)
    mask[size.topk(min(len(size), rank * (rows + columns))).indices] = 1.0
    return mask.view(rows, columns)


def lift(wanted: Adaptation, backbone: nn.Module) -> ShiraConfig:
    """As many of the weights' own entries as LoRA would train, where their low-rank part is largest.

    One choice, from the weights as they are first: LIFT chooses anew as training goes on.
    """
    config = shira(wanted, backbone)
    config.mask_fn = lambda layer, r, **_: low_rank_mask(layer.weight.detach(), r)
    return config
