"""Hooks that observe z and its gradient, learn which positions count, and apply the gate between the factors.

Both observations come free from autograd: z = A x is what PEFT's lora_A returns, and the gradient that
arrives at it is scaling * B^T g. No
copy of x is kept and nothing is recomputed. A backward pass is handed on as soon as the next forward pass
begins, so that at most one micro-batch's observations are alive, whatever the accumulation.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from grit.adapters.peft_adapters import AdaptedLayer
from grit.capture.copied_hooks import OwnHook
from grit.capture.gradients_kept import GradientsKept
from grit.capture.label_positions import Layout, named_inputs, positions, unlabelled_positions
from grit.capture.loss_scale import LossScale, evidence_at
from grit.capture.model_outputs import field_of, on_gradient
from grit.capture.observation import LayerCall, Observation
from grit.data.encode import IGNORED_LABEL

#: The lora_A modules that carry hooks of somebody's.
_ATTACHED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def is_attached(module: nn.Module) -> bool:
    """Whether a lora_A carries hooks already."""
    return module in _ATTACHED


class Capture:
    """Forward and tensor hooks on the adapted layers and on the model; observes only while it is armed.

    Args:
        model: whose forward passes are watched. layers: its adapted layers. layout: of its labels.
        sink: takes every observed pass once its backward is over.
        before_pass: called before every observed forward pass, when earlier ones have been handed on.
        discard: called when the passes handed on so far turn out to belong to no step.
        verifying: whether the gradient at the logits is to be looked at as well, asked at every pass.
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
        discard: Callable[[], None] = lambda: None,
        verifying: Callable[[], bool] = lambda: False,
        watch_loss: bool = False,
    ) -> None:
        self.armed, self.passes = False, 0
        self._verifying = verifying
        self._layers, self._layout, self._sink = layers, layout, sink
        self.loss_scale = LossScale(layout)
        self._discard = discard
        self._kept = GradientsKept(layers, self._forget_passes)
        self._before_pass, self._watch_loss = before_pass, watch_loss
        self._losses: list[Tensor] = []
        self._gates: list[Tensor | None] = [None] * len(layers)
        self._current: Observation | None = None
        self._open: list[Observation] = []
        self._handles = [
            layer.down.register_forward_hook(self._layer_hook(index)) for index, layer in enumerate(layers)
        ]
        _ATTACHED.update(layer.down for layer in layers)
        before, after = OwnHook(self._before_model), OwnHook(self._after_model)
        self._handles.append(model.register_forward_pre_hook(before, with_kwargs=True))
        self._handles.append(model.register_forward_hook(after, with_kwargs=True))

    def arm(self, on: bool) -> None:
        """Observes passes from now on, or no longer."""
        self.armed = on

    def _forget_passes(self) -> None:
        """The passes handed on so far belong to no step: their gradients are gone."""
        if self.passes:
            self.passes = 0
            self._discard()

    def take_losses(self) -> list[Tensor]:
        """The model's own losses since the last call."""
        taken, self._losses = self._losses, []
        return taken

    def remove(self) -> None:
        """Takes every hook out of the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._current, self._open = [], None, []
        for layer in self._layers:
            _ATTACHED.discard(layer.down)

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
            RuntimeError: a layer was not reached by the forward or the backward pass, the loss was computed
                outside the model, or is not the mean that its layout means.
        """
        self._hand_on()
        self._kept.step_taken()
        counted, self.passes, self._open = (self.passes, len(self._open)), 0, []
        return counted

    def _hand_on(self) -> None:
        """Gives every pass whose backward is over to the sink; others stay open.

        Several forward passes may share one backward.
        """
        self._current = None
        done = [seen for seen in self._open if seen.calls]
        self._open = [seen for seen in self._open if not seen.calls]
        if done and self._kept.all_gone():  # a backward pass that failed, and was cleared away
            self._forget_passes()
            return
        with torch.inference_mode(False):
            for seen in done:
                self._conclude(seen)
                self.passes += 1
                self._sink(seen)

    def _conclude(self, seen: Observation) -> None:
        """Nothing is missing of that pass, and its loss is what it should be."""
        seen.handed_on = True
        for index, layer in enumerate(self._layers):
            if index not in seen.calls:
                raise RuntimeError(
                    f"layer {layer.name} was not captured: it took no part in the forward or backward "
                    "pass of this step"
                )
        if seen.positions is None or (seen.loss_gradient is None and seen.label_weights is None):
            raise RuntimeError(
                "the loss was not computed by the model: pass `labels` to its forward, so that its scale is "
                "known, or say what your own loss is a mean over (handle.outside_loss; in a Trainer "
                "GritCallback.watch)"
            )
        seen.loss_weight = self.loss_scale.weight(seen, verify=self._verifying())
        if self._verifying():
            self.loss_scale.check(seen)

    def _layer_hook(self, index: int) -> OwnHook:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
            gate = self._gates[index]
            gated = output if gate is None else output @ gate.to(output.dtype)
            current = self._current
            # The first pass of re-entrant checkpointing needs no gradient: wait for the second. The second
            # pass of the other kind only refills what the first one let go, and its gradient hook never
            # fires.
            if current is not None and output.requires_grad:
                call = LayerCall(activation=output.detach())
                gated.register_hook(partial(self._gradient_arrived, current, index, call))
            return None if gate is None else gated

        return OwnHook(hook, gate=lambda: self._gates[index])

    def _gradient_arrived(
        self, seen: Observation, index: int, call: LayerCall, gradient: Tensor | None
    ) -> None:
        if gradient is not None:  # a compiled backward pass calls hooks of what it does not need
            self._kept.backward_begins()
            seen.add_gradient(index, call, gradient)

    def _before_model(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._kept.forget()
        self._hand_on()
        if self.armed and model.training and torch.is_grad_enabled():
            self._before_pass()
            inputs = named_inputs(model, args, kwargs)
            labelled = positions(self._layout, inputs)
            self._current = Observation(
                positions=labelled,
                unlabelled=unlabelled_positions(self._layout, inputs) if labelled is None else None,
                labels=inputs.get("labels"),
                shifted=inputs.get("shift_labels"),
                items=inputs.get("num_items_in_batch"),
            )
            self._open.append(self._current)

    def _after_model(self, _model: nn.Module, _args: Any, _kwargs: dict[str, Any], output: Any) -> None:
        current = self._current
        loss = field_of(output, "loss")
        if self._watch_loss and loss is not None and loss.requires_grad:
            self._losses.append(loss.detach())
        if current is None or current.positions is None:
            return
        self._watch_log_probabilities(current, field_of(output, "log_probs"))
        if loss is None or not loss.requires_grad:
            return
        loss.register_hook(
            lambda gradient: None if current.outside else self._loss_arrived(current, gradient)
        )
        if self._verifying() and isinstance(field_of(output, "aux_loss"), Tensor):
            warnings.warn(
                "the model adds an auxiliary loss (a router's): Sigma_g holds its gradient as well",
                stacklevel=2,
            )
        if self._verifying() or self.loss_scale.wants_evidence(current):
            self._watch_logits(current, field_of(output, "logits"))

    def _loss_arrived(self, observation: Observation, gradient: Tensor | None) -> None:
        if gradient is None:  # a compiled backward pass calls hooks of what it does not need
            return
        self._backward_reached(observation)
        # What arrives at the model's loss is the accumulation factor times the AMP scale.
        observation.add_loss_gradient(gradient)

    def _backward_reached(self, observation: Observation) -> None:
        """A backward pass is at that forward pass's outputs.

        Re-entrant checkpointing now runs the layers again: what they show belongs to this forward pass,
        whichever came last.
        """
        self._kept.backward_begins()
        if any(observation is seen for seen in self._open):
            self._current = observation

    def _watch_log_probabilities(self, observation: Observation, values: Any) -> None:
        """TRL's models return the labels' log-probabilities, and its trainers make the loss of them."""
        labels = observation.labels
        if labels is None or not isinstance(values, Tensor) or not values.requires_grad:
            return
        scored = labels[:, -values.shape[-1] :] != IGNORED_LABEL

        def hook(gradient: Tensor | None) -> None:
            if gradient is None:
                return
            self._backward_reached(observation)
            observation.add_label_weights(-gradient.detach()[scored])

        values.register_hook(hook)

    def watch_loss(self, loss: Tensor, count: Tensor | int) -> None:
        """`loss` is computed from the outputs of the passes since the last step that have none of their own.

        Args:
            loss: a mean over `count` labels; where it is differentiated, its scale is seen.
            count: of what makes up the mean, over all those passes.

        Raises:
            RuntimeError: the passes have such a loss already.
        """
        if self._watch_loss:
            self._losses.append(loss.detach())
        if self._open and all(seen.outside for seen in self._open):
            raise RuntimeError(
                "these forward passes have a loss already: add up its parts, and say once what is meant"
            )
        first = True
        for seen in self._open:
            located = seen.positions or seen.unlabelled
            if seen.outside or seen.loss_gradient is not None or located is None:
                continue
            total = torch.as_tensor(count, device=located.label_count.device)
            # What the mean is over counts once, however many passes it was made of.
            seen.positions = replace(located, label_count=total if first else torch.zeros_like(total))
            seen.items, seen.parts, first = None, total, False
            loss.register_hook(partial(self._loss_arrived, seen))

    def _watch_logits(self, observation: Observation, logits: Any) -> None:
        labels, layout = observation.labels, self._layout
        if observation.shifted is not None:
            labels, layout = observation.shifted, "aligned"
        if labels is None or not isinstance(logits, Tensor) or not logits.requires_grad:
            return

        values = logits.detach()  # a hook that held its own tensor would never be freed

        def look(gradient: Tensor | None) -> None:
            if gradient is None:  # of a compiled pass that needs none there
                return
            observation.logits_seen = True
            with torch.no_grad():
                observation.add_evidence(evidence_at(layout, values, labels, gradient.detach()))

        on_gradient(logits, look)
