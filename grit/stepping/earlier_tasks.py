"""EWC over tasks that are learned in sequence (Kirkpatrick et al., 2017): what each has left is held.

When a task has been learned, the adapter is remembered, and tokens of the task's examples as the model sees
them then. From there on one module's part of what is predicted to be forgotten of that task is

    1 / 2 * tr(G X),    X = E[z z^T],  z = dA x,    G = E[u u^T],  u = dB^T g,

of the change s (B A - B' A') = dB dA since then, with dB = s [B, -B'] and dA = [A; A'], B' A' what is
remembered, x and g the sampled inputs and gradients: a Kronecker-factored Fisher (Ritter et al., 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer, adapted_layers
from grit.capture.token_samples import TokenSamples, token_samples
from grit.config.sequence import EARLIER_TOKENS

#: Training examples of a task, as batches with `attention_mask` and `labels`, by the number of its stage.
TaskBatches = Callable[[int], Sequence[dict[str, Tensor]]]


#: A' (r, d_in) and B' (d_out, r) of every layer.
Factors = list[tuple[Tensor, Tensor]]


class _Remembered(NamedTuple):
    """One task: the adapter as it was, and what was sampled there."""

    factors: Factors
    samples: Sequence[TokenSamples]


class EarlierTasks:
    """Holds a plain LoRA adapter to what it was after each task.

    Args:
        model: a causal language model with its adapter.
        weight: nats of training loss per nat of predicted forgetting; 0 for nothing at all.
        batches: of the tasks.
    """

    def __init__(self, model: Any, weight: float, batches: TaskBatches) -> None:
        self._model, self._weight, self._batches = model, weight, batches
        self._layers = adapted_layers(model) if weight else ()
        self._tasks: list[_Remembered] = []
        self._restored: list[Factors] = []

    def learned(self, stage: int) -> None:
        """Remembers the adapter as it is now, after stage number `stage` (from 0)."""
        if self._layers:
            self._sample_restored()
            self._remember(stage)

    def _remember(self, stage: int) -> None:
        samples = token_samples(
            self._model, self._layers, self._batches(stage), EARLIER_TOKENS, adapter_acts=True
        )
        self._tasks.append(_Remembered([_factors(layer) for layer in self._layers], samples))

    def add_gradients(self) -> None:
        """Adds the penalty's to the gradients of A and B."""
        self._sample_restored()
        for task in self._tasks:
            for layer, before, samples in zip(self._layers, task.factors, task.samples, strict=True):
                for_down, for_up = penalty_gradients(layer, before, samples)
                for parameter, gradient in ((layer.down.weight, for_down), (layer.up.weight, for_up)):
                    if parameter.grad is not None:
                        parameter.grad.add_(gradient.to(parameter.grad), alpha=self._weight)

    def state_dict(self) -> list[Factors]:
        """The adapters that are remembered; samples follow from them, and are large."""
        return self._restored or [task.factors for task in self._tasks]

    def load_state_dict(self, state: list[Factors]) -> None:
        """What is remembered. Samples are taken once training goes on; a run that has ended needs none."""
        self._tasks, self._restored = [], state

    def _sample_restored(self) -> None:
        """Under each of the adapters, in order; then the present one is put back."""
        if not self._restored:
            return
        restored, self._restored = self._restored, []
        present = [_factors(layer) for layer in self._layers]
        for stage, factors in enumerate(restored):
            _put(self._layers, factors)
            self._remember(stage)
        _put(self._layers, present)


def _factors(layer: AdaptedLayer) -> tuple[Tensor, Tensor]:
    return layer.down.weight.detach().clone(), layer.up.weight.detach().clone()


@torch.no_grad()
def _put(layers: Sequence[AdaptedLayer], factors: Sequence[tuple[Tensor, Tensor]]) -> None:
    for layer, (down, up) in zip(layers, factors, strict=True):
        layer.down.weight.copy_(down)
        layer.up.weight.copy_(up)


@torch.no_grad()
def penalty_gradients(
    layer: AdaptedLayer, before: tuple[Tensor, Tensor], samples: TokenSamples
) -> tuple[Tensor, Tensor]:
    """The penalty's gradients by A (r, d_in) and B (d_out, r) as they are, of one layer."""
    down, up = layer.down.weight, layer.up.weight
    rank = len(down)
    inputs, gradients = samples.inputs.to(down), samples.gradients.to(up)
    z = inputs @ torch.cat([down, before[0]]).T
    u = gradients @ torch.cat([up, -before[1]], dim=1)
    strength = (layer.scaling / len(inputs)) ** 2
    for_down = (u.T @ u)[:rank] @ (z.T @ inputs)
    for_up = (gradients.T @ u) @ (z.T @ z)[:, :rank]
    return strength * for_down, strength * for_up
