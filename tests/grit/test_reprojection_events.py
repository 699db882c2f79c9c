"""When a reprojection happens, and what its event says."""

from __future__ import annotations

import pytest
import torch

from grit.adapters.peft_adapters import adapted_layers
from grit.config.method import GritConfig
from grit.geometry.attach import attach
from grit.geometry.events import CadenceLook, Reprojection, ReprojectionHeld

EAGER = GritConfig(
    cov_update_freq=1,
    kfac_update_freq=1,
    kfac_min_samples=1,
    preconditioner="none",
    T=1,
    tau=0.6,
    min_lora_rank=1,
)


def _trained(model, rate=0.0):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)


def _energies(layers):
    products = [layer.up.weight.detach() @ layer.down.weight.detach() for layer in layers]
    return torch.stack([product.square().sum() for product in products])


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("mix", [1.0, 0.5])
def test_retained_mass_is_that_of_the_projection_applied(tiny_llama, token_batches, mix, two_sided):
    """|B P A|^2 / |B A|^2 before and after, by the weights themselves."""
    model = tiny_llama(dropout=0.0)
    layers = adapted_layers(model)
    before = _energies(layers)
    optimizer = _trained(model)
    config = GritConfig(**{**EAGER.to_dict(), "reprojection_mix": mix, "two_sided": two_sided})
    handle = attach(model.train(), optimizer, config)
    model(**token_batches(count=1)[0]).loss.backward()
    optimizer.step()
    shares = _energies(layers) / before
    (event,) = [event for event in handle.events if isinstance(event, Reprojection)]
    assert event.retained_mass == pytest.approx(float(shares.mean()), rel=1e-6)
    assert event.retained_mass_min == pytest.approx(float(shares.min()), rel=1e-6)
    assert event.retained_mass_min < 0.99


def test_an_adaptive_trigger_sees_a_single_module(tiny_llama, token_batches):
    """One module of fourteen turns away: in their mean that is little, and no reason to wait."""
    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]
    optimizer = _trained(model)
    changes = {
        "reprojection_trigger": "adaptive",
        "reprojection_band": 0.1,
        "ema_decay": 0.01,
        "suppression": "gate",
        "tau": 0.95,
    }
    handle = attach(model.train(), optimizer, GritConfig(**{**EAGER.to_dict(), **_fields(changes)}))
    for step in range(4):
        if step == 2:
            down = adapted_layers(model)[-1].down.weight
            down.data.copy_(torch.flip(down.data, [0]) * torch.tensor([[9.0], [1.0], [0.1], [0.1]]))
            spread = _shift_of_each(model, handle, batch)
            assert spread.mean() < 0.1 < spread.max()
        else:
            model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    acted = [event.step for event in handle.events if isinstance(event, Reprojection)]
    held = [event.step for event in handle.events if isinstance(event, ReprojectionHeld)]
    assert acted == [1, 3]
    assert held == [2, 4]


def _fields(changes):
    return {{"tau": "rank_adaptation_threshold"}.get(name, name): value for name, value in changes.items()}


def _shift_of_each(model, handle, batch):
    """How far every module's share has moved once this pass is folded in: of a copy of the state."""
    state = handle.state_dict()
    model(**batch).loss.backward()
    handle._capture.close()
    handle._state.commit()
    shifts = torch.cat([group.subspace.shift() for group in handle._state.groups])
    model.zero_grad()
    handle.load_state_dict(state)
    model(**batch).loss.backward()
    return shifts


def test_the_controller_stretches_the_cadence_only_when_asked(tiny_llama, token_batches):
    steps = {}
    for asked in (False, True):
        model = tiny_llama(dropout=0.0)
        optimizer = _trained(model, rate=1e-4)
        config = GritConfig(
            cov_update_freq=1,
            kfac_update_freq=1,
            kfac_min_samples=1,
            T=2,
            cadence="adaptive",
            cadence_window=4,
            cadence_stretches_reprojection=asked,
        )
        handle = attach(model.train(), optimizer, config)
        for _ in range(16):
            model(**token_batches(count=1)[0]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        looks = [event.stretch for event in handle.events if isinstance(event, CadenceLook)]
        assert looks == [2, 4, 4, 4]
        steps[asked] = [event.step for event in handle.events if isinstance(event, Reprojection)]
    assert steps == {False: list(range(2, 17, 2)), True: [2, 4, 8, 16]}
