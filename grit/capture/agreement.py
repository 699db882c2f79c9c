"""An independent look at what was captured: autograd's own gradients must agree with it.

The gradient of A is the sum over calls and tokens of u' x^T, that of B of g z^T. So grad_A A^T and
B^T grad_B are both S = sum of u' z^T, which the captured z and u' give without either. A lost micro-batch, a
layer that was called twice, a gradient that arrived at another pass: each shows as a difference.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer
from grit.capture.label_positions import Stream
from grit.capture.observation import TINY, LayerCall, Observation, is_coarse
from grit.runtime.workers import placed, reduce_mean

#: Informative steps that are looked at.
STEPS = 2
#: Allowed difference, relative to the largest of both sides; and by how much of |grad| |weight| rounding may
#: be off, in units of the number format's spacing.
_RELATIVE = {torch.float64: 1e-6, torch.float32: 1e-3}
_EXCHANGED = 1e-2
_COARSE, _COARSE_SPACING = 5e-2, 2.0**-9
_ROUNDINGS = 16.0
#: A common factor below this is somebody's clipping.
_CLIPPED = 0.99
#: Share of a layer's gradient energy that may lie where the inputs say is padding.
_ON_PADDING = 1e-6


class Agreement:
    """Looks at the first informative steps of one attached model.

    Attributes:
        remaining: steps still to be looked at.
    """

    def __init__(
        self, layers: Sequence[AdaptedLayer], streams: Sequence[Stream], *, steps: int = STEPS
    ) -> None:
        self.remaining = steps
        self._layers, self._streams = layers, streams
        self._sums: dict[int, Tensor] = {}
        self._coarse = False
        self._padding_looked_at = steps == 0

    def observe(self, seen: Observation) -> None:
        """Adds one pass to the step's sums.

        Raises:
            RuntimeError: a layer's gradient lies on what the inputs call padding.
        """
        if not self._padding_looked_at:
            self._look_at_padding(seen)
        if self.remaining <= 0:
            return
        for index in range(len(self._layers)):
            for call in seen.calls[index]:
                z, arrived = _flat(call)
                product = arrived.mT @ z
                self._sums[index] = self._sums[index] + product if index in self._sums else product
                self._coarse = self._coarse or is_coarse(call.activation)

    def _look_at_padding(self, seen: Observation) -> None:
        """At the first passes that have padding and gradients, whenever they come."""
        assert seen.positions is not None
        padded = {}
        for stream, tokens in seen.positions.tokens.items():
            if not bool(seen.positions.padding_scored[stream]) and not bool(tokens.all()):
                padded[stream] = tokens == 0
        for index, layer in enumerate(self._layers):
            where = padded.get(self._streams[index])
            for call in seen.calls[index] if where is not None else ():
                assert where is not None
                arrived = _flat(call)[1]
                if bool(arrived.any()):
                    self._padding_looked_at = True
                    _check_padding(layer.name, arrived, where)

    def discard(self) -> None:
        """Forgets the passes of a step that was never taken."""
        self._sums = {}

    def check(self, gates: Sequence[Tensor | None]) -> None:
        """Holds the step's sums against the gradients that the optimizer is about to use.

        One positive factor may be common to all layers: a scaler's, a mean over workers, a loop's own
        clipping.

        Args:
            gates: per layer, the matrix (r, r) that acts between the factors, or None.

        Raises:
            RuntimeError: a layer's do not agree.
        """
        sums, self._sums = self._sums, {}
        pairs = self._pairs(sums, gates)
        if not pairs:
            return
        if not all(bool(torch.isfinite(pair[2]).all()) for pair in pairs):
            return  # the guard drops such a step
        across = sum(float((pair[1] * pair[2]).sum()) for pair in pairs)
        own = sum(float(pair[1].square().sum()) for pair in pairs)
        if not (math.isfinite(across) and math.isfinite(own)):
            return  # a run that diverges: what overflows on the way to a finite gradient shows nothing
        self.remaining -= 1
        factor = across / own if own > 0 else 0.0
        for layer, captured, gradient, allowed in pairs:
            off = float(torch.linalg.norm(gradient - factor * captured))
            if factor <= 0 or off > allowed:
                raise RuntimeError(
                    f"layer {layer.name}: what was captured does not explain its gradient (off by "
                    f"{off / max(float(torch.linalg.norm(gradient)), TINY):.1%}): gradients were not "
                    "cleared before the step, changed after the backward pass, or came from passes that "
                    "were not seen. Curvature of other passes would precondition it; attach with "
                    "verify=False to go on without this check"
                )
        _warn_of_clipping(factor)

    def _pairs(
        self, sums: dict[int, Tensor], gates: Sequence[Tensor | None]
    ) -> list[tuple[AdaptedLayer, Tensor, Tensor, float]]:
        """Per layer and factor with a gradient: S as captured, S from the gradient, the allowed difference.

        Nothing where B is still zero: both are, and say nothing.
        """
        pairs = []
        for index, product in sums.items():
            layer, gate = self._layers[index], gates[index]
            reduce_mean(product)
            for weight, from_left in ((layer.down.weight, False), (layer.up.weight, True)):
                if weight.grad is None:
                    continue
                gradient, own = weight.grad.to(product.dtype), weight.detach().to(product.dtype)
                seen = own.mT @ gradient if from_left else gradient @ own.mT
                captured = product if gate is None else _through(gate.to(product), product, from_left)
                size = float(torch.linalg.norm(gradient) * torch.linalg.norm(own))
                largest = max(float(torch.linalg.norm(seen)), float(torch.linalg.norm(captured)))
                if largest == 0:
                    continue
                coarse = self._coarse or is_coarse(weight)
                # What workers exchange may be rounded on the way (DDP's communication hooks).
                exact = _RELATIVE[captured.dtype] if placed()[1] == 1 else _EXCHANGED
                relative = _COARSE if coarse else exact
                spacing = _COARSE_SPACING if coarse else torch.finfo(captured.dtype).eps
                pairs.append((layer, captured, seen, relative * largest + _ROUNDINGS * spacing * size))
        return pairs


def _warn_of_clipping(factor: float) -> None:
    exponent = math.log2(factor)
    by_scaler = abs(exponent - round(exponent)) < 1e-3  # its factors are powers of two
    if factor < _CLIPPED and not by_scaler:
        warnings.warn(
            f"gradients were multiplied by {factor:.3g} before GRIT saw them (a loop's own clipping?): clip "
            "by max_grad_norm of GritConfig instead, after preconditioning",
            stacklevel=2,
        )


def _flat(call: LayerCall) -> tuple[Tensor, Tensor]:
    """Z and what arrived at it, each (N, r), in float32 at least."""
    assert call.gradient is not None
    wide = torch.promote_types(call.activation.dtype, torch.float32)
    return call.activation.flatten(0, -2).to(wide), call.gradient.flatten(0, -2).to(wide)


def _through(gate: Tensor, product: Tensor, at_up: bool) -> Tensor:
    """S where B G A x is computed: z reaches B through G, and u' reaches A through its transpose."""
    return product @ gate.mT if at_up else gate.mT @ product


def _check_padding(name: str, arrived: Tensor, padded: Tensor) -> None:
    energies = arrived.square().sum(-1)
    share = float(energies[padded].sum() / energies.sum().clamp(min=TINY))
    if share > _ON_PADDING:
        raise RuntimeError(
            f"layer {name}: {share:.1%} of its gradient lies where the attention mask says padding; it reads "
            "its positions in another order than the model's inputs, or the model does not mask its padding "
            "(attach with verify=False to go on, or give batches without padding)"
        )
