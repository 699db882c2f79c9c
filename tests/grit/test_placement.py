import pytest
import torch

from grit.adapters.peft_adapters import adapted_layers
from grit.adapters.placement import importance_scores, most_important
from grit.errors import ConfigError
from grit.training.trainer import train


def _ranks(bench, config):
    model = bench.adapted(config)
    try:
        return {
            layer.name.removeprefix("base_model.model."): (layer.rank, layer.scaling)
            for layer in adapted_layers(model)
        }
    finally:
        bench.release(model)


ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    "changes, parts, share",
    [
        ({}, ATTENTION + MLP, 1.0),
        ({"placement": "attention"}, ATTENTION, 4 / 7),
        ({"placement": "mlp"}, MLP, 3 / 7),
        ({"targets": ("v_proj", "down_proj")}, ("v_proj", "down_proj"), 2 / 7),
        ({"placement": "auto", "placement_share": 0.5}, ATTENTION + MLP, 0.5),
    ],
)
def test_layers_are_placed_by_kind_and_by_list(bench, short_run, changes, parts, share):
    everywhere, found = _ranks(bench, short_run()), _ranks(bench, short_run(**changes))
    assert {name.rpartition(".")[2] for name in found} <= set(parts)
    assert len(found) == round(share * len(everywhere))
    assert set(found.values()) == {(8, 2.0)}


def test_layers_are_placed_by_depth_and_by_whole_path(bench, short_run):
    layers = 1 + max(int(name.split(".")[2]) for name in _ranks(bench, short_run()))
    last = _ranks(bench, short_run(last_layers=1))
    assert {name.split(".")[2] for name in last} == {str(layers - 1)}
    assert len(last) == 7
    one = "model.layers.0.self_attn.q_proj"
    assert list(_ranks(bench, short_run(targets=(one,)))) == [one]


def test_each_layer_may_have_its_own_rank(bench, short_run):
    layers = 1 + max(int(name.split(".")[2]) for name in _ranks(bench, short_run()))
    ranks = tuple(4 + 2 * i for i in range(layers))
    found = _ranks(bench, short_run(layer_ranks=ranks))
    assert all(
        rank == ranks[int(name.split(".")[2])] and scaling == 2.0 for name, (rank, scaling) in found.items()
    )
    result = train(short_run(layer_ranks=ranks), bench)
    assert result.status == "completed"
    assert result.measured.reprojections == 2
    assert all(
        kept <= found[name.removeprefix("base_model.model.")][0]
        for name, kept in zip(result.measured.modules, result.measured.final_ranks, strict=True)
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"layer_ranks": (8,)}, "layer_ranks .* one rank for each"),
        ({"last_layers": 99}, "last_layers .* at most the model's"),
        ({"targets": ("w_pack",)}, "no layer named w_pack"),
        ({"targets": ("q_proj",), "placement": "mlp"}, "placement = 'mlp': leaves none"),
    ],
)
def test_a_placement_that_does_not_fit_the_model_is_refused(bench, short_run, changes, words):
    with pytest.raises(ConfigError, match=words):
        bench.adapted(short_run(**changes))
    model = bench.adapted(short_run())  # and nothing is left behind
    bench.release(model)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"layer_ranks": [8, 8]}, "layer_ranks .* list"),
        ({"layer_ranks": (8, 0)}, "at least 1"),
        ({"placement_share": 0.0}, "placement_share"),
        ({"layer_ranks": (2, 8)}, "min_lora_rank .* at most the rank, 2"),
        ({"last_layers": 0}, "last_layers"),
        ({"placement": "everywhere"}, "placement .* all, attention, mlp, auto"),
    ],
)
def test_bad_placements_are_refused_before_a_model_is_loaded(short_run, changes, words):
    with pytest.raises(ConfigError, match=words):
        short_run(**changes)


def test_importance_is_the_trace_of_the_fisher(tiny_llama, token_batches):
    """Against gradients of W, one sequence of one label at a time: a token's gradient is the sequence's."""
    backbone = tiny_llama(dropout=0.0, dtype=torch.float32).unload().eval()
    name = "model.layers.1.mlp.down_proj"  # the last layer's MLP: no other position sees its output
    batch = token_batches(count=1)[0]
    labels = torch.full_like(batch["labels"], -100)
    for row in range(2):
        last = int(batch["attention_mask"][row].sum()) - 1
        labels[row, last] = batch["input_ids"][row, last]
    scores = importance_scores(backbone, [name], [{**batch, "labels": labels}])
    weight = backbone.get_submodule(name).weight.requires_grad_(True)
    expected = 0.0
    for row in range(2):
        loss = backbone(
            input_ids=batch["input_ids"][row : row + 1],
            attention_mask=batch["attention_mask"][row : row + 1],
            labels=labels[row : row + 1],
        ).loss
        expected += float(torch.autograd.grad(loss, weight)[0].square().sum())
    assert scores[name] == pytest.approx(expected, rel=1e-4)


def test_the_most_important_keep_their_order():
    assert most_important(["a", "b", "c", "d"], {"a": 1.0, "b": 4.0, "c": 2.0, "d": 3.0}, 0.5) == ["b", "d"]
    assert most_important(["a", "b"], {"a": 1.0, "b": 0.5}, 0.1) == ["a"]
