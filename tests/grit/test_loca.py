"""LoCA against the cosine transform of scipy, and its places' gradient against differences."""

import math

import pytest
import torch
from scipy.fft import dct, idctn

from grit.adapters.peft_adapters import adapted_layers
from grit.config.sections import Budget
from grit.methods.loca import COEFFICIENT_STEPS, PLACE_STEPS, SparseSpectrum, cosine_transform
from grit.methods.optimizers import build_optimizer
from grit.training.hooks import Hooks
from grit.training.run import Run
from grit.training.trainer import adapted, take_steps


@pytest.fixture
def loca_run(short_run):
    """A run whose places move in its first 40 steps."""
    return short_run(budget=Budget(regime="step", amount=400), dropout=0.0).changed(method="loca")


def _trained(layer):
    weight = layer.up.parametrizations.weight
    return weight.original0, weight.original1


def test_the_transform_is_the_orthonormal_cosine_transform():
    values = torch.randn(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.from_numpy(dct(values.numpy(), norm="ortho"))
    torch.testing.assert_close(cosine_transform(9) @ values, expected)


def test_an_update_is_the_inverse_transform_of_a_sparse_spectrum(bench, loca_run):
    with adapted(loca_run, bench) as model:
        for layer in adapted_layers(model)[:5]:
            coefficients, places = _trained(layer)
            rows, columns = places.long().tolist()
            shape = layer.base.weight.shape
            assert 3 * len(coefficients) == pytest.approx(loca_run.adapter.rank * sum(shape), abs=3)
            assert len(set(zip(rows, columns, strict=True))) == len(rows)
            assert not layer.up.weight.any()
            with torch.no_grad():
                coefficients.normal_(generator=torch.Generator().manual_seed(1))
            spectrum = torch.zeros(shape)
            spectrum[rows, columns] = coefficients.detach()
            expected = torch.from_numpy(idctn(spectrum.double().numpy(), norm="ortho")).float()
            update = layer.scaling * layer.up.weight @ layer.down.weight
            torch.testing.assert_close(update.detach(), expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_of_the_coefficient_and_of_moving_it():
    """Of a loss that is linear in S, half the difference between the neighbouring places is exact."""
    slope = torch.randn(6, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    coefficients = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64, requires_grad=True)
    places = torch.tensor([[2.4, 0.0, 5.0], [2.6, 3.0, 9.0]], dtype=torch.float64, requires_grad=True)

    def loss(moved):
        return (slope * SparseSpectrum.apply(coefficients, moved, (6, 7))).sum()

    loss(places).backward()
    torch.testing.assert_close(coefficients.grad, torch.stack([slope[2, 3], slope[0, 3], slope[5, 6]]))
    for axis in range(2):
        step = torch.zeros(2, 3, dtype=torch.float64)
        step[axis, 0] = 1.0
        with torch.no_grad():
            moved = (loss(places + step) - loss(places - step)) / 2
        torch.testing.assert_close(places.grad[axis, 0], moved)
    # at an edge, and beyond it, the neighbour that is missing is the place itself
    torch.testing.assert_close(places.grad[0, 1], -2.0 * (slope[1, 3] - slope[0, 3]) / 2)
    torch.testing.assert_close(places.grad[1, 2], 1.0 * (slope[5, 6] - slope[5, 5]) / 2)


def test_coefficients_of_one_place_are_added():
    twice = torch.tensor([[1.0, 1.2], [2.0, 1.9]])
    spectrum = SparseSpectrum.apply(torch.tensor([0.5, 0.25]), twice, (3, 4))
    assert spectrum[1, 2] == 0.75
    assert spectrum.count_nonzero() == 1


def test_coefficients_and_places_take_turns_and_then_places_stay(bench, loca_run):
    with adapted(loca_run, bench) as model:
        optimizer = build_optimizer(loca_run, model)
        trained = _trained(adapted_layers(model)[0])
        turns = []
        for _ in range(45):
            before = [parameter.detach().clone() for parameter in trained]
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            turns.append([not torch.equal(a, b) for a, b in zip(before, trained, strict=True)])
    coefficients, places = [True, False], [False, True]
    first = [coefficients] * COEFFICIENT_STEPS + [places] * PLACE_STEPS
    assert turns == first + [coefficients] * 15


@pytest.mark.parametrize("steps", [3, 40, 100, 160, 300, 400, 5000])
def test_places_move_for_two_thirds_of_the_first_tenth_however_short(bench, loca_run, steps):
    """Turns were once of ten and twenty steps whatever the run: in a hundred steps no place ever moved."""
    config = loca_run.changed(budget=Budget(regime="step", amount=steps))
    with adapted(config, bench) as model:
        optimizer = build_optimizer(config, model)
        places, moved = _trained(adapted_layers(model)[0])[1], 0
        for _ in range(min(steps, 550)):
            before = places.detach().clone()
            places.grad = torch.ones_like(places)
            optimizer.step()
            moved += not torch.equal(before, places)
    first = max(2, math.ceil(0.1 * steps))
    assert 0.45 * first <= moved <= 0.75 * first


def test_layers_of_one_size_share_their_transform(bench, loca_run):
    with adapted(loca_run, bench) as model:
        made = [layer.up.parametrizations.weight[0].transform for layer in adapted_layers(model)]
        assert len({one.data_ptr() for one in made}) == len({len(one) for one in made}) < len(made)


def test_places_move_by_training(bench, short_run):
    config = short_run(budget=Budget(regime="step", amount=40), learning_rate=0.05).changed(method="loca")
    with adapted(config, bench) as model:
        run = Run(config, bench, model, checkpoints=None)
        places = _trained(adapted_layers(model)[0])[1]
        before = places.detach().round().clone()
        take_steps(run, Hooks(), until=4)
        assert not torch.equal(places.round(), before)
