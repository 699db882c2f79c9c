"""From a trained adapter to a file: an ordinary PEFT LoRA adapter, truncated to the ranks that GRIT found."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from grit.adapters.peft_adapters import adapted_layers, check_exportable, save_lora
from grit.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from grit.geometry.handle import GritHandle


class ExportReport(NamedTuple):
    """What was written.

    Parameters before and after, the bytes of the weights file, and the rank of each module by name.
    """

    parameters: int
    effective_parameters: int
    bytes: int
    ranks: dict[str, int]


def truncated(down: Tensor, up: Tensor, gate: Tensor | None, rank: int) -> tuple[Tensor, Tensor, float]:
    """(A', B', lost) of rank k with B' A' the best approximation of B G A.

    And the share of |B G A|^2 that it loses.

    With everything projected onto k directions this is exact, whichever bases the two sides used: it is B U_g
    (U_g^T U_a) and U_a^T A up
    to an invertible k x k matrix, split here so that both factors are equally large. Computed in float64 in
    the rank space: from A^T = Q_a R_a and B = Q_b R_b, only R_b G R_a^T (r, r) is decomposed.

    Args:
        down: A (r, d_in).
        up: B (d_out, r).
        gate: G (r, r), what is applied between the factors; None for the identity.
        rank: k.
    """
    q_a, r_a = torch.linalg.qr(down.detach().double().mT)
    q_b, r_b = torch.linalg.qr(up.detach().double())
    core = r_b @ r_a.mT if gate is None else r_b @ gate.to(r_b) @ r_a.mT
    left, values, right = torch.linalg.svd(core, full_matrices=False)
    roots = values[:rank].sqrt()
    energy = values.square().sum()
    lost = float(values[rank:].square().sum() / energy) if energy > 0 else 0.0
    return (
        ((roots[:, None] * right[:rank]) @ q_a.mT).to(down.dtype),
        (q_b @ (left[:, :rank] * roots)).to(up.dtype),
        lost,
    )


def rounding(dtype: torch.dtype) -> float:
    """Share of an update's energy that truncation may lose.

    The rounding of stored weights, and nothing more.
    """
    return max(1e-8, torch.finfo(dtype).eps ** 2)


def export_adapter(
    model: nn.Module, handle: GritHandle, path: Path | str, *, adapter: str | None = None
) -> ExportReport:
    """Writes the adapter of `model` that `handle` trains, truncated to the ranks that `handle` found.

    As a plain PEFT adapter with `rank_pattern`.

    Training must be over: the adapter is first projected to its ranks in place (`handle.finish()`), so that
    the file and the model in
    memory compute the same. It loads with `PeftModel.from_pretrained`. Where no reprojection has acted yet, a
    warning says why.

    Raises:
        ConfigError: `adapter` is given, and another than the handle's.
        RuntimeError: a module's update does not have the rank that was found (`reprojection_mix` below 1
            never truncates: then all directions are written).
    """
    if adapter not in (None, handle.adapter):
        raise ConfigError("adapter", adapter, f"this handle trains {handle.adapter!r}")
    report = export_quietly(model, handle, path)
    summary = handle.summary()
    if handle.config.T is not None and not summary.reprojections:
        reasons = "; ".join(summary.notes) or "no factor has passed its gate"
        warnings.warn(f"nothing is truncated, the adapter is written whole: {reasons}", stacklevel=2)
    return report


def export_quietly(model: nn.Module, handle: GritHandle, path: Path | str) -> ExportReport:
    """`export_adapter` without its warning: for runs whose records say what has acted."""
    check_exportable(model, handle.adapter)
    handle.finish()
    whole = handle.config.reprojection_mix != 1.0
    gates, ranks = handle.gates(), {} if whole else handle.ranks()
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for layer in handle.layers:
        rank = ranks.get(layer.name, layer.rank)
        down, up, lost = truncated(layer.down.weight, layer.up.weight, gates.get(layer.name), rank)
        if lost > rounding(layer.down.weight.dtype):
            raise RuntimeError(
                f"{layer.name}: {lost:.1e} of its energy lies outside the {rank} directions found; was it "
                "trained after the "
                "last projection without this handle?"
            )
        factors[layer.name] = (down, up)
    size = save_lora(
        model, {layer.name: layer.scaling for layer in handle.layers}, factors, Path(path), handle.adapter
    )
    return ExportReport(
        parameters=sum(layer.rank * layer.width for layer in handle.layers),
        effective_parameters=sum(factors[layer.name][0].shape[0] * layer.width for layer in handle.layers),
        bytes=size,
        ranks={name: down.shape[0] for name, (down, _) in factors.items()},
    )


def exported_bytes(model: nn.Module, handle: GritHandle | None) -> int:
    """Bytes of the weights file that an export of the adapter writes."""
    with tempfile.TemporaryDirectory() as folder:
        return (export_lora(model, folder) if handle is None else export_quietly(model, handle, folder)).bytes


def export_lora(model: nn.Module, path: Path | str, *, adapter: str = "default") -> ExportReport:
    """Writes the adapter of a run without GRIT as it is, in the same form."""
    layers = adapted_layers(model, adapter)
    factors = {layer.name: (layer.down.weight.detach(), layer.up.weight.detach()) for layer in layers}
    size = save_lora(model, {layer.name: layer.scaling for layer in layers}, factors, Path(path), adapter)
    parameters = sum(layer.rank * layer.width for layer in layers)
    return ExportReport(
        parameters=parameters,
        effective_parameters=parameters,
        bytes=size,
        ranks={layer.name: layer.rank for layer in layers},
    )
