"""LoRA layers of which a part stays: a trained core between two fixed factors, or B beside a fixed A.

B is fixed columns times the core, so that PEFT's own layer computes, merges and is exported as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from grit.adapters.peft_adapters import AdaptedLayer, adapted_layers
from grit.methods.lora import add_lora
from grit.methods.maker import Adaptation, AdapterMaker, backward_over
from grit.stepping.learning_rate import learning_rate_factor

#: Standard deviation of LoRA-XS's first core.
XS_DEVIATION = 1e-5
#: Below this share of the largest, a pivot of W is none: LoLDU divides by it.
SMALLEST_PIVOT = 1e-6
#: The kind of layer whose input channels S2FT trains.
S2FT_KIND = "down_proj"


@dataclass(frozen=True, kw_only=True)
class FixedFactors:
    """What one layer's update is made of: scaling * (columns * core) @ down.

    Attributes:
        down: (r, d_in), fixed.
        columns: (d_out, r), fixed; None where B itself is trained.
        core: what is trained, as it is first: (r, r), or (r,) for one number per direction; None with B.
    """

    down: Tensor
    columns: Tensor | None = None
    core: Tensor | None = None


class CoreTimesColumns(nn.Module):
    """B as a parametrization: fixed columns times what is trained."""

    columns: Tensor

    def __init__(self, columns: Tensor, core: Tensor) -> None:
        super().__init__()
        self.register_buffer("columns", columns)
        self._core = core

    def forward(self, core: Tensor) -> Tensor:
        """B (d_out, r) of the core."""
        return self.columns @ core if core.ndim == 2 else self.columns * core

    def right_inverse(self, _weight: Tensor) -> Tensor:
        """What is trained, in place of the B that PEFT has drawn."""
        return self._core


#: The factors of every layer that is adapted, by path.
MakeFactors = Callable[[PreTrainedModel, Adaptation], Mapping[str, FixedFactors]]


class WithFixedFactors(AdapterMaker):
    """Adapters of one way to choose the fixed factors.

    Args:
        factors: chooses them.
        scaling: of the update; None for alpha over the rank.
    """

    def __init__(self, factors: MakeFactors, *, scaling: float | None = 1.0) -> None:
        self.factors, self.scaling = factors, scaling

    def make(self, backbone: PreTrainedModel, wanted: Adaptation) -> Any:
        """PEFT's LoRA layers with these factors.

        Raises:
            RuntimeError: a weight has none.
        """
        factors = self.factors(backbone, wanted)
        ranks = {path: len(fixed.down) for path, fixed in factors.items()}
        scaling = wanted.scaling if self.scaling is None else self.scaling
        dropout, seed = wanted.config.adapter.dropout, wanted.config.seed
        model = add_lora(backbone, ranks=ranks, scaling=scaling, dropout=dropout, seed=seed)
        for layer in adapted_layers(model):
            _fix(layer, factors[layer.path])
        return model

    def extra_state(self, model: Any) -> dict[str, Any]:
        """The fixed factors: another machine may find others, which the trained core is not for."""
        fixed = {}
        for layer in adapted_layers(model):
            made = _made_of(layer)
            fixed[layer.path] = (layer.down.weight.detach(), None if made is None else made.columns)
        return {"fixed_factors": fixed}

    @torch.no_grad()
    def load_extra_state(self, model: Any, state: dict[str, Any]) -> None:
        """Those that the run began with."""
        for layer in adapted_layers(model):
            down, columns = state["fixed_factors"][layer.path]
            layer.down.weight.copy_(down)
            if (made := _made_of(layer)) is not None:
                made.columns.copy_(columns)


def _made_of(layer: AdaptedLayer) -> CoreTimesColumns | None:
    """What makes B; None where B itself is trained."""
    up: Any = layer.up
    return up.parametrizations.weight[0] if parametrize.is_parametrized(up) else None


def _fix(layer: AdaptedLayer, factors: FixedFactors) -> None:
    down, up = layer.down.weight, layer.up.weight
    with torch.no_grad():
        down.copy_(factors.down)
    down.requires_grad_(False)
    if factors.columns is not None and factors.core is not None:
        made = CoreTimesColumns(factors.columns.to(up), factors.core.to(up))
        # Unsafe: the core has another shape than B.
        parametrize.register_parametrization(layer.up, "weight", made, unsafe=True)


def _weight(backbone: nn.Module, path: str) -> Tensor:
    """A layer's weight (d_out, d_in) in float32."""
    return backbone.get_parameter(f"{path}.weight").detach().float()


