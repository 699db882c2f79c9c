"""Measures of an adapter's geometry against closed forms and dense twins."""

import math

import pytest
import torch

from grit.audits.update_geometry import (
    SKETCH,
    alignment,
    effective_rank,
    energy_rank,
    participation_ratio,
    sketch,
    tail_mass,
    update_singular_values,
)
from grit.config.method import GritConfig
from grit.geometry.attach import attach


@pytest.mark.parametrize(
    "values, entropy, ratio",
    [
        ([1.0] * 5, 5, 5),
        ([3.0, 0, 0], 1, 1),
        ([0.0, 0.0], 0, 0),
        ([0.5, 0.5, 0.0], 2, 2),
        ([0.75, 0.25], math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)), 1.6),
    ],
)
def test_effective_ranks_have_closed_forms(values, entropy, ratio):
    spectrum = torch.tensor(values, dtype=torch.float64)
    assert effective_rank(spectrum) == pytest.approx(entropy)
    assert participation_ratio(spectrum) == pytest.approx(ratio)


def test_energy_rank_counts_leading_values():
    values = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert [energy_rank(values, share) for share in (0.4, 0.41, 0.7, 0.95, 1.0)] == [1, 2, 2, 4, 4]
    assert energy_rank(torch.zeros(3), 0.9) == 0


def test_alignment_of_known_rotations():
    fisher = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5], dtype=torch.float64))
    assert alignment(fisher, fisher, 2) == pytest.approx(1)
    assert alignment(fisher, torch.diag(fisher.diag().flip(0)), 2) == pytest.approx(0)
    angle = math.pi / 6  # the leading direction turned by 30 degrees out of the plane of the first two
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0] = turn[2, 2] = math.cos(angle)
    turn[0, 2], turn[2, 0] = -math.sin(angle), math.sin(angle)
    assert alignment(fisher, turn @ fisher @ turn.mT, 1) == pytest.approx(math.cos(angle) ** 2)


def test_updates_are_measured_without_being_formed():
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 30, generator=generator), torch.randn(20, 4, generator=generator) / 50
    dense = 2.0 * up.double() @ down.double()
    assert torch.allclose(update_singular_values(down, up, 2.0), torch.linalg.svdvals(dense)[:4], rtol=1e-9)
    assert tail_mass(down, up, 2.0, 0.05) == pytest.approx(
        float((dense.abs() > 0.05).double().mean()), abs=1 / 600
    )


def test_sketches_keep_distances_on_average():
    """The mean over 300 modules of |sketch|^2 / |update|^2 is 1, within four standard errors."""
    generator = torch.Generator().manual_seed(1)
    ratios = []
    for i in range(300):
        down, up = torch.randn(3, 16, generator=generator), torch.randn(12, 3, generator=generator)
        ratios.append(float(sketch(f"m{i}", down, up, 1.0).square().sum() / (up @ down).square().sum()))
    mean = sum(ratios) / len(ratios)
    error = (sum((r - mean) ** 2 for r in ratios) / len(ratios) ** 2) ** 0.5
    assert abs(mean - 1) < 4 * error
    assert error < 0.05
    assert len(sketch("m", down, up, 1.0)) == SKETCH
    assert torch.equal(sketch("m", down, up, 1.0), sketch("m", down, up, 1.0))


def test_a_run_measures_every_module(reference, short_run):
    grit, lora = reference(short_run()), reference(short_run(method="lora"))
    assert (
        [row["module"] for row in grit.geometry]
        == grit.measured.modules
        == [row["module"] for row in lora.geometry]
    )
    for row, kept in zip(grit.geometry, grit.measured.final_ranks, strict=True):
        assert row["rank"] == kept
        assert sum(v > 1e-9 * row["singular_values"][0] for v in row["singular_values"]) <= kept
        assert 0 < row["effective_rank"] <= kept + 1e-6
        assert 0 <= row["rho"] <= 1 + 1e-9
        assert len(row["fisher_a"]) == 8
        assert row["update_norm"] == pytest.approx(math.sqrt(sum(v * v for v in row["singular_values"])))
    assert all(row["fisher_a"] is None and row["rank"] == 8 for row in lora.geometry)


def test_spectra_are_kept_at_reprojections_and_thinned_evenly(tiny_llama, token_batches):
    from grit.audits.spectra import SNAPSHOTS, SpectraLog

    model, batches = tiny_llama(dropout=0.0), token_batches()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    config = GritConfig(cov_update_freq=999, preconditioner="none", T=2, kfac_min_samples=1, min_lora_rank=1)
    handle, log = attach(model.train(), optimizer, config), SpectraLog()
    for step in range(4):
        model(**batches[step]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        log.look(handle)
    assert sorted({row["step"] for row in log.rows}) == [2, 4]
    last = [row for row in log.rows if row["step"] == 4]
    assert {row["module"]: row["rank"] for row in last} == handle.ranks()
    for row in last:
        values = torch.linalg.eigvalsh(handle.factors()[row["module"]].sigma_a).flip(0)
        assert row["fisher_a"] == pytest.approx(values.tolist(), rel=1e-6, abs=1e-12)
        kept = float(values[: row["rank"]].sum() / values.sum())
        assert row["kept_energy"] == pytest.approx(kept) and kept >= handle.config.tau
        layer = next(layer for layer in handle.layers if layer.name == row["module"])
        update = layer.scaling * (layer.up.weight @ layer.down.weight).detach()
        assert row["update_norm"] == pytest.approx(float(update.norm()), rel=1e-5)
        assert row["tail_mass"] == pytest.approx(float((update.abs() > 0.01).double().mean()), abs=1e-6)
    for _ in range(4 * SNAPSHOTS):
        optimizer.step()
        log.look(handle)
    steps = sorted({row["step"] for row in log.rows})
    assert SNAPSHOTS / 2 <= len(steps) <= SNAPSHOTS
    assert len({later - earlier for earlier, later in zip(steps, steps[1:], strict=False)}) == 1


def test_update_energy_is_the_share_along_each_of_the_inputs_directions():
    from grit.audits.update_geometry import energy_along

    fisher, update = torch.diag(torch.tensor([3.0, 2.0, 1.0])), torch.diag(torch.tensor([1.0, 4.0, 5.0]))
    assert energy_along(fisher, update) == pytest.approx([0.1, 0.4, 0.5])
