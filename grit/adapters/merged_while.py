"""An adapter in its backbone's weights for a while.

A merged layer takes one multiplication where an adapted one takes three, which tells where a model is only
read, and most where text is generated a token at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from grit.adapters.peft_adapters import tuned_layers

#: How far merged and unmerged logits may lie apart, as a share of their standard deviation.
_TOLERANCE = 1e-3


@contextmanager
def merged_while(model: Any, tokens: Sequence[int]) -> Iterator[bool]:
    """Adds the adapter to the weights within the block, and leaves every weight as it was, bit for bit.

    Nothing is merged where that would change what the model says: weights in half precision, which would
    round the adapter away, weights in 4 bits, layers that cannot be merged, or a gate between the factors,
    which PEFT does not know of. The last is not asked but seen: the logits after `tokens` are compared.

    Args:
        model: in evaluation mode, with a PEFT adapter or without.
        tokens: a prompt, at least one token.

    Yields:
        Whether the adapter is merged.
    """
    layers = tuned_layers(model)
    if not all(map(_is_whole, layers)) or not layers:
        yield False
        return
    weights: list[Tensor] = [layer.get_base_layer().weight for layer in layers]
    before = [weight.detach().clone() for weight in weights]
    adapted = _last_logits(model, tokens)
    merged = _merge(model) and _agree(adapted, _last_logits(model, tokens))
    try:
        if not merged:
            _put_back(layers, weights, before)
        yield merged
    finally:
        _put_back(layers, weights, before)


def _is_whole(layer: Any) -> bool:
    """Whether an adapter can be added to its weight, and taken off again, without loss."""
    weight = getattr(layer.get_base_layer(), "weight", None)
    return type(weight) is torch.nn.Parameter and weight.dtype == torch.float32 and not layer.merged


def _merge(model: Any) -> bool:
    try:
        model.merge_adapter()
    except (AttributeError, NotImplementedError, ValueError):  # a kind of adapter that cannot be
        return False
    return True


def _put_back(layers: Sequence[Any], weights: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is inexact: the weights are put back below
        for layer in layers:
            if layer.merged:
                layer.unmerge()
    with torch.no_grad():
        for weight, value in zip(weights, before, strict=True):
            weight.copy_(value)


@torch.no_grad()
def _last_logits(model: Any, tokens: Sequence[int]) -> Tensor:
    inputs = torch.tensor([list(tokens)], device=model.device)
    logits: Tensor = model(input_ids=inputs, use_cache=False).logits[0, -1].float()
    return logits


def _agree(adapted: Tensor, merged: Tensor) -> bool:
    return float((adapted - merged).abs().max()) <= _TOLERANCE * float(adapted.std())