def singular_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading `rank` of a matrix's left vectors (d_out, k), values (k,) and right vectors (k, d_in).

    Signs so that each left vector's largest entry is positive.
    """
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()
    return left * signs, values, right * signs.T


def lora_xs(backbone: PreTrainedModel, wanted: Adaptation) -> dict[str, FixedFactors]:
    """A r x r core between the leading singular vectors of each weight (Balazy et al., 2024).

    The singular values stand on the input's side, as in the authors' code.
    """
    factors = {}
    for path, rank in wanted.ranks.items():
        left, values, right = singular_factors(_weight(backbone, path), rank)
        core = XS_DEVIATION * torch.randn(len(values), len(values))
        factors[path] = FixedFactors(down=values[:, None] * right, columns=left, core=core.to(left))
    return factors


def lora_sb(backbone: PreTrainedModel, wanted: Adaptation) -> dict[str, FixedFactors]:
    """A r x r core between the singular vectors of full fine-tuning's first step (Ponkshe et al., 2024).

    That step is -eta sign(G), as AdamW takes it, with G the gradient of the first examples and eta the rate
    of the run's first step. The adapter begins with the step's best approximation of rank r:
    untrained, the model is not the backbone.
    """
    optimization = wanted.config.optimization
    eta = optimization.learning_rate * learning_rate_factor(0.0, optimization.warmup_fraction)
    factors = {}
    for path, gradient in weight_gradients(backbone, wanted).items():
        left, values, right = singular_factors(-eta * gradient.sign(), wanted.ranks[path])
        factors[path] = FixedFactors(down=right, columns=left, core=values.diag())
    return factors


def weight_gradients(backbone: PreTrainedModel, wanted: Adaptation) -> dict[str, Tensor]:
    """Gradient (d_out, d_in) of the first examples' loss, summed over their batches, of each adapted weight.

    Raises:
        RuntimeError: one has none.
    """
    weights = {path: backbone.get_parameter(f"{path}.weight") for path in wanted.targets}
    training = backbone.training
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        backward_over(backbone, wanted.examples())
        return {path: _gradient(path, weight) for path, weight in weights.items()}
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
            weight.grad = None
        backbone.train(training)


def _gradient(path: str, weight: nn.Parameter) -> Tensor:
    if weight.grad is None:
        raise RuntimeError(f"LoRA-SB: {path} has no gradient on the first examples")
    return weight.grad.detach().float().clone()


def svfit(backbone: PreTrainedModel, wanted: Adaptation) -> dict[str, FixedFactors]:
    """Each weight's own singular values are trained, all of them; its directions stay (Sun et al., 2024).

    The core is what is added to the values. How many are trained the paper leaves to the share of energy that
    they hold.
    """
    factors = {}
    for path in wanted.targets:
        weight = _weight(backbone, path)
        left, values, right = singular_factors(weight, min(weight.shape))
        factors[path] = FixedFactors(down=right, columns=left, core=torch.zeros_like(values))
    return factors


def loldu(backbone: PreTrainedModel, wanted: Adaptation) -> dict[str, FixedFactors]:
    """The diagonal D of each weight's triangular decomposition P L D U is trained (Shi et al., 2024).

    All of it. The core is what is added to D.

    Raises:
        RuntimeError: a weight has no such decomposition: a pivot vanishes.
    """
    factors = {}
    for path in wanted.targets:
        permutation, lower, upper = torch.linalg.lu(_weight(backbone, path))
        pivots = upper.diagonal()
        if pivots.abs().min() <= SMALLEST_PIVOT * pivots.abs().max():
            raise RuntimeError(f"LoLDU: a pivot of {path} vanishes: it has no unit triangular factors")
        unit = upper / pivots[:, None]
        factors[path] = FixedFactors(down=unit, columns=permutation @ lower, core=torch.zeros_like(pivots))
    return factors


def s2ft(backbone: PreTrainedModel, wanted: Adaptation) -> dict[str, FixedFactors]:
    """Whole input channels of the MLP's last layers are trained, drawn over all of them (Yang et al., 2024).

    As many as give these layers the parameters that LoRA's factors would have there. A is one-hot, B trained.
    """
    layers = [path for path in wanted.targets if path.endswith(S2FT_KIND)] or wanted.targets
    shapes = {path: _weight(backbone, path).shape for path in layers}
    budget = sum(wanted.ranks[path] * sum(shape) for path, shape in shapes.items())
    channels = [(path, channel) for path, shape in shapes.items() for channel in range(shape[1])]
    mean_cost = sum(shapes[path][0] for path, _ in channels) / len(channels)
    drawn = torch.randperm(len(channels))[: max(1, min(len(channels), round(budget / mean_cost)))]
    by_layer: dict[str, list[int]] = {}
    for index in sorted(drawn.tolist()):
        path, channel = channels[index]
        by_layer.setdefault(path, []).append(channel)
    return {
        path: FixedFactors(down=torch.eye(shapes[path][1])[columns]) for path, columns in by_layer.items()
    }
