"""Tokens of a text as a model sees them: what an adapter is held against, taken once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer
from grit.capture.watched_passes import watched_passes
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
    """What passes through the layers at the tokens that are kept.

    Args:
        masks: of every batch (batch, length), the kept tokens; in their order.
    """

    def __init__(self, masks: Sequence[Tensor]) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        self.gradients: dict[str, list[Tensor]] = {}
        self._masks, self._kept = iter(masks), torch.empty(0)

    @property
    def mask(self) -> Tensor:
        """The kept tokens of the present batch."""
        return self._kept

    @mask.setter
    def mask(self, _real: Tensor | None) -> None:
        """The next batch begins."""
        self._kept = next(self._masks)

    def hook(self, layer: AdaptedLayer) -> Callable[..., None]:
        """A forward hook on the layer under the adapter."""
        name = layer.name

        def forward(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.inputs.setdefault(name, []).append(inputs[0].detach()[self.mask])
            output.register_hook(lambda gradient: self._add(name, gradient))

        return forward

    def _add(self, name: str, gradient: Tensor) -> None:
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
    real = [batch["attention_mask"] > 0 for batch in batches]
    total = sum(int(mask.sum()) for mask in real)
    kept = torch.linspace(0, total - 1, min(tokens, total)).long()
    collected = _Collected(_of_batches(real, kept))
    modes = [(module, module.training) for module in model.modules()]
    try:
        labels = watched_passes(model.eval(), layers, batches, collected, adapter_acts=adapter_acts)
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


def _of_batches(real: Sequence[Tensor], kept: Tensor) -> list[Tensor]:
    """Masks of the tokens that are kept, by batch; `kept` counts the real tokens of all."""
    masks, begins = [], 0
    for mask in real:
        count = int(mask.sum())
        within = kept[(kept >= begins) & (kept < begins + count)] - begins
        chosen_here = torch.zeros(count, dtype=torch.bool)
        chosen_here[within] = True
        masks.append(torch.zeros_like(mask).masked_scatter(mask, chosen_here.to(mask.device)))
        begins += count
    return masks
