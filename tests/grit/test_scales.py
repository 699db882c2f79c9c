"""A trained update multiplied by less than one is that of a scaled B, and costs the run nothing else."""

import pytest
import torch

from grit.audits.scales import scaled
from grit.errors import ConfigError


@pytest.mark.parametrize("changes", [{}, {"alpha": 5.0, "rank": 3}], ids=["plain", "another scaling"])
def test_a_scaled_update_is_that_of_a_scaled_factor(bench, short_run, changes):
    config = short_run(method="lora", **changes)
    model = bench.adapted(config).eval()
    try:
        batch = bench.micro_batches(config, bench.packs(config)[:2])[0]
        ups = [parameter for name, parameter in model.named_parameters() if "lora_B" in name]
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for up in ups:
                up.copy_(0.05 * torch.randn(up.shape, generator=generator))
            whole = model(**batch).logits
            with scaled(model, 0.25):
                seen = model(**batch).logits
            assert torch.equal(model(**batch).logits, whole)
            for up in ups:
                up.mul_(0.25)
            torch.testing.assert_close(seen, model(**batch).logits, rtol=1e-5, atol=1e-5)
        assert float((seen - whole).abs().max()) > 0.01
    finally:
        bench.release(model)


def test_a_path_leads_from_the_untuned_model_to_the_trained_one(reference, short_run):
    """Little of an update is little of its forgetting; the run itself is as without."""
    run = reference(short_run(method="lora", scales=(0.01, 0.9)))
    rows = run.audits["scales"]
    losses = {}
    for factor in (0.01, 0.9):
        its_rows = [row for row in rows if row["scale"] == factor and row["kind"] == "task"]
        losses[factor] = sum(row["loss"] * row["tokens"] for row in its_rows)
    task = [row for row in run.predictions if row["kind"] == "task"]
    untuned = sum(row["base_loss"] * row["tokens"] for row in task)
    trained = sum(row["loss"] * row["tokens"] for row in task)
    assert losses[0.01] == pytest.approx(untuned, rel=0.02)
    assert losses[0.9] == pytest.approx(trained, rel=0.1)
    assert trained < losses[0.9] < losses[0.01] <= untuned
    assert run.measured.quality == reference(short_run(method="lora")).measured.quality


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"scales": (1.0,)}, "scales = 1.0: must lie between 0 and 1"),
        ({"scales": 0.5}, "scales = 0.5: must be a list"),
        ({"scales": (0.5, 0.5)}, "must name each factor once"),
        ({"scales": ("a",)}, "scales = 'a': must be a finite number above 0"),
        ({"scales": (0.5,), "method": "ia3"}, "is no plain LoRA adapter"),
    ],
)
def test_scales_that_cannot_be_are_refused(changes, words, short_run):
    with pytest.raises(ConfigError, match=words):
        short_run(**changes)
