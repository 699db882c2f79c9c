"""What a trained adapter looks like.

Spectra, effective ranks, alignment with the Fisher factor, exposure of general text, tail mass, a sketch.

Pure functions over small matrices; `geometry_rows` applies them to a model. Source: paper D.4 and J.3;
docs/reference/method.md section 9.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grit.adapters.peft_adapters import AdaptedLayer, adapted_layers
from grit.audits.exposure import exposures
from grit.rank_space.moments import symmetrize
from grit.rank_space.projectors import root_and_inverse, spectrum

if TYPE_CHECKING:
    from grit.geometry.handle import GritHandle

#: Entries of an update above this count as its tail: about as large as a backbone's own weights.
TAIL_THRESHOLD = 1e-2
#: Numbers in the sketch of a module's update.
SKETCH = 64
#: `alignment_top` looks at the leading 1 / TOP of an adapter's directions, whatever is kept: so that runs
#: with and without reprojection compare.
TOP = 4
#: Entries of an update that are looked at in one part.
TAIL_PART = 1 << 22


def effective_rank(values: Tensor) -> float:
    """exp(entropy) of a spectrum (r,) of non-negative numbers: r equal values give r, a single one gives 1.

    0 without any.
    """
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return float((-(shares * shares.log()).sum()).exp())


def participation_ratio(values: Tensor) -> float:
    """(sum v)^2 / sum v^2 of a spectrum (r,); 0 without energy."""
    squares = values.square().sum()
    return float(values.sum().square() / squares) if squares > 0 else 0.0


def energy_rank(values: Tensor, share: float) -> int:
    """The fewest leading values (r,), in descending order, that hold `share` of their sum."""
    if values.sum() <= 0:
        return 0
    return int((values.cumsum(-1) / values.sum() < share).sum()) + 1


def alignment(fisher: Tensor, update: Tensor, k: int) -> float:
    """Rho = |U_k^T V_k|_F^2 / k between the leading k eigenvectors of two symmetric matrices (r, r).

    1 the same subspace, k / r by chance.
    """
    ours, theirs = spectrum(fisher).vectors[:, :k], spectrum(update).vectors[:, :k]
    return float((ours.mT @ theirs).square().sum() / k)


def energy_along(fisher: Tensor, update: Tensor) -> list[float]:
    """Share of `update`'s trace along each eigenvector of `fisher`, both symmetric (r, r), largest first."""
    vectors = spectrum(fisher).vectors
    energies = (vectors * (update @ vectors)).sum(-2).clamp(min=0)
    total = energies.sum()
    return (energies / total if total > 0 else energies).tolist()


