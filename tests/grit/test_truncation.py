"""Truncation after training against dense algebra.

What is kept, what it is equal to, and that the model is as it was.
"""

from dataclasses import replace

import pytest
import torch

from grit.adapters.peft_adapters import adapted_layers, converted
from grit.audits.truncation import CURVED_WAYS, plain_factors, rank_choices, replaced, truncated_factors
from grit.methods.makers import maker_of
from grit.training.run import Run
from grit.training.trainer import adapted, train


@pytest.fixture
def trained(bench, short_run, monkeypatch):
    """A run that has been trained, with its handle, while its adapter is in place."""
    config = short_run(
        dropout=0.0, grit=replace(short_run().grit, preconditioner="none", reprojection_freq=None)
    )
    with adapted(config, bench) as model:
        run = Run(config, bench, model, checkpoints=None)
        while run.state.step < 6:
            run.take_step()
        yield run


#: Those of `truncated_factors`.
BY_RANK = ("svd", *CURVED_WAYS)


def _delta(factors, layer):
    down, up = factors[layer.name]
    return layer.scaling * (up.double() @ down.double())


def test_ways_against_dense_algebra(trained):
    handle = trained.state.handle
    ranks = dict.fromkeys((layer.name for layer in handle.layers), 3)
    found = {way: truncated_factors(handle, way, ranks) for way in BY_RANK}
    for layer in handle.layers[:5]:
        down, up = layer.down.weight.detach().double(), layer.up.weight.detach().double()
        sigma_a, sigma_g = (factor.double() for factor in handle.factors()[layer.name][:2])
        basis_a, basis_g = (torch.linalg.eigh(sigma).eigenvectors[:, -3:] for sigma in (sigma_a, sigma_g))
        u, s, v = torch.linalg.svd(layer.scaling * up @ down)
        root_values, root_vectors = torch.linalg.eigh(sigma_a)
        root, inverse = (
            root_vectors * root_values.clamp(min=0).pow(power) @ root_vectors.T for power in (0.5, -0.5)
        )
        inner = torch.linalg.eigh(root @ sigma_g @ root).eigenvectors[:, -3:]
        expected = {
            "svd": u[:, :3] * s[:3] @ v[:3],
            "one_sided": layer.scaling * up @ basis_a @ basis_a.T @ down,
            "two_sided": layer.scaling * up @ basis_g @ basis_g.T @ basis_a @ basis_a.T @ down,
            "balanced": layer.scaling * up @ root @ inner @ inner.T @ inverse @ down,
        }
        scale = float(s[0])
        for way, dense in expected.items():
            torch.testing.assert_close(
                _delta(found[way], layer), dense, atol=2e-5 * scale, rtol=1e-3, msg=f"{way} {layer.name}"
            )
            assert found[way][layer.name][0].shape[0] == 3


def test_all_directions_are_the_adapter_itself(trained):
    ranks = {layer.name: layer.rank for layer in trained.state.handle.layers}
    for way in BY_RANK:
        for layer in trained.state.handle.layers[:3]:
            whole = layer.scaling * layer.up.weight.detach().double() @ layer.down.weight.detach().double()
            torch.testing.assert_close(
                _delta(truncated_factors(trained.state.handle, way, ranks), layer),
                whole,
                atol=1e-6,
                rtol=1e-4,
            )


def test_pefts_conversion_at_a_rank_is_the_svd(trained):
    handle = trained.state.handle
    scalings = {layer.name: layer.scaling for layer in handle.layers}
    ours, theirs = (
        truncated_factors(handle, "svd", dict.fromkeys(scalings, 4)),
        converted(trained.state.model, 4, scalings),
    )
    for layer in handle.layers:
        torch.testing.assert_close(_delta(ours, layer), _delta(theirs, layer), atol=1e-6, rtol=1e-3)


def test_the_model_is_as_it_was_afterwards(trained):
    model, handle = trained.state.model, trained.state.handle
    before = [(layer.down.weight, layer.down.weight.detach().clone()) for layer in handle.layers]
    with replaced(model, truncated_factors(handle, "svd", dict.fromkeys((x.name for x in handle.layers), 1))):
        assert {layer.rank for layer in adapted_layers(model)} == {1}
    for layer, (parameter, kept) in zip(adapted_layers(model), before, strict=True):
        assert layer.down.weight is parameter
        assert torch.equal(parameter, kept)


def test_ways_that_need_no_statistics(bench, short_run):
    """Of plain LoRA; a nested adapter's first k directions are scaled as they were trained."""
    for method, scale in (("lora", 1.0), ("matryoshka", 2.0)):
        config = short_run(method=method, dropout=0.0)
        with adapted(config, bench) as model:
            layers, prefix_scale = adapted_layers(model), maker_of(config.spec).prefix_scale
            with torch.no_grad():
                for layer in layers:
                    values = layer.up.parametrizations.weight.original if method == "matryoshka" else None
                    (layer.up.weight if values is None else values).normal_()
            model.eval()
            first, best = (plain_factors(layers, way, 2, prefix_scale) for way in ("prefix", "svd"))
            for layer in layers[:4]:
                down, up = layer.down.weight.detach(), layer.up.weight.detach()
                prefix = scale * up[:, :2] @ down[:2]
                torch.testing.assert_close(_delta(first, layer), layer.scaling * prefix.double())
                left, values, right = torch.linalg.svd(up @ down, full_matrices=False)
                truncation = left[:, :2] * values[:2] @ right[:2]
                expected = layer.scaling * truncation.double()
                torch.testing.assert_close(_delta(best, layer), expected, rtol=1e-3, atol=1e-4)
            del layers, layer


def test_methods_without_statistics_are_truncated_too(bench, short_run):
    result = train(short_run(method="matryoshka", truncations=(1, 8), dropout=0.0), bench)
    rows = result.tables()["truncated"]
    assert {(row["way"], row["k"]) for row in rows} == {
        (way, k) for way in ("svd", "prefix") for k in ("1", "8")
    }
    whole = [row["loss"] for row in rows if (row["way"], row["k"]) == ("prefix", "8")]
    assert whole == pytest.approx(
        [row["loss"] for row in rows if (row["way"], row["k"]) == ("svd", "8")], rel=1e-4
    )


def test_ranks_by_the_rule_follow_tau(trained):
    found = rank_choices(trained.state.handle, (2,))
    assert set(found) == {"2", "tau"}
    assert set(found["2"].values()) == {2}
    assert all(4 <= rank <= 8 for rank in found["tau"].values())


def test_the_table_of_a_run(bench, short_run):
    grit = replace(short_run().grit, preconditioner="none", reprojection_freq=None)
    result = train(short_run(grit=grit, truncations=(2, 8), exported=True), bench)
    keys = dict.fromkeys((row["way"], row["k"]) for row in result.audits["truncated"])
    plain = {("prefix", "2"), ("prefix", "8"), ("peft", "tau")}
    assert set(keys) == {(way, k) for way in BY_RANK for k in ("2", "8", "tau")} | plain
    whole = [row for row in result.audits["truncated"] if row["way"] == "svd" and row["k"] == "8"]
    assert [row["loss"] for row in whole if row["kind"] == "task"] == pytest.approx(
        [row["loss"] for row in result.predictions if row["kind"] == "task"], abs=1e-4
    )
    sizes = {row["k"]: row["bytes"] for row in result.audits["truncated"] if row["way"] == "svd"}
    assert sizes["2"] < sizes["tau"] <= sizes["8"]
    assert sizes["8"] == result.measured.exported_bytes
    assert {row["parameters"] for row in whole} == {result.measured.adapter_parameters}
