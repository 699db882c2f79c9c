"""LoCA (Du et al., 2025): an update with a sparse cosine spectrum, of which the places are learned as well.

W' = W + C^T S D, with C and D the orthonormal cosine transforms of the two sides, and S zero but for a few
coefficients. A coefficient's place is a whole number, and its gradient is a central difference over the
neighbouring places (the paper's section 4). Coefficients and places are trained in turn at first, then
coefficients alone.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from grit.adapters.peft_adapters import AdaptedLayer, adapted_layers
from grit.methods.lora import add_lora
from grit.methods.maker import Adaptation, AdapterMaker

#: Steps that train the coefficients, then the places, in turn: the paper's.
COEFFICIENT_STEPS, PLACE_STEPS = 10, 20
#: Share of the run in which places move; a turn of both is no longer than that. How far they move is ours: at
#: most a place a step at the schedule's full rate.
PLACES_UNTIL, PLACE_RATE = 0.1, 1.0


def cosine_transform(size: int) -> Tensor:
    """D (n, n), float64 and orthonormal: D x is the discrete cosine transform (type 2) of x (n,)."""
    frequency, place = torch.meshgrid(*2 * [torch.arange(size, dtype=torch.float64)], indexing="ij")
    transform = math.sqrt(2 / size) * torch.cos(torch.pi * frequency * (2 * place + 1) / (2 * size))
    transform[0] /= math.sqrt(2)
    return transform


class SparseSpectrum(torch.autograd.Function):
    """S of coefficients (n,) and places (2, n): rows and columns of S, which are rounded."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, places: Tensor, shape: tuple[int, int]) -> Tensor:
        """S (shape); coefficients of one place are added."""
        rows, columns = _whole(places, shape)
        ctx.save_for_backward(coefficients, rows, columns)
        spectrum = coefficients.new_zeros(shape)
        return spectrum.index_put((rows, columns), coefficients, accumulate=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """The gradient at each place, and its change along rows and columns; at an edge, half of it."""
        (gradient,) = gradients
        coefficients, rows, columns = ctx.saved_tensors
        last_row, last_column = (size - 1 for size in gradient.shape)
        up, down = (rows + 1).clamp(max=last_row), (rows - 1).clamp(min=0)
        right, left = (columns + 1).clamp(max=last_column), (columns - 1).clamp(min=0)
        along_rows = gradient[up, columns] - gradient[down, columns]
        along_columns = gradient[rows, right] - gradient[rows, left]
        for_places = coefficients * torch.stack([along_rows, along_columns]) / 2
        return gradient[rows, columns], for_places, None


def _whole(places: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns as indices within `shape`."""
    rows, columns = places.round().long()
    return rows.clamp(0, shape[0] - 1), columns.clamp(0, shape[1] - 1)


class CosineColumns(nn.Module):
    """B (d_out, d_in) as a parametrization: C^T S. With A = D, a LoRA layer's update is C^T S D."""

    transform: Tensor

    def __init__(self, coefficients: Tensor, places: Tensor, transform: Tensor, columns: int) -> None:
        super().__init__()
        self.register_buffer("transform", transform, persistent=False)
        self._start, self._shape = (coefficients, places), (len(transform), columns)

    def forward(self, coefficients: Tensor, places: Tensor) -> Tensor:
        """B of what is trained."""
        spectrum: Tensor = SparseSpectrum.apply(coefficients, places, self._shape)  # type: ignore[no-untyped-call]
        return self.transform.T @ spectrum

    def right_inverse(self, _weight: Tensor) -> tuple[Tensor, Tensor]:
        """What is trained, in place of the B that PEFT has drawn."""
        return self._start


class Loca(AdapterMaker):
    """LoRA layers of full rank whose factors are fixed but for the spectrum between them."""

    def make(self, backbone: PreTrainedModel, wanted: Adaptation) -> Any:
        """As many trained numbers in each layer as LoRA has there, places counted; coefficients of zero.

        Places are drawn without repetition.
        """
        shapes = {path: backbone.get_parameter(f"{path}.weight").shape for path in wanted.targets}
        sizes = {size for shape in shapes.values() for size in shape}
        transforms = {size: cosine_transform(size).float().to(backbone.device) for size in sizes}
        ranks = {path: shape[1] for path, shape in shapes.items()}
        adapter, seed = wanted.config.adapter, wanted.config.seed
        model = add_lora(backbone, ranks=ranks, scaling=1.0, dropout=adapter.dropout, seed=seed)
        for layer in adapted_layers(model):
            rows, columns = shapes[layer.path]
            count = max(1, min(rows * columns, wanted.ranks[layer.path] * (rows + columns) // 3))
            drawn = torch.randperm(rows * columns)[:count]
            _fix(layer, torch.stack([drawn // columns, drawn % columns]), transforms)
        return model


def _fix(layer: AdaptedLayer, places: Tensor, transforms: dict[int, Tensor]) -> None:
    down, up = layer.down.weight, layer.up.weight
    with torch.no_grad():
        down.copy_(transforms[len(down)])
    down.requires_grad_(False)
    start = up.new_zeros(places.shape[1]), places.to(up)
    made = CosineColumns(*start, transforms[len(up)], len(down))
    # Unsafe: what is trained has another shape than B.
    parametrize.register_parametrization(layer.up, "weight", made, unsafe=True)


class TakingTurns(torch.optim.AdamW):
    """AdamW on coefficients and places: each waits, with its moments, while it is the other's turn.

    Args:
        layers: adapted ones, made by `Loca`.
        steps: of the run.
        lr: of the coefficients.
        weight_decay: of the coefficients.
    """

    def __init__(
        self, layers: tuple[AdaptedLayer, ...], *, steps: int, lr: float, weight_decay: float
    ) -> None:
        trained = [cast(Any, layer.up).parametrizations.weight for layer in layers]
        coefficients = {"params": [made.original0 for made in trained], "lr": lr}
        places = {"params": [made.original1 for made in trained], "lr": PLACE_RATE}
        super().__init__([{**coefficients, "weight_decay": weight_decay}, {**places, "weight_decay": 0.0}])
        whole = COEFFICIENT_STEPS + PLACE_STEPS
        self._places_until = max(2, math.ceil(PLACES_UNTIL * steps))
        self._turn = min(whole, self._places_until)
        self._coefficient_steps = max(1, self._turn * COEFFICIENT_STEPS // whole)
        self.param_groups[0]["taken"] = 0  # in the state that a checkpoint keeps

    def step(self, closure: Any = None) -> Any:
        """Of those whose turn it is."""
        taken = self.param_groups[0]["taken"]
        within = taken % self._turn
        waiting = int(taken >= self._places_until or within < self._coefficient_steps)
        for parameter in self.param_groups[waiting]["params"]:
            parameter.grad = None
        result = super().step(closure)
        self.param_groups[0]["taken"] = taken + 1
        return result