def in_input_space(sigma_a: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs' second moment and the update's, each (r, r), in one orthonormal basis of A's row space.

    With Q = (A A^T)^(-1/2) A: Q E[x x^T] Q^T, from Sigma_a = A E[x x^T] A^T, and Q (B A)^T (B A) Q^T. Another
    factorization (M A, B M^-1) only turns Q, and both matrices with it. Directions that A has lost are zero
    in both.
    """
    gram_a, gram_b = down.double() @ down.double().mT, up.double().mT @ up.double()
    root, whitener = root_and_inverse(symmetrize(gram_a))
    return whitener @ sigma_a.double() @ whitener, root @ gram_b @ root


def update_singular_values(down: Tensor, up: Tensor, scaling: float) -> Tensor:
    """Singular values (r,) of scaling B A, through r x r matrices only: A (r, d_in), B (d_out, r)."""
    r_a, r_b = torch.linalg.qr(down.detach().double().mT).R, torch.linalg.qr(up.detach().double()).R
    values: Tensor = torch.linalg.svdvals(r_b @ r_a.mT)
    return values * scaling


def gated_up(layer: AdaptedLayer, gates: Mapping[str, Tensor]) -> Tensor:
    """B (d_out, r) with the gate that acts between the factors, where the module has one."""
    up: Tensor = layer.up.weight
    return up @ gates[layer.name].to(up) if layer.name in gates else up


def tail_mass(down: Tensor, up: Tensor, scaling: float, threshold: float = TAIL_THRESHOLD) -> float:
    """Share of the entries of scaling B A whose size is above `threshold`, in parts that fit into memory."""
    rows = max(1, TAIL_PART // down.shape[1])
    above = sum(
        int(((part.float() @ down.float()).abs() * scaling > threshold).sum())
        for part in up.detach().split(rows)
    )
    return above / (up.shape[0] * down.shape[1])


def sketch(name: str, down: Tensor, up: Tensor, scaling: float) -> Tensor:
    """`SKETCH` random bilinear forms x^T (scaling B A) y / sqrt(SKETCH).

    The same x and y for every run of a module called `name`.

    Squared distances between sketches estimate those between updates, without bias.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    left = torch.randn(SKETCH, up.shape[0], generator=generator, dtype=torch.float32).to(up.device)
    right = torch.randn(SKETCH, down.shape[1], generator=generator, dtype=torch.float32).to(up.device)
    forms: Tensor = ((left @ up.detach().float()) * (right @ down.detach().float().mT)).sum(-1)
    return forms.mul(scaling / SKETCH**0.5)


@dataclass(frozen=True, kw_only=True)
class ModuleGeometry:
    """One adapted module of a trained adapter; what needs GRIT's factors is None for a run without them.

    Attributes:
        rank: directions kept.
        singular_values: of the update scaling B A, (r,).
        update_norm: Frobenius.
        effective_rank, participation_ratio: of the squared singular values.
        tail_mass: share of the update's entries above `TAIL_THRESHOLD`.
        sketch: (`SKETCH`,).
        fisher_a, fisher_g: eigenvalues of the two factors, descending, (r,).
        update_energy: share of the update's energy along each eigenvector of the inputs' second moment, those
            with most input energy first, (r,) (paper, figure 8).
        rho, rho_top: alignment of the directions in which the inputs have most energy with those in which
            the update acts most, in the kept directions and in the leading 1 / `TOP` of them all.
        curvature_exposure, slope: of general text (grit/audits/exposure.py); None where the method moves the
            backbone's own weights.
    """

    module: str
    rank: int
    singular_values: list[float]
    update_norm: float
    effective_rank: float
    participation_ratio: float
    tail_mass: float
    sketch: list[float]
    fisher_a: list[float] | None = None
    fisher_g: list[float] | None = None
    update_energy: list[float] | None = None
    rho: float | None = None
    rho_top: float | None = None
    curvature_exposure: float | None = None
    slope: float | None = None

    def row(self) -> dict[str, Any]:
        """As the table `geometry` has it."""
        return asdict(self)


@torch.no_grad()
def geometry_rows(
    model: Any, handle: GritHandle | None, general: Sequence[Mapping[str, Tensor]] = ()
) -> list[dict[str, Any]]:
    """One row per adapted module; `general` is the text whose exposure is measured, if it is to be."""
    factors = {} if handle is None else handle.factors()
    ranks = {} if handle is None else handle.ranks()
    gates = {} if handle is None else handle.gates()
    exposed = exposures(model, general, gates) if general else {}
    rows = []
    for layer in adapted_layers(model):
        up = gated_up(layer, gates)
        rank = ranks.get(layer.name, layer.rank)
        singular = update_singular_values(layer.down.weight, up, layer.scaling)
        geometry = ModuleGeometry(
            module=layer.name,
            rank=rank,
            singular_values=singular.tolist(),
            update_norm=float(singular.square().sum().sqrt()),
            effective_rank=effective_rank(singular.square()),
            participation_ratio=participation_ratio(singular.square()),
            tail_mass=tail_mass(layer.down.weight, up, layer.scaling),
            sketch=sketch(layer.name, layer.down.weight, up, layer.scaling).tolist(),
            **_against_fisher(layer, up, rank, factors.get(layer.name)),
        )
        if layer.name in exposed:
            exposure, slope = exposed[layer.name]
            geometry = replace(geometry, curvature_exposure=exposure, slope=slope)
        rows.append(geometry.row())
    return rows


def _against_fisher(
    layer: AdaptedLayer, up: Tensor, kept: int, factors: tuple[Tensor, Tensor, int, int] | None
) -> dict[str, Any]:
    """What `ModuleGeometry` has of the factors; nothing where nothing was seen."""
    if factors is None or factors[2] == 0:
        return {}
    sigma_a, sigma_g = factors[0].double().cpu(), factors[1].double().cpu()
    inputs, update = in_input_space(sigma_a, layer.down.weight.detach().cpu(), up.detach().cpu())
    return {
        "fisher_a": spectrum(sigma_a).values.tolist(),
        "fisher_g": spectrum(sigma_g).values.tolist(),
        "update_energy": energy_along(inputs, update),
        "rho": alignment(inputs, update, kept),
        "rho_top": alignment(inputs, update, max(1, layer.rank // TOP)),
    }
