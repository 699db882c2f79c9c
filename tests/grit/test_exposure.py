"""Curvature exposure against its definition, token by token, and what no factorization may change."""

from __future__ import annotations

import pytest
import torch
from oracles import dense_factors

from grit.adapters.peft_adapters import adapted_layers
from grit.audits.exposure import exposures
from grit.audits.update_geometry import alignment, in_input_space


@pytest.fixture
def model(tiny_llama):
    return tiny_llama(dropout=0.1).eval()


def _oracle(model, layer, batch):
    """Every d loss / d e[t], when the module's output at position t becomes y + e[t] dW x."""
    share = torch.zeros(batch["input_ids"].shape, dtype=torch.float64, requires_grad=True)

    def moved(_module, inputs, output):
        delta = layer.scaling * (inputs[0] @ (layer.up.weight @ layer.down.weight).detach().mT)
        return output + share[..., None] * delta

    with model.disable_adapter():
        hook = layer.base.register_forward_hook(moved)
        loss = model(**batch, num_items_in_batch=1).loss
        hook.remove()
    (slopes,) = torch.autograd.grad(loss, share)
    assert (slopes[batch["attention_mask"] == 0].abs() < 1e-6).all()
    labels = int((batch["labels"][:, 1:] != -100).sum())
    return float(slopes.square().sum()) / labels, float(slopes.sum()) / labels


def test_exposure_is_its_definition(model, token_batches):
    """Padding, prompts without labels; x and g of the untuned model; nothing is left behind."""
    batches = token_batches("left", count=1)
    layers = adapted_layers(model)
    found = exposures(model, batches)
    assert list(found) == [layer.name for layer in layers]
    for layer in layers:
        square, slope = _oracle(model, layer, batches[0])
        assert square > 0
        assert found[layer.name].exposure == pytest.approx(square, rel=1e-4)
        assert found[layer.name].slope == pytest.approx(slope, rel=1e-3, abs=1e-6)
    assert all(p.grad is None for p in model.parameters())
    assert exposures(model, batches) == found


def test_it_says_what_a_small_update_forgets(model, token_batches):
    """To first order the loss moves by the sum of slopes; halving dW quarters the exposure."""
    batches, layers = token_batches(count=1), adapted_layers(model)
    for layer in layers:
        layer.up.weight.data.mul_(1e-3)
    found = exposures(model, batches)
    labels = int((batches[0]["labels"][:, 1:] != -100).sum())
    with torch.no_grad():
        after = model(**batches[0], num_items_in_batch=1).loss
        with model.disable_adapter():
            before = model(**batches[0], num_items_in_batch=1).loss
    slopes = sum(each.slope for each in found.values())
    assert slopes == pytest.approx(float(after - before) / labels, rel=2e-2)
    for layer in layers:
        layer.up.weight.data.mul_(0.5)
    halved = exposures(model, batches)
    for name, each in found.items():
        assert halved[name].exposure == pytest.approx(each.exposure / 4, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_neither_exposure_nor_alignment_depends_on_the_factorization(model, token_batches, seed):
    """(M A, B M^-1) is the same adapter for every M."""
    batches, layers = token_batches(count=1), adapted_layers(model)
    generator = torch.Generator().manual_seed(seed)

    def seen():
        factors, _, _, _ = dense_factors(model, layers, batches)
        model.zero_grad()
        rho = []
        for layer, sigma in zip(layers, factors, strict=True):
            inputs, update = in_input_space(sigma, layer.down.weight.detach(), layer.up.weight.detach())
            rho.append(alignment(inputs, update, 2))
        return exposures(model, batches), rho

    before, rho_before = seen()
    for layer in layers:
        turn = torch.randn(4, 4, generator=generator, dtype=torch.float64) + 2 * torch.eye(
            4, dtype=torch.float64
        )
        layer.down.weight.data.copy_(turn @ layer.down.weight.data)
        layer.up.weight.data.copy_(layer.up.weight.data @ torch.linalg.inv(turn))
    after, rho_after = seen()
    assert rho_after == pytest.approx(rho_before, rel=1e-4, abs=1e-6)
    for name, each in before.items():
        assert after[name].exposure == pytest.approx(each.exposure, rel=1e-3)


def test_lora_has_it_too_and_a_moved_backbone_has_not(reference, short_run):
    brief = short_run(accumulation=1, eval_examples=2, retention_documents=2)
    for method, measured in (("grit", True), ("lora", True), ("pissa", False)):
        rows = reference(brief.changed(method=method)).geometry
        assert all((row["curvature_exposure"] is not None) == measured for row in rows), method
        if measured:
            assert all(row["curvature_exposure"] > 0 for row in rows)
