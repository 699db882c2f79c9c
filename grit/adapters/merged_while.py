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

#: How far merged and unmerged logits may lie apart, as a share of their standard deviation: by rounding.
_TOLERANCE = 1e-4
#: Tokens of the prompt on which they are compared.
_COMPARED = 64


@contextmanager
def merged_while(model: Any, tokens: Sequence[int]) -> Iterator[bool]:
    """Adds the adapter to the weights within the block, and leaves every parameter as it was, bit for bit.

    Nothing is merged where that would change what the model says: weights in half precision, which would
    round the adapter away, weights in 4 bits, layers that cannot be merged, or whatever else shows in the
    logits of `tokens`, which are compared. (A gate between GRIT's factors, of which PEFT does not know, shows
    there only where it does much: callers leave such an adapter beside its weights.)

    The weights are held twice meanwhile; a GPU's second copy lies in the host's memory.

    Args:
        model: in evaluation mode, with a PEFT adapter or without.
        tokens: a prompt; without any nothing is merged.

    Yields:
        Whether the adapter is merged.
    """
    layers = tuned_layers(model)
    if not (layers and tokens and all(map(_is_whole, layers))):
        yield False
        return
    prompt = list(tokens[-_COMPARED:])
    adapted = _logits(model, prompt)
    parameters = [parameter for layer in layers for parameter in layer.get_base_layer().parameters()]
    places = [parameter.data for parameter in parameters]
    before = [place.to("cpu", copy=True) for place in places]
    try:
        merged = _merge(model) and _agree(adapted, _logits(model, prompt))
        if not merged:
            _put_back(layers, parameters, places, before)
        yield merged
    finally:
        _put_back(layers, parameters, places, before)


def _is_whole(layer: Any) -> bool:
    """Whether an adapter can be added to its weight, and taken off again, without loss."""
    weight = getattr(layer.get_base_layer(), "weight", None)
    return type(weight) is torch.nn.Parameter and weight.dtype == torch.float32 and not layer.merged


def _merge(model: Any) -> bool:
    try:
        model.merge_adapter()
    # PEFT's three ways to say that this kind of adapter cannot be in the weights: it is scored beside them
    except (AttributeError, NotImplementedError, ValueError):
        return False
    return True


def _put_back(
    layers: Sequence[Any], parameters: Sequence[Tensor], places: Sequence[Tensor], before: Sequence[Tensor]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is inexact: the parameters are put back below
        for layer in layers:
            if layer.merged:
                layer.unmerge()
                layer.merged_adapters.clear()  # OSF's would stay merged
    with torch.no_grad():
        for parameter, place, value in zip(parameters, places, before, strict=True):
            place.copy_(value)
            parameter.data = place  # some adapters leave another tensor there, of another layout


@torch.no_grad()
def _logits(model: Any, tokens: Sequence[int]) -> Tensor:
    inputs = torch.tensor([tokens], device=model.device)
    logits: Tensor = model(input_ids=inputs, use_cache=False).logits[0].float()
    return logits


def _agree(adapted: Tensor, merged: Tensor) -> bool:
    return float((adapted - merged).abs().max()) <= _TOLERANCE * float(adapted.std())
