"""General text's pull on an adapter: its curvature in rank space, and the penalty's gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer
from grit.capture.token_samples import TokenSamples
from grit.rank_space.source_curvature import SourceFactors, source_penalty


class _Batch(NamedTuple):
    """Layers of one shape: their rows among M, their inputs (layers, n, d_in) and gradients (.., d_out)."""

    rows: list[int]
    inputs: Tensor
    gradients: Tensor


class SourcePull:
    """M layers of rank r and what was sampled under them.

    Samples do not depend on the adapter, so that the factors are those of the adapter as it is, at any time.
    """

    def __init__(
        self, layers: Sequence[AdaptedLayer], samples: Sequence[TokenSamples], dtype: torch.dtype
    ) -> None:
        self._layers, self._dtype = tuple(layers), dtype
        weight = layers[0].down.weight
        self._scaling = torch.tensor([layer.scaling for layer in layers], dtype=dtype, device=weight.device)
        by_shape: dict[tuple[int, int], list[int]] = {}
        for row, entry in enumerate(samples):
            by_shape.setdefault((entry.inputs.shape[-1], entry.gradients.shape[-1]), []).append(row)
        self._batches = []
        for rows in by_shape.values():
            inputs = torch.stack([samples[row].inputs for row in rows])
            gradients = torch.stack([samples[row].gradients for row in rows])
            self._batches.append(_Batch(rows, inputs, gradients))

    def factors(self) -> SourceFactors:
        """With A and B as they are: what a gate between them is does not enter."""
        rank = self._layers[0].rank
        factors = [self._scaling.new_zeros(len(self._layers), rank, rank) for _ in range(2)]
        for batch in self._batches:
            for factor, seen in zip(factors, self._rank_space(batch, None), strict=True):
                factor[batch.rows] = seen.mT @ seen / seen.shape[1]
        return SourceFactors(*factors)

    def penalties(self) -> Tensor:
        """Predicted forgetting per module (M,), in nats per token of general text."""
        return source_penalty(self.factors(), self._scaling)

    def add_gradients(self, weight: float, between: Tensor | None) -> None:
        """Adds to the gradients of A and B those of `weight` times the sum of all modules' penalties.

        Args:
            weight: nats of training loss per nat of predicted forgetting.
            between: G (M, r, r), what is applied between the factors, B G A; None for nothing.
        """
        for batch in self._batches:
            gates = None if between is None else between[batch.rows].to(self._dtype)
            z, u = self._rank_space(batch, gates)
            strength = weight * self._scaling[batch.rows].square()[:, None, None] / z.shape[1] ** 2
            # With Z = X (G A)^T and U = Gr B: tr(U^T U Z^T Z) / (2 n^2), by A and by B.
            for_down = strength * (u.mT @ u) @ (z.mT @ batch.inputs.to(self._dtype))
            if gates is not None:
                for_down = gates.mT @ for_down
            for_up = (batch.gradients.to(self._dtype).mT @ u) @ (strength * (z.mT @ z))
            for number, row in enumerate(batch.rows):
                _add(self._layers[row].down.weight, for_down[number])
                _add(self._layers[row].up.weight, for_up[number])

    def _rank_space(self, batch: _Batch, gates: Tensor | None) -> tuple[Tensor, Tensor]:
        """Samples of layers of one shape as z and u, each (layers, n, r)."""
        down = torch.stack([self._layers[row].down.weight.detach() for row in batch.rows]).to(self._dtype)
        up = torch.stack([self._layers[row].up.weight.detach() for row in batch.rows]).to(self._dtype)
        if gates is not None:
            down = gates @ down
        return batch.inputs.to(self._dtype) @ down.mT, batch.gradients.to(self._dtype) @ up


def _add(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad.add_(gradient.to(parameter.grad.dtype))
