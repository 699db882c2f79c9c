"""Packed sequences: every example once, none sees another, same loss, same gradients, same statistics."""

import pytest
import torch

from grit.config.method import GritConfig
from grit.data.encode import Encoded, collate
from grit.data.packing import by_length, check_separation, collate_packs, pack
from grit.errors import ConfigError
from grit.geometry.attach import attach
from grit.training.trainer import train


def _examples(lengths, vocab=50):
    generator = torch.Generator().manual_seed(3)
    return [
        Encoded(
            tokens=tuple(torch.randint(3, vocab, (n,), generator=generator).tolist()),
            first_label=n // 2,
            truncated=False,
        )
        for n in lengths
    ]


def test_parts_of_a_step_hold_what_it_holds_and_are_of_similar_length():
    packs = [(row,) for row in _examples([9, 3, 12, 5, 6, 4, 11, 2])]
    lengths = [[len(row.tokens) for (row,) in part] for part in by_length(packs, 2)]
    assert lengths == [[9, 6], [3, 2], [12, 11], [5, 4]]  # in the order of their first members
    assert by_length(packs, 8) == [packs]
    assert by_length(packs[:3], 2) == [[packs[0], packs[2]], [packs[1]]]


def test_packs_hold_every_example_once_and_fit():
    rows = _examples([9, 3, 12, 5, 5, 4, 12, 2, 1])
    packs = pack(rows, 12)
    assert sorted(item.tokens for members in packs for item in members) == sorted(row.tokens for row in rows)
    assert (
        all(sum(len(item.tokens) for item in members) <= 12 for members in packs) and len(packs) == 5
    )  # 53 tokens: five is the least
    assert packs == pack(rows, 12)


def test_packed_loss_gradients_and_statistics_are_those_of_separate_rows(tiny_llama):
    """Float64, no dropout (it falls elsewhere): the packs' padding and their neighbours leave no trace."""
    rows = _examples([7, 4, 6, 5, 3])
    packs = pack(rows, 12)
    seen = []
    for batch in (collate(rows, 0), collate_packs(packs, 0)):
        model = tiny_llama(dropout=0.0)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
        handle = attach(
            model,
            optimizer,
            GritConfig(cov_update_freq=1, kfac_min_samples=4, kfac_update_freq=1, reprojection_freq=None),
        )
        labels = int((batch["labels"] != -100).sum())
        loss = model(**batch, num_items_in_batch=labels, use_cache=False).loss
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        seen.append((labels, loss.item(), gradients, handle.factors()))
    (count, loss, gradients, factors), (packed_count, packed_loss, packed_gradients, packed_factors) = seen
    assert count == packed_count
    assert packed_loss == pytest.approx(loss, rel=1e-12)
    for name, gradient in gradients.items():
        assert torch.allclose(packed_gradients[name], gradient, rtol=1e-9, atol=1e-14), name
    for name, (a, g, n_a, n_g) in factors.items():
        b = packed_factors[name]
        assert (b[2], b[3]) == (n_a, n_g)
        assert torch.allclose(b[0], a, rtol=1e-5, atol=1e-9), name
        assert torch.allclose(b[1], g, rtol=1e-5, atol=1e-12), name


def test_a_packed_run_trains_and_repeats(bench, short_run):
    config = short_run().changed(packing=True, max_length=128, micro_batch=2)
    first, again = train(config, bench), train(config, bench)
    assert first.status == "completed"
    assert first.measured.quality == again.measured.quality
    assert first.predictions == again.predictions
    assert first.measured.tokens > 10 * 4 * 64  # 10 steps of 4 packs, each more than half full


def test_a_model_that_mixes_examples_is_refused(tiny_llama):
    model = tiny_llama(dropout=0.0, dtype=torch.float32)
    members = tuple(_examples([5, 6]))
    check_separation(model, members, 0, "cpu")
    mixing = lambda **batch: model(input_ids=batch["input_ids"], use_cache=False)  # noqa: E731 - positions are lost: one long text
    with pytest.raises(ConfigError, match="packing.*would see each other"):
        check_separation(mixing, members, 0, "cpu")
