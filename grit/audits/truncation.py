"""A trained adapter truncated to fewer directions after training, in every way there is.

What training at a high rank first is worth.

`svd` is the best approximation of the update B A itself, and what LoRA-Squeeze keeps after training (Vulic
et al., 2026); `prefix` the first k directions as they were trained, which nested adapters are made for.
The others choose directions by curvature, as GRIT's reprojection does, and need its statistics: `one_sided`
(A's basis for both), `two_sided` (each its own), `balanced` (docs/reference/method.md, section 4); they give
B G A with a G of rank k.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grit.adapters.peft_adapters import AdaptedLayer, adapted_layers, converted, save_lora
from grit.geometry.export import truncated
from grit.geometry.handle import GritHandle
from grit.rank_space.projectors import balanced_basis, leading, projector, spectrum
from grit.rank_space.rank import coverage_rank

#: Factors A (k, d_in) and B (d_out, k) by module.
Factors = Mapping[str, tuple[Tensor, Tensor]]
#: Ways that any plain LoRA adapter has, and those by curvature.
PLAIN_WAYS, CURVED_WAYS = ("svd", "prefix"), ("one_sided", "two_sided", "balanced")
#: What B A of the first k directions of r is multiplied by, given k and r.
PrefixScale = Callable[[int, int], float]


def middle(way: str, sigma_a: Tensor, sigma_g: Tensor, rank: int) -> Tensor | None:
    """G (r, r) of rank k, what `way` puts between B and A, from both factors (r, r).

    None for the identity (`svd` truncates the product).
    """
    if way == "svd":
        return None
    kept = leading(torch.tensor([rank], device=sigma_a.device), sigma_a.shape[-1])
    first, second = sigma_a.double()[None], sigma_g.double()[None]
    if way == "balanced":
        return balanced_basis(first, second).projector(kept)[0]
    side_a = projector(spectrum(first).vectors, kept)[0]
    return side_a if way == "one_sided" else projector(spectrum(second).vectors, kept)[0] @ side_a


def plain_factors(layers: Iterable[AdaptedLayer], way: str, rank: int, prefix_scale: PrefixScale) -> Factors:
    """An adapter truncated to `rank` without statistics, by module."""
    truncations = {}
    for layer in layers:
        down, up = layer.down.weight.detach(), layer.up.weight.detach()
        if way == "prefix":
            scale = prefix_scale(min(rank, layer.rank), layer.rank)
            truncations[layer.name] = (down[:rank].clone(), scale * up[:, :rank])
        else:
            shorter, thinner, _ = truncated(down, up, None, rank)
            truncations[layer.name] = (shorter, thinner)
    return truncations


def truncated_factors(handle: GritHandle, way: str, ranks: Mapping[str, int]) -> Factors:
    """The model's adapter truncated to `ranks`, by module, in any way but `prefix`."""
    sigmas, gates, truncations = handle.factors(), handle.gates(), {}
    for layer in handle.layers:
        sigma_a, sigma_g, *_ = sigmas[layer.name]
        between, gate = middle(way, sigma_a, sigma_g, ranks[layer.name]), gates.get(layer.name)
        if between is None or gate is None:
            between = gate if between is None else between
        else:
            between = between @ gate.to(between)
        down, up, _ = truncated(layer.down.weight, layer.up.weight, between, ranks[layer.name])
        truncations[layer.name] = (down, up)
    return truncations


@contextmanager
def replaced(model: Any, factors: Factors) -> Iterator[None]:
    """The model with these factors in place of its adapter's within the block, and as it was afterwards."""
    layers = {name: model.get_submodule(name) for name in factors}
    before = {name: (layer.lora_A["default"], layer.lora_B["default"]) for name, layer in layers.items()}
    try:
        for name, (down, up) in factors.items():
            layers[name].lora_A["default"], layers[name].lora_B["default"] = _linear(down), _linear(up)
        yield
    finally:
        for name, (own_down, own_up) in before.items():
            layers[name].lora_A["default"], layers[name].lora_B["default"] = own_down, own_up


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return layer


def check_seen(handle: GritHandle) -> None:
    """Raises RuntimeError where a module has seen no statistics to choose directions by."""
    unseen = [name for name, (_, _, seen_a, seen_g) in handle.factors().items() if min(seen_a, seen_g) == 0]
    if unseen:
        raise RuntimeError(
            f"{unseen[0]} has seen no statistics: the run is too short to be truncated by curvature"
        )


def rank_choices(handle: GritHandle, ranks: tuple[int, ...]) -> dict[str, dict[str, int]]:
    """Ranks by module for each wanted k.

    And under `tau` what GRIT's rule finds in this adapter's own curvature.
    """
    modules = [layer.name for layer in handle.layers]
    ranks_by_label = {str(rank): dict.fromkeys(modules, rank) for rank in ranks}
    config = handle.config
    ranks_by_label["tau"] = {
        name: int(
            coverage_rank(
                spectrum(sigma_a[None].double()).values,
                config.rank_adaptation_threshold,
                config.min_lora_rank,
            )
        )
        for name, (sigma_a, *_) in handle.factors().items()
    }
    return ranks_by_label


def _by_curvature(model: Any, handle: GritHandle, ranks: tuple[int, ...]) -> list[tuple[str, str, Factors]]:
    """Way, k and factors, for every way by curvature; and the svd, and PEFT's own conversion, by tau.

    That keeps the share tau of each update's energy; at a fixed rank it is `svd`.

    Raises:
        RuntimeError: a module has seen no statistics, so that nothing but `svd` is defined.
    """
    check_seen(handle)
    scalings = {layer.name: layer.scaling for layer in handle.layers}
    choices = rank_choices(handle, ranks)
    tried = [("svd", "tau", truncated_factors(handle, "svd", choices["tau"]))]
    for k, module_ranks in choices.items():
        tried += [(way, k, truncated_factors(handle, way, module_ranks)) for way in CURVED_WAYS]
    tried.append(("peft", "tau", converted(model, handle.config.rank_adaptation_threshold, scalings)))
    return tried


def truncation_rows(
    model: Any,
    handle: GritHandle | None,
    ranks: tuple[int, ...],
    score: Callable[[], list[dict[str, Any]]],
    *,
    prefix_scale: PrefixScale,
) -> list[dict[str, Any]]:
    """Every way at every rank: those without statistics, and with a handle those by curvature.

    The rows of `score` on the truncated model, each with way, k, exported parameters, and the bytes of the
    adapter's weights file.

    Args:
        model: with a plain LoRA adapter, in evaluation mode.
        handle: GRIT's; None for a method without.
        ranks: at which it is scored.
        score: measures the model as it is.
        prefix_scale: of the method.

    Raises:
        RuntimeError: a module has seen no statistics.
    """
    layers = adapted_layers(model)
    scalings = {layer.name: layer.scaling for layer in layers}
    tried: list[tuple[str, str, Factors]] = []
    for rank in ranks:
        tried += [(way, str(rank), plain_factors(layers, way, rank, prefix_scale)) for way in PLAIN_WAYS]
    if handle is not None:
        tried += _by_curvature(model, handle, ranks)
    rows: list[dict[str, Any]] = []
    for way, k, factors in tried:
        with tempfile.TemporaryDirectory() as folder:
            size = save_lora(model, scalings, factors, Path(folder), "default")
        parameters = sum(down.numel() + up.numel() for down, up in factors.values())
        with replaced(model, factors):
            rows += [{"way": way, "k": k, "parameters": parameters, "bytes": size, **row} for row in score()]
    return rows
