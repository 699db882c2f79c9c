"""Methods that PEFT lacks, each against what its equations say."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from grit.adapters.peft_adapters import adapted_layers
from grit.config.sections import Budget
from grit.methods.fixed_factors import singular_factors, weight_gradients
from grit.methods.lora_pro import LayerFactors, LoraPro
from grit.methods.maker import Adaptation
from grit.methods.matryoshka import direction_weights, nested_ranks, prefix_scale
from grit.methods.peft_tuners import low_rank_mask
from grit.training.trainer import adapted

OUT, IN, RANK, SCALING = 7, 9, 3, 1.7
EXACT = {"rtol": 1e-8, "atol": 1e-8}


@pytest.fixture
def run_of(short_run):
    base = short_run(quality="answer_logprob", budget=Budget(regime="step", amount=6), dropout=0.0)
    return lambda method, **changes: base.changed(method=method, **changes)


def _drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass
class Factored:
    """A layer's factors, a full gradient, and the gradients of the factors that follow from it."""

    a: torch.Tensor
    b: torch.Tensor
    full: torch.Tensor

    @property
    def gradients(self):
        return SCALING * self.b.T @ self.full, SCALING * self.full @ self.a.T

    @property
    def factors(self):
        return LayerFactors(self.a, self.b, SCALING)

    def effect(self, x=None):
        of_a, of_b = self.factors.lifted(*self.gradients, x)
        return SCALING * (self.b @ of_a + of_b @ self.a)


@pytest.fixture
def factored():
    return Factored(a=_drawn(RANK, IN, seed=1), b=_drawn(OUT, RANK, seed=2), full=_drawn(OUT, IN, seed=3))


def _onto_rows(rows):
    return rows.T @ torch.linalg.solve(rows @ rows.T, rows)


