"""What GRIT asks of 4-bit layers: how noisy their weights are, and in which precision they compute."""

from __future__ import annotations

from collections.abc import Sequence
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


class ComputePrecision:
    """Switches 4-bit layers between their own compute type and float32."""

    def __init__(self, bases: Sequence[nn.Module]) -> None:
        self._layers: list[Any] = [base for base in bases if is_quantized(base)]
        self._own = [layer.compute_dtype for layer in self._layers]

    def __len__(self) -> int:
        """How many layers are quantized."""
        return len(self._layers)

    def full(self, on: bool) -> None:
        """float32 if `on`, else what each layer had."""
        for layer, own in zip(self._layers, self._own, strict=True):
            layer.compute_dtype = torch.float32 if on else own
