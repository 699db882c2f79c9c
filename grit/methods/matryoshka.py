"""MatryoshkaLoRA (Modoranu et al., 2026): one adapter whose first k directions are one, for several k."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from grit.adapters.peft_adapters import adapted_layers
from grit.methods.lora import Lora
from grit.methods.maker import Adaptation


def nested_ranks(rank: int) -> tuple[int, ...]:
    """The ranks that are trained to work: powers of two, and the whole."""
    return tuple(sorted({2**power for power in range(rank.bit_length()) if 2**power <= rank} | {rank}))


def prefix_scale(rank: int, whole: int) -> float:
    """What B A of the first `rank` directions is multiplied by, beside the layer's scaling.

    The paper's 1 / sqrt(rank), so that the whole has LoRA's scaling.
    """
    return math.sqrt(whole / rank)


def direction_weights(rank: int) -> Tensor:
    """(rank,): what each direction counts in training: the sum of the scales of all ranks that hold it.

    The update that is trained is the sum of all nested ones: B diag(P) A (the paper's algorithm 1).
    """
    weights = torch.zeros(rank)
    for each in nested_ranks(rank):
        weights[:each] += prefix_scale(each, rank)
    return weights


class NestedColumns(nn.Module):
    """B as a parametrization: weighed by direction in training, as it is deployed otherwise."""

    weights: Tensor

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.register_buffer("weights", direction_weights(rank))

    def forward(self, columns: Tensor) -> Tensor:
        """B (d_out, r)."""
        return columns * self.weights.to(columns) if self.training else columns

    def right_inverse(self, columns: Tensor) -> Tensor:
        """B is drawn as it is deployed."""
        return columns


class Matryoshka(Lora):
    """LoRA layers that train all nested adapters at once."""

    def prefix_scale(self, rank: int, whole: int) -> float:
        """As each of them was trained."""
        return prefix_scale(rank, whole)

    def make(self, backbone: PreTrainedModel, wanted: Adaptation) -> Any:
        """A and B of each module's own rank."""
        model = super().make(backbone, wanted)
        for layer in adapted_layers(model):
            parametrize.register_parametrization(layer.up, "weight", NestedColumns(layer.rank))
        return model
