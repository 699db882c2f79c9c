"""Hooks that observe z and its gradient, learn which positions count, and apply the gate between the factors.

Both observations come free from autograd: z = A x is what PEFT's lora_A returns, and the gradient that arrives at it is scaling * B^T g. No
copy of x is kept and nothing is recomputed. Tensors keep the model's layout (batch, sequence, r) until they are stacked by `drain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from grit.adapters import AdaptedLayer

IGNORED_LABEL = -100


@dataclass
class Observation:
    """One backward pass: per layer z and its gradient, and what the model's inputs said about positions and loss."""

    activations: dict[int, Tensor] = field(default_factory=dict)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    token_weight: Tensor | None = None
    label_weight: Tensor | None = None
    loss_weight: Tensor | None = None


class Capture:
    """Forward and tensor hooks on the adapted layers and on the model; records only while `armed`."""

    def __init__(self, model: nn.Module, layers: Sequence[AdaptedLayer]) -> None:
        self.armed = False
        self._layers = layers
        self._gates: list[Tensor | None] = [None] * len(layers)
        self._current: Observation | None = None
        self._finished: list[Observation] = []
        self._handles = [layer.down.register_forward_hook(self._observe(index)) for index, layer in enumerate(layers)]
        self._handles.append(model.register_forward_pre_hook(self._before_model, with_kwargs=True))
        self._handles.append(model.register_forward_hook(self._after_model, with_kwargs=True))

    def remove(self) -> None:
        """Takes every hook out of the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def set_gate(self, index: int, matrix: Tensor | None) -> None:
        """From now on layer `index` computes B (matrix) A x; None restores B A x."""
        self._gates[index] = None if matrix is None else matrix.mT.contiguous()

    def gate(self, index: int) -> Tensor | None:
        """The matrix between the factors of layer `index`, or None."""
        stored = self._gates[index]
        return None if stored is None else stored.mT

    def drain(self) -> list[Observation]:
        """The observations since the last call, one per backward pass.

        Raises:
            RuntimeError: a layer was not reached by the forward or the backward pass, or the loss was computed outside the model.
        """
        self._close()
        finished, self._finished = self._finished, []
        for observation in finished:
            self._verify(observation)
        return finished

    def _verify(self, observation: Observation) -> None:
        for index, layer in enumerate(self._layers):
            if index not in observation.activations or index not in observation.gradients:
                raise RuntimeError(f"layer {layer.name} was not captured: it took no part in the forward or backward pass of this step")
        if observation.loss_weight is None or observation.label_weight is None:
            raise RuntimeError("the loss was not computed by the model: pass `labels` to its forward, so that its scale is known")

    def _close(self) -> None:
        if self._current is not None and self._current.gradients:
            self._finished.append(self._current)
        self._current = None

    def _observe(self, index: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
            gate = self._gates[index]
            gated = output if gate is None else output @ gate.to(output.dtype)
            current = self._current
            if current is not None and output.requires_grad:  # the first pass of re-entrant checkpointing needs none: wait for the second
                current.activations[index] = output.detach()
                gated.register_hook(lambda gradient: self._keep_gradient(current, index, gradient))
            return None if gate is None else gated
        return hook

    @staticmethod
    def _keep_gradient(observation: Observation, index: int, gradient: Tensor) -> None:
        observation.gradients[index] = gradient

    def _before_model(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._close()
        if not (self.armed and model.training and torch.is_grad_enabled()):
            return
        self._current = Observation()
        labels, mask = kwargs.get("labels"), kwargs.get("attention_mask")
        if labels is None:
            return
        real = torch.ones_like(labels) if mask is None else mask
        # The logits of position t are scored against label t + 1: position t carries a loss where label t + 1 is not ignored.
        scored = torch.zeros_like(labels)
        scored[:, :-1] = labels[:, 1:] != IGNORED_LABEL
        self._current.token_weight, self._current.label_weight = real.flatten(), scored.flatten()

    def _after_model(self, _model: nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        current, loss = self._current, getattr(output, "loss", None)
        if current is None or current.label_weight is None or loss is None or not loss.requires_grad:
            return
        items = kwargs.get("num_items_in_batch")
        count = current.label_weight.sum().clamp(min=1) if items is None else items
        loss.register_hook(lambda gradient: self._keep_loss_weight(current, gradient / count))

    @staticmethod
    def _keep_loss_weight(observation: Observation, weight: Tensor) -> None:
        # What arrives at the model's loss is the accumulation factor times the AMP scale; its mean over `count` tokens is undone here too.
        observation.loss_weight = weight.detach().float()
