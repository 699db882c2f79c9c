"""How much an adapter moves what general text is sensitive to, module by module.

Curvature exposure is the second-order part of forgetting: E[(g^T dW x)^2] over tokens of the *retention*
text, with x and g those of the untuned model, so that dW meets the curvature of what was learned before (the
paper's tr(P H_pt P)). To second order in dW, with the Fisher for the Hessian,

    forgetting ~ sum over modules of slope + exposure / 2,      slope = E[g^T dW x],

cross terms between modules left out. Nothing is factorized: exposure is the same for (M A, B M^-1), and
exists for every method with a dW beside an unchanged weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer, adapted_layers
from grit.capture.watched_passes import watched_passes

#: Documents that are looked at: the same first ones for every run.
EXPOSURE_DOCUMENTS = 16


class Exposure(NamedTuple):
    """Of one module: E[(g^T dW x)^2] in nats^2, and E[g^T dW x] in nats per token."""

    exposure: float
    slope: float


class _Sums:
    """Sums over tokens of g^T dW x and of its square, per module; both from one backward pass."""

    def __init__(self, layers: Sequence[AdaptedLayer], gates: Mapping[str, Tensor]) -> None:
        self.squares = dict.fromkeys((layer.name for layer in layers), 0.0)
        self.slopes = dict(self.squares)
        self.mask: Tensor | None = None
        self._gates = gates

    def hook(self, layer: AdaptedLayer) -> Callable[..., None]:
        """A forward hook on the layer under the adapter."""
        down, up = layer.down.weight.detach().float(), layer.up.weight.detach().float()
        if layer.name in self._gates:
            down = self._gates[layer.name].float() @ down

        def forward(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            moved = layer.scaling * (inputs[0].detach().float() @ down.mT)
            output.register_hook(lambda gradient: self._add(layer.name, moved, gradient.float() @ up))

        return forward

    def _add(self, name: str, moved: Tensor, gradient: Tensor) -> None:
        assert self.mask is not None
        tokens = (moved * gradient).sum(-1)[self.mask].double()
        self.squares[name] += float(tokens.square().sum())
        self.slopes[name] += float(tokens.sum())


def exposures(
    model: Any, batches: Sequence[Mapping[str, Tensor]], gates: Mapping[str, Tensor] | None = None
) -> dict[str, Exposure]:
    """Of every adapted module, in the model's order.

    Args:
        model: a PEFT model with a plain LoRA adapter; left as it was.
        batches: general text, with `attention_mask` and `labels`; tokens are weighted alike.
        gates: per module (r, r), what is applied between the factors.
    """
    layers = adapted_layers(model)
    sums = _Sums(layers, gates or {})
    labels = watched_passes(model, layers, batches, sums)
    exposed = {}
    for name in sums.squares:
        exposed[name] = Exposure(sums.squares[name] / labels, sums.slopes[name] / labels)
    return exposed
