"""Hooks that observe z and its gradient, learn which positions count, and apply the gate between the factors.

Both observations come free from autograd: z = A x is what PEFT's lora_A returns, and the gradient that
arrives at it is scaling * B^T g. No
copy of x is kept and nothing is recomputed. A backward pass is handed on as soon as the next forward pass
begins, so that at most one micro-batch's observations are alive, whatever the accumulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from grit.adapters.peft_adapters import AdaptedLayer
from grit.geometry.label_positions import Layout, Positions, named_inputs, positions


@dataclass(kw_only=True)
class Observation:
    """One backward pass.

    Per layer z and its gradient, in the model's layout (batch, sequence, r), and what its inputs and loss
    said.

    Attributes:
        loss_weight: what one label's loss counts in the scalar that was differentiated.
    """

    activations: dict[int, Tensor] = field(default_factory=dict)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    positions: Positions | None = None
    loss_weight: Tensor | None = None


class Capture:
    """Forward and tensor hooks on the adapted layers and on the model; observes only while it is armed.

    Args:
        model: whose forward passes are watched. layers: its adapted layers. layout: of its labels.
        sink: takes every observed pass once its backward is over.
        before_pass: called before every observed forward pass, when earlier ones have been handed on.
        watch_loss: keep the model's own losses, armed or not, for `take_losses`.

    Attributes:
        armed: whether passes are observed.
        passes: backward passes handed on since the last `close`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[AdaptedLayer],
        layout: Layout,
        *,
        sink: Callable[[Observation], None],
        before_pass: Callable[[], None] = lambda: None,
        watch_loss: bool = False,
    ) -> None:
        self.armed, self.passes = False, 0
        self._layers, self._layout, self._sink = layers, layout, sink
        self._before_pass, self._watch_loss = before_pass, watch_loss
        self._losses: list[Tensor] = []
        self._gates: list[Tensor | None] = [None] * len(layers)
        self._current: Observation | None = None
        self._open: list[Observation] = []
        self._handles = [
            layer.down.register_forward_hook(self._observe(index)) for index, layer in enumerate(layers)
        ]
        self._handles.append(model.register_forward_pre_hook(self._before_model, with_kwargs=True))
        self._handles.append(model.register_forward_hook(self._after_model, with_kwargs=True))

    def arm(self, on: bool) -> None:
        """Observes passes from now on, or no longer."""
        self.armed = on

    def forget_passes(self) -> None:
        """The passes handed on so far belong to no step."""
        self.passes = 0

    def take_losses(self) -> list[Tensor]:
        """The model's own losses since the last call."""
        taken, self._losses = self._losses, []
        return taken

    def remove(self) -> None:
        """Takes every hook out of the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._current, self._open = [], None, []

    def set_gate(self, index: int, matrix: Tensor | None) -> None:
        """From now on layer `index` computes B (matrix) A x; None restores B A x."""
        self._gates[index] = None if matrix is None else matrix.mT.contiguous()

    def gate(self, index: int) -> Tensor | None:
        """The matrix between the factors of layer `index`, or None."""
        stored = self._gates[index]
        return None if stored is None else stored.mT

    def close(self) -> tuple[int, int]:
        """Ends the step: hands on what is left.

        Returns:
            How many backward passes were observed since the last call, and how many forward passes never saw
            one.

        Raises:
            RuntimeError: a layer was not reached by the forward or the backward pass, or the loss was
                computed outside the model.
        """
        self._hand_on()
        counted, self.passes, self._open = (self.passes, len(self._open)), 0, []
        return counted

    def _hand_on(self) -> None:
        """Gives every pass whose backward is over to the sink; others stay open.

        Several forward passes may share one backward.
        """
        self._current = None
        done = [seen for seen in self._open if seen.gradients]
        self._open = [seen for seen in self._open if not seen.gradients]
        for seen in done:
            for index, layer in enumerate(self._layers):
                if index not in seen.activations or index not in seen.gradients:
                    raise RuntimeError(
                        f"layer {layer.name} was not captured: it took no part in the forward or backward "
                        "pass of this step"
                    )
            if seen.loss_weight is None or seen.positions is None:
                raise RuntimeError(
                    "the loss was not computed by the model: pass `labels` to its forward, so that its "
                    "scale is known"
                )
            self.passes += 1
            self._sink(seen)

    def _observe(self, index: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
            gate = self._gates[index]
            gated = output if gate is None else output @ gate.to(output.dtype)
            current = self._current
            # The first pass of re-entrant checkpointing needs no gradient: wait for the second. The second
            # pass of the other kind only refills what the first one let go, and its gradient hook never
            # fires.
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
            self._before_pass()
            self._current = Observation(positions=positions(self._layout, named_inputs(model, args, kwargs)))
            self._open.append(self._current)

    def _after_model(self, _model: nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        current = self._current
        loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
        if self._watch_loss and loss is not None and loss.requires_grad:
            self._losses.append(loss.detach())
        if current is None or current.positions is None or loss is None or not loss.requires_grad:
            return
        # Only a causal LM divides by it: other heads take the argument, and return the mean over their own
        # labels.
        items = kwargs.get("num_items_in_batch") if self._layout == "causal" else None
        count = current.positions.label_count.clamp(min=1) if items is None else items
        loss.register_hook(lambda gradient: self._keep_loss_weight(current, gradient / count))

    @staticmethod
    def _keep_loss_weight(observation: Observation, weight: Tensor) -> None:
        # What arrives at the model's loss is the accumulation factor times the AMP scale; its mean over
        # `count` labels is undone here too.
        observation.loss_weight = weight.detach()
