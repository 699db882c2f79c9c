"""Controls that are LoRA but for one thing: where it is, what it reads, what is done to it at the end."""

import numpy as np
import pytest
import torch
from killing import Killed, killed_at

from grit.adapters.peft_adapters import adapted_layers
from grit.adapters.placement import condition_scores
from grit.errors import ConfigError
from grit.methods.intruders import IS_REDUCED, TRAINED
from grit.methods.lora import add_lora
from grit.methods.makers import MAKERS
from grit.tasks.loading import load_documents
from grit.training.hooks import Hooks
from grit.training.stages import Stages
from grit.training.trainer import train


def _adapted(bench, config):
    model = bench.adapted(config)
    try:
        return [layer.name.removeprefix("base_model.model.") for layer in adapted_layers(model)]
    finally:
        bench.release(model)


def test_kappatune_adapts_the_best_conditioned_modules(bench, short_run):
    config = short_run(method="lora_kappa")
    placed, everywhere = _adapted(bench, config), _adapted(bench, short_run(method="lora"))
    backbone = bench.backbone(config)
    condition = {
        name: np.linalg.cond(backbone.get_parameter(f"{name}.weight").numpy()) for name in everywhere
    }
    best = sorted(everywhere, key=condition.__getitem__)[: round(0.2 * len(everywhere))]
    assert set(placed) == set(best)
    assert placed == [name for name in everywhere if name in placed]


def test_what_is_too_large_for_an_svd_comes_last(monkeypatch):
    monkeypatch.setattr("grit.adapters.placement.modules_by_condition", lambda _model: ["b", "a"])
    scores = condition_scores(None, ["a", "huge", "b"])
    assert sorted(scores, key=scores.__getitem__) == ["huge", "a", "b"]


def _reduced_by_definition(weight, update, rank, *, leading=10, near=0.5, kept=0.75):
    """W + dW less a quarter of every intruder, less W, as the product of two factors again: in float64."""
    merged = weight + update
    left, values, right = np.linalg.svd(merged)
    own = np.linalg.svd(weight)[0]
    intruders = [i for i in range(leading) if np.abs(left[:, i] @ own).max() < near]
    for i in intruders:
        merged = merged - (1 - kept) * values[i] * np.outer(left[:, i], right[i])
    left, values, right = np.linalg.svd(merged - weight)
    return len(intruders), (left[:, :rank] * values[:rank]) @ right[:rank]


def test_intruders_are_reduced_as_defined(bench, short_run):
    config = short_run(method="lora_intruders")
    backbone = bench.backbone(config)
    name, rank, generator = "model.layers.0.self_attn.q_proj", 4, torch.Generator().manual_seed(3)
    model = add_lora(backbone, ranks={name: rank}, scaling=2.0, dropout=0.1, seed=1)
    layer = model.get_submodule(f"base_model.model.{name}")
    factor = layer.lora_B[TRAINED].weight
    factor.data = torch.randn(factor.shape, generator=generator) * torch.tensor([1.0, 0.3, 0.05, 0.01])
    weight = layer.base_layer.weight.detach().double().numpy()
    update = layer.get_delta_weight(TRAINED).detach().double().numpy()
    count, expected = _reduced_by_definition(weight, update, rank)
    maker = MAKERS["lora_intruders"]
    maker.after_training(model)
    assert count > 0
    assert np.abs(expected - update).max() > 0.01
    assert layer.get_delta_weight(TRAINED).detach().numpy() == pytest.approx(expected, abs=1e-4)
    assert list(layer.lora_A) == [TRAINED]
    assert all(parameter.requires_grad for parameter in (factor, layer.lora_A[TRAINED].weight))
    reduced = factor.detach().clone()
    assert maker.extra_state(model) == {IS_REDUCED: True}
    maker.after_training(model)  # a run that was saved in the end goes on from there
    assert torch.equal(factor, reduced)
    model.unload()


def test_a_diverged_adapter_is_left_as_it_is(bench, short_run):
    backbone, name = bench.backbone(short_run()), "model.layers.0.self_attn.q_proj"
    model = add_lora(backbone, ranks={name: 4}, scaling=2.0, dropout=0.1, seed=1)
    factor = model.get_submodule(f"base_model.model.{name}").lora_B[TRAINED].weight
    factor.data[0, 0] = torch.nan
    MAKERS["lora_intruders"].after_training(model)
    assert factor.isnan().sum() == 1
    model.unload()


def test_a_harsh_training_is_reduced_when_it_ends_and_resumes_as_it_was(
    bench, reference, short_run, tmp_path
):
    """It has intruders; the steps are LoRA's, what is scored is not; killed near its end it is the same."""
    plain, reduced = (
        short_run(method=name, learning_rate=5e-2, checkpoint_steps=1) for name in ("lora", "lora_intruders")
    )
    whole, alike = reference(reduced), reference(plain)
    assert [row["loss"] for row in whole.telemetry] == [row["loss"] for row in alike.telemetry]
    assert whole.predictions != alike.predictions
    with pytest.raises(Killed):
        train(reduced, bench, checkpoints=tmp_path, hooks=Hooks(progress=killed_at(9)))
    assert train(reduced, bench, checkpoints=tmp_path).predictions == whole.predictions


def test_without_intruders_it_is_lora(reference, short_run):
    """A short and gentle training has none."""
    plain, reduced = (
        reference(short_run(method=name, learning_rate=1e-4)) for name in ("lora", "lora_intruders")
    )
    assert plain.predictions == reduced.predictions


def test_general_text_is_read_in_the_place_of_some_examples(bench, short_run):
    """As often as asked, by the seed; all other examples are those that would have been read."""
    config, steps = short_run(method="lora", general_replay=0.25), range(150)
    with_text, without = Stages(config, bench), Stages(short_run(method="lora"), bench)
    drawn = [pack for step in steps for pack in with_text.step(step)]
    usual = [pack for step in steps for pack in without.step(step)]
    texts = bench.source_packs(config)
    general = [pack in texts for pack in drawn]
    assert np.mean(general) == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / len(general)))
    assert all(text or own == other for text, own, other in zip(general, drawn, usual, strict=True))
    assert drawn == [pack for step in steps for pack in Stages(config, bench).step(step)]
    tokenizer, length = bench.tokenizer(config), config.optimization.max_length
    measured = {tuple(tokenizer(text)["input_ids"][:length]) for text in bench.documents(config)}
    assert not measured & {row.tokens for pack in texts for row in pack}
    assert all(row.first_label == 1 for pack in texts for row in pack)


def test_replay_needs_documents_that_nothing_is_measured_on(bench, short_run):
    config = short_run(method="lora", general_replay=0.1)
    every = len(load_documents(config.task))
    with pytest.raises(ConfigError, match="general_replay"):
        Stages(config.changed(retention_documents=every), bench)