def test_lora_pro_makes_the_full_gradient_as_far_as_factors_can(factored):
    """The orthogonal projection of G onto {B M + N A}, whatever X is and however B A is factored."""
    of_a, of_b = _onto_rows(factored.a), _onto_rows(factored.b.T)
    projection = of_b @ factored.full + factored.full @ of_a - of_b @ factored.full @ of_a
    torch.testing.assert_close(factored.effect(), projection, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(factored.effect(_drawn(RANK, RANK)), projection, rtol=1e-6, atol=1e-6)
    turn = _drawn(RANK, RANK, seed=5)
    turned = Factored(a=turn @ factored.a, b=factored.b @ torch.linalg.inv(turn), full=factored.full)
    torch.testing.assert_close(turned.effect(), projection, rtol=1e-5, atol=1e-5)


def test_lora_pros_x_is_the_nearest(factored):
    grad_a, grad_b = factored.gradients

    def distance(x):
        of_a, of_b = factored.factors.lifted(grad_a, grad_b, x)
        return float((of_a - grad_a).square().sum() + (of_b - grad_b).square().sum())

    x = factored.factors.nearest_x(grad_a)
    for seed in range(5):
        assert distance(x) < distance(x + 1e-3 * _drawn(RANK, RANK, seed=seed))
    assert distance(x) < distance(None)


def test_lora_pros_first_step_moves_b_alone(factored):
    factors = LayerFactors(factored.a, torch.zeros_like(factored.b), SCALING)
    grad_a, grad_b = 0 * factored.a, SCALING * factored.full @ factored.a.T
    assert factors.nearest_x(grad_a) is None
    of_a, of_b = factors.lifted(grad_a, grad_b)
    assert not of_a.any()
    torch.testing.assert_close(
        SCALING * of_b @ factored.a, factored.full @ _onto_rows(factored.a), rtol=1e-6, atol=1e-6
    )


def test_lora_pro_of_full_rank_is_adam_on_the_weight():
    """Where A and B reach every update, a small step of theirs is one of the weight."""

    @dataclass
    class Layer:
        down: nn.Linear
        up: nn.Linear
        scaling: float = SCALING

    layer = Layer(nn.Linear(IN, IN, bias=False).double(), nn.Linear(IN, OUT, bias=False).double())
    weight = nn.Parameter((SCALING * layer.up.weight @ layer.down.weight).detach())
    pro, adam = LoraPro([layer], lr=1e-6), torch.optim.Adam([weight], lr=1e-6)
    before = weight.detach().clone()
    for seed in range(3):
        full = _drawn(OUT, IN, seed=seed)
        weight.grad = full
        layer.down.weight.grad = SCALING * layer.up.weight.detach().T @ full
        layer.up.weight.grad = SCALING * full @ layer.down.weight.detach().T
        pro.step()
        adam.step()
    moved = SCALING * layer.up.weight @ layer.down.weight - before
    torch.testing.assert_close(moved, weight - before, rtol=1e-2, atol=1e-8)


def _plain(layer):
    """The layer's weight, its update, and the parameters that are trained."""
    update = layer.scaling * layer.up.weight @ layer.down.weight
    trained = [p for m in (layer.down, layer.up) for p in m.parameters() if p.requires_grad]
    return layer.base.weight.detach(), update.detach(), trained


def test_lora_xs_trains_a_small_core_between_leading_directions(bench, run_of):
    with adapted(run_of("lora_xs"), bench) as model:
        for layer in adapted_layers(model)[:4]:
            weight, update, (core,) = _plain(layer)
            assert core.shape == (layer.rank, layer.rank)
            assert update.norm() < 1e-3 * weight.norm()
            left, values, right = torch.linalg.svd(weight, full_matrices=False)
            gram = layer.down.weight @ right[: layer.rank].T
            torch.testing.assert_close(gram.abs().diagonal(), values[: layer.rank], rtol=1e-3, atol=1e-4)
            columns = layer.up.parametrizations.weight[0].columns
            eye = torch.eye(layer.rank)
            torch.testing.assert_close(columns.T @ columns, eye, rtol=0, atol=1e-4)


def test_a_core_is_no_larger_than_its_weight(bench, run_of):
    config = run_of("lora_xs", rank=80, alpha=80.0)
    with adapted(config, bench) as model:
        model(input_ids=torch.arange(8)[None])
        assert min(layer.rank for layer in adapted_layers(model)) < 80


def test_lora_pro_is_exact_where_factors_are_nearly_dependent():
    """A Gramian's condition is the square of its factor's."""
    left, right = (torch.linalg.qr(_drawn(n, RANK, seed=n)).Q for n in (OUT, RANK))
    b = (left * torch.tensor([1.0, 0.1, 3e-4]) @ right.T).float()
    a, full = _drawn(RANK, IN, seed=1).float(), _drawn(OUT, IN, seed=3).float()
    grad_a, grad_b = SCALING * b.T @ full, SCALING * full @ a.T
    of_a, _ = LayerFactors(a, b, SCALING).lifted(grad_a, grad_b)
    gramian = b.double().T @ b.double() + 1e-8 * torch.eye(RANK)
    expected = torch.linalg.solve(gramian, grad_a.double()) / SCALING**2
    assert float((of_a.double() - expected).norm() / expected.norm()) < 1e-3


def test_lora_sb_begins_with_the_best_part_of_a_full_first_step(bench, run_of):
    config = run_of("lora_sb")
    backbone = bench.backbone(config)
    examples = list(bench.first_examples(config))
    wanted = Adaptation(
        config=config,
        ranks={"model.layers.0.self_attn.q_proj": 8, "model.layers.1.mlp.down_proj": 8},
        examples=lambda: examples,
        general_text=lambda: [],
    )
    gradients = weight_gradients(backbone, wanted)
    assert not any(p.requires_grad or p.grad is not None for p in backbone.parameters())
    with adapted(config, bench) as model:
        layers = {layer.path: layer for layer in adapted_layers(model)}
        for path, gradient in gradients.items():
            _, update, (core,) = _plain(layers[path])
            step = -0.1 * config.optimization.learning_rate * gradient.sign()  # the warm-up begins so
            left, values, right = torch.linalg.svd(step, full_matrices=False)
            best = left[:, :8] * values[:8] @ right[:8]
            torch.testing.assert_close(update, best, rtol=1e-3, atol=1e-6)
            assert core.shape == (8, 8)


def test_svfit_changes_singular_values_alone(bench, run_of):
    with adapted(run_of("svfit"), bench) as model:
        layer = adapted_layers(model)[0]
        weight, update, (core,) = _plain(layer)
        assert not update.any()
        assert core.shape == (min(weight.shape),)
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        with torch.no_grad():
            core += torch.linspace(-0.1, 0.1, len(core))
        inside = left.T @ (weight + layer.scaling * layer.up.weight @ layer.down.weight) @ right.T
        torch.testing.assert_close(inside, (values + core).diag(), rtol=1e-3, atol=1e-4)


def test_loldu_changes_the_diagonal_alone(bench, run_of):
    with adapted(run_of("loldu"), bench) as model:
        layer = adapted_layers(model)[0]
        weight, update, (core,) = _plain(layer)
        assert not update.any()
        permutation, lower, upper = torch.linalg.lu(weight)
        pivots = upper.diagonal()
        with torch.no_grad():
            core.copy_(pivots)  # twice the diagonal: the weight once more
        whole = layer.scaling * layer.up.weight @ layer.down.weight
        torch.testing.assert_close(whole, permutation @ lower @ upper, rtol=1e-3, atol=1e-4)


def test_s2ft_trains_whole_channels_of_the_last_layers(bench, run_of):
    with adapted(run_of("s2ft"), bench) as model:
        layers = adapted_layers(model)
        assert all(layer.name.endswith("down_proj") for layer in layers)
        trained = budget = 0
        for layer in layers:
            with torch.no_grad():
                layer.up.weight.normal_()
            weight, update, (columns,) = _plain(layer)
            moved = update.any(0).nonzero().flatten()
            assert len(moved) == layer.rank == columns.shape[1]
            chosen = layer.down.weight.argmax(1)
            torch.testing.assert_close(update[:, chosen], columns.detach())
            trained, budget = trained + columns.numel(), budget + 8 * sum(weight.shape)
        assert trained == pytest.approx(budget, rel=0.02)


def test_lift_trains_the_largest_entries_of_the_low_rank_part():
    u, v = _drawn(OUT), _drawn(IN, seed=1)
    mask = low_rank_mask(torch.outer(u, v), 1)
    sizes = torch.outer(u.abs(), v.abs()).flatten()
    expected = torch.zeros(OUT * IN)
    expected[sizes.topk(OUT + IN).indices] = 1
    assert torch.equal(mask.flatten(), expected)
    weight = _drawn(40, 50, seed=4)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    low_rank = (left[:, :3] * values[:3] @ right[:3]).abs().flatten()
    chosen = low_rank_mask(weight, 3).flatten().bool()
    assert int(chosen.sum()) == 3 * 90
    assert low_rank[chosen].min() >= low_rank[~chosen].max() * (1 - 1e-5)


def test_lift_is_made_of_that_mask(bench, run_of):
    with adapted(run_of("lift"), bench) as model:
        layer = next(module for module in model.modules() if hasattr(module, "shira_indices"))
        rows, columns = layer.shira_indices["default"].long()
        expected = low_rank_mask(layer.get_base_layer().weight.detach(), 8)
        mask = torch.zeros_like(expected)
        mask[rows, columns] = 1
        assert torch.equal(mask, expected)


def test_nested_ranks_and_what_each_direction_counts():
    assert nested_ranks(8) == (1, 2, 4, 8)
    assert nested_ranks(6) == (1, 2, 4, 6)
    weights = direction_weights(6)
    a, b = _drawn(6, IN), _drawn(OUT, 6)
    explicit = sum(prefix_scale(k, 6) * b[:, :k] @ a[:k] for k in nested_ranks(6))
    torch.testing.assert_close(b * weights.double() @ a, explicit, rtol=1e-6, atol=1e-6)
    assert weights[-1] == 1 and (weights.diff() <= 0).all()


def test_matryoshka_trains_all_nested_updates_and_deploys_one(bench, run_of):
    with adapted(run_of("matryoshka"), bench) as model:
        layer = adapted_layers(model)[0]
        raw = layer.up.parametrizations.weight.original
        with torch.no_grad():
            raw.normal_()
        model.eval()
        torch.testing.assert_close(layer.up.weight, raw)
        model.train()
        torch.testing.assert_close(layer.up.weight, raw * direction_weights(layer.rank))


def test_signs_of_singular_vectors_do_not_depend_on_the_machine():
    left, values, right = singular_factors(_drawn(OUT, IN).float(), RANK)
    assert (left.gather(0, left.abs().argmax(0, keepdim=True)) > 0).all()
    u, s, v = torch.linalg.svd(_drawn(OUT, IN).float(), full_matrices=False)
    torch.testing.assert_close(left * values @ right, u[:, :RANK] * s[:RANK] @ v[:RANK], rtol=1e-4, atol=1e-5)
