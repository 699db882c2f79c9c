"""Hooks that observe z and its gradient, learn which positions count, and apply the gate between the factors.

Both observations come free from autograd: z = A x is what PEFT's lora_A returns, and the gradient that arrives at it is scaling * B^T g. No
copy of x is kept and nothing is recomputed. A backward pass is handed on as soon as the next forward pass begins, so that at most one
micro-batch's observations are alive, whatever the accumulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from grit.adapters import AdaptedLayer
from grit.positions import Layout, Positions, named_inputs, positions


@dataclass
class Observation:
    """One backward pass: per layer z and its gradient, in the model's layout (batch, sequence, r), and what its inputs and loss said.

    Attributes:
        loss_weight: what one label's loss counts in the scalar that was differentiated.
    """

    activations: dict[int, Tensor] = field(default_factory=dict)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    positions: Positions | None = None
    loss_weight: Tensor | None = None


class Capture:
    """Forward and tensor hooks on the adapted layers and on the model; observes only while `armed`, and gives what it saw to `sink`.

    Attributes:
        passes: backward passes handed on since the last `close`.
        losses: the model's own losses since the last `close`, armed or not; only if `watch_loss`.
        around: called with True before an observed forward pass, and with False once its backward pass is over.
    """

    def __init__(self, model: nn.Module, layers: Sequence[AdaptedLayer], layout: Layout, sink: Callable[[Observation], None]) -> None:
        self.armed, self.passes, self.watch_loss = False, 0, False
        self.losses: list[Tensor] = []
        self.around: Callable[[bool], None] | None = None
        self._layers, self._layout, self._sink = layers, layout, sink
        self._gates: list[Tensor | None] = [None] * len(layers)
        self._current: Observation | None = None
        self._handles = [layer.down.register_forward_hook(self._observe(index)) for index, layer in enumerate(layers)]
        self._handles.append(model.register_forward_pre_hook(self._before_model, with_kwargs=True))
        self._handles.append(model.register_forward_hook(self._after_model, with_kwargs=True))

    def remove(self) -> None:
        """Takes every hook out of the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._current = [], None

    def set_gate(self, index: int, matrix: Tensor | None) -> None:
        """From now on layer `index` computes B (matrix) A x; None restores B A x."""
        self._gates[index] = None if matrix is None else matrix.mT.contiguous()

    def gate(self, index: int) -> Tensor | None:
        """The matrix between the factors of layer `index`, or None."""
        stored = self._gates[index]
        return None if stored is None else stored.mT

    def close(self) -> int:
        """Ends the step: hands on what is left, and returns how many backward passes were observed since the last call.

        Raises:
            RuntimeError: a layer was not reached by the forward or the backward pass, or the loss was computed outside the model.
        """
        self._hand_on()
        passes, self.passes = self.passes, 0
        return passes

    def _hand_on(self) -> None:
        current, self._current = self._current, None
        if current is not None and self.around is not None:
            self.around(False)
        if current is None or not current.gradients:
            return
        for index, layer in enumerate(self._layers):
            if index not in current.activations or index not in current.gradients:
                raise RuntimeError(f"layer {layer.name} was not captured: it took no part in the forward or backward pass of this step")
        if current.loss_weight is None or current.positions is None:
            raise RuntimeError("the loss was not computed by the model: pass `labels` to its forward, so that its scale is known")
        self.passes += 1
        self._sink(current)

    def _observe(self, index: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
            gate = self._gates[index]
            gated = output if gate is None else output @ gate.to(output.dtype)
            current = self._current
            # The first pass of re-entrant checkpointing needs no gradient: wait for the second. The second pass of the other kind only
            # refills what the first one let go, and its gradient hook never fires.
            if current is not None and output.requires_grad:
                current.activations[index] = output.detach()
                gated.register_hook(lambda gradient: self._keep_gradient(current, index, gradient))
            return None if gate is None else gated
        return hook

    @staticmethod
    def _keep_gradient(observation: Observation, index: int, gradient: Tensor) -> None:
        observation.gradients[index] = gradient

    def _before_model(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._hand_on()
        if self.armed and model.training and torch.is_grad_enabled():
            self._current = Observation(positions=positions(self._layout, named_inputs(model, args, kwargs)))
            if self.around is not None:
                self.around(True)

    def _after_model(self, _model: nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        current, loss = self._current, output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
        if self.watch_loss and loss is not None and loss.requires_grad:
            self.losses.append(loss.detach())
        if current is None or current.positions is None or loss is None or not loss.requires_grad:
            return
        items = kwargs.get("num_items_in_batch")
        count = current.positions.label_count.clamp(min=1) if items is None else items
        loss.register_hook(lambda gradient: self._keep_loss_weight(current, gradient / count))

    @staticmethod
    def _keep_loss_weight(observation: Observation, weight: Tensor) -> None:
        # What arrives at the model's loss is the accumulation factor times the AMP scale; its mean over `count` labels is undone here too.
        observation.loss_weight = weight.detach()
