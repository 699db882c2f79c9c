"""A trained adapter truncated to fewer directions after training, in every way there is.

What training at a high rank first is worth.

`svd` is the best approximation of the update B A itself; the others choose directions by curvature, as GRIT's
reprojection does: `one_sided` (A's basis for both), `two_sided` (each its own), `balanced`
(docs/reference/method.md, section 4). All give B G A with a G of rank k.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grit.adapters.peft_adapters import converted, save_lora
from grit.geometry.export import truncated
from grit.geometry.handle import GritHandle
from grit.rank_space.projectors import balanced_basis, leading, projector, spectrum
from grit.rank_space.rank import coverage_rank

#: Factors A (k, d_in) and B (d_out, k) by module.
Factors = Mapping[str, tuple[Tensor, Tensor]]
WAYS = ("svd", "one_sided", "two_sided", "balanced")


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


def truncated_factors(handle: GritHandle, way: str, ranks: Mapping[str, int]) -> Factors:
    """The model's adapter truncated to `ranks`, by module."""
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
def replaced(handle: GritHandle, factors: Factors) -> Iterator[None]:
    """The model with these factors in place of its adapter's within the block, and as it was afterwards."""
    before = [
        (layer.down.weight.detach().clone(), layer.up.weight.detach().clone()) for layer in handle.layers
    ]
    try:
        with torch.no_grad():
            for layer in handle.layers:
                down, up = factors[layer.name]
                layer.down.weight.zero_()[: down.shape[0]] = down
                layer.up.weight.zero_()[:, : up.shape[1]] = up
        yield
    finally:
        with torch.no_grad():
            for layer, (down, up) in zip(handle.layers, before, strict=True):
                layer.down.weight.copy_(down)
                layer.up.weight.copy_(up)


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


def truncation_rows(
    model: Any, handle: GritHandle, ranks: tuple[int, ...], score: Callable[[], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Every way at every rank.

    And PEFT's own conversion at the share tau of each update's energy (at a fixed rank it is `svd`).

    The rows of `score` on the truncated model, each with way, k, exported parameters, and the bytes of the
    adapter's weights file.

    Raises:
        RuntimeError: a module has seen no statistics, so that nothing but `svd` is defined.
    """
    check_seen(handle)
    scalings, tau = (
        {layer.name: layer.scaling for layer in handle.layers},
        handle.config.rank_adaptation_threshold,
    )
    tried = [
        (way, k, truncated_factors(handle, way, module_ranks))
        for k, module_ranks in rank_choices(handle, ranks).items()
        for way in WAYS
    ]
    tried.append(("peft", "tau", converted(model, tau, scalings)))
    rows: list[dict[str, Any]] = []
    for way, k, factors in tried:
        with tempfile.TemporaryDirectory() as folder:
            size = save_lora(model, scalings, factors, Path(folder), "default")
        parameters = sum(down.numel() + up.numel() for down, up in factors.values())
        with replaced(handle, factors):
            rows += [{"way": way, "k": k, "parameters": parameters, "bytes": size, **row} for row in score()]
    return rows
