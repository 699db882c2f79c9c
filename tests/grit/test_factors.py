import pytest
import torch
from oracles import dense_factors

from grit.adapters.peft_adapters import adapted_layers
from grit.config.method import GritConfig
from grit.data.encode import collate
from grit.geometry.attach import attach
from grit.rank_space.moments import RunningMoment, second_moment_sum


def _micro_batches(bench, config, count=4):
    """`count` micro-batches of unequal lengths, padded, labels on answers only."""
    rows = bench.training_data(config)[:8]
    pad = bench.tokenizer(config).pad_token_id
    return [collate(rows[2 * i : 2 * i + 2], pad) for i in range(count)]


def _nonzero_up(layers):
    generator = torch.Generator().manual_seed(5)
    for layer in layers:  # B starts at zero, and so would Sigma_g
        layer.up.weight.data.copy_(0.1 * torch.randn(layer.up.weight.shape, generator=generator))


@pytest.mark.parametrize("reduction", ["token mean over the step", "mean per micro-batch"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_captured_factors_equal_the_dense_definition(bench, short_run, reduction, dropout):
    """Padding, masked labels, accumulation 4.

    The loss's mean, the accumulation factor and the AMP scale are all undone.
    """
    config = short_run(dropout=dropout)
    model = bench.adapted(config)
    try:
        layers = adapted_layers(model)
        _nonzero_up(layers)
        batches = _micro_batches(bench, config)
        items = sum(int((b["labels"] != -100).sum()) for b in batches)
        model.train()
        torch.manual_seed(3)
        expected_a, expected_g, tokens, labelled = dense_factors(model, layers, batches)
        model.zero_grad()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
        handle = attach(
            model, optimizer, GritConfig(cov_update_freq=1, preconditioner="none", reprojection_freq=None)
        )
        torch.manual_seed(3)
        scale = 1024.0  # as an AMP scaler would
        for batch in batches:
            if reduction == "mean per micro-batch":
                (scale * model(**batch).loss / len(batches)).backward()
            else:
                (scale * model(**batch, num_items_in_batch=items).loss).backward()
        optimizer.step()
        for index, (sigma_a, sigma_g, seen_a, seen_g) in enumerate(handle.factors().values()):
            assert (seen_a, seen_g) == (tokens, labelled)
            torch.testing.assert_close(sigma_a.double(), expected_a[index], rtol=1e-4, atol=1e-7)
            torch.testing.assert_close(
                sigma_g.double(),
                expected_g[index],
                rtol=2e-4,
                atol=1e-4 * float(expected_g[index].abs().max()),
            )
        handle.detach()
    finally:
        bench.release(model)


def test_a_layer_that_is_not_reached_is_named(bench, short_run):
    config = short_run()
    model = bench.adapted(config)
    try:
        layers = adapted_layers(model)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        attach(model, optimizer, GritConfig())
        model.train()
        batch = _micro_batches(bench, config, 1)[0]
        forward = layers[3].down.forward
        layers[3].down.forward = lambda x: forward(x).detach()
        model(**batch).loss.backward()
        with pytest.raises(RuntimeError, match=f"layer {layers[3].name} was not captured"):
            optimizer.step()
    finally:
        layers[3].down.forward = forward
        bench.release(model)


def test_padding_may_hold_anything():
    samples = torch.randn(2, 6, 3)
    weight = torch.tensor([1, 1, 0, 1, 0, 1])
    clean = second_moment_sum(samples, weight)
    samples[:, weight == 0] = float("nan")
    torch.testing.assert_close(second_moment_sum(samples, weight), clean, rtol=0, atol=0)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_running_moment_equals_its_definition(decay):
    generator = torch.Generator().manual_seed(0)
    steps = [(torch.randn(2, n, 3, generator=generator), n) for n in (5, 9, 2)]
    moment = RunningMoment(2, 3, decay=decay, device=torch.device("cpu"))
    for samples, count in steps:
        assert moment.add(second_moment_sum(samples, torch.ones(count)), torch.tensor(float(count))).all()
    if decay is None:
        expected = sum(s.mT @ s for s, _ in steps) / 16
    else:
        weights = [decay ** (2 - i) * (1 - decay) for i in range(3)]
        expected = sum(w * s.mT @ s / n for w, (s, n) in zip(weights, steps, strict=True)) / sum(weights)
    torch.testing.assert_close(moment.mean(), expected)
    assert moment.samples.tolist() == [16, 16]


def test_a_sum_that_is_zero_by_construction_is_no_measurement():
    """While B = 0, so is u: those tokens open no gate and pull no mean down."""
    moment = RunningMoment(2, 3, decay=None, device=torch.device("cpu"))
    first = torch.stack([torch.eye(3), torch.zeros(3, 3)])
    moment.add(first, torch.tensor(10.0))
    assert moment.samples.tolist() == [10, 0]
    moment.add(4 * torch.eye(3).repeat(2, 1, 1), torch.tensor(2.0))
    torch.testing.assert_close(moment.mean()[1], 2 * torch.eye(3))


def test_a_non_finite_sum_is_left_out_and_reported():
    moment = RunningMoment(2, 3, decay=None, device=torch.device("cpu"))
    good = torch.eye(3).repeat(2, 1, 1)
    moment.add(good, torch.tensor(1.0))
    bad = good.clone()
    bad[1, 0, 0] = float("inf")
    assert moment.add(bad, torch.tensor(1.0)).tolist() == [True, False]
    torch.testing.assert_close(moment.mean(), good)
