"""What GRIT asks of 4-bit layers: how noisy their weights are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def is_quantized(base: nn.Module) -> bool:
    """Whether the layer under an adapter stores its weight in 4 bits."""
    return hasattr(getattr(base, "weight", None), "quant_state")


def code_noise(code: Tensor) -> Tensor:
    """Mean squared rounding error at each level of a codebook (levels,).

    For values uniform over the level's cell: width^2 / 12.

    A level's cell reaches half-way to its neighbours; the outermost cells end at their level, which scaling
    by the block's maximum makes exact.
    """
    middles = (code[1:] + code[:-1]) / 2
    edges = torch.cat([code[:1], middles, code[-1:]])
    low, high = edges[:-1] - code, edges[1:] - code
    return (high**3 - low**3) / (3 * (high - low))


def noise_to_signal(base: nn.Module) -> float:
    """Rounding noise over signal, |W - Q(W)|^2 / |Q(W)|^2, expected from the 4-bit codes alone.

    0 for a layer that is not quantized.

    The original weights are gone once a layer is quantized: what is known is the cell of the codebook in
    which each lay.
    """
    if not is_quantized(base):
        return 0.0
    from bitsandbytes.functional import dequantize_4bit

    stored: Any = base.weight
    state = stored.quant_state
    weight = dequantize_4bit(stored.data, state).flatten().float()
    blocks = torch.nn.functional.pad(weight, (0, -weight.numel() % state.blocksize)).view(-1, state.blocksize)
    scale = blocks.abs().amax(-1, keepdim=True)
    code = state.code.float().to(weight.device)
    levels = torch.bucketize(
        blocks / scale.clamp(min=torch.finfo(scale.dtype).tiny), (code[1:] + code[:-1]) / 2
    )
    noise = (code_noise(code)[levels] * scale.square()).sum()
    return float(noise / weight.square().sum())
