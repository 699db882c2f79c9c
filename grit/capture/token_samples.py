"""Tokens of a text as a model sees them: what an adapter is held against, taken once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer
from grit.capture.watched_passes import real_positions, watched_passes
from grit.errors import ConfigError


class TokenSamples(NamedTuple):
    """Of one layer: inputs x (n, d_in), and gradients g (n, d_out) of the summed loss at its output.

    Gradients are scaled so that G^T G / n is the sum over tokens of g g^T per label, as Sigma_g is.
    """

    inputs: Tensor
    gradients: Tensor

    def to(self, device: torch.device) -> TokenSamples:
        """The same on `device`."""
        return TokenSamples(self.inputs.to(device), self.gradients.to(device))


class _Collected:
    """What passes through the layers at the positions that count, token by token."""

    def __init__(self) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        self.gradients: dict[str, list[Tensor]] = {}
        self.mask: Tensor | None = None

    def hook(self, layer: AdaptedLayer) -> Callable[..., None]:
        """A forward hook on the layer under the adapter."""
        name = layer.name

        def forward(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert self.mask is not None
            self.inputs.setdefault(name, []).append(inputs[0].detach()[self.mask])
            output.register_hook(lambda gradient: self._add(name, gradient))

        return forward

    def _add(self, name: str, gradient: Tensor) -> None:
        assert self.mask is not None
        self.gradients.setdefault(name, []).append(gradient.detach()[self.mask])


def token_samples(
    model: Any,
    layers: Sequence[AdaptedLayer],
    batches: Sequence[Mapping[str, Tensor]],
    tokens: int,
    *,
    adapter_acts: bool = False,
) -> list[TokenSamples]:
    """Of every layer, in order, at the same evenly spaced real tokens.

    Args:
        model: a causal language model with its adapter; left as it was.
        layers: its adapted layers.
        batches: text that nothing is measured on, with `attention_mask` and `labels`.
        tokens: how many are kept.
        adapter_acts: whether the adapter does, or is switched off meanwhile.

    Raises:
        ConfigError: the text has no labels.
    """
    real = [real_positions(batch) for batch in batches]
    total = sum(int(mask.sum()) for mask in real)
    masks = _evenly_spaced(real, tokens)
    collected = _Collected()
    modes = [(module, module.training) for module in model.modules()]
    try:
        labels = watched_passes(
            model.eval(), layers, batches, collected, masks=masks, adapter_acts=adapter_acts
        )
    finally:
        for module, training in modes:
            module.training = training
    if labels == 0:
        raise ConfigError("source", f"{len(batches)} batches", "must be text with labels")
    per_label = (total / labels) ** 0.5
    samples = []
    for layer in layers:
        inputs, gradients = (torch.cat(seen[layer.name]) for seen in (collected.inputs, collected.gradients))
        samples.append(TokenSamples(inputs, gradients * per_label))
    return samples


def _evenly_spaced(real: Sequence[Tensor], tokens: int) -> list[Tensor]:
    """Of each batch's real positions those that are kept: so many of all, evenly spaced."""
    counts = [int(mask.sum()) for mask in real]
    keeps = torch.zeros(sum(counts), dtype=torch.bool)
    keeps[torch.linspace(0, len(keeps) - 1, min(tokens, len(keeps))).long()] = True
    parts = zip(real, keeps.split(counts), strict=True)
    return [torch.zeros_like(mask).masked_scatter(mask, part.to(mask.device)) for mask, part in parts]
